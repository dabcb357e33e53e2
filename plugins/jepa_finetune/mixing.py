"""Mixup and cutmix of a batch, with torchvision v2. They draw from torch's global randomness, which the
training step seeds.

Axes: B samples, C classes.
"""

from __future__ import annotations

from torch import Tensor, nn
from torchvision.transforms import v2


def make_mixing(mixup: float, cutmix: float, classes: int) -> nn.Module | None:
    """What mixes (images [B, ...], labels int64 [B]) to (images, shares of classes [B, C]); None without α's.

    With both α's one of the two is drawn for each batch, as in MAE's fine-tuning.
    """
    kinds: list[nn.Module] = []
    if mixup:
        kinds.append(Mixing(v2.MixUp(alpha=mixup, num_classes=classes)))
    if cutmix:
        kinds.append(Mixing(v2.CutMix(alpha=cutmix, num_classes=classes)))
    if len(kinds) < 2:
        return kinds[0] if kinds else None
    return v2.RandomChoice(kinds)


class Mixing(nn.Module):
    """One of torchvision's mixings; clips [B, C, T, H, W] are mixed as images with more channels."""

    def __init__(self, mix: nn.Module) -> None:
        super().__init__()
        self.mix = mix

    def forward(self, view: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """(mixed view, shares of classes in the view's type)."""
        flat = view.flatten(1, -3) if view.dim() > 4 else view
        mixed, shares = self.mix(flat, labels)
        return mixed.view(view.shape), shares.to(view.dtype)
