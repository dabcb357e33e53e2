"""The encoder: a timm vision transformer over the patches that are kept.

What is unusual:
- patches are gathered *before* they are embedded, and stay packed [S, D] to the end; sets may be ragged
- the patch embedding is one matrix product with the weight of timm's convolution, the same map
- no class token, no registers; positions are a fixed sine-cosine table computed for the input at hand,
  so any image size works, square or not
- state-dict keys are timm's (and the official encoder's, less its stored table)

Axes: B samples, C channels, S packed tokens, N tokens of the grid, D width.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from functools import cache
from typing import Any, ClassVar, Literal

import timm
import torch
import torch.nn.functional as F
from einops import rearrange
from pydantic import PositiveFloat, PositiveInt
from timm.layers import Attention
from timm.models.vision_transformer import Block, ParallelThingsBlock, ResPostBlock
from timm.models.vision_transformer import VisionTransformer as TimmViT
from torch import Tensor, nn

from jepa_core.errors import UserError
from jepa_core.nn.attention import (
    PackedAttention,
    Residual,
    check_layers,
    choose_implementation,
    run_blocks,
    to_residual,
)
from jepa_core.nn.fused_linear import fuse_linears
from jepa_core.nn.patch_grid import image_sides, kept_tokens, patch_grid
from jepa_core.nn.patch_stem import PatchStem
from jepa_core.nn.sincos import check_width, sincos_like
from jepa_core.nn.timm_model import TimmModel
from jepa_core.nn.weight_init import draw_weights, rescale_depth
from jepa_core.settings import ComponentSettings
from jepa_core.types import Grid, IndexSet, Tokens, grid_size

OFFICIAL: dict[str, dict[str, Any]] = {
    "official_tiny": {"embed_dim": 192, "depth": 12, "num_heads": 3},
    "official_small": {"embed_dim": 384, "depth": 12, "num_heads": 6},
    "official_base": {"embed_dim": 768, "depth": 12, "num_heads": 12},
    "official_large": {"embed_dim": 1024, "depth": 24, "num_heads": 16},
    "official_huge": {"embed_dim": 1280, "depth": 32, "num_heads": 16},
    "official_giant": {"embed_dim": 1408, "depth": 40, "num_heads": 16, "mlp_ratio": 48 / 11},
}
"""Sizes of the released code; patch 16 unless set otherwise (the released huge has 14)."""

PATCHES_ONLY: dict[str, Any] = {
    "class_token": False,
    "reg_tokens": 0,
    "pos_embed": "none",
    "global_pool": "",
    "fc_norm": False,
    "num_classes": 0,
}


class VisionTransformer(nn.Module):
    """Images [B, C, H, W] to features of their kept patches; timm's ViTs and `official_*`.

    Raises UserError for a name that is no plain ViT, and for sizes that do not divide.
    Source: I-JEPA (arXiv 2301.08243); ViT (arXiv 2010.11929).
    """

    class Config(ComponentSettings):
        """Settings of the encoder. A size that is not given is the named model's own."""

        carried: ClassVar[frozenset[str]] = frozenset({"image_size", "patch_size"})

        image_size: PositiveInt | tuple[PositiveInt, PositiveInt] = 224
        """Side of the images in pixels, or (height, width). The encoder takes other sizes as well."""
        patch_size: PositiveInt | None = None
        """Side of a patch in pixels."""
        stem: tuple[PositiveInt, ...] = ()
        """Widths of the stages of a convolutional stem inside each patch, every one of which halves the
        patch's sides; none: a linear map from pixels."""
        width: PositiveInt | None = None
        """Width of the features, D."""
        depth: PositiveInt | None = None
        """Number of transformer blocks."""
        heads: PositiveInt | None = None
        """Attention heads of each block."""
        mlp_ratio: PositiveFloat | None = None
        """Hidden width of the MLPs over the width."""
        position_scale: float = 1.0
        """Factor on the sine-cosine positions, whose own amplitude is 1 (patches start near .02)."""
        init: Literal["ijepa", "timm"] = "ijepa"
        """Initial weights: normal throughout (`ijepa`), or as timm makes them."""
        init_std: PositiveFloat = 0.02
        """Standard deviation of the initial weights, for `ijepa`."""
        depth_rescale: bool = False
        """Divide the output of block ℓ by √(2ℓ) at the start; off in effect in the official training."""
        checkpoint: bool = False
        """Recompute activations in the backward pass: less memory, about a third more time."""
        residual: Residual = "auto"
        """Type in which tokens are added up from block to block under bf16: `fp32` (released code),
        `autocast` (bf16 too, a tenth faster on a CPU), or `auto`: fp32 on a GPU, autocast on a CPU."""
        attention: str = "auto"
        """Implementation of attention, of `jepa_kernels.ATTENTION_IMPLS`; `auto` takes the best usable."""

        def check(self) -> None:
            """Raises UserError for a name that is no plain ViT, and heads that do not divide the width."""
            own = OFFICIAL.get(self.name) or _plain_sizes(self.name)
            width, heads = self.width or own["embed_dim"], self.heads or own["num_heads"]
            if width % heads:
                raise UserError(
                    f"encoder {self.name!r}: a width of {width} cannot be split among {heads} heads; "
                    "set encoder.width or encoder.heads"
                )

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        vit = _build(config)
        self.patch_embed, self.norm_pre = vit.patch_embed, vit.norm_pre
        self.channels: int = vit.patch_embed.proj.in_channels
        if config.stem:
            patch = vit.patch_embed.patch_size
            vit.patch_embed.proj = PatchStem(patch, self.channels, config.stem, vit.embed_dim)
        self.blocks, self.norm = vit.blocks, vit.norm
        self.width, self.depth = vit.embed_dim, len(vit.blocks)
        self.heads = next(m.num_heads for m in vit.modules() if isinstance(m, PackedAttention))
        if config.init == "ijepa":
            draw_weights(self, config.init_std)
        if config.depth_rescale:
            rescale_depth(self.blocks)
        choose_implementation(self, config.attention)
        fuse_linears(self)
        grid = self.grid(self.view_shape())
        try:
            check_width(grid, self.width)
        except UserError as error:
            raise UserError(f"encoder {config.name!r}: {error}; set encoder.width") from None

    def view_shape(self) -> tuple[int, int, int]:
        """(C, H, W) of the images that the settings speak of."""
        return (self.channels, *image_sides(self.config.image_size))

    def grid(self, view_shape: Sequence[int]) -> Grid:
        """(rows, columns) of patches in an image of shape (C, H, W).

        Raises UserError for another number of channels, and for sides that the patch does not divide.
        """
        named = "encoder.image_size or encoder.patch_size"
        return patch_grid(self.config.name, view_shape, self.channels, self.patch_embed.patch_size, named)

    def positions(self, grid: Grid, device: torch.device | None = None) -> Tensor:
        """[N, D]: the fixed table that is added to the patches."""
        weight = next(self.patch_embed.proj.parameters())
        return sincos_like(weight, grid, self.width, self.config.position_scale, device)

    def forward(self, view: Tensor, keep: IndexSet | None = None, layers: Sequence[int] = ()) -> Tokens:
        """Features [S, D] of the patches at `keep` (all without it) of images [B, C, H, W].

        `layers` names blocks, 1 … depth, whose outputs are wanted too, without the final norm.
        Raises UserError for images that do not fit, and for layers and batch sizes that are not there.
        """
        grid = self.grid(view.shape[1:])
        check_layers(layers, self.depth)
        x, at = self._embed(view, keep, grid)
        x, outputs = run_blocks(self.blocks, x, at.layout, recompute=self.config.checkpoint, layers=layers)
        return Tokens(self.norm(x), at, grid, outputs)

    def to_timm(self) -> TimmModel:
        """The timm model with the same features; its `pos_embed` is the table for `image_size`.

        Raises UserError for an encoder with a stem, which is no model of timm's.
        """
        refuse_stem(self.config, "timm's models")
        table = self.positions(self.grid(self.view_shape()))
        tensors = {**self.state_dict(), "pos_embed": table[None]}
        own = OFFICIAL.get(self.config.name)
        arguments = {**(own or {}), "class_token": False, "reg_tokens": 0, **_timm_arguments(self.config)}
        architecture = "vit_base_patch16_224" if own else self.config.name
        return TimmModel(architecture, {**arguments, "pos_embed": "learn"}, tensors)

    def _embed(self, view: Tensor, keep: IndexSet | None, grid: Grid) -> tuple[Tensor, IndexSet]:
        """Embedded patches [S, D] with their positions, and where they stand."""
        high, wide = self.patch_embed.patch_size
        patches = rearrange(view, "b c (h p) (w q) -> (b h w) (c p q)", p=high, q=wide)
        at = kept_tokens(keep, view, grid)
        if keep is not None:
            patches = patches.index_select(0, at.flat(grid_size(grid)))
        x = self.patch_embed.norm(self._project(patches))
        x = x + self.positions(grid, x.device).index_select(0, at.index)
        return self.norm_pre(to_residual(x, self.config.residual)), at

    def _project(self, patches: Tensor) -> Tensor:
        """Patches [S, C·P·Q] to [S, D]: by the stem, or by timm's convolution as one product."""
        proj = self.patch_embed.proj
        if isinstance(proj, PatchStem):
            return proj(patches)
        return F.linear(patches, proj.weight.flatten(1), proj.bias)


