"""Samples of a source as `Sample`s, each value checked against what the source says of its fields.

What does not fit is one line that names the source, the sample, the field, what came and what was expected.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from PIL.Image import Image
from torch import Tensor

from jepa_core.data.field_transforms.base import InvalidValue, as_numbers, shape_text
from jepa_core.data.samples import class_number, source_of
from jepa_core.data.transforms import VIEWS
from jepa_core.errors import UserError
from jepa_core.protocols import DescribesFields, Recording, Samples, Source
from jepa_core.types.fields import first_view
from jepa_core.types.sample import PARTS, Field, Fields, Sample


def source_fields(source: Source | DescribesFields, view_shape: Sequence[int] = (3, 0, 0)) -> Fields:
    """The fields of a source by place; of one that does not describe them, an image or a clip.

    Raises UserError for a description that is none.
    """
    fields = source.fields() if isinstance(source, DescribesFields) else None
    if fields is None:
        return plain_fields(view_shape)
    name = type(source).__name__
    if not isinstance(fields, Mapping):
        raise UserError(f"fields() of {name} returned a {type(fields).__name__}; expected a mapping")
    for place, field in fields.items():
        part, dot, value = str(place).partition(".")
        if part not in PARTS or not dot or not value.isidentifier() or not isinstance(field, Field):
            raise UserError(
                f"fields() of {name} has {place!r}: {field!r:.60}; expected a Field by its place, PART.NAME "
                f"with PART one of {', '.join(PARTS)}"
            )
    maps = [place for place, field in fields.items() if field.kind == "map"]
    if strays := [place for place in maps if not place.startswith("targets.")]:
        raise UserError(
            f"fields() of {name} has the map {strays[0]}; maps are targets, as no random crop is followed"
        )
    names = [place.partition(".")[2] for place in fields]
    if twice := sorted({one for one in names if names.count(one) > 1}):
        raise UserError(f"fields() of {name} uses the name {twice[0]!r} twice; each value needs its own")
    if not any(place.startswith("views.") for place in fields):
        raise UserError(f"fields() of {name} has no view; got {', '.join(fields) or 'nothing'}")
    return dict(fields)


def plain_fields(view_shape: Sequence[int]) -> Fields:
    """The fields of pairs (image, label): one view, called after the rank of the encoder's views."""
    name = VIEWS.get(len(view_shape), "view")
    return {f"views.{name}": Field("clip" if len(view_shape) == 4 else "image")}


def read_named(samples: Samples, index: int, fields: Fields) -> Sample:
    """A sample with all its values checked; a pair (image, label) as a `Sample`.

    Raises CorruptSample as the source does, and UserError for what is no sample, a value that is missing, not
    described or of another kind, and a label that is no class.
    """
    sample = samples[index]
    if not isinstance(sample, Sample):
        if not isinstance(sample, tuple | list) or len(sample) != 2:
            raise UserError(
                f"{where(samples, index)} is a {type(sample).__name__}; expected a jepa_core.Sample, or "
                "(image, label)"
            )
        view = first_view(fields)
        assert view is not None
        sample = Sample({view: sample[0]}, label=sample[1])
    place = where(samples, index, sample.key)
    check_values(sample.values(), fields, place)
    label = class_number(sample.label, samples.classes, place)
    return sample if label == sample.label else replace(sample, label=label)


def where(samples: Any, index: int, key: str = "") -> str:
    """A sample in words: its number, its name where it has one, and its source."""
    name = f" ({key})" if key else ""
    return f"sample {index}{name} of {source_of(samples)}"


def check_values(values: Mapping[str, Any], fields: Fields, place: str) -> None:
    """Raises UserError, which begins with `place`, for a value that is missing, extra, or of another kind.

    What a recording's window brings is checked when it is drawn.
    """
    recorded = any(isinstance(value, Recording) for value in values.values())
    for name, field in fields.items():
        if name not in values:
            if recorded:
                continue
            raise UserError(
                f"{place} has no {name}; expected {shape_text(field)}; it has {', '.join(values)}"
            )
        check_value(values[name], field, f"{place}: {name}")
    check_map_sizes(values, fields, place)
    if extra := [name for name in values if name not in fields]:
        raise UserError(
            f"{place} has {extra[0]}, which the source does not describe; known: {', '.join(fields)}"
        )


def check_map_sizes(values: Mapping[str, Any], fields: Fields, place: str) -> None:
    """Raises UserError, which begins with `place`, for a map of other sides than the first view's pixels."""
    maps = [name for name, field in fields.items() if field.kind == "map" and name in values]
    view = values.get(f"views.{first_view(fields)}")
    if not maps or not isinstance(view, Image | Tensor):
        return
    pixels = [view.height, view.width] if isinstance(view, Image) else list(view.shape[-2:])
    for name in maps:
        if (sides := list(np.shape(values[name]))) != pixels:
            raise UserError(
                f"{place}: {name} is a map of {sides} pixels; expected {pixels}, those of the first view"
            )


def check_value(value: Any, field: Field, place: str) -> None:
    """Raises UserError, which begins with `place`, for a value of another kind than the field's."""
    kind = "Recording" if isinstance(value, Recording) else type(value).__name__
    if field.kind == "text":
        good = isinstance(value, str)
    elif field.kind == "image":
        good = isinstance(value, Image | Recording) or _is_pixels(value, 3)
    elif field.kind == "clip":
        good = isinstance(value, Recording) or _is_pixels(value, 4)
    else:
        try:
            as_numbers(value, field)
        except InvalidValue as error:
            raise UserError(f"{place} is {error}") from None
        return
    if not good:
        if isinstance(value, Tensor):
            kind = f"Tensor {list(value.shape)} of {str(value.dtype).removeprefix('torch.')}"
        expected = {
            "text": "a text",
            "image": "a Pillow image, or uint8 [3, h, w]",
            "clip": "uint8 [T, 3, h, w], or a Recording",
        }[field.kind]
        raise UserError(f"{place} is a {kind}; expected {expected}")


def _is_pixels(value: Any, rank: int) -> bool:
    return (
        isinstance(value, Tensor)
        and value.dtype == torch.uint8
        and value.dim() == rank
        and value.shape[-3] in (1, 3)
        and 0 not in value.shape
    )


def draw_windows(
    sample: Sample, shapes: Mapping[str, Sequence[int | None]], fields: Fields, place: str, train: bool
) -> Sample:
    """The sample with a window in place of each recording, and with what belongs to that window.

    `shapes` are those of the views that are made of them, by place. With `train` the window is drawn from
    torch's global randomness; otherwise it is the middle one. Raises UserError where nobody says how many
    frames it has, and as `check_values`.
    """
    values = sample.values()
    recordings = [name for name, value in values.items() if isinstance(value, Recording)]
    if not recordings:
        return sample
    for name in recordings:
        shape = shapes[name]
        if not shape:
            raise UserError(f"{place}: {name} is a recording, and no encoder says how many frames it needs")
        frames = (shape[1] or 1) if len(shape) == 4 else 1
        recording: Recording = values[name]
        starts = recording.starts(frames)
        number = int(torch.randint(len(starts), ())) if train else len(starts) // 2
        window = recording.window(starts[number], frames)
        values = {**values, **(window.values() if isinstance(window, Sample) else {name: window})}
        if len(shape) == 3:
            values[name] = values[name][0]
    check_values(values, fields, place)
    return Sample.of_values(values, sample.label, sample.key)
