"""What formats read and write: weights by part, the settings they ask for, how images are prepared.

Axes: H, W pixels.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol, runtime_checkable

from torch import Tensor

from jepa_core.errors import UserError
from jepa_core.formats.weight_file import Source as WeightSource
from jepa_core.jepa import JEPA
from jepa_core.nn.timm_model import TimmEncoder, TimmModel
from jepa_core.protocols import Encoder, Role
from jepa_core.settings.base import ComponentSettings
from jepa_core.settings.recipe import Recipe
from jepa_core.settings.roles import encoder_name
from jepa_core.settings.sections import TransformSettings
from jepa_core.types.fields import first_view
from jepa_core.types.sample import Fields

Table = Mapping[str, Any]


@dataclass(frozen=True)
class Weights:
    """What a format found in a file.

    `sections` are the parts of a recipe that the file speaks for: `encoder` always; `transform`,
    `predictor`, `masker`, … where it can. `parts` are fp32 tensors by part of the model (`encoder`,
    `target_encoder`, `predictor`), each with the names of our own state dicts. `notes` are sentences for
    the user: what was left out or taken for granted.
    """

    sections: Mapping[str, Table]
    parts: Mapping[str, Mapping[str, Tensor]]
    notes: tuple[str, ...] = ()
    fields: Fields = dataclasses.field(default_factory=dict)
    """What the encoder's view is, where the file says it, as its only entry: `views.text`."""


@dataclass(frozen=True)
class Preprocessing:
    """From an image of 0 … 1 to the encoder's input: resize, centre crop, (x - mean) / std."""

    image_size: tuple[int, int]
    """(H, W) of the encoder's input."""
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    interpolation: Literal["bilinear", "bicubic"]
    crop: float
    """Share of the resized image's sides that the crop keeps; the image covers size / crop first."""

    @classmethod
    def of(cls, transform: TransformSettings, image_size: tuple[int, int]) -> Preprocessing:
        """The evaluation transform of a run."""
        t = transform
        return cls(image_size, t.mean, t.std, t.interpolation, t.eval_crop)

    def section(self) -> dict[str, Any]:
        """The settings of a recipe's section `transform` for this preprocessing."""
        return {
            "mean": list(self.mean),
            "std": list(self.std),
            "interpolation": self.interpolation,
            "eval_crop": self.crop,
        }

    def words(self) -> str:
        """A description in one line."""
        sides = "×".join(map(str, self.image_size))
        mean, std = (", ".join(f"{value:g}" for value in values) for values in (self.mean, self.std))
        return f"{sides} pixels, {self.interpolation}, crop {self.crop:g}, mean {mean}, std {std}"


def image_preprocessing(recipe: Recipe, encoder: Encoder) -> Preprocessing | None:
    """How an encoder's images are prepared; None for one whose views are not images (3, H, W)."""
    shape = tuple(encoder.view_shape())
    if len(shape) != 3 or shape[0] != 3:
        return None
    return Preprocessing.of(recipe.transform, (shape[1], shape[2]))


@dataclass(frozen=True)
class Export:
    """A run's model and which of its encoders is wanted: what formats write from."""

    recipe: Recipe
    model: JEPA
    step: int
    role: Role = "target"

    @property
    def encoder(self) -> Any:
        """The encoder that is wanted (`protocols.Encoder`); the online one where it is the target."""
        return self.model.encoder_of(self.role)

    @property
    def settings(self) -> ComponentSettings:
        """The settings of that encoder."""
        name = encoder_name(self.role)
        return self.recipe.encoders[name] if name else self.recipe.encoder

    @property
    def encoder_name(self) -> str:
        """Which encoder that is, for people."""
        alone = self.role == "target" and self.model.target_encoder is None
        return "encoder (its own target)" if alone else f"{self.role} encoder"

    @property
    def fields(self) -> Fields:
        """What its view is, as the only entry; empty where nobody said."""
        name = self.model.view_of(self.role) or first_view(self.model.fields)
        place = f"views.{name}"
        return {place: self.model.fields[place]} if place in self.model.fields else {}

    @property
    def preprocessing(self) -> Preprocessing:
        """How the encoder's images are prepared. Raises UserError for views that are not images (3, H, W)."""
        images = self.images
        if images is None:
            shape = tuple(self.encoder.view_shape())
            raise UserError(f"export is for encoders of images (3, H, W); this one takes {shape}")
        return images

    @property
    def images(self) -> Preprocessing | None:
        """How the encoder's images are prepared; None where its views are not images (3, H, W)."""
        return image_preprocessing(self.recipe, self.encoder)

    def timm(self, wanted_by: str) -> TimmModel:
        """The encoder as a timm model. Raises UserError where timm has nothing like it."""
        if not isinstance(self.encoder, TimmEncoder):
            name = self.settings.name
            raise UserError(
                f"format {wanted_by!r} takes encoders that are timm models; {name!r} does not say how it is "
                "one (protocols.TimmEncoder). --to safetensors takes every encoder"
            )
        return self.encoder.to_timm()


@runtime_checkable
class Format(Protocol):
    """`Format(config)`: one way to write weights down, for `jepa import` and `jepa export`.

    Reading is strict: what a file holds is in the result, or left out by name in its `notes`.
    """

    Config: ClassVar[type[ComponentSettings]]
    suffix: ClassVar[str]
    """How a written file's name ends, with the dot; empty where a folder is written."""

    def recognises(self, source: WeightSource) -> bool:
        """Whether this looks like the format. Raises UserError for a file that nobody could read."""
        ...

    def read(self, source: WeightSource, settings: Mapping[str, Any]) -> Weights:
        """The weights, and the settings they ask for; `settings` are the user's own settings of the encoder.

        Raises UserError for a file that is not this format, or does not say enough.
        """
        ...

    def write(self, export: Export, path: Path) -> Sequence[str]:
        """Writes a file, or a folder (which it makes); returns the parts that are in it, for people.

        Raises UserError for a model that the format cannot hold.
        """
        ...
