"""What a variant may offer to evaluations that see the model, for views that share one space.

Axes: B samples, E width of the shared space, m, n samples that are compared.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

from torch import Tensor


@runtime_checkable
class PairEmbedder(Protocol):
    """What a variant adds whose views share one space: pictures and captions, sound and film."""

    def embed(self, views: Mapping[str, Any]) -> Mapping[str, Tensor]:
        """[B, E] in the shared space for each named view; of those that are given, which may be one alone.

        Row i of every view belongs to sample i.
        """
        ...


@runtime_checkable
class ComparesPairs(Protocol):
    """What a `PairEmbedder` adds that compares embeddings otherwise than by the cosine."""

    def compare(self, first: Tensor, second: Tensor) -> Tensor:
        """Similarities [m, n] of embeddings [m, E] and [n, E]: the greater, the more alike."""
        ...


@runtime_checkable
class ReadsPrompts(Protocol):
    """What a `PairEmbedder` adds that can tell classes by their names (evaluation `zero_shot`)."""

    text_view: str
    """The view that a text is, such as `caption`."""
    prompts: Sequence[str]
    """Texts with `{}` for the name of a class: `a photo of a {}`."""
