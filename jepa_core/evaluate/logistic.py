"""Multinomial logistic regression solved to its optimum, within a budget of time.

What is unusual: the solver knows what it costs. It measures one evaluation of the objective, and where all
that could be asked of it would take longer than the budget, fewer iterations (and, where even few would take
too long, fewer samples) are used, and the plan says so. With time to spare the optimum is reached and the
budget changes nothing.

Axes: n samples, D width, C classes.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

Fit = tuple[Tensor, Tensor]
"""Weight [D, C] and bias [C]."""

_COVARIANCE_SAMPLES = 8192
_CHUNK_VALUES = 1 << 22
"""Logits that are computed at once: more would not stay in a processor's caches."""
HISTORY = 10
"""Pairs of steps and gradients that L-BFGS keeps, each of D·C numbers."""
_EVALUATIONS = 1.25
"""Of the objective for each iteration, at most."""
FEWEST_ITERATIONS = 12
"""Of L-BFGS, in each fit, before samples are left out instead."""
FEWEST_SAMPLES = 2048
"""Of a fit, before strengths are left out instead."""


class Logistic:
    """Multinomial logistic regression: mean cross-entropy + l2/2 · ‖W‖², minimised; the bias is free.

    x: float [n, D], roughly centred; y: int64 [n]. L-BFGS runs on V with W = L⁻ᵀ V, where L Lᵀ is the
    curvature at W = 0 (covariance / C + l2 · identity), and on the bias divided by √C (its curvature there is
    1/C). The optimum is the same and is reached in tens of iterations instead of hundreds, since correlated
    features no longer make the problem ill-conditioned. As the covariance only steers the way there, a part
    of the samples is enough for it.
    """

    def __init__(
        self, x: Tensor, y: Tensor, classes: int, max_iterations: int = 100, covariance: Tensor | None = None
    ) -> None:
        self.x, self.y, self.classes, self.max_iterations = x, y, classes, max_iterations
        if covariance is None:
            sample = x[shuffle_order(len(x))[:_COVARIANCE_SAMPLES].to(x.device)]
            covariance = sample.T @ sample / len(sample)
        self.covariance = covariance
        self.was_cut_off = False
        """Whether a fit ended at a limit on its iterations below `max_iterations`."""

    def subset(self, rows: Tensor) -> Logistic:
        """The same problem on some of the samples."""
        return Logistic(self.x[rows], self.y[rows], self.classes, self.max_iterations, self.covariance)

    def fit(self, l2: float, start: Fit | None = None, iterations: int | None = None) -> Fit:
        """The optimal weight [D, C] and bias [C], searched for from `start`.

        By default the search starts from zero weights and the classes' frequencies. `iterations` is the most
        that L-BFGS does, by default `max_iterations`.
        """
        root, bias_scale = self.precondition(l2), self.classes**0.5
        weight, bias = start or (self.x.new_zeros(self.x.shape[1], self.classes), self._log_frequencies())
        v, u = (root @ weight).requires_grad_(), (bias / bias_scale).requires_grad_()
        solver = torch.optim.LBFGS(
            [v, u],
            max_iter=iterations or self.max_iterations,
            tolerance_grad=1e-5,
            tolerance_change=1e-6,
            history_size=HISTORY,
            line_search_fn="strong_wolfe",
        )

        @torch.no_grad()
        def objective() -> Tensor:
            weight = torch.linalg.solve_triangular(root, v, upper=True)
            loss, slope, offset = self.loss_and_gradient(weight, u * bias_scale)
            slope.add_(weight, alpha=l2)
            v.grad = torch.linalg.solve_triangular(root.T, slope, upper=False).contiguous()
            u.grad = offset.mul_(bias_scale)
            return loss + l2 / 2 * weight.square().sum()

        solver.step(objective)
        done = solver.state[v]["n_iter"]
        self.was_cut_off |= iterations is not None and iterations <= done < self.max_iterations
        return torch.linalg.solve_triangular(root, v.detach(), upper=True), u.detach() * bias_scale

    def _log_frequencies(self) -> Tensor:
        """[C]: the optimal bias of zero weights; of a class that does not occur, one that is low enough."""
        counts = torch.bincount(self.y, minlength=self.classes).to(self.x.dtype)
        return (counts.clamp(min=1e-3) / len(self.y)).log()

    def loss_and_gradient(self, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Mean cross-entropy, its gradient by the weight [D, C] and by the bias [C]."""
        loss, slope, offset = bias.new_zeros(()), torch.zeros_like(weight), torch.zeros_like(bias)
        for x, y in self._chunks():
            logits = torch.addmm(bias, x, weight)
            log_sum = logits.logsumexp(1, keepdim=True)
            labels = y[:, None]
            loss += (log_sum - logits.gather(1, labels)).sum()
            error = logits.sub_(log_sum).exp_()
            error.scatter_add_(1, labels, torch.full_like(log_sum, -1.0))
            slope.addmm_(x.T, error)
            offset += error.sum(0)
        return loss / len(self.y), slope.div_(len(self.y)), offset.div_(len(self.y))

    def _chunks(self) -> Iterator[tuple[Tensor, Tensor]]:
        rows = max(256, _CHUNK_VALUES // self.classes)
        return zip(self.x.split(rows), self.y.split(rows), strict=True)

    def precondition(self, l2: float) -> Tensor:
        """Lᵀ [D, D], upper triangular, where L Lᵀ is about the curvature at W = 0.

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


def shuffle_order(count: int) -> Tensor:
    """A fixed shuffle of `count` samples, so that a source sorted by class is split fairly."""
    return torch.randperm(count, generator=torch.Generator().manual_seed(0))


@dataclass(frozen=True)
class Effort:
    """The most that fits of one kind may do."""

    iterations: int
    """Of L-BFGS in each fit."""
    samples: int
    """Training samples of each fit."""

    def __str__(self) -> str:
        return f"at most {self.iterations} iterations on {self.samples:,} samples"


@dataclass(frozen=True)
class FitPlan:
    """What a search over strengths and the fit with the chosen one may do."""

    choice: Effort | None
    """Of the fit with each strength; None where only one is tried."""
    fit: Effort
    full_seconds: float
    """Predicted time of an unlimited search whose fits all take the most iterations."""
    limited: bool
    """Whether that is over the budget, and less is done."""


def plan_fits(solver: Logistic, strengths: int, budget: float) -> FitPlan:
    """What fits into `budget` seconds, half of it for the choice, by the measured time of one evaluation.

    Iterations are limited first, then samples, then strengths. The least is `FEWEST_ITERATIONS` on
    `FEWEST_SAMPLES` with one strength, whatever that takes.
    """
    most, count = solver.max_iterations, len(solver.y)
    everything = Effort(most, count)
    cost = measure_fit(solver)

    def affordable_effort(fits: int, seconds: float) -> Effort:
        few = min(FEWEST_ITERATIONS, most)
        per_fit = seconds / fits - cost.setup
        iterations = int(per_fit / cost.iteration(count))
        if iterations >= few:
            return Effort(min(iterations, most), count)
        samples = int((per_fit / few - cost.fixed) / cost.sample)
        return Effort(few, min(count, max(samples, FEWEST_SAMPLES)))

    def seconds(fits: int, effort: Effort) -> float:
        return fits * (cost.setup + effort.iterations * cost.iteration(effort.samples))

    full = seconds(strengths + 1 if strengths > 1 else 1, everything)
    if full <= budget:
        return FitPlan(everything if strengths > 1 else None, everything, full, False)
    choice = affordable_effort(strengths, budget / 2)
    if strengths == 1 or seconds(strengths, choice) > budget / 2:
        return FitPlan(None, affordable_effort(1, budget), full, True)
    return FitPlan(choice, affordable_effort(1, budget / 2), full, True)


@dataclass(frozen=True)
class FitCost:
    """Measured seconds of the parts of a fit."""

    setup: float
    """Of the preconditioner, once a fit."""
    fixed: float
    """Of an iteration, whatever the number of samples."""
    sample: float
    """More of an iteration for each sample."""

    def iteration(self, samples: int) -> float:
        """Of an L-BFGS iteration on so many samples."""
        return self.fixed + samples * self.sample


def measure_fit(solver: Logistic) -> FitCost:
    """The cost of a fit, from one measured call of each of its parts.

    An iteration evaluates the objective up to 1.25 times, and goes twice over the history of L-BFGS.
    """
    width, classes = solver.x.shape[1], solver.classes
    rows = torch.arange(min(len(solver.y), max(256, _CHUNK_VALUES // classes)))
    sample = solver.subset(rows.to(solver.y.device))
    weight, bias = solver.x.new_zeros(width, classes), solver.x.new_zeros(classes)
    root = solver.precondition(1.0)
    setup = _seconds(lambda: solver.precondition(1.0), weight)
    solve = _seconds(lambda: torch.linalg.solve_triangular(root, weight, upper=True).contiguous(), weight)
    product = _seconds(lambda: weight.add(weight, alpha=0.5), weight)
    evaluation = _seconds(lambda: sample.loss_and_gradient(weight, bias), weight)
    fixed = _EVALUATIONS * (2 * solve + 4 * product) + (4 * HISTORY + 8) * product
    return FitCost(setup, fixed, _EVALUATIONS * evaluation / len(rows))


def _seconds(call: Callable[[], object], on: Tensor) -> float:
    """The shorter of two calls: the first may have to load libraries.

    On the CPU by the time of the thread that calls, which does its share of the work: what other programs do
    meanwhile is not to change a result.
    """
    clock = time.perf_counter if on.is_cuda else time.thread_time
    best = float("inf")
    for _ in range(2):
        start = clock()
        call()
        if on.is_cuda:
            torch.cuda.synchronize(on.device)
        best = min(best, clock() - start)
    return best
