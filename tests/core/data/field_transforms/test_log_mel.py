"""Sounds to mel bands: which band a tone falls in, how many frames there are, and what is refused."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from jepa_core import Field, UserError
from jepa_core.data.field_transforms.base import InvalidValue
from jepa_core.data.field_transforms.log_mel import LogMel, mel_filters

RATE = 8000


def log_mel(**settings: Any) -> LogMel:
    return LogMel(LogMel.Config(name="log_mel", **settings), Field("audio", rate=RATE))


def tone(frequency: float, seconds: float = 0.5) -> torch.Tensor:
    return torch.sin(2 * math.pi * frequency * torch.arange(int(seconds * RATE)) / RATE)


@pytest.mark.parametrize("frequency", [200.0, 700.0, 2500.0])
def test_a_tone_is_loudest_in_its_band(frequency: float) -> None:
    transform = log_mel(bands=20)
    bands = transform(tone(frequency), True)
    top = 2595 * math.log10(1 + RATE / 2 / 700)
    mel = 2595 * math.log10(1 + frequency / 700)
    expected = mel / top * 21 - 1  # centres of the bands are evenly spaced in mel
    assert abs(int(bands.mean(0).argmax()) - expected) <= 1
    assert bands.shape == (48, 20)  # windows of 200 samples every 80, within 4,000
    assert transform.output.width == 20
    assert transform.output.rate == 100


def test_channels_are_averaged_and_a_short_sound_is_one_frame() -> None:
    sound = tone(500)
    assert torch.equal(log_mel()(torch.stack([sound, sound]), True), log_mel()(sound, True))
    assert log_mel()(torch.zeros(3), True).shape == (1, 64)
    assert log_mel(length=7)(sound, True).shape == (7, 64)


def test_filters_are_triangles_between_their_neighbours() -> None:
    filters = mel_filters(6, 512, RATE, 0.0, RATE / 2)
    assert filters.shape == (257, 6)
    assert 0.9 < float(filters.max(0).values.min()) <= 1.0
    inside = filters[20:160].sum(1)
    torch.testing.assert_close(inside, torch.ones_like(inside))


def test_twice_the_loudness_is_log_4_more() -> None:
    quiet, loud = (log_mel()(factor * tone(600), True) for factor in (1.0, 2.0))
    torch.testing.assert_close((loud - quiet).max(), torch.tensor(math.log(4.0)), atol=1e-4, rtol=0)


def test_what_is_no_sound_is_refused() -> None:
    with pytest.raises(InvalidValue, match="nan at"):
        log_mel()(torch.tensor([0.0, math.nan]), True)
    with pytest.raises(UserError, match="does not say the sampling rate"):
        LogMel(LogMel.Config(name="log_mel"), Field("audio"))
    with pytest.raises(UserError, match="the mel bands go from 0 to 9000 Hz"):
        log_mel(high=9000)
