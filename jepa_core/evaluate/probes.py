"""The two standard probes of frozen features: nearest neighbours and a linear classifier.

What is unusual: the linear probe is solved, not trained. It is a multinomial logistic regression whose
optimum is unique, found by full-batch L-BFGS in coordinates scaled by the curvature of the objective, so
there is no learning rate to tune and two runs give the same number. Its L2 strength is chosen on a part
of the training features; the held-out features are only scored.

Axes: n training features, m held-out features, D width, C classes, k neighbours.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from pydantic import Field, PositiveFloat
from torch import Tensor
from torch.nn import functional as F

from jepa_core.errors import UserError
from jepa_core.settings.base import ComponentSettings

Labelled = tuple[Tensor, Tensor]
"""Features [n, D] and labels int64 [n]."""

Fit = tuple[Tensor, Tensor]
"""Weight [D, C] and bias [C]."""

_CHUNK = 512
_COVARIANCE_SAMPLES = 8192


def binomial_error(share: float, count: int) -> float:
    """Standard error of a share of `count` independent trials: sqrt(p (1 - p) / n)."""
    return math.sqrt(share * (1 - share) / count)


class KNN:
    """Nearest neighbours by cosine similarity: each held-out feature takes the vote of its k nearest.

    Plain majority by default; classes with equal votes are told apart by their summed similarity. With a
    temperature, votes weigh exp(similarity / temperature), as in Wu et al. 2018 (arXiv 1805.01978, §3.4).
    """

    class Config(ComponentSettings):
        """Settings of the nearest-neighbour probe."""

        k: int = Field(20, ge=1)
        """Neighbours that vote."""
        temperature: float | None = Field(None, gt=0)
        """Weighs each vote by exp(cosine similarity / temperature); none: every vote counts the same."""

    def __init__(self, config: Config) -> None:
        self.config = config

    def __call__(self, train: Labelled, held_out: Labelled, classes: int) -> Mapping[str, float]:
        """`top1` and its standard error `top1_se`, both shares of 1.

        Raises UserError where there are fewer training features than neighbours, or unlabelled samples.
        """
        _check(train, held_out, classes)
        if len(train[0]) < self.config.k:
            raise UserError(
                f"setting 'k' of the probe knn is {self.config.k}, but there are {len(train[0])} training "
                "samples to choose neighbours from; lower it"
            )
        bank = F.normalize(train[0].float(), dim=1).T
        queries = F.normalize(held_out[0].float(), dim=1).split(_CHUNK)
        guesses = [self._vote(query @ bank, train[1], classes) for query in queries]
        return _top1(torch.cat(guesses), held_out[1])

    def _vote(self, similarity: Tensor, labels: Tensor, classes: int) -> Tensor:
        nearest = similarity.topk(self.config.k, dim=1)
        if self.config.temperature is None:
            # each vote is 1, and a tie-break that adds up to less than one vote
            weight = 1 + (1 + nearest.values) / (2 * (self.config.k + 1))
        else:
            weight = ((nearest.values - 1) / self.config.temperature).exp()
        votes = similarity.new_zeros(len(similarity), classes)
        return votes.scatter_add(1, labels[nearest.indices], weight).argmax(1)


class LinearProbe:
    """Multinomial logistic regression on standardised features, solved to its optimum.

    Objective: mean cross-entropy + l2/2 · ‖W‖² (the bias is free). Features are standardised with the
    mean and deviation of the training part.
    """

    class Config(ComponentSettings):
        """Settings of the linear probe."""

        l2: tuple[PositiveFloat, ...] = Field((1e-4, 1e-3, 1e-2, 1e-1, 1.0), min_length=1)
        """Strengths to choose from; the best on a part of the training features is taken."""
        chosen_on: float = Field(0.1, gt=0, lt=1)
        """Share of the training features that is kept out of the fit to choose the strength."""
        max_iterations: int = Field(100, ge=1)
        """L-BFGS iterations for each fit, at most."""

    def __init__(self, config: Config) -> None:
        self.config = config

    def __call__(self, train: Labelled, held_out: Labelled, classes: int) -> Mapping[str, float]:
        """`top1`, its standard error `top1_se`, and the chosen strength `l2`.

        Raises UserError for fewer than two training samples, or unlabelled ones.
        """
        _check(train, held_out, classes)
        mean, deviation = train[0].float().mean(0), train[0].float().std(0, correction=0)
        scale = 1 / deviation.clamp(min=1e-6)
        solver = Logistic((train[0].float() - mean) * scale, train[1], classes, self.config.max_iterations)
        l2, start = self._choose(solver)
        weight, bias = solver.fit(l2, start)
        logits = ((held_out[0].float() - mean) * scale) @ weight + bias
        return {**_top1(logits.argmax(1), held_out[1]), "l2": l2}

    def _choose(self, solver: Logistic) -> tuple[float, Fit | None]:
        """The strength that is most accurate on the part kept out (the stronger of equals), and its fit."""
        strengths = sorted(self.config.l2, reverse=True)
        if len(strengths) == 1:
            return strengths[0], None
        count = len(solver.y)
        order = _order(count).to(solver.y.device)
        out = min(max(1, round(count * self.config.chosen_on)), count - 1)
        part, x_out, y_out = solver.part(order[out:]), solver.x[order[:out]], solver.y[order[:out]]
        fits: list[Fit] = []
        for l2 in strengths:
            fits.append(part.fit(l2, start=fits[-1] if fits else None))
        scores = [(x_out @ weight + bias).argmax(1).eq(y_out).double().mean().item() for weight, bias in fits]
        best = scores.index(max(scores))
        return strengths[best], fits[best]


class Logistic:
    """Multinomial logistic regression: mean cross-entropy + l2/2 · ‖W‖², minimised.

    x: float [n, D], roughly centred; y: int64 [n]. L-BFGS runs on V with W = L⁻ᵀ V, where L Lᵀ is the
    curvature at W = 0 (covariance / C + l2 · identity): the same optimum, reached in tens of iterations
    instead of hundreds, because correlated features no longer stretch the valley. As the covariance only
    steers the way there, a part of the samples is enough for it.
    """

    def __init__(
        self, x: Tensor, y: Tensor, classes: int, max_iterations: int = 100, covariance: Tensor | None = None
    ) -> None:
        self.x, self.y, self.classes, self.max_iterations = x, y, classes, max_iterations
        if covariance is None:
            few = x[_order(len(x))[:_COVARIANCE_SAMPLES].to(x.device)]
            covariance = few.T @ few / len(few)
        self.covariance = covariance

    def part(self, rows: Tensor) -> Logistic:
        """The same problem on some of the samples."""
        return Logistic(self.x[rows], self.y[rows], self.classes, self.max_iterations, self.covariance)

    @torch.enable_grad()
    def fit(self, l2: float, start: Fit | None = None) -> Fit:
        """The optimal weight [D, C] and bias [C], searched for from `start` (zeros)."""
        root = self._root(l2)
        first = start or (self.x.new_zeros(self.x.shape[1], self.classes), self.x.new_zeros(self.classes))
        v, bias = (root @ first[0]).requires_grad_(), first[1].clone().requires_grad_()
        solver = torch.optim.LBFGS(
            [v, bias],
            max_iter=self.max_iterations,
            tolerance_grad=1e-5,
            tolerance_change=1e-6,
            line_search_fn="strong_wolfe",
        )

        def objective() -> Tensor:
            solver.zero_grad()
            weight = torch.linalg.solve_triangular(root, v, upper=True)
            loss = F.cross_entropy(self.x @ weight + bias, self.y) + l2 / 2 * weight.square().sum()
            loss.backward()
            return loss

        solver.step(objective)
        return torch.linalg.solve_triangular(root, v.detach(), upper=True), bias.detach()

    def _root(self, l2: float) -> Tensor:
        """Lᵀ [D, D], upper triangular.

        Of many more features than samples the covariance is singular up to rounding, and more than l2 may be
        needed on its diagonal. That changes the way to the optimum, not the optimum.
        """
        curvature = self.covariance / self.classes
        curvature.diagonal().add_(l2)
        root, failed = torch.linalg.cholesky_ex(curvature)
        if failed:
            curvature.diagonal().add_(4 * torch.finfo(curvature.dtype).eps * curvature.trace())
            root = torch.linalg.cholesky(curvature)
        return root.T.contiguous()


def _order(count: int) -> Tensor:
    """A fixed shuffle of `count` samples, so that a source sorted by class is split fairly."""
    return torch.randperm(count, generator=torch.Generator().manual_seed(0))


def _top1(guesses: Tensor, labels: Tensor) -> dict[str, float]:
    top1 = guesses.eq(labels).double().mean().item()
    return {"top1": top1, "top1_se": binomial_error(top1, len(labels))}


def _check(train: Labelled, held_out: Labelled, classes: int) -> None:
    for part, (features, labels) in (("training", train), ("held-out", held_out)):
        if len(features) != len(labels) or len(labels) < (2 if part == "training" else 1):
            raise UserError(
                f"a probe takes {part} features [n, D] with labels [n], n of 2 or more; "
                f"got {list(features.shape)} and {list(labels.shape)}"
            )
        if labels.min() < 0 or labels.max() >= classes:
            raise UserError(
                f"a probe needs a label 0 … {classes - 1} for every sample; "
                f"the {part} part has {int(labels.min())} … {int(labels.max())}"
            )
        if not features.isfinite().all():
            raise UserError(f"the {part} features are not finite: the encoder has diverged")
