"""`attentive`: one learned query looks at all tokens, and a linear layer reads what it found.

Where the mean over tokens throws away which token said what, the query can look for it. Source: V-JEPA
(Bardes et al. 2024, arXiv 2404.08471, §4: attentive probing), without the MLP of its cross-attention block,
as the labelled sets here are small. Its parameters are counted, for it can outweigh a small encoder.

Axes: n samples, m of them in a batch, N tokens, D width, H heads, C classes.
"""

from __future__ import annotations

import torch
from einops import rearrange
from pydantic import Field
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from jepa_core.errors import UserError
from jepa_core.evaluate.linear_head import Labelled
from jepa_core.evaluate.probes import ProbeScores, check_part, top1_scores
from jepa_core.schedules import warmup_cosine
from jepa_core.settings.base import ComponentSettings


class AttentiveProbe:
    """Cross-attention of one learned query over frozen tokens, then a linear layer; trained with AdamW."""

    class Config(ComponentSettings):
        """Settings of the attentive probe."""

        steps: int = Field(300, ge=1)
        """Optimizer steps."""
        batch_size: int = Field(64, ge=1)
        """Samples of a step."""
        lr: float = Field(1e-3, gt=0)
        """Peak learning rate; it warms up over a tenth of the steps and falls to 0 along a cosine."""
        weight_decay: float = Field(0.01, ge=0)
        """AdamW's."""
        heads: int = Field(4, ge=1)
        """Heads of the cross-attention; where they do not divide the width, one."""
        width: int = Field(192, ge=1)
        """Width of keys and values, heads together."""
        seed: int = Field(0, ge=0)
        """Of the initial weights and the order of samples."""

    def __init__(self, config: Config) -> None:
        self.config = config

    def on_tokens(self, train: Labelled, held_out: Labelled, classes: int) -> ProbeScores:
        """`top1` and its standard error `top1_se`, both shares of 1, and the number of `parameters` of the
        probe, from tokens float [n, N, D].

        Raises UserError for samples without tokens or labels, and features that are not finite.
        """
        _check(train, held_out, classes)
        tokens = train[0].float()
        mean, deviation = tokens.mean((0, 1)), tokens.std((0, 1), correction=0).clamp(min=1e-6)
        pooling = self._fit((tokens - mean) / deviation, train[1], classes)
        batches = held_out[0].float().split(self.config.batch_size)
        with torch.no_grad():
            guesses = torch.cat([pooling((batch - mean) / deviation).argmax(1) for batch in batches])
        return top1_scores(guesses, held_out[1], parameters=float(count_parameters(pooling)))

    @torch.enable_grad()
    def _fit(self, tokens: Tensor, labels: Tensor, classes: int) -> AttentivePool:
        """A pool with its linear layer, trained on standardised tokens [n, N, D]."""
        settings, random = self.config, Generator().manual_seed(self.config.seed)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(settings.seed)
            pool = AttentivePool(tokens.shape[2], settings.width, settings.heads, classes).to(tokens.device)
        optimizer = torch.optim.AdamW(pool.parameters(), weight_decay=settings.weight_decay)
        for step in range(settings.steps):
            rate = warmup_cosine(step, settings.steps, settings.steps // 10, 0.0, settings.lr, 0.0)
            optimizer.param_groups[0]["lr"] = rate
            rows = torch.randint(len(labels), (settings.batch_size,), generator=random).to(tokens.device)
            optimizer.zero_grad()
            F.cross_entropy(pool(tokens[rows]), labels[rows]).backward()
            optimizer.step()
        return pool


class AttentivePool(nn.Module):
    """Logits [m, C] of tokens [m, N, D]: one query a head, softmax over tokens, norm, a linear layer."""

    def __init__(self, features: int, width: int, heads: int, classes: int) -> None:
        super().__init__()
        self.heads = heads if width % heads == 0 else 1
        # with small queries every token weighs the same, and where the mean says nothing that is a saddle
        self.query = nn.Parameter(torch.randn(self.heads, width // self.heads))
        self.key, self.value = nn.Linear(features, width), nn.Linear(features, width)
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, classes)

    def forward(self, tokens: Tensor) -> Tensor:
        """Logits [m, C]."""
        key, value = (
            rearrange(of(tokens), "m n (h d) -> m h n d", h=self.heads) for of in (self.key, self.value)
        )
        query = self.query[:, None].expand(len(tokens), -1, -1, -1)
        attended = F.scaled_dot_product_attention(query, key, value)
        logits: Tensor = self.head(self.norm(rearrange(attended, "m h 1 d -> m (h d)")))
        return logits


def count_parameters(module: nn.Module) -> int:
    """Numbers that are learned."""
    return sum(parameter.numel() for parameter in module.parameters())


def _check(train: Labelled, held_out: Labelled, classes: int) -> None:
    for part, (tokens, labels) in (("training", train), ("held-out", held_out)):
        if tokens.dim() != 3 or len(tokens) != len(labels) or not len(labels):
            raise UserError(
                f"the probe attentive takes {part} features of every token [n, N, D] with labels [n]; "
                f"got {list(tokens.shape)} and {list(labels.shape)}"
            )
        check_part(part, (tokens, labels), classes, "the probe attentive")
