"""The layers of an encoder by its parameters' names, for `optimizer.layer_decay`."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from torch import nn

from jepa_core.errors import UserError


@runtime_checkable
class LayeredEncoder(Protocol):
    """What an `Encoder` adds whose layers are not a list of modules called `blocks`."""

    depth: int
    """L, the number of its blocks."""

    def layer_of(self, parameter_name: str) -> int:
        """ℓ of a parameter by its name inside the encoder: 0 for the embedding, 1 … L for the blocks, L + 1
        for what follows them."""
        ...


def number_layers(encoder: nn.Module) -> tuple[dict[str, int], int]:
    """(ℓ of each parameter by its name inside the encoder, L).

    By the encoder's own `layer_of`; without it, what it registers before its `blocks` is layer 0, and what it
    registers after them layer L + 1. Raises UserError for an encoder with neither, and a layer out of range.
    """
    names = [name for name, _ in encoder.named_parameters()]
    if isinstance(encoder, LayeredEncoder):
        depth = encoder.depth
        layers = {name: encoder.layer_of(name) for name in names}
    else:
        blocks = dict(encoder.named_children()).get("blocks")
        if not isinstance(blocks, nn.ModuleList | nn.Sequential) or not len(blocks):
            raise UserError(
                f"{type(encoder).__name__} has neither a list of modules `blocks` nor a method `layer_of`, "
                "which optimizer.layer_decay needs"
            )
        depth = len(blocks)
        first = next((n for n, name in enumerate(names) if name.startswith("blocks.")), len(names))
        layers = {name: _place(name, number > first, depth) for number, name in enumerate(names)}
    for name, layer in layers.items():
        if layer not in range(depth + 2):
            owner = f"{type(encoder).__name__}.layer_of"
            raise UserError(f"{owner}({name!r}) is {layer!r}; expected a number from 0 to {depth + 1}")
    return layers, depth


def _place(name: str, after: bool, depth: int) -> int:
    """ℓ of a parameter by its name; `after`: it does not come before the first block's."""
    if name.startswith("blocks."):
        return int(name.split(".")[1]) + 1
    return depth + 1 if after else 0
