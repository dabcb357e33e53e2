"""What a source gives: a sample of named values, and the description of each of them.

A source whose samples are an image or a clip and a class may give plain pairs `(image, label)`; everything
else is a `Sample`, whose names the source describes with `Field`s. Encoders, predictors, objectives and
variants that take the fields are built with them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal, get_args

Kind = Literal["image", "clip", "text", "ids", "audio", "vector", "sequence", "map"]
"""What a value is: an `image` (Pillow, or uint8 [3, h, w]); a `clip` (uint8 [T, 3, h, w] or a `Recording`);
`text` (str); `ids` (int64 [L]: numbers of a vocabulary); `audio` (float32 [samples], or [channels, samples]);
a `vector` (float32 [D]); a `sequence` of vectors (float32 [L, D]); a `map` (float32, or int64 of classes,
[h, w]), a number for each pixel of the first view."""
KINDS: tuple[Kind, ...] = get_args(Kind)

PARTS = ("views", "condition", "side", "targets")
"""The parts of a sample that hold named values; `targets.state` is the value `state` of `targets`."""


@dataclass(frozen=True)
class Field:
    """One named value of a source's samples, or what a transform makes of it."""

    kind: Kind
    shape: tuple[int | None, ...] = ()
    """Its shape without the batch axis; None where it differs from sample to sample. () : not said."""
    vocabulary: int | None = None
    """Numbers that `ids` may be, from 0 on; classes of a `map`."""
    units: str = ""
    """Of a vector, a sequence or a map: `m/s`, `pixels`, …"""
    names: tuple[str, ...] = ()
    """Of the elements of a vector: `x`, `y`, …; of the classes of a map."""
    rate: float | None = None
    """Samples a second of `audio`, frames a second of a clip or a sequence."""

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"a field is one of {', '.join(KINDS)}; got {self.kind!r}")

    @property
    def width(self) -> int:
        """D of a vector or of a sequence's vectors. Raises ValueError where the shape does not say it."""
        if not self.shape or self.shape[-1] is None:
            raise ValueError(f"the width of this {self.kind} is not known; its shape is {self.shape}")
        return self.shape[-1]

    @property
    def is_ragged(self) -> bool:
        """Whether its length differs from sample to sample: batches then hold it `Packed`."""
        return bool(self.shape) and self.shape[0] is None and self.kind not in ("image", "clip", "map")

    def changed(self, **changes: Any) -> Field:
        """The field with some entries changed."""
        return replace(self, **changes)


Fields = Mapping[str, Field]
"""The fields of a source by their places: `views.image`, `condition.actions`, `targets.state`."""


@dataclass(frozen=True, eq=False)
class Sample:
    """One sample of a source: named values, what `Kind` says of each.

    `views` are what encoders read, `condition` what a predictor may read beside it (actions, a caption),
    `side` what maskers and variants may use, `targets` what evaluations measure against (states, poses);
    no encoder reads those. `label` is a class for the probes, -1 for none. `key` names the sample in
    messages. A value alone stands for `{"image": value}` as views, `{"NAME": …}` must be said for the others.
    """

    views: Mapping[str, Any] | Any
    condition: Mapping[str, Any] = field(default_factory=dict)
    side: Mapping[str, Any] = field(default_factory=dict)
    targets: Mapping[str, Any] = field(default_factory=dict)
    label: int = -1
    key: str = ""

    def __post_init__(self) -> None:
        if not isinstance(self.views, Mapping):
            object.__setattr__(self, "views", {"image": self.views})

    @classmethod
    def of_values(cls, values: Mapping[str, Any], label: int = -1, key: str = "") -> Sample:
        """From values by their places, as `values` gives them."""
        parts: dict[str, dict[str, Any]] = {part: {} for part in PARTS}
        for place, value in values.items():
            part, _, name = place.partition(".")
            parts[part][name] = value
        return cls(**parts, label=label, key=key)

    def without_label(self) -> Sample:
        """The sample with no class."""
        return replace(self, label=-1)

    def values(self) -> dict[str, Any]:
        """All values by their places, `views.image`, `condition.actions`, …"""
        return {f"{part}.{name}": value for part in PARTS for name, value in getattr(self, part).items()}
