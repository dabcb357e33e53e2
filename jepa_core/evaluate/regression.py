"""The evaluation `regression`: how well frozen features tell the vector targets of samples, by ridge.

R² is 0 for whoever predicts the training mean, and 1 for a perfect prediction; RMSE is in the target's unit,
and its chance level is that of the training mean. What is unusual: both are compared with the mean of the
training targets, not of those that are scored, so that the chance levels can be reached without looking.

Axes: n training samples, m held-out samples, D width of the features, K elements of the target.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from jepa_core.errors import UserError
from jepa_core.evaluate.batches import describe_samples, first_sample, read_units, tensor_of
from jepa_core.evaluate.context import EvaluationContext
from jepa_core.evaluate.features import raw_pixels
from jepa_core.evaluate.logistic import shuffle_order
from jepa_core.evaluate.score_tables import EvaluationTable, MetricScore

STRENGTHS = (1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0, 100.0)
"""Of the ridge, relative to the mean square of the standardised features."""
CHOSEN_ON = 0.1
"""Share of the training samples that is kept out of the fit to choose the strength."""
FEWEST = 4
"""Training samples."""
PIXELS = "raw pixels"


@dataclass(frozen=True, eq=False)
class Gathered:
    """A split's features float64 [n, D] by row of the table, and its targets float64 [n, K] by name."""

    features: Mapping[str, Tensor]
    targets: Mapping[str, Tensor]
    samples: str
    """What the samples are, in the plural."""


def regression(context: EvaluationContext) -> list[EvaluationTable] | None:
    """A table for each vector among the samples' targets; None where they have none.

    Rows are the trained encoder, its twin and, of images and clips, the pixels. Raises UserError for too few
    training samples, and for targets or features that are not finite.
    """
    held_out = _gather(context, context.split) if _has_targets(context) else None
    if held_out is None:
        return None
    train = held_out if context.split == "train" else _gather(context, "train")
    if train is None:
        raise UserError(f"the training split has no vector among its targets; the {context.split} split has")
    units = read_units(context.source)
    return [
        _table(context, train, held_out, name, units.get(f"targets.{name}", "")) for name in held_out.targets
    ]


def is_vector(value: object) -> bool:
    """Whether a target is a number or a vector of numbers."""
    tensor = tensor_of(value)
    return tensor is not None and tensor.dim() <= 1 and tensor.numel() > 0 and not tensor.is_complex()


def _has_targets(context: EvaluationContext) -> bool:
    """By the fields of the run's values, as a recording says its targets by window only; without any, by the
    first sample."""
    if context.transforms is not None:
        return any(place.startswith("targets.") for place in context.transforms.outputs)
    sample = first_sample(context.samples())
    return sample is not None and bool(sample.targets)


def _are_vectors(values: object) -> bool:
    """`is_vector` of the targets of a batch."""
    tensor = tensor_of(values)
    return tensor is not None and tensor.dim() > 0 and is_vector(tensor[0])


def _gather(context: EvaluationContext, split: str) -> Gathered | None:
    """None where the first batch has no vector among its targets."""
    features: dict[str, list[Tensor]] = {}
    targets: dict[str, list[Tensor]] = {}
    samples = "samples"
    for batch in context.batches(split):
        if not features:
            targets = {name: [] for name, values in batch.targets.items() if _are_vectors(values)}
        if not targets:
            return None
        view = next(iter(batch.views.values()))
        samples = describe_samples(view)
        for row, model in context.models.items():
            features.setdefault(row, []).append(model.features(view, role=context.role).double().cpu())
        if samples in ("images", "clips"):
            pixels = raw_pixels(tuple(view.shape[1:]))
            values = pixels.pool_tokens(pixels.encode(view))
            features.setdefault(PIXELS, []).append(values.double().cpu())
        for name in targets:
            target = torch.as_tensor(batch.targets[name]).double().cpu()
            targets[name].append(target.reshape(len(target), -1))
    return Gathered(
        {row: torch.cat(parts) for row, parts in features.items()},
        {name: torch.cat(parts) for name, parts in targets.items()},
        samples,
    )


def _table(
    context: EvaluationContext, train: Gathered, held_out: Gathered, name: str, unit: str
) -> EvaluationTable:
    fit, judge = train.targets[name], held_out.targets[name]
    if not (fit.isfinite().all() and judge.isfinite().all()):
        raise UserError(f"the targets {name!r} are not all finite")
    scores = {}
    for row, values in train.features.items():
        context.progress.begin(f"ridge on {row}", None)
        scores[row] = score_ridge((values, fit), (held_out.features[row], judge), unit)
    count = len(fit)
    fitted = (
        "Ridge fitted on these very samples, so no measure of new ones."
        if train is held_out
        else f"Ridge fitted on {count:,} training {train.samples}."
    )
    width = f" of {fit.shape[1]} elements" if fit.shape[1] > 1 else ""
    return context.table(
        scores,
        count=len(judge),
        samples=held_out.samples,
        task=name,
        note=f"{fitted} The target {name!r}{width}; R² is the mean over its elements.",
    )


