"""Self-attention over packed ragged sequences, for the blocks of timm's vision transformers.

What is unusual: tokens are packed [S, D], all samples one after another, and the `Layout` that says
where each sequence starts travels in the place of timm's attention mask:

    vit = timm.create_model("vit_tiny_patch16_224", attn_layer=PackedAttention)
    x = vit.blocks[0](x, attn_mask=layout)          # x [S, D]

A `Rotary` (rotary positions, and the layout) may stand there as well. Everything else in a block is
token-wise, so timm's blocks serve as they are. Parameters keep timm's names (`qkv`, `proj`, `q_norm`,
`k_norm`), so state dicts load unchanged.

Axes: S packed tokens, D width, H heads, E dimensions of a head.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from timm.layers import Attention
from timm.models.vision_transformer import Block
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from jepa_core.errors import UserError, unknown
from jepa_core.nn.rotary import Rotary
from jepa_kernels import ATTENTION_IMPLS, Layout, block_attention


class PacksAttention:
    """What runs `jepa_kernels.block_attention`: `choose_implementation` finds it by this class."""

    impl: str = "auto"
    """Name of the implementation; `auto`: the best usable."""


@dataclass(frozen=True, eq=False)
class RowsRead:
    """Stands where a layout stands, and says which rows of a block's output are read."""

    places: Layout | Rotary
    rows: Tensor
    """int64 [R], of the packed rows."""


class PackedAttention(PacksAttention, Attention):
    """timm's `Attention` with tokens [S, D] and a `jepa_kernels.Layout`; pass it as `attn_layer=`.

    `impl` names the implementation that `jepa_kernels.block_attention` runs (`auto`: the best usable).
    Raises UserError for what it does not compute: dropout of attention weights, and timm's output gate.
    """

    def __init__(self, *args: Any, attn_drop: float = 0.0, gated: bool = False, **kwargs: Any) -> None:
        if attn_drop or gated:
            raise UserError(
                f"packed attention has no dropout and no gate; got attn_drop={attn_drop}, gated={gated}, "
                "expected 0 and False"
            )
        super().__init__(*args, **kwargs)

    def forward(  # type: ignore[override]
        self, x: Tensor, attn_mask: Layout | Rotary | RowsRead | None = None, is_causal: bool = False
    ) -> Tensor:
        """[S, D] to [S, D]: each sequence of the layout attends to itself; to [R, D] for `RowsRead`.

        Raises UserError without a layout, for tokens that are not packed, and for `is_causal`.
        """
        rows = attn_mask.rows if isinstance(attn_mask, RowsRead) else None
        attn_mask = attn_mask.places if isinstance(attn_mask, RowsRead) else attn_mask
        layout = attn_mask.layout if isinstance(attn_mask, Rotary) else attn_mask
        if not isinstance(layout, Layout) or x.dim() != 2 or is_causal:
            raise UserError(
                "packed attention takes tokens [S, D], a jepa_kernels.Layout as attn_mask and no is_causal; "
                f"got {list(x.shape)}, {type(attn_mask).__name__}, is_causal={is_causal}"
            )
        qkv = self.qkv(x).unflatten(-1, (3, self.num_heads, -1))
        if not isinstance(self.q_norm, nn.Identity):
            query, key, value = qkv.unbind(1)
            normed = [part.to(value.dtype) for part in (self.q_norm(query), self.k_norm(key))]
            qkv = torch.stack([*normed, value], dim=1)
        if isinstance(attn_mask, Rotary):
            qkv = attn_mask.turn(qkv)
        mixed = self.mix(qkv, layout).flatten(1)
        return self.proj_drop(self.proj(self.norm(mixed if rows is None else mixed.index_select(0, rows))))

    def mix(self, qkv: Tensor, layout: Layout) -> Tensor:
        """[S, 3, H, E] to [S, H, E]: the values that each token takes in."""
        return block_attention(qkv, layout, scale=self.scale, impl=self.impl)


