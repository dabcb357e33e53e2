"""The two standard probes of frozen features: nearest neighbours and a linear classifier.

What is unusual: the linear probe is solved, not trained. It is a multinomial logistic regression whose
optimum is unique, found by full-batch L-BFGS in coordinates scaled by the curvature of the objective, so
there is no learning rate to tune and two runs give the same number. Its L2 strength is chosen on a part
of the training features; the held-out features are only scored.

Axes: n training features, m held-out features, D width, C classes, k neighbours.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from typing import Protocol, runtime_checkable

import torch
from pydantic import Field, PositiveFloat
from torch import Tensor
from torch.nn import functional as F

from jepa_core.errors import UserError
from jepa_core.evaluate.linear_head import Labelled, LinearHead, fit_linear_head
from jepa_core.settings.base import ComponentSettings

_CHUNK = 512

log = logging.getLogger("jepa.evaluate")


class ProbeScores(dict[str, float]):
    """Scores by name, as a probe returns them, with its guess for each held-out sample.

    A probe that guesses classes returns one instead of a plain dictionary, so that two runs can be compared
    sample by sample.
    """

    def __init__(self, scores: Mapping[str, float], guesses: Tensor, note: str = "") -> None:
        super().__init__(scores)
        self.guesses = guesses
        """int64 [m]: the class that is guessed."""
        self.note = note
        """What a reader of the scores has to know; the table says it below itself."""


@runtime_checkable
class LeaveOneOut(Protocol):
    """A probe that can score the training samples themselves without giving each sample its own answer."""

    def leave_one_out(self, samples: Labelled, classes: int) -> Mapping[str, float]:
        """Scores by name, each sample judged by all others."""
        ...


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

    def __call__(self, train: Labelled, held_out: Labelled, classes: int) -> ProbeScores:
        """`top1` and its standard error `top1_se`, both shares of 1.

        Raises UserError where there are fewer training features than neighbours, or unlabelled samples.
        """
        _check(train, held_out, classes)
        self._check_count(len(train[0]))
        bank = F.normalize(train[0].float(), dim=1).T
        queries = F.normalize(held_out[0].float(), dim=1).split(_CHUNK)
        guesses = [self._vote(query @ bank, train[1], classes) for query in queries]
        return top1_scores(torch.cat(guesses), held_out[1])

    def leave_one_out(self, samples: Labelled, classes: int) -> ProbeScores:
        """The same scores of the training samples, none of which is a neighbour of its own.

        Raises UserError where there are not more samples than neighbours, or unlabelled ones.
        """
        _check(samples, samples, classes)
        self._check_count(len(samples[0]) - 1)
        unit = F.normalize(samples[0].float(), dim=1)
        guesses = []
        for first in range(0, len(unit), _CHUNK):
            similarity = unit[first : first + _CHUNK] @ unit.T
            similarity.diagonal(offset=first).fill_(-torch.inf)
            guesses.append(self._vote(similarity, samples[1], classes))
        return top1_scores(torch.cat(guesses), samples[1])

    def _check_count(self, neighbours: int) -> None:
        if neighbours < self.config.k:
            raise UserError(
                f"setting 'k' of the probe knn is {self.config.k}, but there are {neighbours} training "
                "samples to choose neighbours from; lower it"
            )

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
    mean and deviation of the training part. A problem that would take longer than the budget is solved less
    exactly, and a line says how (see `logistic.plan_fits`).
    """

    class Config(ComponentSettings):
        """Settings of the linear probe."""

        l2: tuple[PositiveFloat, ...] = Field((1e-4, 1e-3, 1e-2, 1e-1, 1.0), min_length=1)
        """Strengths to choose from; the best on a part of the training features is taken."""
        chosen_on: float = Field(0.1, gt=0, lt=1)
        """Share of the training features that is kept out of the fit to choose the strength."""
        max_iterations: int = Field(100, ge=1)
        """L-BFGS iterations for each fit, at most."""
        budget: float = Field(60.0, gt=0)
        """Seconds that the fits on one kind of features may take, by a measured prediction for a machine with
        nothing else to do: where they could take longer, iterations, samples and strengths are cut, and a
        line says so if that mattered."""

    def __init__(self, config: Config) -> None:
        self.config = config

    def __call__(self, train: Labelled, held_out: Labelled, classes: int) -> ProbeScores:
        """`top1`, its standard error `top1_se`, and the chosen strength `l2`.

        Raises UserError for fewer than two training samples, or unlabelled ones.
        """
        _check(train, held_out, classes)
        head = fit_linear_head(
            train,
            classes,
            strengths=self.config.l2,
            chosen_on=self.config.chosen_on,
            max_iterations=self.config.max_iterations,
            budget=self.config.budget,
        )
        scores = top1_scores(head.guess(held_out[0]), held_out[1], l2=head.l2)
        if head.was_cut:
            scores.note = self._say_what_was_cut(head, classes)
        return scores

    def _say_what_was_cut(self, head: LinearHead, classes: int) -> str:
        """Logs a line for a result that more time would have changed; returns it for the table."""
        plan = head.plan
        chosen = f"strength chosen with {plan.choice}; " if plan.choice else ""
        if plan.choice is None and len(self.config.l2) > 1:
            chosen = "strength not chosen but the middle one; "
        log.warning(
            "probe linear: %s classes of %s features may take %.0f s, over its budget of %g s "
            "(probes.linear.budget): %sfitted with %s",
            f"{classes:,}",
            f"{len(head.weight):,}",
            plan.full_seconds,
            self.config.budget,
            chosen,
            plan.fit,
        )
        return f"solved less exactly to keep to its budget of {self.config.budget:g} s, with {plan.fit}"


def top1_scores(guesses: Tensor, labels: Tensor, **more: float) -> ProbeScores:
    """`top1` and its standard error of int64 guesses [m], further scores after them; keeps the guesses."""
    top1 = guesses.eq(labels).double().mean().item()
    scores = {"top1": top1, "top1_se": binomial_error(top1, len(labels)), **more}
    return ProbeScores(scores, guesses)


def _check(train: Labelled, held_out: Labelled, classes: int) -> None:
    for part, (features, labels) in (("training", train), ("held-out", held_out)):
        if len(features) != len(labels) or len(labels) < (2 if part == "training" else 1):
            raise UserError(
                f"a probe takes {part} features [n, D] with labels [n], n of 2 or more; "
                f"got {list(features.shape)} and {list(labels.shape)}"
            )
        check_part(part, (features, labels), classes)


def check_part(part: str, samples: Labelled, classes: int, probe: str = "a probe") -> None:
    """Raises UserError, which names the part and the probe, for labels that are no classes, and for features
    that are not finite."""
    features, labels = samples
    if labels.min() < 0 or labels.max() >= classes:
        raise UserError(
            f"{probe} needs a label 0 … {classes - 1} for every sample; "
            f"the {part} part has {int(labels.min())} … {int(labels.max())}"
        )
    if not features.isfinite().all():
        raise UserError(f"the {part} features are not finite: the encoder has diverged")
