"""An encoder as a timm model: architecture, arguments, tensors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

from torch import Tensor, nn


@dataclass(frozen=True)
class TimmModel:
    """A plain ViT of timm's: `timm.create_model(architecture, **arguments)` with these tensors.

    Its patch features are the encoder's, its average-pooled output is their mean. `arguments` are plain
    values, so that they go into a JSON file.
    """

    architecture: str
    arguments: Mapping[str, Any]
    tensors: Mapping[str, Tensor] = field(repr=False)

    def build(self) -> nn.Module:
        """The timm model in evaluation mode, loaded strictly."""
        import timm

        model: nn.Module = timm.create_model(self.architecture, **{**as_tuples(self.arguments), **FEATURES})
        model.load_state_dict(dict(self.tensors))
        return model.eval()


FEATURES: Mapping[str, Any] = {"num_classes": 0, "global_pool": "avg", "fc_norm": False}
"""timm arguments for features: no classifier; averaged patches, normed before they are averaged."""


def as_tuples(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments for timm: lists, which TOML and JSON have in place of tuples, as tuples."""
    return {key: tuple(value) if isinstance(value, list) else value for key, value in arguments.items()}


@runtime_checkable
class TimmEncoder(Protocol):
    """What an `Encoder` that is a plain ViT adds, so that `jepa export` can write it in other formats."""

    def to_timm(self) -> TimmModel:
        """The timm model with the same features at the image size of the settings."""
        ...
