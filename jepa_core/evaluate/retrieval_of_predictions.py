"""Prediction retrieval of a model on held-out images: what a table without labels says of predictions.

Axes: B images of a group.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from jepa_core.assembly import sample_masks
from jepa_core.evaluate.collapse import prediction_retrieval
from jepa_core.jepa import JEPA
from jepa_core.types.batch import Batch

GROUP = 64
"""Images among which a prediction has to name its own."""
IMAGES = 256
"""Images that are looked at."""


@torch.no_grad()
def retrieval_scores(model: JEPA, views: Tensor, device: torch.device | str) -> Mapping[str, float]:
    """`retrieval`, the share of predictions nearest to their own image's target feature, and its `chance`.

    `views` [n, C, H, W], or of another rank, are taken in groups of `GROUP`, or all at once where they are
    fewer; the masks follow from a fixed seed. Empty for a model that predicts nothing of one view.
    """
    if sample_masks(model, 1).empty or model.config.several_views:
        return {}
    groups = [group for group in views.split(GROUP) if len(group) == min(GROUP, len(views))]
    training = model.training
    model.eval()
    try:
        shares = [_share(model, group.to(device), number) for number, group in enumerate(groups)]
    finally:
        model.train(training)
    return {"retrieval": sum(shares) / len(shares), "chance": 1 / len(groups[0])}


def _share(model: JEPA, views: Tensor, number: int) -> float:
    plan = sample_masks(model, len(views), seed=0, step=number).to(views.device)
    step = model.run_stages(Batch.of(views), plan)
    assert step.target_tokens is not None
    return prediction_retrieval(step, model.normalise(step.target_tokens).dense())
