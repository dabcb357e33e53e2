"""`jepa_loss`: predictions against normalised target features at the places that were asked for.

    loss = jepa_loss(z, h, rows)        # z [M, D] predictions, h [R, D] features, rows int64 [M]

What is unusual: the target is gathered and layer-normed in one go, and no normalised copy of h is kept. The
reference in plain torch defines the operation and is what "auto" takes; the Triton kernel ("triton") stores
the gradient of z while it makes the loss, and adds up partial sums in one order, so that two runs give the
same bits. h gets no gradient: targets are constants to the loss (the stop-gradient of a JEPA).

Axes: M predictions, R rows of features, D width.
"""

import os
from importlib.util import find_spec
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from jepa_kernels.names import Choice, unknown_impl

LOSS_IMPLS = ("reference", "triton")
KINDS = ("smooth_l1", "l1", "mse")
Kind = Literal["smooth_l1", "l1", "mse"]
WIDEST = 8192  # a row is one tile


def reference_loss(
    z: Tensor, h: Tensor, rows: Tensor, beta: float, eps: float, kind: str, normalize: bool
) -> Tensor:
    """The operation's definition, in float32 or better."""
    wide = torch.promote_types(z.dtype, torch.float32)
    target = h.detach().index_select(0, rows).to(wide)
    if normalize:
        target = F.layer_norm(target, target.shape[-1:], eps=eps)
    if kind == "smooth_l1":
        return F.smooth_l1_loss(z.to(wide), target, beta=beta)
    return (F.l1_loss if kind == "l1" else F.mse_loss)(z.to(wide), target)


def jepa_loss(
    z: Tensor,
    h: Tensor,
    rows: Tensor,
    *,
    beta: float = 1.0,
    eps: float = 1e-5,
    kind: Kind = "smooth_l1",
    normalize: bool = True,
    impl: str = "auto",
) -> Tensor:
    """The mean over M * D of rho(z - layer_norm(h[rows])), a scalar in float32 (float64 for a float64 z).

    z: [M, D]; h: [R, D], floating point; rows: int32 or int64 [M], 0 … R - 1 (not looked at on a GPU)
    kind: rho is "smooth_l1" (|d| < beta: d² / (2 beta), else |d| - beta / 2), "l1" or "mse"
    normalize: subtract each target's mean and divide by sqrt(biased variance + eps); no affine part
    impl: "auto" (is "reference"), "reference", or "triton" on CUDA
    The gradient goes to z alone; "triton" gives the first one only. M = 0 gives zero.
    Raises ValueError for input that does not fit, and for an impl that is unknown or cannot run on it.
    Source: I-JEPA (arXiv 2301.08243), section 3; its released code takes smooth L1, V-JEPA L1.
    """
    _check(z, h, rows, beta, kind)
    if impl not in ("auto", *LOSS_IMPLS):
        raise unknown_impl(impl, "jepa_loss", LOSS_IMPLS)
    if z.numel() == 0:
        return z.to(torch.promote_types(z.dtype, torch.float32)).sum()
    if impl != "triton":
        return reference_loss(z, h, rows, beta, eps, kind, normalize)
    problem = _triton_problem(z, h)
    if problem is not None:
        raise ValueError(f"impl 'triton' of jepa_loss cannot run here: it {problem}")
    from jepa_kernels.triton_loss import triton_loss  # loads triton

    return triton_loss(z, h.detach(), rows, beta, eps, KINDS.index(kind), normalize)


def explain_loss(z: Tensor, h: Tensor) -> list[Choice]:
    """For each implementation: can it take this input, why (not), and is it what auto takes."""
    problem = _triton_problem(z, h)
    why = "plain torch: a fused kernel would win under 1 % of a step (a model, not measured)"
    return [
        Choice("reference", True, why, True),
        Choice("triton", problem is None, problem or "can take this input", False),
    ]


def _triton_problem(z: Tensor, h: Tensor) -> str | None:
    types = {z.dtype, h.dtype} - {torch.float32, torch.bfloat16, torch.float16}
    if find_spec("triton") is None:
        return "needs the package triton, which is not installed"
    if types:
        return f"needs float32, bfloat16 or float16, got {types.pop()}"
    if z.shape[1] > WIDEST:
        return f"needs a width up to {WIDEST}, got {z.shape[1]}"
    kind = z.device.type
    if kind == "cuda" or (kind == "cpu" and os.environ.get("TRITON_INTERPRET") == "1"):
        return None
    return f"needs CUDA tensors, got {kind}; on a CPU it runs under TRITON_INTERPRET=1, for tests"


def _check(z: Tensor, h: Tensor, rows: Tensor, beta: float, kind: str) -> None:
    if z.ndim != 2 or h.ndim != 2 or z.shape[1] != h.shape[1]:
        raise ValueError(f"z is [M, D] and h [R, D]; got {list(z.shape)} and {list(h.shape)}")
    if not (z.is_floating_point() and h.is_floating_point()):
        raise ValueError(f"z and h are floating point; got {z.dtype} and {h.dtype}")
    if rows.shape != z.shape[:1] or rows.dtype not in (torch.int32, torch.int64):
        raise ValueError(
            f"rows is int32 or int64 [M] with M = {len(z)}; got {list(rows.shape)} of {rows.dtype}"
        )
    if not (z.device == h.device == rows.device):
        raise ValueError(f"z is on {z.device}, h on {h.device}, rows on {rows.device}; expected one device")
    if kind not in KINDS:
        raise ValueError(f"unknown kind {kind!r} of jepa_loss; known: {', '.join(KINDS)}")
    if not beta > 0:
        raise ValueError(f"beta is above 0; got {beta}")
