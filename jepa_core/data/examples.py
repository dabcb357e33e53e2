"""Values of a source for batches that are made without reading data: to check, try or measure a model.

Most values may be random numbers of the shape that the source's field says. A source gives the others
itself: maps of which some pixels are set, boxes that lie inside the image, labels of more than two classes.

Axes: B samples of a batch.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Generator, Tensor

from jepa_core import plugins
from jepa_core.errors import UserError, unknown
from jepa_core.settings.base import SourceSettings
from jepa_core.types.packed import Packed
from jepa_core.types.sample import Fields

LABEL = "label"
"""The key of labels, int64 [B], among the values by their places."""


@runtime_checkable
class OffersExamples(Protocol):
    """What a `Source` adds whose values random numbers cannot stand for."""

    def example_values(self, batch_size: int, generator: Generator) -> Mapping[str, Tensor | Packed]:
        """Values of a batch as they come out of the transforms, by their places: `{"side.boxes": [B, 4]}`.

        Labels, int64 [B], stand under `label`. Places that it leaves out become random numbers. Drawn from
        `generator` and from nothing else; no data are read.
        """
        ...


def offers_examples(settings: SourceSettings) -> bool:
    """Whether the source of these settings offers example values. Raises UserError for an unknown name."""
    return issubclass(plugins.registry().catalogue("data").find(settings.name), OffersExamples)


def example_values(
    settings: SourceSettings, fields: Fields, batch_size: int, generator: Generator | None = None
) -> dict[str, Any]:
    """What the source of these settings offers: known places, a tensor or `Packed` of B samples each.

    Nothing, and the source is not built, where it offers none or there are no `fields`. Without a generator
    torch's global one is used. Raises UserError, which names the source, for anything else.
    """
    if not fields or not offers_examples(settings):
        return {}
    source = plugins.registry().catalogue("data").construct(settings.name, settings)
    values = source.example_values(batch_size, torch.default_generator if generator is None else generator)
    owner = f"example_values of the source {settings.name!r}"
    if not isinstance(values, Mapping):
        raise UserError(f"{owner} returned a {type(values).__name__}; expected values by their places")
    for place, value in values.items():
        if place not in fields and place != LABEL:
            raise UserError(f"{owner}: {unknown('place', str(place), [*fields, LABEL])}")
        if not isinstance(value, Tensor | Packed):
            raise UserError(f"{owner}: {place} is a {type(value).__name__}; expected a tensor or a Packed")
        size = value.batch_size if isinstance(value, Packed) else (len(value) if value.dim() else 0)
        if size != batch_size:
            raise UserError(f"{owner}: {place} is of {size} samples; expected {batch_size}")
    label = values.get(LABEL)
    if isinstance(label, Tensor) and (label.dtype != torch.int64 or label.dim() != 1):
        raise UserError(f"{owner}: label is {label.dtype} {list(label.shape)}; expected int64 [{batch_size}]")
    return dict(values)
