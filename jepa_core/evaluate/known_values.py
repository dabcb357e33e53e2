"""Rows of the probe table that no image and no network made: what a source knows beside the label.

They say how far one fact gives another away, such as the number of objects the distance of the nearest.

Axes: n samples of a split, D width.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NoReturn, Protocol, runtime_checkable

from torch import Tensor

from jepa_core.errors import UserError
from jepa_core.evaluate.features import Features
from jepa_core.evaluate.samples import SplitLoader
from jepa_core.protocols import FeatureMap

Part = tuple[str, SplitLoader]
"""A split's name and its samples, which have been read."""


@runtime_checkable
class KnownValues(Protocol):
    """What a `Source` with `Tasks` adds that knows more of its samples than their labels."""

    def known_values(self, task: str, split: str) -> Mapping[str, Tensor]:
        """Further rows of a task's probe table by name, each float [n, D]: features of the samples of
        `labelled_samples`, in that order. The same names for every split; none: {}.
        """
        ...


def known_features(
    source: Any, task: str | None, fit: Part, judge: Part
) -> Iterator[tuple[FeatureMap, tuple[Features, Features]]]:
    """Each row's description, and its features of the training and the held-out samples.

    None for a source that is no `KnownValues`. Raises UserError for values that are not float [n, D].
    """
    if task is None or not isinstance(source, KnownValues):
        return
    training, held_out = (source.known_values(task, split) for split, _ in (fit, judge))
    for name in held_out:
        features = _features(name, training[name], fit), _features(name, held_out[name], judge)
        yield FeatureMap(name, "known of each sample, not seen in it", _encode), features


def _features(name: str, values: Tensor, part: Part) -> Features:
    split, loader = part
    if values.dim() != 2 or len(values) != loader.whole or not values.is_floating_point():
        raise UserError(
            f"the known values {name!r} of the {split} split are {values.dtype} {list(values.shape)}; "
            f"expected float [{loader.whole}, D], a row for each sample"
        )
    chosen = values[loader.positions].float()
    return Features(chosen, loader.labels, chosen[:, None])


def _encode(views: Tensor) -> NoReturn:
    raise AssertionError("these features are not made of views")
