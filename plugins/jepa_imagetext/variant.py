"""Variant `imagetext`: an image predicts its caption's embedding, and the caption the image's.

    image tokens (all, or those a masker leaves visible) → mean → projector → v [B, E] → P_v → guess of t
    caption ids → [encoders.caption]                     → mean → projector → t [B, E] → P_t → guess of v

What is unusual: the two directions, and what keeps each side from collapsing, are *groups* of the step, which
terms of the loss choose by name, so that methods are recipes. `image_to_text` (the main group) and
`text_to_image` hold guesses and targets, without gradient to the targets unless `variant.target_gradient`;
`image` and `text` hold v and t themselves, for terms such as SIGReg. LeVLJEPA (arXiv 2607.00784) is MSE on
the first two and SIGReg on the others; VL-JEPA (arXiv 2512.10942) is InfoNCE on the main group with gradient
to both sides, and predictors of depth 0 are CLIP.

Axes: B samples, C contexts of the plan, D width of an encoder, E of the shared space.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field, PositiveInt
from torch import Tensor, nn
from torch.nn import functional as F

from jepa_core import JEPA, Batch, Group, IndexSet, MaskPlan, Step, Tokens, UserError
from jepa_core.settings.base import Settings


class HeadSettings(Settings):
    """Sizes of the projectors and predictors."""

    width: PositiveInt = 128
    """Width of the shared space, E."""
    hidden: PositiveInt = 512
    """Width of the hidden layers of projectors and predictors."""
    depth: int = Field(1, ge=0, le=16)
    """Hidden layers of the predictors P_v and P_t; 0: none, a guess is the embedding itself."""


class ImageText(JEPA):
    """Two towers in one space. Needs `[encoders.caption]`, which reads the view `caption`."""

    class Config(JEPA.Config):
        """Settings of the variant."""

        named_encoders: ClassVar[tuple[str, ...] | None] = ("caption",)

        target_norm: Literal["layer", "batch", "position", "none"] = "none"
        """As of the engine's; embeddings are not normalised."""
        heads: HeadSettings = HeadSettings()
        """Projectors and predictors."""
        prompts: tuple[str, ...] = ("{}",)
        """Texts around the name of a class, `{}`, where classes are guessed by their names."""

    text_view = "caption"
    config: Config

    def __init__(self, config: Config, **parts: Any) -> None:
        super().__init__(config, **parts)
        if parts["predictor"].config.name != "none":
            raise UserError(
                f"variant {config.name!r} has predictors of its own (variant.heads.depth); got predictor "
                f"{parts['predictor'].config.name!r}, expected predictor.name=none"
            )
        heads = config.heads
        self.projectors = nn.ModuleDict(
            {
                "image": mlp(self.encoder.width, heads.hidden, heads.width, 1),
                "caption": mlp(self.encoders["caption"].width, heads.hidden, heads.width, 1),
            }
        )
        self.predictors = nn.ModuleDict(
            {
                name: mlp(heads.width, heads.hidden, heads.width, heads.depth)
                if heads.depth
                else nn.Identity()
                for name in ("image", "caption")
            }
        )

    @property
    def prompts(self) -> Sequence[str]:
        """Texts with `{}` for the name of a class."""
        return self.config.prompts

    def run_stages(self, batch: Batch, plan: MaskPlan) -> Step:
        """Both towers once; a guess for each context of the plan."""
        image, caption = self._views(batch)
        contexts = self.encode_context(image, plan)
        means = [tokens.mean() for tokens in contexts]
        visible = self.projectors["image"](torch.cat(means)).split([len(mean) for mean in means])
        text_tokens = self.encoders["caption"](caption)
        text = self.projectors["caption"](text_tokens.mean())
        whole = torch.stack(visible).mean(0)
        towards_text = tuple(one_token(self.predictors["image"](v)) for v in visible)
        towards_image = (one_token(self.predictors["caption"](text)),)
        texts, images = one_token(self._target(text)), one_token(self._target(whole))
        targets = (texts,) * len(towards_text)
        groups = {
            "image_to_text": Group(towards_text, targets),
            "text_to_image": Group(towards_image, (images,)),
            "image": Group(tuple(map(one_token, visible)), ()),
            "text": Group((one_token(text),), (), (text_tokens,)),
        }
        return Step(towards_text, targets, contexts, contexts[0], plan, batch.step, batch.condition, groups)

    def embed(self, views: Mapping[str, Any]) -> dict[str, Tensor]:
        """[B, E] of unit length for each view given: the image's guess of its caption, the caption itself.

        The comparison of LeVLJEPA's zero-shot evaluation, P_v(v) with t.
        """
        embeddings = {}
        for name, view in views.items():
            if name == self.text_view:
                values = self.projectors["caption"](self.encoders["caption"](view).mean())
            else:
                values = self.predictors["image"](self.projectors["image"](self.encoder(view).mean()))
            embeddings[name] = F.normalize(values.float(), dim=-1)
        return embeddings

    def metrics(self, step: Step) -> dict[str, Tensor | float]:
        """The mean cosine of guesses with their own captions, and with those of other samples."""
        sides = (step.predictions[0], step.targets[0])
        guess, text = (F.normalize(side.values.detach().float(), dim=-1) for side in sides)
        cosines = guess @ text.T
        matched = cosines.diagonal().mean()
        count = len(cosines)
        others = (cosines.sum() - cosines.diagonal().sum()) / max(1, count * (count - 1))
        return {
            **super().metrics(step),
            "cosine_matched": matched,
            "cosine_random": others,
        }

    def _target(self, values: Tensor) -> Tensor:
        return values if self.config.target_gradient else values.detach()

    def _views(self, batch: Batch) -> tuple[Any, Any]:
        """The first view and the caption. Raises UserError for a batch without a caption."""
        if self.text_view not in batch.views:
            raise UserError(
                f"variant {self.config.name!r} reads the views image and caption; the batch has "
                f"{', '.join(batch.views)} (folders: data.captions, Hugging Face: data.caption_column)"
            )
        return next(iter(batch.views.values())), batch.views[self.text_view]


def mlp(width: int, hidden: int, out: int, depth: int) -> nn.Sequential:
    """`depth` hidden layers with batch norm and GELU, then a linear one."""
    layers: list[nn.Module] = []
    for _ in range(depth):
        layers += [nn.Linear(width, hidden, bias=False), nn.BatchNorm1d(hidden), nn.GELU()]
        width = hidden
    return nn.Sequential(*layers, nn.Linear(width, out))


def one_token(values: Tensor) -> Tokens:
    """[B, E] as one token a sample."""
    return Tokens(values, IndexSet.full(len(values), 1, values.device), (1,))
