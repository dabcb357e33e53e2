"""Label-free scores of features and predictions: collapse of the features, content of the predictions.

What is unusual: `prediction_retrieval` scores the objective itself. A prediction for a hidden token has
to identify its own image among the features that all images of the batch have at that same position, so
a predictor that only knows positions scores at chance, and so does any predictor of a collapsed target.

Axes: n samples, B samples of a batch, N tokens of the grid, D width, M scored predictions.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from jepa_core.settings.base import Settings
from jepa_core.types.index_set import grid_size
from jepa_core.types.step import Step

_RANKME_SAMPLES = 2048
_TIE = 1e-6
"""Cosine similarities this close are a tie (a few float32 roundings of a value near 1)."""


@torch.no_grad()
def rankme(features: Tensor) -> float:
    """RankMe of features [n, D]: a smooth rank, from 1 (one direction) to min(n, D).

    exp(-Σ p log p) with p = σ / Σσ + 1e-7 over the singular values σ of the features as they are, not
    centred (Garrido et al. 2023, arXiv 2210.02885, eq. 1-2); in float64, on at most 2048 of the samples.
    All-zero features have rank 0; features that are not finite give NaN.
    """
    if not features.isfinite().all():
        return math.nan
    sigma = torch.linalg.svdvals(_subset(features).double())
    if sigma.sum() == 0:
        return 0.0
    p = sigma / sigma.sum() + 1e-7
    return torch.exp(-(p * p.log()).sum()).item()


def _subset(features: Tensor) -> Tensor:
    return features[_fixed_draw(len(features), _RANKME_SAMPLES).to(features.device)]


@torch.no_grad()
def feature_std(features: Tensor) -> float:
    """Spread of features [n, D] over samples: 0 when all point the same way, about 1 when none do.

    Each feature is scaled to length √D; then the standard deviation of each dimension over the samples,
    and the mean of these over the dimensions (the measure of Chen & He 2021, arXiv 2011.10566, §4.1,
    times √D, so that it does not depend on the width).
    """
    unit = F.normalize(features.double(), dim=1) * math.sqrt(features.shape[1])
    return unit.std(0, correction=0).mean().item()


@torch.no_grad()
def prediction_retrieval(step: Step, candidates: Tensor, max_predictions: int = 512) -> float:
    """Share of predictions that are nearest to their own image's target feature: top-1 of B.

    `candidates` [B, N, D]: target features of the whole grid, normalised as the objective's targets are.
    For a prediction of sample b's token at position i the choice is among `candidates[:, i]`, by cosine.
    Candidates that tie for the best share the point, so features that are all the same give exactly the
    chance level 1/B. At most `max_predictions` are scored, a fixed draw.
    Raises ValueError where there are no predictions, or candidates of another shape.
    """
    predictions, sample, position = _predictions(step)
    grid = step.predictions[0].grid
    expected = [step.predictions[0].at.batch_size, grid_size(grid), predictions.shape[1]]
    if list(candidates.shape) != expected:
        raise ValueError(
            f"candidates are [B, N, D] = {expected} on grid {grid}; got {list(candidates.shape)}"
        )
    rows = _fixed_draw(len(predictions), max_predictions).to(predictions.device)
    rows = rows[position[rows].argsort()]
    places, counts = torch.unique_consecutive(position[rows], return_counts=True)
    by_place = zip(places.tolist(), rows.split(counts.tolist()), strict=True)
    points = [
        _retrieval_points(predictions[group], sample[group], candidates[:, place])
        for place, group in by_place
    ]
    return torch.cat(points).mean().item()


def _predictions(step: Step) -> tuple[Tensor, Tensor, Tensor]:
    """All pairs' predictions [S, D] with the sample [S] and the position [S] of each."""
    if not any(tokens.at.total for tokens in step.predictions):
        raise ValueError("prediction retrieval needs predictions; this step has none")
    values = torch.cat([tokens.values for tokens in step.predictions])
    sample = torch.cat([tokens.at.samples for tokens in step.predictions])
    return values, sample, torch.cat([tokens.at.index for tokens in step.predictions])