def score_ridge(
    train: tuple[Tensor, Tensor], held_out: tuple[Tensor, Tensor], unit: str = ""
) -> dict[str, MetricScore]:
    """`r2` and `rmse` (in `unit`) of a ridge from features [n, D] to targets [n, K], with standard errors.

    Elements of the target that do not vary are left out of R². Raises UserError for too few samples and for
    values that are not finite.
    """
    if len(train[0]) < FEWEST or not len(held_out[0]):
        raise UserError(
            f"a ridge takes {FEWEST} training samples or more, and one to score; got {len(train[0])} and "
            f"{len(held_out[0])}"
        )
    if not all(part[0].isfinite().all() for part in (train, held_out)):
        raise UserError("the features are not finite: the encoder has diverged")
    predicted = fit_ridge(*train)(held_out[0])
    guess = train[1].mean(0)
    errors, spreads = (predicted - held_out[1]).square(), (guess - held_out[1]).square()
    rmse, rmse_se = _root_mean(errors)
    r2, r2_se = _explained(errors, spreads)
    return {
        "r2": MetricScore(value=r2, se=r2_se, chance=0.0),
        "rmse": MetricScore(value=rmse, se=rmse_se, unit=unit, chance=_root_mean(spreads)[0], better="lower"),
    }


def _explained(errors: Tensor, spreads: Tensor) -> tuple[float, float]:
    """(R², its standard error) from squared errors and squared distances to the training mean, [m, K] each.

    The error is that of a ratio of two means, by the delta method.
    """
    vary = spreads.mean(0) > 0
    if not vary.any():
        return math.nan, math.nan
    errors, spreads = errors[:, vary], spreads[:, vary]
    ratio = errors.mean(0) / spreads.mean(0)
    influence = ((errors - ratio * spreads) / spreads.mean(0)).mean(1)
    return (1 - ratio).mean().item(), _error_of_mean(influence)


def _root_mean(squares: Tensor) -> tuple[float, float]:
    """(root of the mean, its standard error) of squares [m, K], by the delta method."""
    of_sample = squares.mean(1)
    root = math.sqrt(of_sample.mean().item())
    return root, _error_of_mean(of_sample) / (2 * root) if root else 0.0


def _error_of_mean(values: Tensor) -> float:
    return (values.std(correction=0) / math.sqrt(len(values))).item()


@dataclass(frozen=True, eq=False)
class Ridge:
    """A linear map [D] to [K] of standardised features."""

    centre: Tensor
    scale: Tensor
    weight: Tensor
    intercept: Tensor
    strength: float

    def __call__(self, features: Tensor) -> Tensor:
        """Predictions [m, K] of features [m, D]."""
        return (features - self.centre) * self.scale @ self.weight + self.intercept


def fit_ridge(features: Tensor, targets: Tensor) -> Ridge:
    """The ridge of float64 features [n, D] to targets [n, K], its strength chosen on a part of them.

    Of `STRENGTHS` the one with the least squared error, relative to each element's variance, on `CHOSEN_ON`
    of the samples, drawn with a fixed seed; the fit is then made on all.
    """
    order = shuffle_order(len(features))
    out = min(max(1, round(len(features) * CHOSEN_ON)), len(features) - 2)
    rows, judged = order[out:], order[:out]
    spread = targets.var(0, correction=0)
    weights = torch.where(spread > 0, 1 / spread, 0.0)
    losses = [
        ((ridge(features[judged]) - targets[judged]).square() * weights).mean().item()
        for ridge in _fits(features[rows], targets[rows], STRENGTHS)
    ]
    strength = STRENGTHS[losses.index(min(losses))]
    return _fits(features, targets, (strength,))[0]


def _fits(features: Tensor, targets: Tensor, strengths: tuple[float, ...]) -> list[Ridge]:
    """The ridges of these strengths: (XᵀX / n + strength · I) W = Xᵀ Y / n, or its dual where n < D."""
    centre, mean = features.mean(0), targets.mean(0)
    scale = 1 / features.std(0, correction=0).clamp(min=1e-9)
    x, y = (features - centre) * scale, targets - mean
    count, width = x.shape
    dual = count < width
    gram = (x @ x.T if dual else x.T @ x) / count
    ridges = []
    for strength in strengths:
        factor = torch.linalg.cholesky(gram + strength * torch.eye(len(gram), dtype=gram.dtype))
        solved = torch.cholesky_solve((y if dual else x.T @ y) / count, factor)
        ridges.append(Ridge(centre, scale, x.T @ solved if dual else solved, mean, strength))
    return ridges
