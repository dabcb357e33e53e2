"""Loaders: every batch follows from its step number alone; corrupt samples are passed over and counted."""

from __future__ import annotations

import itertools
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from jepa_core.data import (
    ArraySamples,
    BaseSamples,
    CorruptSample,
    FolderSource,
    StepBatch,
    TransformSettings,
    eval_loader,
    make_loader,
    step_generator,
)
from jepa_core.data.samples import Selection
from jepa_core.data.workers import one_thread
from jepa_core.errors import UserError
from jepa_core.types import IndexSet, MaskPlan

VIEW = (3, 8, 8)
FLIPS = TransformSettings(flip=0.5)
JITTER = TransformSettings(flip=0.5, colour_jitter=0.5, blur=0.5)
AS_IT_IS = TransformSettings(crop_scale=(1, 1), crop_ratio=(1, 1), mean=(0, 0, 0), std=(1, 1, 1))


def arrays(count: int) -> ArraySamples:
    """Image i is filled with i, and labelled i."""
    numbers = torch.arange(count)
    images = numbers.to(torch.uint8)[:, None, None, None].expand(count, 3, 8, 8).contiguous()
    return ArraySamples(images, numbers, [str(i) for i in range(count)], "")


def one_by_one(samples: ArraySamples) -> Selection:
    """The same samples, not as arrays."""
    return Selection(samples, np.arange(len(samples)), "")


class Numbered(BaseSamples):
    """PIL images of noise, labelled by their number; those in `bad` cannot be read."""

    def __init__(self, count: int, bad: tuple[int, ...] = ()) -> None:
        self.count, self.bad = count, bad

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        if index in self.bad:
            raise CorruptSample(f"{index}.png", "cut short")
        noise = torch.randint(0, 256, (9, 11, 3), generator=torch.Generator().manual_seed(index))
        return Image.fromarray(noise.to(torch.uint8).numpy()), index


class Threads(Numbered):
    """Labels are the number of torch's threads where the sample is read."""

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        return super().__getitem__(index)[0], torch.get_num_threads()


class Half:
    """A masker: half the tokens, and where training stands."""

    def check(self, grid) -> None:
        pass

    def __call__(self, grid, batch_size, generator, progress=0.0) -> MaskPlan:
        keep = torch.rand(batch_size, grid[0] * grid[1], generator=generator) < 0.5 + progress / 2
        return MaskPlan(contexts=(IndexSet.from_mask(keep),))


def load(samples, steps: range, settings: TransformSettings = FLIPS, **more) -> list[StepBatch]:
    named = {"seed": 3, "masker": Half(), "grid": (4, 4), "total_steps": 100, **more}
    return list(make_loader(samples, settings, VIEW, named.pop("batch_size", 4), steps=steps, **named))


def same(one: list[StepBatch], other: list[StepBatch]) -> bool:
    def parts(loaded: StepBatch) -> tuple[torch.Tensor, ...]:
        (context,) = loaded.plan.contexts
        return loaded.batch.views["image"], loaded.batch.labels, context.index, context.lengths

    return len(one) == len(other) and all(
        a.step == b.step and a.skipped == b.skipped and all(map(torch.equal, parts(a), parts(b)))
        for a, b in zip(one, other, strict=True)
    )


@pytest.mark.parametrize(
    ("samples", "settings"),
    [
        (arrays(23), FLIPS),
        (arrays(23), JITTER),
        (one_by_one(arrays(23)), JITTER),
        (Numbered(23, bad=(5, 11)), JITTER),
    ],
    ids=["batched", "batched colours", "one by one", "files"],
)
def test_batches_depend_on_the_step_alone(samples, settings: TransformSettings) -> None:
    """Any number of workers, a resume within an epoch, one step on its own, any global random state."""
    torch.manual_seed(1)
    whole = load(samples, range(12), settings)
    assert [loaded.step for loaded in whole] == list(range(12))
    torch.manual_seed(2)
    for workers in (1, 2):
        assert same(load(samples, range(12), settings, workers=workers), whole)
    assert same(load(samples, range(7, 12), settings, workers=1), whole[7:])
    assert same(load(samples, range(3, 12, 4), settings), whole[3::4])
    assert not same(load(samples, range(12), settings, seed=4), whole)