def _retrieval_points(prediction: Tensor, own: Tensor, candidates: Tensor) -> Tensor:
    """float [m]: 1 where sample `own` [m] is nearest to `prediction` [m, D], 1/ties where it ties, else 0.

    candidates: [B, D], all samples' features at the position of these predictions.
    """
    similarity = F.normalize(prediction.float(), dim=1) @ F.normalize(candidates.float(), dim=1).T
    own_similarity = similarity.gather(1, own[:, None])
    is_nearest = (similarity <= own_similarity + _TIE).all(1)
    ties = (similarity >= own_similarity - _TIE).sum(1)
    return is_nearest.float() / ties.clamp(min=1)


def _fixed_draw(count: int, most: int) -> Tensor:
    """int64 indices of at most `most` of `count` things, drawn with a fixed seed."""
    if count <= most:
        return torch.arange(count)
    return torch.randperm(count, generator=torch.Generator().manual_seed(0))[:most]


class AlarmSettings(Settings):
    """When the collapse alarm is raised."""

    std_below: float = Field(0.02, ge=0)
    """Feature standard deviation under which features count as collapsed to one direction (a freshly
    initialised encoder shows 0.4 to 0.8 on photographs)."""
    rankme_share: float = Field(0.3, ge=0, le=1)
    """RankMe under this share of its first value counts as collapsing."""
    retrieval_share: float = Field(0.25, ge=0, le=1)
    """Prediction retrieval under this share of its best so far counts as lost, once that best is 10 % or
    more: below, the share is mostly the noise of chance."""
    looks: int = Field(3, ge=1)
    """Consecutive readings that must agree before the alarm is raised."""


@dataclass(frozen=True)
class CollapseReading:
    """The scores of one logged step."""

    step: int
    rankme: float
    feature_std: float
    retrieval: float | None = None
    """Prediction retrieval, or None where the method has no predictions."""


def collapse_warning(history: Sequence[CollapseReading], settings: AlarmSettings) -> str | None:
    """What is wrong after the last reading, in one line, or None. `history` starts with the run.

    Features that are not finite are reported at once; everything else after `settings.looks` readings.
    """
    last = history[-1] if history else None
    if last is None:
        return None
    if not (math.isfinite(last.rankme) and math.isfinite(last.feature_std)):
        return f"step {last.step}: the features are not finite; the run has diverged"
    checks = (_low_std, _falling_rank, _lost_retrieval)
    problems = [text for text in (check(history, settings) for check in checks) if text]
    return f"step {last.step}: the features may be collapsing: {'; '.join(problems)}" if problems else None


def _low_std(history: Sequence[CollapseReading], settings: AlarmSettings) -> str | None:
    if not _persists(history, settings, lambda reading: reading.feature_std < settings.std_below):
        return None
    return f"feature std {history[-1].feature_std:.3f} is under {settings.std_below:g} (0 is a full collapse)"


def _falling_rank(history: Sequence[CollapseReading], settings: AlarmSettings) -> str | None:
    start = history[0].rankme
    if not _persists(history, settings, lambda reading: reading.rankme < settings.rankme_share * start):
        return None
    now, share = history[-1].rankme, settings.rankme_share
    return f"RankMe {now:.1f} is under {share:.0%} of its {start:.1f} at the start"


def _lost_retrieval(history: Sequence[CollapseReading], settings: AlarmSettings) -> str | None:
    best = max((reading.retrieval for reading in history if reading.retrieval is not None), default=0.0)
    limit = settings.retrieval_share * best if best >= 0.1 else 0.0

    def is_lost(reading: CollapseReading) -> bool:
        return reading.retrieval is not None and reading.retrieval < limit

    if not _persists(history, settings, is_lost):
        return None
    now, share = history[-1].retrieval, settings.retrieval_share
    return f"prediction retrieval {now:.1%} is under {share:.0%} of its best {best:.1%}"


def _persists(
    history: Sequence[CollapseReading], settings: AlarmSettings, is_bad: Callable[[CollapseReading], bool]
) -> bool:
    """Whether the last `settings.looks` readings are all bad."""
    recent = history[-settings.looks :]
    return len(recent) == settings.looks and all(is_bad(reading) for reading in recent)
