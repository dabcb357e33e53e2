"""Has it collapsed, and does it predict content: label-free scores of features and predictions.

What is unusual: `prediction_retrieval` scores the objective itself. A prediction for a hidden token has
to single out its own image among the features that all images of the batch have at that same position,
so knowing positions wins nothing, and a collapsed target gives chance exactly.

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
_SAME = 1e-6
"""Cosine similarities this close are a tie (a few float32 roundings of a value near 1)."""


@torch.no_grad()
def rankme(features: Tensor) -> float:
    """RankMe of features [n, D]: a smooth rank, from 1 (one direction) to min(n, D).

    exp(-Σ p log p) with p = σ / Σσ + 1e-7 over the singular values σ of the features as they are, not
    centred (Garrido et al. 2023, arXiv 2210.02885, eq. 1-2); in float64, on at most 2048 of the samples.
    All-zero features have rank 0; features that are not finite give nan.
    """
    if not features.isfinite().all():
        return math.nan
    sigma = torch.linalg.svdvals(_sample(features, _RANKME_SAMPLES).double())
    if sigma.sum() == 0:
        return 0.0
    p = sigma / sigma.sum() + 1e-7
    return torch.exp(-(p * p.log()).sum()).item()


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
    pick = _draw(len(predictions), max_predictions).to(predictions.device)
    pick = pick[position[pick].argsort()]
    places, counts = torch.unique_consecutive(position[pick], return_counts=True)
    groups = zip(places.tolist(), pick.split(counts.tolist()), strict=True)
    points = [_points(predictions[rows], sample[rows], candidates[:, place]) for place, rows in groups]
    return torch.cat(points).mean().item()


def _predictions(step: Step) -> tuple[Tensor, Tensor, Tensor]:
    """All pairs' predictions [S, D] with the sample [S] and the position [S] of each."""
    if not any(tokens.at.total for tokens in step.predictions):
        raise ValueError("prediction retrieval needs predictions; this step has none")
    values = torch.cat([tokens.values for tokens in step.predictions])
    sample = torch.cat([tokens.at.samples for tokens in step.predictions])
    return values, sample, torch.cat([tokens.at.index for tokens in step.predictions])


def _points(guess: Tensor, own: Tensor, candidates: Tensor) -> Tensor:
    """[m]: 1 where sample `own` [m] is nearest to `guess` [m, D], 1/(ties) where it ties for it, else 0.

    candidates: [B, D], all samples' features at the one position that is guessed.
    """
    similarity = F.normalize(guess.float(), dim=1) @ F.normalize(candidates.float(), dim=1).T
    mine = similarity.gather(1, own[:, None])
    nearest = (similarity <= mine + _SAME).all(1)
    tied = (similarity >= mine - _SAME).sum(1)
    return nearest.float() / tied.clamp(min=1)


def _draw(count: int, most: int) -> Tensor:
    """Indices of at most `most` of `count` things: the same ones every time, in no regular pattern."""
    if count <= most:
        return torch.arange(count)
    return torch.randperm(count, generator=torch.Generator().manual_seed(0))[:most]


def _sample(features: Tensor, most: int) -> Tensor:
    return features[_draw(len(features), most).to(features.device)]


class AlarmSettings(Settings):
    """When the collapse alarm speaks."""

    std_below: float = Field(0.02, ge=0)
    """Feature standard deviation under which features count as collapsed to one direction (a freshly
    initialised encoder shows 0.4 to 0.8 on photographs)."""
    rankme_share: float = Field(0.3, ge=0, le=1)
    """RankMe under this share of its value at the first look counts as collapsing."""
    retrieval_share: float = Field(0.25, ge=0, le=1)
    """Prediction retrieval under this share of its best so far counts as lost, once that best is 10 % or
    more: below, the share is mostly the noise of chance."""
    looks: int = Field(3, ge=1)
    """So many looks in a row must say the same before the alarm speaks."""


@dataclass(frozen=True)
class CollapseReading:
    """What was measured at one logged step."""

    step: int
    rankme: float
    feature_std: float
    retrieval: float | None = None
    """Prediction retrieval, or None where the method has no predictions."""


def collapse_warning(history: Sequence[CollapseReading], settings: AlarmSettings) -> str | None:
    """What is wrong after the last look, in one line, or None. `history` runs from the first look on.

    Features that are not finite are reported at once; everything else after `settings.looks` looks.
    """
    last = history[-1] if history else None
    if last is None:
        return None
    if not (math.isfinite(last.rankme) and math.isfinite(last.feature_std)):
        return f"step {last.step}: the features are not finite; the run has diverged"
    found = [
        text for text in (_std(history, settings), _rank(history, settings), _lost(history, settings)) if text
    ]
    return f"step {last.step}: the features may be collapsing: {'; '.join(found)}" if found else None


def _std(history: Sequence[CollapseReading], settings: AlarmSettings) -> str | None:
    if not _lasting(history, settings, lambda look: look.feature_std < settings.std_below):
        return None
    return f"feature std {history[-1].feature_std:.3f} is under {settings.std_below:g} (0 is a full collapse)"


def _rank(history: Sequence[CollapseReading], settings: AlarmSettings) -> str | None:
    start = history[0].rankme
    if not _lasting(history, settings, lambda look: look.rankme < settings.rankme_share * start):
        return None
    now, share = history[-1].rankme, settings.rankme_share
    return f"RankMe {now:.1f} is under {share:.0%} of its {start:.1f} at the start"


def _lost(history: Sequence[CollapseReading], settings: AlarmSettings) -> str | None:
    best = max((look.retrieval for look in history if look.retrieval is not None), default=0.0)
    lost = settings.retrieval_share * best if best >= 0.1 else 0.0
    if not _lasting(history, settings, lambda look: look.retrieval is not None and look.retrieval < lost):
        return None
    now, share = history[-1].retrieval, settings.retrieval_share
    return f"prediction retrieval {now:.1%} is under {share:.0%} of its best {best:.1%}"


def _lasting(
    history: Sequence[CollapseReading], settings: AlarmSettings, bad: Callable[[CollapseReading], bool]
) -> bool:
    recent = history[-settings.looks :]
    return len(recent) == settings.looks and all(bad(look) for look in recent)
