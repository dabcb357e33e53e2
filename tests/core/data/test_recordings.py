"""Samples longer than a view: which window a view shows, for clips, single frames and several views."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from jepa_core.data import BaseSamples, CorruptSample, TransformSettings, eval_loader, make_loader
from jepa_core.errors import UserError
from jepa_core.protocols import Recording
from jepa_core.settings.sections import ViewSettings

PLAIN = TransformSettings(crop_scale=(1.0, 1.0), mean=(0, 0, 0), std=(1, 1, 1))


@dataclass
class Ramp:
    """A recording whose frame i has the value i everywhere."""

    length: int

    def starts(self, frames: int) -> range:
        if frames > self.length:
            raise CorruptSample("ramp", "too few frames", "too_short")
        return range(self.length - frames + 1)

    def window(self, start: int, frames: int) -> Tensor:
        values = torch.arange(start, start + frames, dtype=torch.uint8)
        return values[:, None, None, None].expand(frames, 3, 12, 10)


class Ramps(BaseSamples):
    note = "ramps"

    def __init__(self, *samples: object) -> None:
        self.samples = samples

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int):
        return self.samples[index], index


def values(view: Tensor) -> list[int]:
    """What each frame of a view [3, T, H, W] shows."""
    assert torch.equal(view, view[:1, :, :1, :1].expand_as(view))
    return (view[0, :, 0, 0] * 255).round().int().tolist()


def test_training_shows_any_window_and_evaluation_the_middle() -> None:
    samples = Ramps(*[Ramp(9)] * 8)
    assert isinstance(Ramp(9), Recording)
    assert not isinstance(torch.empty(3, 4, 4), Recording)
    seen = set()
    for loaded in make_loader(samples, PLAIN, (3, 4, 8, 8), 8, steps=range(8), seed=0):
        assert loaded.batch.views["video"].shape == (8, 3, 4, 8, 8)
        for view in loaded.batch.views["video"]:
            first, *_ = shown = values(view)
            assert shown == [first, first + 1, first + 2, first + 3]
            seen.add(first)
    assert seen == set(range(6))
    views, labels = next(iter(eval_loader(samples, PLAIN, (3, 4, 8, 8), 8)))
    assert [values(view) for view in views] == [[3, 4, 5, 6]] * 8
    assert labels.tolist() == list(range(8))


def test_an_encoder_of_images_sees_single_frames() -> None:
    (loaded,) = make_loader(Ramps(*[Ramp(9)] * 8), PLAIN, (3, 8, 8), 8, steps=range(1), seed=0)
    images = loaded.batch.views["image"]
    assert images.shape == (8, 3, 8, 8)
    assert len({round(float(image.mean() * 255)) for image in images}) > 2


def test_each_view_of_a_group_is_a_window_of_its_own() -> None:
    settings = PLAIN.model_copy(update={"views": {"all": ViewSettings(count=5, size=6)}})
    shape = (3, 4, 8, 8)
    (loaded,) = make_loader(Ramps(Ramp(60), Ramp(60)), settings, shape, 2, steps=range(1), seed=0)
    views = loaded.batch.views["all"]
    assert views.shape == (2, 5, 3, 4, 6, 6)
    assert len({values(view)[0] for sample in views for view in sample}) > 5


def test_recordings_that_are_too_short_are_skipped_and_counted() -> None:
    samples = Ramps(Ramp(9), Ramp(3), Ramp(9), Ramp(9))
    loaded = list(make_loader(samples, PLAIN, (3, 4, 8, 8), 3, steps=range(4), seed=0))
    assert {str(skipped) for part in loaded for skipped in part.skipped} == {"ramp: too few frames"}
    assert all(part.batch.labels.tolist().count(1) == 0 for part in loaded)
    views, labels = next(iter(held := eval_loader(samples, PLAIN, (3, 4, 8, 8), 4)))
    assert (len(views), labels.tolist(), held.skipped[0].kind) == (3, [0, 2, 3], "too_short")


@pytest.mark.parametrize("shape", [(3, 9, 9), (5, 3, 9, 9)])
def test_images_for_an_encoder_of_clips_are_an_error(shape: tuple[int, ...]) -> None:
    image = torch.zeros(shape, dtype=torch.uint8)
    loader = make_loader(Ramps(image, image), PLAIN, (3, 4, 8, 8), 2, steps=range(1), seed=0)
    with pytest.raises(UserError, match="the encoder asks for clips of 4 frames; these data are images, or"):
        next(iter(loader))