def refuse_stem(config: VisionTransformer.Config, peers: str) -> None:
    """Raises UserError for an encoder with a stem: `peers` embed patches by one linear map."""
    if config.stem:
        raise UserError(
            f"encoder {config.name!r} has a stem of widths {list(config.stem)}; {peers} embed patches by one "
            "linear map and cannot be this encoder"
        )


def _timm_arguments(config: VisionTransformer.Config) -> dict[str, Any]:
    """timm's arguments for the sizes that the settings name."""
    arguments = {
        "img_size": image_sides(config.image_size),
        "patch_size": config.patch_size,
        "embed_dim": config.width,
        "depth": config.depth,
        "num_heads": config.heads,
        "mlp_ratio": config.mlp_ratio,
    }
    return {key: value for key, value in arguments.items() if value is not None}


def _build(config: VisionTransformer.Config) -> Any:
    """The timm model with packed attention, in the sizes of the settings."""
    arguments = _timm_arguments(config)
    if config.init == "ijepa":
        arguments["weight_init"] = "skip"
    config.check()
    if config.name in OFFICIAL:
        return TimmViT(**{**OFFICIAL[config.name], **PATCHES_ONLY, **arguments}, attn_layer=PackedAttention)
    return timm.create_model(config.name, **PATCHES_ONLY, **arguments, attn_layer=PackedAttention)


