"""The transforms of all named values of a source: built, fitted, applied, and collected into batches.

Axes: B samples of a batch, V crops of each.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from jepa_core import plugins
from jepa_core.data.crops import Crops, crops
from jepa_core.data.field_transforms.base import (
    FittedTransform,
    FollowsView,
    InvalidValue,
    Transform,
    ViewTransform,
)
from jepa_core.data.images import CorruptSample
from jepa_core.data.named_samples import draw_windows, read_named, source_fields, where
from jepa_core.data.samples import ColumnSamples
from jepa_core.errors import UserError, unknown
from jepa_core.protocols import Recording, Samples, Source
from jepa_core.settings.base import ComponentSettings
from jepa_core.settings.recipe import Recipe
from jepa_core.settings.sections import TransformSettings
from jepa_core.types.fields import first_view
from jepa_core.types.packed import Packed
from jepa_core.types.sample import PARTS, Field, Fields, Sample

DEFAULT = {"text": "tokenize", "audio": "log_mel", "map": "follow_view"}
"""Of a value without a section of its own, by kind; others stay as they are, images and clips are cropped."""

FITTED_ON = 20_000
"""Training samples that a transform is fitted on at most, evenly spaced."""


class FieldTransforms:
    """The transforms of a source's fields, by the places of what comes out.

    Raises UserError for settings of a value that the source does not have, and of a kind that it is not.
    """

    def __init__(
        self, fields: Fields, settings: Mapping[str, ComponentSettings], transform: TransformSettings
    ) -> None:
        self.fields, self.settings, self.transform = fields, settings, transform
        names = {place.partition(".")[2]: place for place in fields}
        for name in settings:
            if name not in names:
                raise unknown("value of the source, in [transforms],", name, names)
        self.plain = not settings and len(fields) == 1
        """Whether there is nothing but one view that `[transform]` is for."""
        self.transforms = {place: self._build(place, field) for place, field in fields.items()}
        self.first = first_view(fields)
        """The name of the main encoder's view."""
        self.groups: Mapping[str, Crops] = {}
        self.crops: Mapping[str, Transform] = {}
        """For each group of crops what makes one of them."""
        self.shapes: Mapping[str, Sequence[int]] = {}
        self.places = {place: self._place_in_batch(place) for place in fields}
        """The place in the batch of each value of a sample."""
        if self.places[self.first_place] != self.first_place:
            raise UserError(f"{self.first_place} is the main encoder's view; it cannot be another part")

    @property
    def first_place(self) -> str:
        """The place of the main encoder's view."""
        return f"views.{self.first}"

    def _place_in_batch(self, place: str) -> str:
        part, _, name = place.partition(".")
        return f"{self.transforms[place].config.part or part}.{name}"

    def _build(self, place: str, field: Field) -> Transform:
        name = place.partition(".")[2]
        catalogue = plugins.registry().catalogue("transform")
        own = self.settings.get(name)
        try:
            if own is None and field.kind in ("image", "clip"):
                crop = catalogue.find("crop")
                own = crop.Config(name="crop", **self.transform.model_dump(exclude={"views"}))
            elif own is None:
                chosen = DEFAULT.get(field.kind, "none")
                own = catalogue.find(chosen).Config(name=chosen)
            made: Transform = catalogue.construct(own.name, own, field)
        except UserError as error:
            refusal = error.__cause__ if isinstance(error.__cause__, InvalidValue) else error
            raise UserError(f"[transforms.{name}]: {refusal}") from None
        return made

    def set_view_shapes(self, shapes: Mapping[str, Sequence[int]]) -> None:
        """The shapes of views that encoders ask for, by name; "" is the main encoder's, for its view."""
        self.shapes = dict(shapes)
        for place, transform in self.transforms.items():
            part, _, name = place.partition(".")
            shape = shapes.get(name) or (shapes.get("") if place == self.first_place else None)
            if isinstance(transform, ViewTransform) and part == "views" and shape is not None:
                transform.set_view_shape(shape)
        self._follow_first_view()
        if self.transform.views and self.first not in self.settings and "" in shapes:
            self.groups = crops(self.transform, shapes[""])
            field = self.fields[self.first_place]
            self.crops = {name: _crop_of(group, field) for name, group in self.groups.items()}

    def _follow_first_view(self) -> None:
        first = self.transforms[self.first_place]
        for transform in self.transforms.values():
            if isinstance(transform, FollowsView) and first.output.shape:
                transform.follow(first)

    @property
    def outputs(self) -> Fields:
        """What comes out, by the places in the batch."""
        return {self.places[place]: transform.output for place, transform in self.transforms.items()}

    @property
    def ragged(self) -> list[str]:
        """The places of values whose lengths differ from sample to sample."""
        return [place for place, field in self.outputs.items() if field.is_ragged]

    @property
    def has_learners(self) -> bool:
        """Whether any of them learns from the training split."""
        return any(isinstance(transform, FittedTransform) for transform in self.transforms.values())

    def fit(self, samples: Samples) -> None:
        """Fits what learns from the training split. Raises UserError where that is not possible."""
        for place, transform in self.transforms.items():
            if isinstance(transform, FittedTransform):
                try:
                    transform.fit(self._values(samples, place))
                except InvalidValue as error:
                    raise UserError(f"{place} of {samples.note.partition(';')[0]}: {error}") from None

    def _values(self, samples: Samples, place: str) -> Iterator[Any]:
        """One value of evenly spaced samples, of recordings of their middle, corrupt ones left out."""
        positions = range(0, len(samples), -(-len(samples) // FITTED_ON))
        if isinstance(samples, ColumnSamples):
            column = samples.columns()[place]
            yield from (column[index] for index in positions)
            return
        for index in positions:
            try:
                sample = read_named(samples, index, self.fields)
                if any(isinstance(value, Recording) for value in sample.values().values()):
                    sample = self._windowed(sample, where(samples, index, sample.key), train=False)
            except CorruptSample:
                continue
            yield sample.values()[place]

    def state(self) -> dict[str, Any]:
        """What the transforms have learned, by place."""
        return {
            place: transform.state()
            for place, transform in self.transforms.items()
            if isinstance(transform, FittedTransform)
        }

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Takes over what `state` gave. Raises UserError where it is not that of these transforms."""
        for place, transform in self.transforms.items():
            if isinstance(transform, FittedTransform):
                if not isinstance(state.get(place), Mapping):
                    raise UserError(f"it says nothing of {place}; it has {', '.join(state) or 'nothing'}")
                try:
                    transform.load_state(state[place])
                except UserError as error:
                    raise UserError(f"{place}: {error}") from None

    def hash(self) -> str:
        """A hash of what they have learned; "" where that is nothing."""
        state = self.state()
        text = json.dumps(state, sort_keys=True)
        return hashlib.blake2b(text.encode(), digest_size=16).hexdigest() if state else ""

    def __call__(self, sample: Sample, place: str, train: bool) -> dict[str, list[Tensor]]:
        """The values of one sample by the places of what comes out, one tensor for each crop.

        In training without maps, which follow the evaluation's view. `place` is the sample in words. Raises
        CorruptSample for a value that is to be skipped, UserError for one that is not.
        """
        sample = self._windowed(sample, place, train)
        values, result = sample.values(), {}
        for name in self.transforms:
            if name == self.first_place and self.groups and train:
                for group, crop in self.crops.items():
                    count = self.groups[group].per_sample
                    result[f"views.{group}"] = [crop(values[name], True) for _ in range(count)]
                continue
            if train and isinstance(self.transforms[name], FollowsView):
                continue
            result[self.places[name]] = [self.apply(name, values[name], f"{place}: {name}", train)]
        return result

    def apply(self, name: str, value: Any, place: str, train: bool) -> Tensor:
        """One value after its transform; `place` is the value in words, for errors (see `__call__`)."""
        transform = self.transforms[name]
        try:
            return transform(value, train)
        except InvalidValue as error:
            if transform.config.invalid == "skip":
                raise CorruptSample(place, str(error), "invalid_value") from None
            raise UserError(f"{place} is {error}") from None

    def transform_values(self, values: Mapping[str, Sequence[Any]]) -> dict[str, dict[str, Any]]:
        """Some values of samples, by place, as in a batch for evaluation: `{"views.caption": ["a frog", …]}`.

        By part and name, as `collate` gives them. Raises UserError for a place that is not there, and for a
        value that cannot be used.
        """
        for place in values:
            if place not in self.transforms:
                raise unknown("value", place, self.transforms)
        count = len(next(iter(values.values())))
        rows = [
            {
                self.places[place]: [self.apply(place, column[number], f"{place} {number}", train=False)]
                for place, column in values.items()
            }
            for number in range(count)
        ]
        return self.collate(rows)

    def of_source(self, source: Source) -> FieldTransforms:
        """These transforms, with what they have learned, for the values of another source.

        Values that it lacks are left out. Raises UserError for one that nothing was learned for.
        """
        fields = source_fields(source, self.view_shape)
        if fields == self.fields:
            return self
        names = {place.partition(".")[2] for place in fields}
        own = {name: settings for name, settings in self.settings.items() if name in names}
        other = FieldTransforms(fields, own, self.transform)
        other.set_view_shapes(self.shapes)
        other.load_state({place: state for place, state in self.state().items() if place in fields})
        return other

    @property
    def view_shape(self) -> Sequence[int]:
        """The shape of the main encoder's view."""
        return self.shapes.get("", (3, 0, 0))

    def _windowed(self, sample: Sample, place: str, train: bool) -> Sample:
        shapes = {name: transform.output.shape for name, transform in self.transforms.items()}
        return draw_windows(sample, shapes, self.fields, place, train)

    def collate(self, rows: Sequence[Mapping[str, list[Tensor]]]) -> dict[str, dict[str, Any]]:
        """The values of B samples by part and name: [B, ...], [B, V, ...] of crops, `Packed` where ragged.

        All parts are empty without rows. Raises UserError where the shapes of one value differ.
        """
        outputs = self.outputs
        parts: dict[str, dict[str, Any]] = {part: {} for part in PARTS}
        for place in rows[0] if rows else ():
            part, _, name = place.partition(".")
            values = [tensor for row in rows for tensor in row[place]]
            if place in outputs and outputs[place].is_ragged:
                parts[part][name] = Packed.of(values)
                continue
            shapes = {tuple(value.shape) for value in values}
            if len(shapes) > 1:
                listed = " and ".join(str(list(shape)) for shape in sorted(shapes)[:2])
                raise UserError(f"{place} comes in shapes {listed}; expected one shape for all samples")
            stacked = torch.stack(values)
            group = self.groups.get(name) if part == "views" else None
            parts[part][name] = group.group(stacked) if group else stacked
        return parts


def _crop_of(group: Crops, field: Field) -> Transform:
    crop = plugins.registry().catalogue("transform").find("crop")
    made = crop(crop.Config(name="crop", **group.settings.model_dump(exclude={"views"})), field)
    made.set_view_shape(group.shape)
    result: Transform = made
    return result


def field_transforms(
    source: Source, recipe: Recipe, view_shape: Sequence[int] = (3, 0, 0)
) -> FieldTransforms:
    """The transforms that a recipe has for a source. Raises UserError as `FieldTransforms` does."""
    return FieldTransforms(source_fields(source, view_shape), recipe.transforms, recipe.transform)
