"""A training step written the way the published system does it: the peer of `jepa bench step --official`.

Explicit softmax attention, convolution over every patch before the context is gathered, the context tiled
for each target block, EMA as a loop of two operations a tensor, AdamW as torch makes it by default, autocast
to bf16 where the recipe has it. Dense index sets only, as there. Written from the paper and from what the
released system is known to compute; a test shows that it gives the same loss as ours.

Axes: B samples, N tokens, K kept, D width, H heads.
"""

from __future__ import annotations

import copy
import math

import torch
from torch import nn
from torch.nn import functional as F

from jepa_core.errors import UserError
from jepa_core.jepa import JEPA
from jepa_core.nn.sincos import sincos
from jepa_core.recipes import Recipe
from jepa_core.runtime.devices import use_bf16
from jepa_core.types import Batch, MaskPlan
from jepa_ijepa.encoder import VisionTransformer, refuse_stem
from jepa_ijepa.predictor import VitPredictor


class Attention(nn.Module):
    """[B, N, D] to [B, N, D], scores and probabilities in memory."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads, self.scale = heads, (width // heads) ** -0.5
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        b, n, d = x.shape
        q, k, v = self.qkv(x).reshape(b, n, 3, self.heads, d // self.heads).permute(2, 0, 3, 1, 4)
        weights = (q @ k.transpose(-2, -1) * self.scale).softmax(-1)
        return self.proj((weights @ v).transpose(1, 2).reshape(b, n, d))


class Block(nn.Module):
    """A pre-norm transformer block; `hidden` is the width inside its MLP."""

    def __init__(self, width: int, heads: int, hidden: int | None = None) -> None:
        super().__init__()
        hidden = hidden or 4 * width
        self.norm1, self.attn = nn.LayerNorm(width, eps=1e-6), Attention(width, heads)
        self.norm2 = nn.LayerNorm(width, eps=1e-6)
        self.mlp = nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


def gather(x: torch.Tensor, masks: list[torch.Tensor]) -> torch.Tensor:
    """[B, N, D] at several [B, K], stacked mask after mask."""
    return torch.cat([x.gather(1, m[..., None].expand(-1, -1, x.shape[-1])) for m in masks])


class Encoder(nn.Module):
    """Images [B, 3, H, W] to features [B, K, D] of the patches in each of `masks`, stacked, or of all."""

    def __init__(
        self,
        grid: tuple[int, ...],
        patch: int,
        width: int,
        depth: int,
        heads: int,
        hidden: int | None = None,
    ) -> None:
        super().__init__()
        self.patch_embed = nn.Conv2d(3, width, patch, patch)
        self.pos_embed = nn.Parameter(sincos(grid, width)[None].clone(), requires_grad=False)
        self.blocks = nn.Sequential(*(Block(width, heads, hidden) for _ in range(depth)))
        self.norm = nn.LayerNorm(width, eps=1e-6)

    def forward(self, images: torch.Tensor, masks: list[torch.Tensor] | None = None) -> torch.Tensor:
        x = self.patch_embed(images).flatten(2).transpose(1, 2) + self.pos_embed
        x = x if masks is None else gather(x, masks)
        return self.norm(self.blocks(x))


class Predictor(nn.Module):
    """Context features [B, K, D] to guesses at each of the targets, stacked target after target."""

    def __init__(self, grid: tuple[int, ...], width: int, inner: int, depth: int, heads: int) -> None:
        super().__init__()
        self.embed, self.proj = nn.Linear(width, inner), nn.Linear(inner, width)
        self.pos_embed = nn.Parameter(sincos(grid, inner)[None].clone(), requires_grad=False)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, inner))
        self.blocks = nn.Sequential(*(Block(inner, heads) for _ in range(depth)))
        self.norm = nn.LayerNorm(inner, eps=1e-6)

    def forward(self, x: torch.Tensor, context: torch.Tensor, targets: list[torch.Tensor]) -> torch.Tensor:
        batch, seen = context.shape
        table = self.pos_embed.expand(batch, -1, -1)
        x = (self.embed(x) + gather(table, [context])).repeat(len(targets), 1, 1)
        asked = self.mask_token + gather(table, targets)
        x = self.norm(self.blocks(torch.cat([x, asked], 1)))
        return self.proj(x[:, seen:])


class OfficialWay:
    """`step(images, context [B, K], targets: list of [B, K])` does one whole training step."""

    def __init__(
        self, encoder: Encoder, predictor: Predictor, momentum: float = 0.996, bf16: bool = False
    ) -> None:
        self.encoder, self.predictor, self.momentum, self.bf16 = encoder, predictor, momentum, bf16
        self.target = copy.deepcopy(encoder).requires_grad_(False)
        trained = [p for p in (*encoder.parameters(), *predictor.parameters()) if p.requires_grad]
        self.optimizer = torch.optim.AdamW(trained, lr=1e-3, weight_decay=0.04)

    def step(self, images: torch.Tensor, context: torch.Tensor, targets: list[torch.Tensor]) -> torch.Tensor:
        """The loss of the step, which is done."""
        with torch.autocast(images.device.type, torch.bfloat16, enabled=self.bf16):
            loss = self._loss(images, context, targets)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        with torch.no_grad():
            for online, target in zip(self.encoder.parameters(), self.target.parameters(), strict=True):
                target.mul_(self.momentum).add_((1 - self.momentum) * online)
        return loss

    def _loss(self, images: torch.Tensor, context: torch.Tensor, targets: list[torch.Tensor]) -> torch.Tensor:
        with torch.no_grad():
            whole = self.target(images)
            true = gather(F.layer_norm(whole, whole.shape[-1:]), targets)
        guessed = self.predictor(self.encoder(images, [context]), context, targets)
        return F.smooth_l1_loss(guessed, true)

    def __call__(self, batch: Batch, plan: MaskPlan) -> torch.Tensor:
        """The step on a batch and a plan of the engine's."""
        images = next(iter(batch.views.values()))
        return self.step(images, plan.contexts[0].dense(), [target.dense() for target in plan.targets])


def official_step(recipe: Recipe, model: JEPA, plan: MaskPlan) -> OfficialWay:
    """The peer of a recipe's model, in its sizes, on its device and in its precision; weights are its own.

    Raises UserError for a model that is not I-JEPA's or has a stem, and for masks of different lengths.
    """
    encoder, predictor = model.encoder, model.predictor
    if type(encoder) is not VisionTransformer or type(predictor) is not VitPredictor:
        raise UserError(
            "the released code's way is that of I-JEPA's encoder and vit_predictor; "
            f"got {type(encoder).__name__} and {type(predictor).__name__}"
        )
    refuse_stem(encoder.config, "the released code's encoders")
    if len(plan.contexts) != 1 or any(s.uniform is None for s in (*plan.contexts, *plan.targets)):
        raise UserError(
            "the released code's way takes one context, and sets of one length in the whole batch; "
            "take a recipe ijepa/official_*, or set masker.truncate=first"
        )
    device, grid = next(model.parameters()).device, model.grid()
    hidden = encoder.blocks[0].mlp.fc1.out_features
    patch = math.isqrt(math.prod(encoder.patch_embed.patch_size))
    with device:  # on a GPU drawing the weights of a large model takes no time
        own_encoder = Encoder(grid, patch, encoder.width, encoder.depth, encoder.heads, hidden)
        own_predictor = Predictor(
            grid, encoder.width, predictor.width, len(predictor.blocks), predictor.heads
        )
    return OfficialWay(own_encoder, own_predictor, bf16=use_bf16(recipe.train.precision, device))
