"""Ragged sets padded to a multiple of ROWS tokens, for steps in bf16 on a CPU.

What is unusual: oneDNN compiles a bf16 product anew for each number of rows (.5 to 1 ms and .7 MiB each,
measured; 1,024 are kept), and ragged contexts have another total in every batch: a tenth of a small model's
step, and 700 MiB. With few totals nearly all products are found. Padding sequences are those of `PaddedSet`,
as under `train.cuda_graph`; their lengths are alike and at most SHORT, so that attention has no group of its
own for them.

Axes: F padding sequences, N tokens of the grid.
"""

from __future__ import annotations

import torch

from jepa_core.jepa import JEPA
from jepa_core.training.plan_buckets import append_padding, sets_of
from jepa_core.types.index_set import IndexSet, grid_size
from jepa_core.types.mask_plan import MaskPlan
from jepa_kernels.padding import SHORT

ROWS = 64
NUM_PADDING = ROWS // SHORT


def can_round(model: JEPA) -> bool:
    """Whether padding sequences reach no loss of this model: its stages are the engine's, and its terms say
    that they leave them out (`capturable`)."""
    capturable = all(term.config.capturable for term in model.objectives.values())
    return type(model) is JEPA and capturable and not model.maskers


def round_plan(plan: MaskPlan, model: JEPA) -> MaskPlan:
    """The plan with its sets padded; itself where all lengths of each set are alike."""
    if all(own.uniform is not None for own in sets_of(plan)):
        return plan
    tokens = grid_size(model.grid())
    return plan.map(lambda own: _pad(own, tokens))


def _pad(own: IndexSet, tokens: int) -> IndexSet:
    """The set with F padding sequences, which share what is left to the next multiple of ROWS."""
    free = -own.total % ROWS
    shares = (free + torch.arange(NUM_PADDING, device=own.index.device)) // NUM_PADDING
    return append_padding(own, free, shares, tokens, max(own.max_length, -(-free // NUM_PADDING)))
