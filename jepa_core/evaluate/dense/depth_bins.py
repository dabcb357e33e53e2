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
from torch import Tensor

from jepa_core.evaluate.context import EvaluationContext
from jepa_core.evaluate.dense.bins_head import BinsHead, gradient_loss, sig_loss
from jepa_core.evaluate.dense.depth import DepthFit, DepthJudge
from jepa_core.evaluate.dense.depth_scores import valid_pixels
from jepa_core.evaluate.dense.reading import dense_batches, maps_of_kind, to_patches, token_grid
from jepa_core.evaluate.samples import choose_samples
from jepa_core.evaluate.score_tables import EvaluationTable

EVALUATION = "depth_bins"
IMAGES = 4096
"""Training images whose tokens are kept, a seeded draw where there are more."""
STEPS, BATCH, RATE, DECAY, CLIP = 1000, 16, 1e-3, 0.01, 35.0
WARM_UP = 1 / 3
"""Share of the steps."""
WITHOUT_VARIANCE = 100
"""First steps whose SigLoss has no variance."""
BINS, LOW = 256, 1e-3


@dataclass
class Bank:
    """Tokens of training images by row, float16 [n, N, D], and their depths [n, H, W]."""

    tokens: dict[str, list[Tensor]] = field(default_factory=dict)
    depths: list[Tensor] = field(default_factory=list)


def depth_bins(context: EvaluationContext, steps: int = STEPS) -> list[EvaluationTable]:
    """Depth by a trained mixture of 256 bins (DINOv2), for each map of decimal numbers among the targets.

    Rows and scores are those of `depth`. Raises UserError as that does.
    """
    fields = maps_of_kind(context, EVALUATION, numbers=True)
    return [
        _table(context, name, field.units, name if len(fields) > 1 else None, steps)
        for name, field in fields.items()
    ]


def _table(
    context: EvaluationContext, name: str, unit: str, task: str | None, steps: int
) -> EvaluationTable:
    fit, bank = _gather(context, name)
    heads = {}
    for row, parts in bank.tokens.items():
        context.progress.begin(f"depth_bins: head of {row}", steps)
        draw = context.generator("depth_bins: head")
        heads[row] = train_head(torch.cat(parts), torch.cat(bank.depths), fit.grid, steps, draw, context)
    judge = DepthJudge(fit)
    for batch in dense_batches(context, EVALUATION):
        size = (batch.views.shape[-2], batch.views.shape[-1])
        pixels = {row: heads[row].depth(tokens, fit.grid, size) for row, tokens in batch.tokens.items()}
        judge.add(batch, {row: (patch_depth(map_, fit.grid), map_) for row, map_ in pixels.items()})
    note = (
        f"DINOv2's head of {BINS} bins, AdamW, {steps:,} steps of {BATCH} of {sum(map(len, bank.depths)):,} drawn "
    )
    return judge.table(context, unit, task, note + "images; ")


def patch_depth(pixels: Tensor, grid: tuple[int, int]) -> Tensor:
    """[B, N]: the geometric mean of the depths [B, H, W] of each patch."""
    return to_patches(pixels.log(), grid).mean(-1).exp()


def _gather(context: EvaluationContext, name: str) -> tuple[DepthFit, Bank]:
    fit, bank = DepthFit(name, token_grid(context, EVALUATION)), Bank()
    total = len(choose_samples(len(context.samples("train")), None, context.images))
    draw = context.generator("depth_bins: images")
    for batch in dense_batches(context, EVALUATION, "train"):
        fit.count(batch)
        seen = valid_pixels(batch.maps[name], name).flatten(1).any(1).cpu()
        chosen = (seen & (torch.rand(batch.images, generator=draw) < IMAGES / total)).nonzero()[:, 0]
        chosen = chosen.to(batch.views.device)
        bank.depths.append(batch.maps[name][chosen])
        for row, tokens in batch.tokens.items():
            bank.tokens.setdefault(row, []).append(tokens[chosen].half())
    fit.check()
    return fit, bank


@torch.enable_grad()
def train_head(
    tokens: Tensor,
    depths: Tensor,
    grid: tuple[int, int],
    steps: int,
    draw: torch.Generator,
    context: EvaluationContext | None = None,
) -> BinsHead:
    """The head after `steps` of AdamW on tokens [n, N, D] and depths [n, H, W]; `draw` picks the images."""
    flat = tokens.flatten(0, 1).float()
    scale = 1 / flat.std(0, correction=0).clamp(min=1e-6)
    high = depths[valid_pixels(depths, "depth")].max().item()
    head = BinsHead(flat.mean(0), scale, LOW, high, BINS)
    optimizer = torch.optim.AdamW(head.parameters(), lr=RATE, weight_decay=DECAY)
    for step in range(steps):
        rows = torch.randint(len(tokens), (min(BATCH, len(tokens)),), generator=draw).to(tokens.device)
        loss = _loss(head, tokens[rows].float(), depths[rows], grid, variance=step >= WITHOUT_VARIANCE)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(head.parameters(), CLIP)
        for group in optimizer.param_groups:
            group["lr"] = RATE * rate_at(step, steps)
        optimizer.step()
        if context is not None:
            context.progress.advance(1)
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
