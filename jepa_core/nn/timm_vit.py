"""An encoder for timm's ViTs as they were trained: with class token, registers and stored positions.

What is unusual:
- the prefix (class token, registers) is part of every sequence and of no result: features are those of
  the patches, and masks speak of patches only
- stored positions are resized for other image sizes, as timm does it (bicubic); a table that is the
  sine-cosine one can be computed instead (`positions = "sincos"`), and is then exact for every size
- all patches are embedded, and those that are not kept are dropped after that, as in MAE

Axes: B samples, C channels, S packed tokens, P prefix tokens, N tokens of the grid, D width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, ClassVar, Literal

import timm
import torch
from pydantic import Field, PositiveFloat, PositiveInt
from timm.layers import Attention, PatchEmbed, resample_abs_pos_embed
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from jepa_core.errors import UserError, suggest_name
from jepa_core.nn.attention import PackedAttention, check_layers, choose_implementation, run_blocks
from jepa_core.nn.fused_linear import fuse_linears
from jepa_core.nn.patch_grid import image_sides, kept_tokens, patch_grid
from jepa_core.nn.sincos import sincos
from jepa_core.nn.timm_model import FEATURES, TimmModel, as_tuples
from jepa_core.settings.base import ComponentSettings
from jepa_core.types.index_set import Grid, IndexSet
from jepa_core.types.tokens import Tokens


class TimmVit(nn.Module):
    """A plain vision transformer of timm's with everything it was trained with, over packed tokens.

    Raises UserError for a model that timm does not have, or that is no plain ViT.
    Source: ViT (arXiv 2010.11929), as in timm.
    """

    class Config(ComponentSettings):
        """Settings of the encoder."""

        carried: ClassVar[frozenset[str]] = frozenset({"image_size"})

        model: str
        """Name of the timm model, such as `vit_small_patch16_224`."""
        image_size: PositiveInt | tuple[PositiveInt, PositiveInt] | None = None
        """Side of the images in pixels, or (height, width); by default the model's own."""
        arguments: dict[str, bool | int | float | str | list[int]] = Field(default_factory=dict)
        """Further arguments of the timm model, such as `reg_tokens`; `img_size` is that of the positions."""
        positions: Literal["stored", "sincos"] = "stored"
        """A trained table, resized for other image sizes, or the computed sine-cosine one."""
        position_scale: PositiveFloat = 1.0
        """Factor on the sine-cosine positions."""
        checkpoint: bool = False
        """Recompute activations in the backward pass: less memory, about a third more time."""
        attention: str = "auto"
        """Implementation of attention, of `jepa_kernels.ATTENTION_IMPLS`; `auto` takes the best usable."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        vit = build(config)
        self.patch_embed, self.norm_pre = vit.patch_embed, vit.norm_pre
        self.cls_token, self.reg_token, self.pos_embed = vit.cls_token, vit.reg_token, vit.pos_embed
        self.blocks, self.norm = vit.blocks, vit.norm
        self.width, self.depth = vit.embed_dim, len(vit.blocks)
        self.heads = next(m.num_heads for m in vit.modules() if isinstance(m, Attention))
        self.prefix, self.positions_for_prefix = vit.num_prefix_tokens, not vit.no_embed_class
        choose_implementation(self, config.attention)
        fuse_linears(self)
        self.grid(self.view_shape())

    def view_shape(self) -> tuple[int, int, int]:
        """(C, H, W) of the images that the settings speak of."""
        size = self.config.image_size or self.patch_embed.img_size
        return self.patch_embed.proj.in_channels, *image_sides(size)

    def grid(self, view_shape: Sequence[int]) -> Grid:
        """(rows, columns) of patches in an image of shape (C, H, W).

        Raises UserError for another number of channels, and for sides that the patch does not divide.
        """
        proj, patch = self.patch_embed.proj, self.patch_embed.patch_size
        return patch_grid(self.config.name, view_shape, proj.in_channels, patch, "encoder.image_size")

    def forward(self, view: Tensor, keep: IndexSet | None = None, layers: Sequence[int] = ()) -> Tokens:
        """Features [S, D] of the patches at `keep` (all without it) of images [B, C, H, W].

        `layers` names blocks, 1 … depth, whose outputs are wanted too, without the final norm.
        Raises UserError for images that do not fit, and for layers and batch sizes that are not there.
        """
        grid = self.grid(view.shape[1:])
        check_layers(layers, self.depth)
        keep = kept_tokens(keep, view, grid)
        at, patches = with_prefix(keep, self.prefix)
        tokens = self._embed(view, grid)
        x = self.norm_pre(tokens.flatten(0, 1).index_select(0, at.flat(tokens.shape[1])))
        x, outputs = run_blocks(self.blocks, x, at.layout, recompute=self.config.checkpoint, layers=layers)
        values = self.norm(x.index_select(0, patches))
        return Tokens(values, keep, grid, tuple(layer.index_select(0, patches) for layer in outputs))

    def _embed(self, view: Tensor, grid: Grid) -> Tensor:
        """[B, P+N, D]: prefix and patches with their positions."""
        x = self.patch_embed(view).flatten(1, 2)
        prefix = [t.expand(len(x), -1, -1) for t in (self.cls_token, self.reg_token) if t is not None]
        if self.config.positions == "sincos":
            x = x + sincos(grid, self.width, self.config.position_scale, device=x.device)
            return torch.cat([*prefix, x], dim=1)
        if self.positions_for_prefix:
            return torch.cat([*prefix, x], dim=1) + self._table(grid, self.prefix)
        return torch.cat([*prefix, x + self._table(grid, 0)], dim=1)

    def _table(self, grid: Grid, prefix: int) -> Tensor:
        """[1, P+N, D]: the stored positions, resized where the grid is another."""
        stored = tuple(self.patch_embed.grid_size)
        if grid == stored:
            return self.pos_embed
        table: Tensor = resample_abs_pos_embed(self.pos_embed, list(grid), list(stored), prefix)
        return table

    def to_timm(self) -> TimmModel:
        """The timm model this is; computed positions become its table, for the image size of the settings."""
        arguments, tensors = dict(self.config.arguments), self.state_dict()
        if self.config.positions == "sincos":
            arguments["img_size"] = list(self.view_shape()[1:])
            table = sincos(self.grid(self.view_shape()), self.width, self.config.position_scale)
            tensors["pos_embed"] = table[None]
        return TimmModel(self.config.model, arguments, tensors)


def with_prefix(keep: IndexSet, prefix: int) -> tuple[IndexSet, Tensor]:
    """The index set with each sample's P prefix tokens before its kept patches, indices within [P+N].

    Also int64 [S]: the packed rows of the patches.
    """
    device = keep.index.device
    patches = torch.arange(keep.total, device=device) + prefix * (keep.segments + 1)
    starts = keep.offsets[:-1] + prefix * torch.arange(len(keep.lengths), device=device)
    heads = (starts[:, None] + torch.arange(prefix, device=device)).flatten()
    index = torch.empty(keep.total + heads.numel(), dtype=torch.long, device=device)
    index[patches] = keep.index + prefix
    index[heads] = torch.arange(prefix, device=device).repeat(len(keep.lengths))
    uniform = None if keep.uniform is None else keep.uniform + prefix
    longest = keep.max_length + prefix
    at = replace(keep, index=index, lengths=keep.lengths + prefix, max_length=longest, uniform=uniform)
    return at, patches


def build(config: TimmVit.Config) -> Any:
    """The timm model of the settings, with packed attention. Raises UserError where there is none."""
    if not timm.is_model(config.model):
        close = suggest_name(config.model, timm.list_models(module="vision_transformer"))
        raise UserError(f"setting 'encoder.model' is {config.model!r}; timm has no such model.{close}")
    computed = {"pos_embed": "none"} if config.positions == "sincos" else {}
    arguments = {**as_tuples(config.arguments), **computed, **FEATURES, "dynamic_img_size": True}
    try:
        vit = timm.create_model(config.model, **arguments, attn_layer=PackedAttention)
    except Exception as error:  # models of timm take arguments of any type, and fail in any way
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"timm cannot make {config.model!r} with {config.arguments}: {reason}") from None
    attention = [m for m in vit.modules() if "Attention" in type(m).__name__]
    unknown = {type(m).__name__ for m in attention if type(m) is not PackedAttention}
    unknown |= {type(vit).__name__} if type(vit) is not VisionTransformer else set()
    unknown |= {type(vit.patch_embed).__name__} if type(vit.patch_embed) is not PatchEmbed else set()
    if unknown:
        names = ", ".join(sorted(unknown))
        raise UserError(f"timm model {config.model!r} is not a plain ViT: it has {names}")
    if config.positions == "stored" and vit.pos_embed is None:
        raise UserError(f"timm model {config.model!r} with {config.arguments} has no stored positions")
    if config.positions == "sincos" and vit.num_prefix_tokens:
        raise UserError(
            f"encoder.positions is 'sincos', but {config.model!r} has {vit.num_prefix_tokens} prefix tokens; "
            "set encoder.arguments.class_token=false and reg_tokens=0, or positions='stored'"
        )
    return vit