def test_the_global_random_state_is_left_alone() -> None:
    for workers in (0, 1):
        for samples in (arrays(8), Numbered(8)):
            torch.manual_seed(5)
            load(samples, range(2), JITTER, workers=workers)
            after = torch.rand(3)
            torch.manual_seed(5)
            assert torch.equal(after, torch.rand(3))


def test_an_epoch_shows_each_sample_once_and_drops_what_fills_no_batch() -> None:
    loaded = load(arrays(23), range(10))
    epochs = [torch.cat([item.batch.labels for item in loaded[start : start + 5]]) for start in (0, 5)]
    for labels in epochs:
        assert len(labels.unique()) == 20
    assert not torch.equal(*epochs)
    assert make_loader(arrays(23), FLIPS, VIEW, 4, steps=range(1), seed=0).steps_per_epoch == 5


def test_ranks_share_the_batch_that_one_process_would_see() -> None:
    alone = load(arrays(24), range(6), batch_size=4)
    ranks = [load(arrays(24), range(6), batch_size=2, ranks=range(r, r + 1), world=2) for r in range(2)]
    for step in range(6):
        together = torch.cat([loaded[step].batch.labels for loaded in ranks])
        assert sorted(together.tolist()) == sorted(alone[step].batch.labels.tolist())
    assert not torch.equal(ranks[0][0].plan.contexts[0].index, ranks[1][0].plan.contexts[0].index)
    in_turn = load(arrays(24), range(6), batch_size=2, ranks=range(2), world=2, workers=2)
    assert same(in_turn[0::2], ranks[0])
    assert same(in_turn[1::2], ranks[1])


def test_images_and_labels_stay_together() -> None:
    blurred = AS_IT_IS.model_copy(update={"blur": 1.0})
    for samples, settings in itertools.product((arrays(40), one_by_one(arrays(40))), (AS_IT_IS, blurred)):
        for loaded in load(samples, range(3), settings):
            values = (loaded.batch.views["image"][:, 0, 4, 4] * 255).round().long()
            assert torch.equal(values, loaded.batch.labels)


def test_masks_are_those_of_the_step_generator() -> None:
    for loaded in load(arrays(8), range(40, 42)):
        expected = Half()((4, 4), 4, step_generator(3, 0, loaded.step, "masks"), loaded.step / 100)
        assert torch.equal(loaded.plan.contexts[0].index, expected.contexts[0].index)
    (bare,) = load(arrays(8), range(1), masker=None)
    assert bare.plan is None


def test_step_generators_differ_in_each_argument_and_are_the_same_everywhere() -> None:
    keys = [
        (0, 0, 0, "masks"),
        (1, 0, 0, "masks"),
        (0, 1, 0, "masks"),
        (0, 0, 1, "masks"),
        (0, 0, 0, "order"),
    ]
    draws = [torch.randint(10**6, (1,), generator=step_generator(*key)).item() for key in keys]
    assert len(set(draws)) == len(keys)
    assert step_generator(0, 0, 0, "masks").initial_seed() == 5121017626925813545


def test_a_corrupt_sample_is_replaced_by_the_next_in_the_epochs_order() -> None:
    good = load(Numbered(20), range(4))
    order = torch.cat([loaded.batch.labels for loaded in good]).tolist()
    bad = (order[1], order[2], order[5])
    loader = make_loader(Numbered(20, bad), FLIPS, VIEW, 4, steps=range(4), seed=3, max_corrupt=0.5)
    first, second, third, fourth = loader
    assert first.batch.labels.tolist() == [order[0], order[3], order[4], order[6]]
    assert [str(sample) for sample in first.skipped] == [f"{index}.png: cut short" for index in bad]
    assert second.batch.labels.tolist() == [order[4], order[6], order[7], order[8]]
    assert third.skipped == fourth.skipped == ()
    assert (loader.seen, loader.corrupt) == (16 + 4, 4)


def test_the_end_of_the_epoch_goes_round_to_its_start() -> None:
    good = load(Numbered(8), range(2))
    order = torch.cat([loaded.batch.labels for loaded in good]).tolist()
    _, last = load(Numbered(8, bad=(order[7],)), range(2))
    assert last.batch.labels.tolist() == [*order[4:7], order[0]]


