"""Embeddings of pairs in one space, and who is nearest to whom.

What is unusual: ties are broken by the expectation over a random order, so that a model that gives everything
the same embedding scores exactly what guessing does, and not 100 %.

Axes: n samples, m queries, E width of the shared space.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from jepa_core.errors import UserError
from jepa_core.evaluate.pair_protocols import ComparesPairs, PairEmbedder

Compare = Callable[[Tensor, Tensor], Tensor]
"""[m, E] and [n, E] to similarities [m, n]."""

CHUNK = 512
"""Queries that are compared with all candidates at once."""


def cosine(first: Tensor, second: Tensor) -> Tensor:
    """Cosines [m, n], rounded to six digits, so that equal samples tie whatever their place in a batch."""
    product = F.normalize(first.float(), dim=-1) @ F.normalize(second.float(), dim=-1).T
    return (product * 1e6).round() / 1e6


def comparison_of(model: Any) -> Compare:
    """How a model compares embeddings: its own way, or by the cosine."""
    return model.compare if isinstance(model, ComparesPairs) else cosine


def embed_all(model: PairEmbedder, views: Iterable[Mapping[str, Any]]) -> dict[str, Tensor]:
    """Embeddings [n, E] of each view over batches of named views, float32 on the CPU.

    Raises UserError for embeddings of another shape than [B, E], and for values that are not finite.
    """
    chunks: dict[str, list[Tensor]] = {}
    for batch in views:
        for name, values in model.embed(batch).items():
            if values.dim() != 2:
                raise UserError(f"embeddings of the view {name!r} are {list(values.shape)}; expected [B, E]")
            chunks.setdefault(name, []).append(values.detach().float().cpu())
    embeddings = {name: torch.cat(parts) for name, parts in chunks.items()}
    for name, values in embeddings.items():
        if not values.isfinite().all():
            raise UserError(f"the embeddings of the view {name!r} are not finite: the model has diverged")
    return embeddings


def hits(queries: Tensor, candidates: Tensor, right: Tensor, k: int, compare: Compare = cosine) -> Tensor:
    """Whether each query's right candidate is among its `k` nearest: float64 [m] in 0 … 1.

    queries [m, E], candidates [n, E], right int64 [m]. Where candidates tie with the right one it is the
    share of random orders that have it among the first k.
    """
    parts = []
    for rows in torch.arange(len(queries)).split(CHUNK):
        similarity = compare(queries[rows], candidates).cpu()
        own = similarity.gather(1, right[rows, None])
        above, ties = (similarity > own).sum(1), (similarity == own).sum(1)
        parts.append(((k - above).double() / ties).clamp(0, 1))
    return torch.cat(parts)
