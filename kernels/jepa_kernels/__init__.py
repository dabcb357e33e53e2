"""Kernels for joint-embedding predictive architectures: ragged attention, EMA, the loss, masks.

Each operation is one public function that checks its input and picks an implementation, beside an eager
reference that defines what it computes. The package needs torch alone, and `import jepa_kernels` does not
load it: the names below are imported when first used (PEP 562).
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from jepa_kernels.attention import ATTENTION_IMPLS, Choice, block_attention, explain
    from jepa_kernels.ema import EMA_IMPLS, EmaPlan, ema_update_, explain_ema
    from jepa_kernels.layout import Layout
    from jepa_kernels.loss import LOSS_IMPLS, explain_loss, jepa_loss
    from jepa_kernels.sampling import sample_multiblock

__all__ = [
    "ATTENTION_IMPLS",
    "EMA_IMPLS",
    "LOSS_IMPLS",
    "Choice",
    "EmaPlan",
    "Layout",
    "block_attention",
    "ema_update_",
    "explain",
    "explain_ema",
    "explain_loss",
    "jepa_loss",
    "sample_multiblock",
]

_HOMES = {
    "ATTENTION_IMPLS": "attention",
    "Choice": "attention",
    "block_attention": "attention",
    "explain": "attention",
    "EMA_IMPLS": "ema",
    "EmaPlan": "ema",
    "ema_update_": "ema",
    "explain_ema": "ema",
    "Layout": "layout",
    "LOSS_IMPLS": "loss",
    "explain_loss": "loss",
    "jepa_loss": "loss",
    "sample_multiblock": "sampling",
}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'jepa_kernels' has no attribute {name!r}; known: {', '.join(__all__)}")
    return getattr(import_module(f"jepa_kernels.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
