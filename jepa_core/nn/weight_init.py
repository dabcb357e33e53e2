"""Initial weights of transformers: a normal of one width throughout, and a rescale by depth.

What is unusual: the depth rescale is a separate, explicit step. The official code rescales and then
draws every linear layer anew, so the rescale never reaches its training; here it is off unless asked for.
"""

from __future__ import annotations

import math

import torch
from torch import nn

STD = 0.02
RESIDUAL_OUTPUTS = ("attn.proj.weight", "mlp.fc2.weight")


def draw_weights(module: nn.Module, std: float = STD) -> None:
    """Linear and convolution weights from a normal of `std` (I-JEPA: .02) cut at ±2 (absolute), biases 0.

    Norms keep the 1 and 0 they are made with. Source: I-JEPA (arXiv 2301.08243), released code.
    """
    for part in module.modules():
        if isinstance(part, nn.Linear | nn.Conv2d | nn.Conv3d):
            nn.init.trunc_normal_(part.weight, std=std)
            if part.bias is not None:
                nn.init.zeros_(part.bias)


@torch.no_grad()
def rescale_depth(blocks: nn.Sequential) -> None:
    """Divides what block ℓ = 1, 2, … adds to the residual stream by √(2ℓ).

    That is the output projection of its attention and the second matrix of its MLP.
    """
    for number, block in enumerate(blocks, 1):
        for name, weight in block.named_parameters():
            if name.endswith(RESIDUAL_OUTPUTS):
                weight.div_(math.sqrt(2 * number))
