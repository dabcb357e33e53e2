"""What an evaluation sees of a model: a function from views to features, and how it is described.

Axes: B samples, n samples of a split, N tokens of the grid, D width.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from torch import Tensor, nn


class FeatureModel(Protocol):
    """A model as evaluation uses it."""

    def features(self, view: Any, role: str = "target", pool: Literal["mean"] | None = "mean") -> Tensor:
        """[B, D] of views [B, ...] of the kind that the role's encoder reads; [B, N, D] with `pool=None`."""
        ...


@dataclass(frozen=True)
class FeatureMap:
    """A function from views [B, C, H, W], or of another rank, to features, with its name and description."""

    name: str
    """Short, unique in a table: `trained`."""
    description: str
    """Which network, which role, which pooling: `target encoder, mean over tokens`."""
    encode: Callable[[Tensor], Tensor]
    """Gives [B, D], or the features of every token [B, N, D]."""
    module: nn.Module | None = None
    """Is in evaluation mode while features are computed, and afterwards in the mode it was in."""
    pool: Literal["mean", "flatten"] = "mean"
    """How the features of all tokens become one vector, for probes that take one."""

    def pool_tokens(self, values: Tensor) -> Tensor:
        """[n, D] unchanged; [n, N, D] as the mean over tokens, or flattened to [n, N·D]."""
        if values.dim() == 2:
            return values
        return values.mean(1) if self.pool == "mean" else values.flatten(1)
