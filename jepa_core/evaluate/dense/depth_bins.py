"""The evaluation `depth_bins`: depth by DINOv2's linear head of 256 bins, trained on frozen tokens.

As published (arXiv 2304.07193, section 7.4): the head, SigLoss with half the gradient loss, AdamW with weight
decay .01, a third of the steps to warm up, a cosine after it, gradients clipped at 35. What differs, as the
features are computed once: no augmentation, no class token, features standardised, fewer steps at a higher
rate, bins up to the largest training depth.

Axes: B images, n training images, N tokens, D width, H, W pixels.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from pydantic import Field
from torch import Tensor

from jepa_core.evaluate.context import EvaluationContext
from jepa_core.evaluate.dense.bins_head import BinsHead, gradient_loss, sig_loss
from jepa_core.evaluate.dense.depth import DepthFit, DepthJudge
from jepa_core.evaluate.dense.depth_scores import valid_pixels
from jepa_core.evaluate.dense.reading import dense_batches, maps_of_kind, to_patches, token_grid
from jepa_core.evaluate.samples import choose_samples
from jepa_core.evaluate.score_tables import EvaluationTable
from jepa_core.runtime.progress import Progress
from jepa_core.settings.base import EvaluationSettings

EVALUATION = "depth_bins"
DECAY, CLIP = 0.01, 35.0
WARM_UP = 1 / 3
"""Share of the steps."""
WITHOUT_VARIANCE = 100
"""First steps whose SigLoss has no variance."""
LOW = 1e-3
"""The least bin."""


@dataclass
class Bank:
    """Tokens of training images by row, float16 [n, N, D], and their depths [n, H, W]."""

    tokens: dict[str, list[Tensor]] = field(default_factory=dict)
    depths: list[Tensor] = field(default_factory=list)


class DepthBins:
    """Depth by DINOv2's trained head of 256 bins, for each map of decimal numbers among the targets."""

    class Config(EvaluationSettings):
        """How the head is trained."""

        steps: int = Field(1000, ge=1)
        """Of AdamW; 38,400 in the paper."""
        batch_size: int = Field(16, ge=1)
        """Images of a step."""
        lr: float = Field(1e-2, gt=0)
        """The highest learning rate; 1e-4 in the paper."""
        bins: int = Field(256, ge=2)
        """Depths that are mixed, evenly spaced up to the largest."""
        max_depth: float | None = Field(None, gt=0)
        """The largest bin; by default the largest training depth. 10 m for NYU, 80 m for KITTI."""
        images: int = Field(4096, ge=2)
        """Training images whose tokens are kept in memory, a seeded draw where there are more."""

    def __init__(self, config: Config) -> None:
        self.config = config

    def __call__(self, context: EvaluationContext) -> list[EvaluationTable]:
        """A table for each map; rows and scores are those of `depth`. Raises UserError as that does."""
        fields = maps_of_kind(context, EVALUATION, numbers=True)
        return [
            self._table(context, name, field.units, name if len(fields) > 1 else None)
            for name, field in fields.items()
        ]

    def _table(self, context: EvaluationContext, name: str, unit: str, task: str | None) -> EvaluationTable:
        config = self.config
        fit, bank = gather(context, name, config.images)
        depths = torch.cat(bank.depths)
        heads = {}
        for row, parts in bank.tokens.items():
            context.progress.begin(f"depth_bins: head of {row}", config.steps)
            draw = context.generator("depth_bins: head")
            heads[row] = train_head(config, torch.cat(parts), depths, fit.grid, draw, context.progress)
        judge = DepthJudge(fit)
        for batch in dense_batches(context, EVALUATION):
            size = (batch.views.shape[-2], batch.views.shape[-1])
            pixels = {row: heads[row].depth(tokens, fit.grid, size) for row, tokens in batch.tokens.items()}
            judge.add(batch, {row: (patch_depth(depth, fit.grid), depth) for row, depth in pixels.items()})
        note = (
            f"DINOv2's head of {config.bins} bins, {config.steps:,} steps of AdamW on {config.batch_size} of "
            f"{len(depths):,} drawn images; "
        )
        return judge.table(context, unit, task, note)


def patch_depth(pixels: Tensor, grid: tuple[int, int]) -> Tensor:
    """[B, N]: the geometric mean of the depths [B, H, W] of each patch."""
    return to_patches(pixels.log(), grid).mean(-1).exp()


def gather(context: EvaluationContext, name: str, images: int) -> tuple[DepthFit, Bank]:
    """What one pass over the training images counts, and the tokens of so many of them, drawn with a seed."""
    fit, bank = DepthFit(name, token_grid(context, EVALUATION)), Bank()
    total = len(choose_samples(len(context.samples("train")), None, context.images))
    draw = context.generator("depth_bins: images")
    for batch in dense_batches(context, EVALUATION, "train"):
        fit.count(batch)
        seen = valid_pixels(batch.maps[name], name).flatten(1).any(1).cpu()
        chosen = (seen & (torch.rand(batch.images, generator=draw) < images / total)).nonzero()[:, 0]
        chosen = chosen.to(batch.views.device)
        bank.depths.append(batch.maps[name][chosen])
        for row, tokens in batch.tokens.items():
            bank.tokens.setdefault(row, []).append(tokens[chosen].half())
    fit.check()
    return fit, bank


@torch.enable_grad()
def train_head(
    config: DepthBins.Config,
    tokens: Tensor,
    depths: Tensor,
    grid: tuple[int, int],
    draw: torch.Generator,
    progress: Progress,
) -> BinsHead:
    """The head after AdamW on tokens [n, N, D] and depths [n, H, W]; `draw` picks the images of each step."""
    flat = tokens.flatten(0, 1).float()
    scale = 1 / flat.std(0, correction=0).clamp(min=1e-6)
    high = config.max_depth or depths[valid_pixels(depths, "depth")].max().item()
    head = BinsHead(flat.mean(0), scale, LOW, high, config.bins)
    optimizer = torch.optim.AdamW(head.parameters(), lr=config.lr, weight_decay=DECAY)
    for step in range(config.steps):
        count = min(config.batch_size, len(tokens))
        rows = torch.randint(len(tokens), (count,), generator=draw).to(tokens.device)
        loss = _loss(head, tokens[rows].float(), depths[rows], grid, variance=step >= WITHOUT_VARIANCE)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(head.parameters(), CLIP)
        for group in optimizer.param_groups:
            group["lr"] = config.lr * rate_at(step, config.steps)
        optimizer.step()
        progress.advance(1)
    return head.requires_grad_(False)


def rate_at(step: int, steps: int) -> float:
    """The share of the learning rate at a step: linear warm-up, then half a cosine to 0."""
    warm = max(1, round(WARM_UP * steps))
    if step < warm:
        return (step + 1) / warm
    return 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, steps - warm)))


def _loss(head: BinsHead, tokens: Tensor, depths: Tensor, grid: tuple[int, int], variance: bool) -> Tensor:
    known = valid_pixels(depths, "depth")
    guess = head.depth(tokens, grid, (depths.shape[-2], depths.shape[-1]))
    return sig_loss(guess, depths, known, variance) + 0.5 * gradient_loss(guess, depths, known)