@pytest.mark.parametrize("workers", [0, 1])
def test_too_many_corrupt_samples_are_an_error(workers: int) -> None:
    bad = tuple(range(0, 200, 4))
    loader = make_loader(Numbered(200, bad), FLIPS, VIEW, 20, steps=range(50), seed=0, workers=workers)
    message = r"^\d+ of \d+ samples cannot be read \(2\d%; data\.max_corrupt allows 10%\); the last: \d+\.png"
    with pytest.raises(UserError, match=message) as caught:
        list(loader)
    assert "\n" not in str(caught.value)
    assert 100 <= loader.seen <= 150
    patient = make_loader(Numbered(200, bad), FLIPS, VIEW, 20, steps=range(8), seed=0, max_corrupt=0.4)
    assert len(list(patient)) == 8


@pytest.mark.parametrize("workers", [0, 1])
def test_an_error_in_a_worker_is_the_same_one_line(workers: int) -> None:
    loader = make_loader(
        Numbered(6, tuple(range(1, 6))), FLIPS, VIEW, 4, steps=range(1), seed=0, workers=workers
    )
    with pytest.raises(UserError) as caught:
        list(loader)
    assert str(caught.value).startswith(
        "only 1 of 6 samples can be read, and a batch needs 4; the first that"
    )


def test_fewer_samples_than_a_batch_is_an_error() -> None:
    with pytest.raises(UserError, match=r"7 samples do not fill one batch of 8; lower train\.batch_size"):
        make_loader(arrays(7), FLIPS, VIEW, 8, steps=range(1), seed=0)
    with pytest.raises(UserError, match="15 samples do not fill one batch of 8 on each of 2 ranks"):
        make_loader(arrays(15), FLIPS, VIEW, 8, steps=range(1), seed=0, world=2)


def test_images_are_read_by_one_thread() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        for workers in (0, 2):
            (loaded,) = load(Threads(4), range(1), workers=workers)
            assert Counter(loaded.batch.labels.tolist()) == {1: 4}
        with pytest.raises(ZeroDivisionError), one_thread():
            raise ZeroDivisionError
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_evaluation_sees_every_sample_once_in_order() -> None:
    for workers in (0, 2):
        for samples in (arrays(11), Numbered(11)):
            loader = eval_loader(samples, AS_IT_IS, VIEW, 4, workers)
            batches = list(loader)
            assert len(batches) == len(loader) == 3
            assert torch.cat([labels for _, labels in batches]).tolist() == list(range(11))
            assert batches[2][0].shape == (3, 3, 8, 8)
    limited = eval_loader(arrays(11), AS_IT_IS, VIEW, 4, limit=5)
    assert torch.cat([labels for _, labels in limited]).tolist() == [0, 2, 4, 6, 8]
    assert limited.images == 5


def test_evaluation_leaves_corrupt_samples_out_and_lists_them() -> None:
    loader = eval_loader(Numbered(9, bad=(2, 4, 5)), AS_IT_IS, VIEW, 2)
    assert [labels.tolist() for _, labels in loader] == [[0, 1], [3], [6, 7], [8]]
    assert [str(sample) for sample in loader.skipped] == [
        "2.png: cut short",
        "4.png: cut short",
        "5.png: cut short",
    ]
    with pytest.raises(UserError, match=r"none of 3 samples can be read; the first: 0\.png: cut short"):
        list(eval_loader(Numbered(3, bad=(0, 1, 2)), AS_IT_IS, VIEW, 2))
    with pytest.raises(
        UserError, match=r"20 of 100 samples cannot be read \(20%; data\.max_corrupt allows 10%"
    ):
        list(eval_loader(Numbered(120, bad=tuple(range(0, 120, 5))), AS_IT_IS, VIEW, 10))
    with pytest.raises(UserError, match="no samples to evaluate on"):
        eval_loader(Numbered(0), AS_IT_IS, VIEW, 2)


def test_a_folder_with_a_broken_file_trains_and_says_which(tmp_path: Path) -> None:
    for number in range(6):
        Image.new("L", (5 + number, 9), number).save(tmp_path / f"{number}.png")
    (tmp_path / "broken.jpg").write_bytes(b"\xff\xd8 cut")
    config = FolderSource.Config(name="folder", path=tmp_path, val_share=0, test_share=0)
    loader = make_loader(
        FolderSource(config).split("train"), FLIPS, VIEW, 3, steps=range(2), seed=0, workers=1
    )
    reports = [str(sample) for loaded in loader for sample in loaded.skipped]
    assert set(reports) <= {
        f"{tmp_path}/broken.jpg: not an image that Pillow can identify as BMP, GIF, JPEG, PNG, PPM, TIFF "
        "or WebP"
    }
    assert loader.corrupt == len(reports) > 0