@cache
def _plain_sizes(name: str) -> dict[str, int]:
    """Width and heads of a timm model. Raises UserError where it is not there or no plain ViT."""
    known = timm.list_models(module="vision_transformer") + timm.list_models(module="deit")
    if name not in known:
        state = "is not a plain ViT" if timm.is_model(name) else "is not known"
        listed = ", ".join(OFFICIAL)
        raise UserError(f"encoder {name!r} {state}; known: {listed}, and timm's ViTs.{_close(name, known)}")
    vit = _outline(name)
    reason = _not_plain(vit)
    if reason:
        raise UserError(f"encoder {name!r} is not a plain ViT: it has {reason}.{_close(name, known)}")
    heads = next(m.num_heads for m in vit.modules() if isinstance(m, Attention))
    return {"embed_dim": vit.embed_dim, "num_heads": heads}


def _outline(name: str) -> Any:
    """A timm model without storage and with one block."""
    with torch.device("meta"):
        return timm.create_model(name, depth=1)


def _not_plain(vit: Any) -> str:
    """What keeps a model from running on packed patches, or ''."""
    if type(vit) is not TimmViT:
        return f"the class {type(vit).__name__}"
    blocks = {type(block) for block in vit.blocks} - {Block, ResPostBlock, ParallelThingsBlock}
    attention = {type(m) for m in vit.blocks.modules() if "Attention" in type(m).__name__} - {Attention}
    return ", ".join(sorted(part.__name__ for part in blocks | attention))


def _close(name: str, known: Sequence[str]) -> str:
    """The names nearest to `name` that can be used."""
    close = difflib.get_close_matches(name, [*OFFICIAL, *known], n=6)
    usable = [model for model in close if model in OFFICIAL or not _not_plain(_outline(model))]
    return f" Close: {', '.join(usable[:3])}." if usable else ""
