"""A training step written the way the published system does it: the peer of the step benchmark.

fp32, explicit softmax attention, convolution over every patch before the context is gathered, the context
tiled for each target block, EMA as a loop of two operations a tensor, AdamW as torch makes it by default.
Dense index sets only, as there.

Axes: B samples, N tokens, K kept, D width, H heads.
"""

import copy

import torch
from torch import nn
from torch.nn import functional as F

from jepa_core.positions import sincos


class Attention(nn.Module):
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
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1, self.attn = nn.LayerNorm(width, eps=1e-6), Attention(width, heads)
        self.norm2 = nn.LayerNorm(width, eps=1e-6)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


def gather(x: torch.Tensor, masks: list[torch.Tensor]) -> torch.Tensor:
    """[B, N, D] at several [B, K], stacked mask after mask."""
    return torch.cat([x.gather(1, m[..., None].expand(-1, -1, x.shape[-1])) for m in masks])


class Encoder(nn.Module):
    def __init__(self, grid: tuple[int, int], patch: int, width: int, depth: int, heads: int) -> None:
        super().__init__()
        self.patch_embed = nn.Conv2d(3, width, patch, patch)
        self.pos_embed = nn.Parameter(sincos(grid, width)[None].clone(), requires_grad=False)
        self.blocks = nn.Sequential(*(Block(width, heads) for _ in range(depth)))
        self.norm = nn.LayerNorm(width, eps=1e-6)

    def forward(self, images: torch.Tensor, masks: list[torch.Tensor] | None = None) -> torch.Tensor:
        x = self.patch_embed(images).flatten(2).transpose(1, 2) + self.pos_embed
        x = x if masks is None else gather(x, masks)
        return self.norm(self.blocks(x))


class Predictor(nn.Module):
    def __init__(self, grid: tuple[int, int], width: int, inner: int, depth: int, heads: int) -> None:
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

    def __init__(self, encoder: Encoder, predictor: Predictor, momentum: float = 0.996) -> None:
        self.encoder, self.predictor, self.momentum = encoder, predictor, momentum
        self.target = copy.deepcopy(encoder).requires_grad_(False)
        trained = [p for p in (*encoder.parameters(), *predictor.parameters()) if p.requires_grad]
        self.optimizer = torch.optim.AdamW(trained, lr=1e-3, weight_decay=0.04)

    def step(self, images: torch.Tensor, context: torch.Tensor, targets: list[torch.Tensor]) -> torch.Tensor:
        with torch.no_grad():
            whole = self.target(images)
            wanted = gather(F.layer_norm(whole, whole.shape[-1:]), targets)
        guessed = self.predictor(self.encoder(images, [context]), context, targets)
        loss = F.smooth_l1_loss(guessed, wanted)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        with torch.no_grad():
            for online, target in zip(self.encoder.parameters(), self.target.parameters(), strict=True):
                target.mul_(self.momentum).add_((1 - self.momentum) * online)
        return loss
