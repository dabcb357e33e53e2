"""A linear classifier on frozen features, solved, with its L2 strength chosen on a part of the training
samples.

What is unusual: the classifier is kept, so that one fit can be scored on several sets (clean, corrupted), and
so is its accuracy on the part that chose the strength, by which several heads can be compared without a look
at the held-out samples.

Axes: n training samples, m held-out samples, D width, C classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from jepa_core.evaluate.logistic import Fit, FitPlan, Logistic, plan_fits, shuffle_order

Labelled = tuple[Tensor, Tensor]
"""Features [n, D] and labels int64 [n]."""


@dataclass(frozen=True, eq=False)
class LinearHead:
    """Logits [m, C] of features [m, D], and how the classifier came about."""

    mean: Tensor
    """[D], subtracted from the features."""
    scale: Tensor
    """[D], or one number: what centred features are multiplied by."""
    weight: Tensor
    bias: Tensor
    l2: float
    chosen_accuracy: float | None
    """On the training samples that chose the strength, fitted on the others; None where nothing was
    chosen."""
    plan: FitPlan
    was_cut: bool
    """Whether more time would have changed the result."""

    def __call__(self, features: Tensor) -> Tensor:
        """Logits [m, C]."""
        return ((features.float() - self.mean) * self.scale) @ self.weight + self.bias

    def guess(self, features: Tensor) -> Tensor:
        """The most probable class of each sample, int64 [m]."""
        return self(features).argmax(1)


def fit_linear_head(
    train: Labelled,
    classes: int,
    *,
    strengths: Sequence[float],
    chosen_on: float = 0.1,
    max_iterations: int = 100,
    budget: float = 60.0,
    standardise: bool = True,
) -> LinearHead:
    """Multinomial logistic regression on centred features: mean cross-entropy + l2/2 · ‖W‖², the bias free.

    With `standardise` each feature is divided by its deviation, as batch norm without affine does with the
    statistics of the training set; without, all by one number, the root of their mean square. Of the
    `strengths` the most accurate on a share `chosen_on` of the training samples is taken, the stronger of
    equals; the fit is then made on all. What would take longer than `budget` seconds is solved less exactly.
    """
    features = train[0].float()
    mean = features.mean(0)
    deviation = features.std(0, correction=0)
    if not standardise:
        deviation = deviation.square().mean().sqrt()
    scale = 1 / deviation.clamp(min=1e-6)
    solver = Logistic((features - mean) * scale, train[1], classes, max_iterations)
    plan = plan_fits(solver, len(strengths), budget)
    l2, start, accuracy, was_cut = _choose(solver, strengths, chosen_on, plan)
    rows = shuffle_order(len(solver.y))[: plan.fit.samples].to(solver.y.device)
    problem = solver if plan.fit.samples == len(solver.y) else solver.subset(rows)
    weight, bias = problem.fit(l2, start, plan.fit.iterations)
    was_cut |= problem.was_cut_off or plan.fit.samples < len(solver.y)
    return LinearHead(mean, scale, weight, bias, l2, accuracy, plan, was_cut)


def _choose(
    solver: Logistic, strengths: Sequence[float], chosen_on: float, plan: FitPlan
) -> tuple[float, Fit | None, float | None, bool]:
    """The strength that is most accurate on the part kept out (the stronger of equals), its fit, its
    accuracy, and whether more time could have changed the choice.

    Without an effort, the strength in the middle.
    """
    strengths, effort = sorted(strengths, reverse=True), plan.choice
    if effort is None:
        return strengths[len(strengths) // 2], None, None, len(strengths) > 1
    count = len(solver.y)
    order = shuffle_order(count).to(solver.y.device)
    out = min(max(1, round(count * chosen_on)), count - 1)
    x_out, y_out = solver.x[order[:out]], solver.y[order[:out]]
    part = solver.subset(order[out : out + effort.samples])
    fits: list[Fit] = []
    for l2 in strengths:
        fits.append(part.fit(l2, fits[-1] if fits else None, effort.iterations))
    scores = [(x_out @ weight + bias).argmax(1).eq(y_out).double().mean().item() for weight, bias in fits]
    best = scores.index(max(scores))
    return strengths[best], fits[best], scores[best], part.was_cut_off or effort.samples < count
