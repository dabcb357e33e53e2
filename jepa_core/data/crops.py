"""Groups of random crops of each sample, by name: the shapes of a batch's views."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from einops import rearrange
from torch import Tensor

from jepa_core.data.transforms import VIEWS
from jepa_core.settings.sections import TransformSettings


@dataclass(frozen=True)
class Crops:
    """V random crops of each sample: views float32 [B, V, 3, H, W], or [B, 3, H, W] where `count` is None;
    of clips [B, V, 3, T, H, W], or [B, 3, T, H, W]."""

    settings: TransformSettings
    shape: tuple[int, ...]
    count: int | None = None

    @property
    def per_sample(self) -> int:
        """V, the crops of each sample in this group."""
        return self.count or 1

    def batch_shape(self, samples: int) -> tuple[int, ...]:
        """Shape of the views of B samples."""
        return (samples, *self.shape) if self.count is None else (samples, self.count, *self.shape)

    def group(self, views: Tensor) -> Tensor:
        """Views [B·V, ...], sample by sample, as [B, V, ...]; as they are where `count` is None."""
        return views if self.count is None else rearrange(views, "(b v) ... -> b v ...", v=self.count)


def crops(settings: TransformSettings, view_shape: Sequence[int]) -> dict[str, Crops]:
    """The groups of crops by name: those of the settings, or a single one, `image` or `video`.

    `view_shape` is that of the encoder's views, (3, H, W) or (3, T, H, W).
    """
    return {
        name: Crops(settings.of_view(view), view.shape(view_shape), view.count)
        for name, view in settings.views.items()
    } or {VIEWS.get(len(view_shape), "view"): Crops(settings, tuple(view_shape))}
