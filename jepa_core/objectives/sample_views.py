"""The inputs of terms that judge a batch: each view's projections, or each context's average features.

Axes: V views or contexts, B samples, P width.
"""

from __future__ import annotations

from typing import Literal

import torch
from einops import rearrange
from torch import Tensor

from jepa_core.types.step import Step

On = Literal["projections", "context"]


def views_of(step: Step, on: On) -> Tensor:
    """[V, B, P] in fp32 (fp64 stays): every view's projections, or every context's average features.

    Raises ValueError where the samples of a step do not have equally many, and for views of several widths.
    """
    widths = sorted({tokens.width for tokens in (step.contexts if on == "context" else step.predictions)})
    if len(widths) > 1:
        raise ValueError(
            f"this term compares views of one width; got widths {', '.join(map(str, widths))}. "
            "Give each side a group and a term of its own"
        )
    if on == "context":
        views = torch.stack([tokens.mean() for tokens in step.contexts])
    else:
        views = torch.cat([rearrange(t.dense(), "b v p -> v b p") for t in step.predictions])
    return views.to(torch.promote_types(views.dtype, torch.float32))
