"""Batches of samples with several named values."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from jepa_core import Field, Packed, Sample, UserError
from jepa_core.data import CorruptSample, TransformSettings, make_loader
from jepa_core.data.eval_batches import EvalFields
from jepa_core.data.field_reader import ColumnReader, FieldReader, field_reader
from jepa_core.data.field_transforms.pipeline import FieldTransforms
from jepa_core.settings.sections import ViewSettings
from jepa_core.types.batch import Batch
from tests.core.data.named_worlds import FIELDS, Pairs, PairsInMemory, columns_of

PLAIN = TransformSettings(crop_scale=(1.0, 1.0), mean=(0, 0, 0), std=(1, 1, 1))


def fitted(samples: Any, settings: Any = None, transform: TransformSettings = PLAIN) -> FieldTransforms:
    transforms = FieldTransforms(FIELDS, settings or {}, transform)
    transforms.set_view_shapes({"": (3, 8, 8)})
    transforms.fit(samples)
    return transforms


def batch_of(samples: Any, transforms: FieldTransforms, size: int = 4, steps: int = 1) -> list[Batch]:
    loader = make_loader(
        samples, PLAIN, (3, 8, 8), size, steps=range(steps), seed=0, fields=transforms, max_corrupt=0.5
    )
    return [loaded.batch for loaded in loader]


def test_a_batch_has_every_value_in_its_part() -> None:
    samples = Pairs(12)
    transforms = fitted(samples)
    assert not transforms.plain
    assert transforms.ragged == ["views.caption", "condition.actions"]
    (batch,) = batch_of(samples, transforms)
    assert list(batch.views) == ["image", "caption"]
    numbers = columns_of(batch.views["image"])
    caption, actions = batch.views["caption"], batch.condition["actions"]
    assert isinstance(caption, Packed)
    assert isinstance(actions, Packed)
    decode = transforms.transforms["views.caption"].decode  # type: ignore[attr-defined]
    expected = [samples.values(number) for number in numbers]
    assert [decode(ids).strip() for ids in caption.split()] == [one["views.caption"] for one in expected]
    for own, one in zip(actions.split(), expected, strict=True):
        assert torch.equal(own, one["condition.actions"])
    assert torch.equal(batch.targets["state"], torch.stack([one["targets.state"] for one in expected]))
    assert batch.labels is not None
    assert batch.labels.tolist() == [number % 2 for number in numbers]
    assert actions.grid == (max(len(own) for own in actions.split()),)


def test_values_in_memory_give_the_batches_of_samples_that_are_read_one_by_one() -> None:
    slow, fast = Pairs(12), PairsInMemory(12)
    transforms = fitted(slow)
    assert isinstance(field_reader(slow, transforms, 0.1), FieldReader)
    assert isinstance(field_reader(fast, transforms, 0.1), ColumnReader)
    for one, other in zip(
        batch_of(slow, transforms, steps=5), batch_of(fast, transforms, steps=5), strict=True
    ):
        torch.testing.assert_close(one.views["image"], other.views["image"])
        assert list(one.views) == list(other.views)
        for left, right in (
            (one.views["caption"], other.views["caption"]),
            (one.condition["actions"], other.condition["actions"]),
        ):
            assert torch.equal(left.values, right.values)
            assert torch.equal(left.at.lengths, right.at.lengths)
        assert torch.equal(one.targets["state"], other.targets["state"])
        assert torch.equal(one.labels, other.labels)  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", [Pairs, PairsInMemory])
def test_groups_of_crops_are_made_of_the_first_view(kind: type[Pairs]) -> None:
    transform = PLAIN.model_copy(
        update={"views": {"large": ViewSettings(), "small": ViewSettings(count=3, size=4)}}
    )
    samples = kind(12)
    (batch,) = batch_of(samples, fitted(samples, transform=transform))
    assert list(batch.views) == ["large", "small", "caption"]
    assert batch.views["large"].shape == (4, 1, 3, 8, 8)
    assert batch.views["small"].shape == (4, 3, 3, 4, 4)


def test_evaluation_has_all_samples_in_order() -> None:
    samples = Pairs(7)
    loader = EvalFields(samples, fitted(samples), torch.arange(7), batch_size=3)
    batches = list(loader)
    assert [number for batch in batches for number in columns_of(batch.views["image"])] == list(range(7))
    assert len(loader) == 3
    assert loader.positions.tolist() == list(range(7))


def test_workers_change_nothing() -> None:
    samples = Pairs(7)
    loaders = [EvalFields(samples, fitted(samples), torch.arange(7), 3, workers) for workers in (0, 2)]
    for one, other in zip(*loaders, strict=True):
        assert torch.equal(one.views["caption"].values, other.views["caption"].values)


NAN = torch.tensor([[0.0, float("nan")]])


@pytest.mark.parametrize(
    ("changed", "what"),
    [
        ({"condition.actions": NAN}, "condition.actions is nan at [0, 1]; expected finite numbers"),
        ({"views.caption": "  "}, "views.caption is an empty text; expected words"),
        ({"views.caption": "word " * 90}, "tokens; expected at most 64"),
    ],
)
def test_a_value_that_cannot_be_used_is_one_line(changed: dict[str, Any], what: str) -> None:
    transforms = fitted(Pairs(12))
    with pytest.raises(UserError) as error:
        batch_of(Pairs(12, dict.fromkeys(range(12), changed)), transforms)
    assert what in str(error.value)
    assert str(error.value).startswith("sample ")
    assert ") of pairs: " in str(error.value)


def test_a_setting_skips_them_as_corrupt_samples_or_mends_them() -> None:
    from jepa_core.data.field_transforms.numbers import NoTransform

    broken = Pairs(12, {3: {"condition.actions": NAN}})
    skip = {"actions": NoTransform.Config(name="none", invalid="skip")}
    loaded = make_loader(
        broken, PLAIN, (3, 8, 8), 6, steps=range(2), seed=0, fields=fitted(Pairs(12), skip), max_corrupt=0.5
    )
    records = [record for step in loaded for record in step.skipped]
    assert [record.kind for record in records] == ["invalid_value"]
    assert "pair-3" in records[0].path
    zero = {"actions": NoTransform.Config(name="none", nan="zero")}
    batches = batch_of(broken, fitted(Pairs(12), zero), 12)
    assert bool(batches[0].condition["actions"].values.isfinite().all())


def test_settings_of_a_value_that_is_not_there_are_refused() -> None:
    from jepa_core.data.field_transforms.tokenize import Tokenize

    with pytest.raises(UserError, match=r"value of the source, in \[transforms\], 'captoin'.*caption"):
        FieldTransforms(FIELDS, {"captoin": Tokenize.Config(name="tokenize")}, PLAIN)
    with pytest.raises(UserError, match=r"transforms.state\]: the transform 'tokenize' takes text; got v"):
        FieldTransforms(FIELDS, {"state": Tokenize.Config(name="tokenize")}, PLAIN)


class Walk:
    """A recording whose actions belong to its frames: frame i shows i, and action i is (i, -i)."""

    def starts(self, frames: int) -> range:
        return range(20 - frames + 1)

    def window(self, start: int, frames: int) -> Sample:
        numbers = torch.arange(start, start + frames)
        video = numbers.to(torch.uint8)[:, None, None, None].expand(frames, 3, 8, 8)
        actions = torch.stack([numbers, -numbers], 1)[:-1].float()
        return Sample({"video": video}, condition={"actions": actions})


def test_a_window_brings_what_belongs_to_it() -> None:
    fields = {"views.video": Field("clip"), "condition.actions": Field("sequence", (None, 2))}

    class Walks(Pairs):
        def __getitem__(self, index: int) -> Any:
            return Sample({"video": Walk()})

    transforms = FieldTransforms(fields, {}, PLAIN)
    transforms.set_view_shapes({"": (3, 5, 8, 8)})
    loader = make_loader(Walks(16), PLAIN, (3, 5, 8, 8), 8, steps=range(4), seed=0, fields=transforms)
    starts = set()
    for loaded in loader:
        video: Tensor = loaded.batch.views["video"]
        for clip, actions in zip(video, loaded.batch.condition["actions"].split(), strict=True):
            frames = (clip[0, :, 0, 0] * 255).round()
            assert torch.equal(actions[:, 0], frames[:-1])
            starts.add(int(frames[0]))
    assert len(starts) > 5
    (batch,) = EvalFields(Walks(2), transforms, torch.arange(2))
    assert (batch.views["video"][:, 0, :, 0, 0] * 255).round().tolist() == [[8, 9, 10, 11, 12]] * 2


def test_values_of_different_shapes_are_refused() -> None:
    fields = {"views.image": Field("image"), "targets.state": Field("vector")}

    class Mixed(Pairs):
        def __getitem__(self, index: int) -> Any:
            return Sample(
                torch.zeros(3, 8, 8, dtype=torch.uint8), targets={"state": torch.zeros(1 + index % 2)}
            )

    transforms = FieldTransforms(fields, {}, PLAIN)
    transforms.set_view_shapes({"": (3, 8, 8)})
    with pytest.raises(UserError, match=r"targets.state comes in shapes \[1\] and \[2\]; expected one shape"):
        list(EvalFields(Mixed(4), transforms, torch.arange(4)))


def test_nothing_that_can_be_read_is_an_error() -> None:
    class Gone(Pairs):
        def __getitem__(self, index: int) -> Any:
            raise CorruptSample("x", "gone")

    samples = Pairs(4)
    with pytest.raises(UserError, match="none of 4 samples can be read; the first: x: gone"):
        list(EvalFields(Gone(4), fitted(samples), torch.arange(4)))


@pytest.mark.parametrize("kind", [Pairs, PairsInMemory])
def test_a_value_can_become_another_part_of_the_batch(kind: type[Pairs]) -> None:
    from jepa_core.data.field_transforms.tokenize import Tokenize

    samples = kind(12)
    transforms = fitted(samples, {"caption": Tokenize.Config(name="tokenize", part="condition")})
    assert list(transforms.outputs) == [
        "views.image",
        "condition.caption",
        "condition.actions",
        "targets.state",
    ]
    (batch,) = batch_of(samples, transforms)
    assert list(batch.views) == ["image"]
    assert sorted(batch.condition) == ["actions", "caption"]


def test_values_alone_are_transformed_as_in_a_batch() -> None:
    transforms = fitted(Pairs(12))
    parts = transforms.transform_values({"views.caption": ["a red square", "green"]})
    assert [
        transforms.transforms["views.caption"].decode(ids).strip()
        for ids in parts["views"]["caption"].split()
    ] == [  # type: ignore[attr-defined]
        "a red square",
        "green",
    ]
    with pytest.raises(UserError, match=r"unknown value 'views.captoin'"):
        transforms.transform_values({"views.captoin": ["x"]})


def test_another_source_gets_what_was_learned() -> None:
    class Captions:
        """A source of images and captions alone."""

        def fields(self) -> Any:
            return {place: FIELDS[place] for place in ("views.image", "views.caption")}

    transforms = fitted(Pairs(12))
    other = transforms.of_source(Captions())  # type: ignore[arg-type]
    assert list(other.transforms) == ["views.image", "views.caption"]
    assert other.state() == transforms.state()
    assert other.outputs["views.image"] == transforms.outputs["views.image"]


def test_a_text_that_nothing_was_learned_for_is_refused() -> None:
    class Titles:
        def fields(self) -> Any:
            return {"views.image": Field("image"), "views.title": Field("text")}

    with pytest.raises(UserError, match=r"it says nothing of views.title; it has nothing"):
        fitted(Pairs(12)).of_source(Titles())  # type: ignore[arg-type]
