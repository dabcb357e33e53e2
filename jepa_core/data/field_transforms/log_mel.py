"""Sounds to logarithmic mel spectrograms, a vector a frame.

Triangular filters, evenly spaced on the mel scale m = 2595 log10(1 + f / 700) (O'Shaughnessy 1987; the one of
HTK), on the power spectrum of Hann windows.

Axes: L frames, M mel bands, F frequencies.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from pydantic import Field as Setting
from torch import Tensor

from jepa_core.data.field_transforms.base import InvalidValue, ValueTransform, as_numbers
from jepa_core.data.field_transforms.numbers import finite
from jepa_core.errors import UserError
from jepa_core.types.sample import Field


class LogMel(ValueTransform):
    """A sound [samples] or [channels, samples] as float32 [L, M]: the logarithm of its mel bands.

    Channels are averaged. Frames are `hop` seconds apart, the first in the middle of the first window.
    """

    kinds = ("audio",)

    class Config(ValueTransform.Config):
        rate: int | None = Setting(None, ge=1)
        """Samples a second; by default what the source says."""
        bands: int = Setting(64, ge=1)
        """Mel bands, M."""
        window: float = Setting(0.025, gt=0)
        """Seconds of a window."""
        hop: float = Setting(0.010, gt=0)
        """Seconds from one frame to the next."""
        low: float = Setting(0.0, ge=0)
        """Lowest frequency in Hz."""
        high: float | None = Setting(None, gt=0)
        """Highest frequency in Hz; by default half the sampling rate."""
        length: int = Setting(1000, ge=1)
        """Most frames of a sound; the rest is cut off."""

    config: Config

    def __init__(self, config: Config, field: Field) -> None:
        super().__init__(config, field)
        rate = config.rate or field.rate
        if rate is None:
            raise UserError("the source does not say the sampling rate of this sound; set rate")
        self.size, self.hop = round(config.window * rate), max(1, round(config.hop * rate))
        self.fft = 1 << max(0, self.size - 1).bit_length()
        high = config.high or rate / 2
        if not config.low < high <= rate / 2:
            raise UserError(
                f"the mel bands go from {config.low:g} to {high:g} Hz; expected an ascending range "
                f"within half of {rate:g} Hz"
            )
        self.window = torch.hann_window(self.size)
        self.filters = mel_filters(config.bands, self.fft, rate, config.low, high)
        self.output = Field("sequence", (None, config.bands), units="log power", rate=rate / self.hop)

    def __call__(self, value: Any, train: bool) -> Tensor:
        sound = finite(as_numbers(value, self.field), "refuse")
        if sound.dim() not in (1, 2):
            raise InvalidValue(f"shape {list(sound.shape)}; expected [samples] or [channels, samples]")
        sound = sound.mean(0) if sound.dim() == 2 else sound
        sound = torch.nn.functional.pad(sound, (0, max(0, self.size - len(sound))))
        frames = sound.unfold(0, self.size, self.hop)[: self.config.length] * self.window
        power = torch.fft.rfft(frames, self.fft).abs().square()
        return (power @ self.filters + 1e-10).log()


def mel_filters(bands: int, fft: int, rate: float, low: float, high: float) -> Tensor:
    """Triangles [F, M] over F = fft / 2 + 1 frequencies, each 1 at its peak."""
    edges = torch.linspace(_mel(low), _mel(high), bands + 2, dtype=torch.float64)
    edges = 700 * (10 ** (edges / 2595) - 1)
    frequency = torch.linspace(0, rate / 2, fft // 2 + 1, dtype=torch.float64)[:, None]
    rising = (frequency - edges[:-2]) / (edges[1:-1] - edges[:-2])
    falling = (edges[2:] - frequency) / (edges[2:] - edges[1:-1])
    return torch.minimum(rising, falling).clamp(min=0).float()


def _mel(frequency: float) -> float:
    return 2595 * math.log10(1 + frequency / 700)