class PackedBlock(Block):
    """timm's block on packed tokens [S, D]; what follows attention is computed for the rows read alone.

    Its attention is `PackedAttention`. Every other row of the last block of a network is work for nothing:
    all rows give keys and values, but the products after attention are three quarters of a block's.
    """

    def __init__(self, width: int, heads: int, **kwargs: Any) -> None:
        super().__init__(width, heads, attn_layer=PackedAttention, **kwargs)

    def forward(  # type: ignore[override]
        self, x: Tensor, attn_mask: Layout | Rotary | RowsRead | None = None, is_causal: bool = False
    ) -> Tensor:
        """[S, D] to [S, D]; to [R, D] for `RowsRead`."""
        if not isinstance(attn_mask, RowsRead):
            whole: Any = super().forward
            out: Tensor = whole(x, attn_mask=attn_mask, is_causal=is_causal)
            return out
        mixed = self.attn(self.norm1(x), attn_mask=attn_mask)
        x = x.index_select(0, attn_mask.rows) + self.drop_path1(self.ls1(mixed))
        out = x + self.drop_path2(self.ls2(self.mlp(self.norm2(x))))
        return out


def choose_implementation(module: nn.Module, impl: str, instead_of: str | None = None) -> None:
    """Sets the implementation of every `PacksAttention` inside `module`, or of those set to `instead_of`.

    Raises UserError for a name that `jepa_kernels` does not know.
    """
    known = ("auto", *ATTENTION_IMPLS)
    if impl not in known:
        raise unknown("attention implementation", impl, known)
    for part in module.modules():
        if isinstance(part, PacksAttention) and instead_of in (None, part.impl):
            part.impl = impl


Residual = Literal["auto", "fp32", "autocast"]
"""In which type tokens are added up from block to block, where autocast computes in a lower precision:
`fp32`, as I-JEPA's released code does on a GPU; `autocast`, the lower precision throughout, a tenth faster
on a CPU; `auto`, the one on a GPU and the other on a CPU."""


def to_residual(x: Tensor, choice: Residual) -> Tensor:
    """`x` in the type that the residual stream is to have. Without autocast, as it is."""
    device = x.device.type
    low = choice == "autocast" or (choice == "auto" and device == "cpu")
    return x.to(torch.get_autocast_dtype(device)) if low and torch.is_autocast_enabled(device) else x


def run_blocks(
    blocks: Iterable[Callable[..., Tensor]],
    x: Tensor,
    places: Any,
    *,
    recompute: bool = False,
    layers: Sequence[int] = (),
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """`blocks` in turn on packed tokens [S, D]; also what those in `layers` (counted from 1) give out.

    `places`, a `Layout` or `Rotary`, is what the blocks take as timm's `attn_mask`. With `recompute`
    activations are made again in the backward pass.
    """
    outputs: dict[int, Tensor] = {}
    for number, block in enumerate(blocks, 1):
        x = _run(block, x, places, recompute)
        if number in layers:
            outputs[number] = x
    return x, tuple(outputs[layer] for layer in layers)


def run_blocks_at(
    blocks: Iterable[Callable[..., Tensor]], x: Tensor, places: Any, rows: Tensor, *, recompute: bool = False
) -> Tensor:
    """`blocks` in turn on packed tokens [S, D], as `run_blocks`; of the last one's output the `rows` [R, D].

    A last block that is a `PackedBlock` computes no others.
    """
    *earlier, last = blocks
    x, _ = run_blocks(earlier, x, places, recompute=recompute)
    if isinstance(last, PackedBlock):
        return _run(last, x, RowsRead(places, rows), recompute)
    return _run(last, x, places, recompute).index_select(0, rows)


def _run(block: Callable[..., Tensor], x: Tensor, places: Any, recompute: bool) -> Tensor:
    if recompute and torch.is_grad_enabled():
        out: Tensor = checkpoint(block, x, places, use_reentrant=False)
        return out
    return block(x, attn_mask=places)


def check_layers(layers: Sequence[int], depth: int) -> None:
    """Raises UserError for a layer that is not one of the `depth` blocks, counted from 1."""
    if not all(1 <= layer <= depth for layer in layers):
        raise UserError(f"layers count from 1 to {depth}, the depth; got {list(layers)}")
