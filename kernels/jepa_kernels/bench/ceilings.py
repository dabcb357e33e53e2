"""The machine's measured ceilings: bytes copied a second and bf16 operations a second.

A fraction of a data sheet's figure says little, since nobody reaches it; a fraction of what the same machine
did a minute before says how much is left. On random data: zeros make a GPU up to an eighth faster.
"""

from dataclasses import dataclass

import torch

from jepa_kernels.bench.timing import measure


@dataclass(frozen=True)
class Ceilings:
    """copy: bytes read and written a second; matmul: floating point operations a second, bf16 in and out.

    The first is the better one of a copy and an addition in place: a CPU reads what a copy is about to
    overwrite, and would be beaten by whatever updates in place.
    """

    copy: float
    matmul: float

    def least_time(self, moved: float, operations: float) -> float:
        """Seconds that so many bytes and operations take at least (the roofline)."""
        return max(moved / self.copy, operations / self.matmul)

    def bound(self, moved: float, operations: float) -> str:
        """Which of the two limits: "memory" or "math"."""
        return "memory" if moved / self.copy >= operations / self.matmul else "math"


def measure_ceilings(device: torch.device, seconds: float = 0.5, quick: bool = False) -> Ceilings:
    """Both, from 2 GiB of numbers and a product of two 8192² matrices; smaller on a CPU and where `quick`."""
    large = device.type == "cuda" and not quick
    numbers, side = (2**29, 8192) if large else (2**24, 1024)
    source = torch.randn(numbers, device=device)
    target = torch.empty_like(source)
    copied = measure(lambda: target.copy_(source), device, seconds).low
    added = measure(lambda: target.add_(source, alpha=1e-3), device, seconds).low
    copy = max(8 * numbers / copied, 12 * numbers / added)
    a, b = (torch.randn(side, side, device=device).bfloat16() for _ in range(2))
    product = torch.empty_like(a)
    matmul = measure(lambda: torch.mm(a, b, out=product), device, seconds)
    return Ceilings(copy=copy, matmul=2 * side**3 / matmul.low)
