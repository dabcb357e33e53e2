"""The prediction loss, forward and backward: plain torch as the engine writes it, and one Triton kernel.

At least 2 + 4 + 2 bytes a number must move: predictions in bf16, features in float32, the gradient in bf16.
"""

from collections.abc import Iterator

import torch

from jepa_kernels.bench.rows import PROBLEMS, Row, Settings, Work, failed_row, time_row
from jepa_kernels.bench.timing import stream_aside
from jepa_kernels.loss import LOSS_IMPLS, jepa_loss

SIZES = {
    "I-JEPA B/16": (768, 196, 35),
    "I-JEPA L/16": (1024, 196, 35),
    "I-JEPA H/14": (1280, 256, 45),
    "CIFAR T/4": (192, 64, 9),
}
"""(width, tokens of the grid, tokens of each of four targets)."""
BATCH = 128


def rows(model: str, settings: Settings) -> Iterator[Row]:
    """Both implementations on one batch."""
    width, tokens, per_target = SIZES[model]
    batch = settings.samples or BATCH
    device = settings.device
    z = torch.randn(4 * batch * per_target, width, device=device).bfloat16().requires_grad_()
    h = torch.randn(batch * tokens, width, device=device)
    places = torch.randint(len(h), (len(z),), device=device)
    for impl in LOSS_IMPLS:
        row = Row("loss", model, "forward and backward", f"ours: {impl}", Work(8 * z.numel()))

        def call(impl: str = impl) -> torch.Tensor:
            return torch.autograd.grad(jepa_loss(z, h, places, impl=impl), z)[0]

        try:
            call()
        except PROBLEMS as problem:
            yield failed_row(row, problem)
            continue
        with stream_aside(device):
            measured = time_row(row, call, settings)
        yield measured
