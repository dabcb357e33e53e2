"""Batches for evaluations that see the model: named views, targets and labels of every sample, in order.

Images and clips get the evaluation's resize and centre crop to the encoder's views. Other values are as the
source gives them: tensors of one shape are stacked, those of several lengths packed, texts a list.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from typing import Any

import numpy as np
import torch
from PIL.Image import Image
from torch import Tensor

from jepa_core.data.field_transforms.pipeline import FieldTransforms
from jepa_core.data.images import CorruptSample, to_rgb
from jepa_core.data.named_samples import check_map_sizes, source_fields, where
from jepa_core.data.transforms import eval_transform
from jepa_core.errors import UserError
from jepa_core.protocols import Recording, Samples
from jepa_core.settings.recipe import Recipe
from jepa_core.settings.sections import TransformSettings
from jepa_core.types.batch import Batch
from jepa_core.types.fields import first_view
from jepa_core.types.packed import Packed
from jepa_core.types.sample import Fields, Sample

TRIES = 16
"""Samples that are tried for the first one that can be read."""


def eval_batches(
    samples: Samples | Sequence[Sample],
    recipe: Recipe,
    view_shape: Sequence[int],
    batch_size: int,
    index: Sequence[int] | None = None,
    fields: Fields | None = None,
) -> Iterator[Batch]:
    """Batches of the samples at these positions, by default of all; one that cannot be read is left out.

    Images and clips come in the shape `view_shape`, without B, by the recipe's `transform`, and with them the
    targets that are maps by the source's `fields`. Raises UserError where none can be read, and for values
    that do not fit together.
    """
    change = eval_transform(recipe.transform, view_shape)
    maps = _map_transforms(fields or {}, recipe.transform, view_shape)
    rows = iter(range(len(samples)) if index is None else index)
    read = 0
    while places := list(islice(rows, batch_size)):
        parts = [part for place in places if (part := _read(samples, place, maps)) is not None]
        if parts:
            read += len(parts)
            yield _collate(parts, change)
    if not read:
        raise UserError("there are no samples to evaluate on, or none that can be read")


def first_sample(samples: Samples | Sequence[Sample]) -> Sample | None:
    """The first sample that can be read, to see which values it has; None where the first few cannot."""
    parts = (_read(samples, place) for place in range(min(TRIES, len(samples))))
    return next((part for part in parts if part is not None), None)


def as_sample(value: Any) -> Sample:
    """A source's sample as a `Sample`, of a pair (image, label) too. Raises UserError for anything else."""
    if isinstance(value, Sample):
        return value
    if isinstance(value, tuple | list) and len(value) == 2:
        return Sample(value[0], label=int(value[1]))
    raise UserError(f"a sample is a {type(value).__name__}; expected a jepa_core.Sample, or (image, label)")


def describe_samples(view: Any) -> str:
    """What the samples of a batched view are, in the plural: images, clips, or samples."""
    is_picture = isinstance(view, Tensor) and view.is_floating_point()
    return samples_word(view.shape[1:]) if is_picture else "samples"


def samples_word(view_shape: Sequence[int]) -> str:
    """What samples with views of this shape, without B, are in the plural: images, clips, or samples."""
    return {3: "images", 4: "clips"}.get(len(view_shape), "samples")


def tensor_of(value: Any) -> Tensor | None:
    """A number, an array or a list of numbers as a tensor; None for anything else."""
    tensor = _as_tensor(value)
    return tensor if isinstance(tensor, Tensor) else None


def read_units(source: Any) -> dict[str, str]:
    """The units of a source's fields by place, `{"targets.speed": "m/s"}`; empty where it describes none."""
    return {place: field.units for place, field in source_fields(source).items() if field.units}


def _map_transforms(
    fields: Fields, settings: TransformSettings, view_shape: Sequence[int]
) -> FieldTransforms | None:
    """The transforms of a source's maps; None where it has none."""
    maps = {place: field for place, field in fields.items() if field.kind == "map"}
    if not maps:
        return None
    view = f"views.{first_view(fields)}"
    transforms = FieldTransforms({view: fields[view], **maps}, {}, settings)
    transforms.set_view_shapes({"": view_shape})
    return transforms


def _read(samples: Any, place: int, maps: FieldTransforms | None = None) -> Sample | None:
    try:
        sample = as_sample(samples[place])
    except CorruptSample:
        return None
    return sample if maps is None else _with_maps(sample, maps, where(samples, place, sample.key))


def _with_maps(sample: Sample, maps: FieldTransforms, place: str) -> Sample:
    """The sample with its maps in the evaluation's resize and crop of its first view."""
    check_map_sizes(sample.values(), maps.fields, place)
    targets = {
        name: maps.apply(f"targets.{name}", value, f"{place}: targets.{name}", train=False)
        if f"targets.{name}" in maps.fields
        else value
        for name, value in sample.targets.items()
    }
    return replace(sample, targets=targets)


def _collate(parts: Sequence[Sample], change: Any) -> Batch:
    views = {
        name: _stack([_view(part.views, name, change) for part in parts], f"views.{name}")
        for name in parts[0].views
    }
    condition, side, targets = (
        {
            name: _stack(
                [_as_tensor(_value_of(getattr(part, where), name)) for part in parts], f"{where}.{name}"
            )
            for name in getattr(parts[0], where)
        }
        for where in ("condition", "side", "targets")
    )
    labels = torch.tensor([part.label for part in parts])
    return Batch(views, condition or None, side, labels, targets=targets)


def _view(views: Mapping[str, Any], name: str, change: Any) -> Any:
    """One view of a sample; an image or a clip in the encoder's shape."""
    value = _value_of(views, name)
    if isinstance(value, Image):
        return change(to_rgb(value))
    is_picture = isinstance(value, Tensor) and value.dtype == torch.uint8 and value.dim() in (3, 4)
    if is_picture or isinstance(value, Recording):
        return change(value)
    return _as_tensor(value)


def _value_of(values: Mapping[str, Any], name: str) -> Any:
    if name not in values:
        raise UserError(f"a sample lacks the value {name!r}; it has {', '.join(values) or 'none'}")
    return values[name]


def _as_tensor(value: Any) -> Any:
    """Numbers, lists of them and arrays as a tensor; a text stays one."""
    if isinstance(value, int | float | np.ndarray | np.generic | list | tuple):
        array = np.asarray(value)
        if array.dtype.kind not in "biuf":
            return value
        tensor = torch.as_tensor(array)
        return tensor.float() if tensor.is_floating_point() else tensor
    return value


def _stack(values: list[Any], place: str) -> Any:
    """The values of a batch together. Raises UserError, naming the place, for tensors that do not fit."""
    if not all(isinstance(value, Tensor) for value in values):
        return values
    if len({tuple(value.shape) for value in values}) == 1:
        return torch.stack(values)
    if any(value.dim() == 0 for value in values) or len({tuple(v.shape[1:]) for v in values}) > 1:
        shapes = ", ".join(sorted({str(list(value.shape)) for value in values})[:4])
        raise UserError(
            f"{place} has values of the shapes {shapes}; expected one shape, or sequences of one width"
        )
    return Packed.of(values)
