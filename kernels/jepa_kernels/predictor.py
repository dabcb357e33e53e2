"""A JEPA predictor's sequences as segments: each sample's context once, then its targets.

What is unusual: everything follows from the lengths by arithmetic on their device, the readers of each key
too, so that a caller who knows the bounds waits for no device and keeps a compiled graph whole.

Axes: B samples, M target sets of a sample, S = B * (1 + M) segments.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from jepa_kernels.readers import Readers


def shared_segments(context: Tensor, targets: Tensor) -> Tensor:
    """[B], [M, B] lengths -> [S, 6]: of each sample its context, which reads itself, then its targets."""
    q_len = torch.cat([context[None], targets]).T.reshape(-1)
    q_start = q_len.cumsum(0) - q_len
    rows = targets.shape[0] + 1
    a_start = q_start.view(-1, rows)[:, :1].expand(-1, rows).reshape(-1)
    a_len = context[:, None].expand(-1, rows).reshape(-1)
    is_target = (torch.arange(rows, device=context.device) > 0).repeat(context.shape[0])
    b_start, b_len = torch.where(is_target, q_start, 0), torch.where(is_target, q_len, 0)
    return torch.stack([q_start, q_len, a_start, a_len, b_start, b_len], dim=1)


def shared_readers(seg: Tensor, rows: int, longest: int) -> Readers:
    """The readers of each key of `shared_segments` int [S, 6] with `rows` = 1 + M segments a sample.

    A context's rows are read by all rows of its sample, a target's by its own. `longest`: rows of the longest
    segment, or a bound.
    """
    start, length = seg[:, 0], seg[:, 1]
    sample = length.view(-1, rows).sum(1, keepdim=True)
    reach = torch.cat([sample, length.view(-1, rows)[:, 1:]], dim=1).reshape(-1)
    number = torch.arange(seg.shape[0], device=seg.device, dtype=seg.dtype)
    pieces = torch.stack([start, length, number, torch.ones_like(number)], dim=1)
    return Readers(pieces.int(), torch.stack([start, reach], dim=1).int(), longest)


def target_table(context: Tensor, targets: Tensor | Sequence[Tensor], trusted: bool) -> Tensor:
    """The target lengths as one tensor [M, B], checked against the context's; their values unless `trusted`.

    Raises ValueError for shapes that disagree and negative lengths.
    """
    check_vector(context, "context_lengths")
    if not isinstance(targets, Tensor):
        targets = torch.stack(list(targets)) if len(targets) else context.new_empty(0, len(context))
    if targets.ndim != 2 or targets.shape[1] != context.shape[0]:
        raise ValueError(
            f"target_lengths must be [M, B] with B = {len(context)} as in context_lengths; "
            f"got {list(targets.shape)}"
        )
    for name, lengths in (("context_lengths", context), ("target_lengths", targets)):
        if not trusted and lengths.numel() and int(lengths.min()) < 0:
            raise ValueError(f"{name} must not be negative; got {shorten(lengths.reshape(-1))}")
    return targets


def check_vector(values: Tensor, name: str) -> None:
    """Raises ValueError unless the tensor is integers [n]."""
    if values.ndim != 1 or values.is_floating_point() or values.dtype == torch.bool:
        raise ValueError(
            f"{name} must be a 1-d integer tensor; got shape {list(values.shape)} of {values.dtype}"
        )


def shorten(values: Tensor) -> str:
    """The first values, for an error message."""
    head = ", ".join(str(v) for v in values[:8].tolist())
    return f"[{head}{', …' if len(values) > 8 else ''}]"
