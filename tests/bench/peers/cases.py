"""The sizes that are compared, and our recipes for them.

Axes: B samples, K kept tokens.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

import jepa_core
from jepa_core.data.batched_transforms import augment

Masks = Literal["truncated", "exact", "union", "plain"]
Precision = Literal["bf16", "fp32"]
TRAINING = (
    "data.name=cifar10",
    "transform.crop_scale=[0.7, 1.0]",
    "transform.flip=0.5",
    "optimizer.lr=2e-3",
    "optimizer.final_lr=2e-5",
    "optimizer.weight_decay=0.05",
    "optimizer.betas=[0.9, 0.95]",
    "train.device=cpu",
)


@dataclass(frozen=True)
class Case:
    """An encoder, a predictor of one block and a batch; `heads` and `predictor_heads` are ours and the
    released code's, a peer has its own rule for the predictor's."""

    name: str
    patch: int
    width: int
    heads: int
    depth: int = 4
    predictor_width: int = 96
    predictor_heads: int = 3
    image: int = 32
    batch: int = 128
    seed: int = 0

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of tokens."""
        return self.image // self.patch, self.image // self.patch

    def recipe(self, masks: Masks, precision: Precision, steps: int) -> jepa_core.Recipe:
        """`union`: ijepa/demo with all its terms; `plain`: ijepa/cifar10_plain, whose predictor has three
        blocks; else multi-block I-JEPA, contexts ragged or as the release's."""
        sizes = (
            "encoder.name=official_tiny",
            f"encoder.image_size={self.image}",
            f"encoder.patch_size={self.patch}",
            f"encoder.width={self.width}",
            f"encoder.depth={self.depth}",
            f"encoder.heads={self.heads}",
            f"predictor.width={self.predictor_width}",
            f"predictor.heads={self.predictor_heads}",
            f"train.precision={precision}",
            f"train.batch_size={self.batch}",
            f"train.steps={steps}",
            f"optimizer.warmup_steps={steps // 10}",
        )
        if masks == "plain":
            return jepa_core.load_recipe("ijepa/cifar10_plain", *sizes, f"seed={self.seed}")
        one_block = (*sizes, "predictor.depth=1")
        if masks == "union":
            return jepa_core.load_recipe("ijepa/demo", *one_block, f"seed={self.seed}")
        truncate = "first" if masks == "truncated" else "none"
        return jepa_core.load_recipe(
            "ijepa/in1k_vitb16", *TRAINING, *one_block, f"masker.truncate={truncate}", f"seed={self.seed}"
        )

    def timm_vit(self) -> VisionTransformer:
        """The encoder for peers that take timm's."""
        return VisionTransformer(
            img_size=self.image,
            patch_size=self.patch,
            embed_dim=self.width,
            depth=self.depth,
            num_heads=self.heads,
            num_classes=0,
            class_token=False,
            global_pool="",
        )


CASES = (
    Case("64 tokens", patch=4, width=192, heads=3),
    Case("16 tokens", patch=8, width=128, heads=4),
)


class Crops:
    """Batches of random crops [B, 3, H, W] of images uint8 [N, h, w, 3], for all that is compared."""

    def __init__(self, images: Tensor, case: Case) -> None:
        self.images, self.case = images, case
        self.settings = case.recipe("union", "fp32", 10).transform

    def draw(self, step: int) -> Tensor:
        """The batch of a step."""
        generator = torch.Generator().manual_seed(step)
        at = torch.randint(len(self.images), (self.case.batch,), generator=generator)
        return augment(self.images[at], self.settings, (self.case.image, self.case.image), generator)
