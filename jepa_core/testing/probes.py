"""Checks of probes (`protocols.Probe`, `TokenProbe`): that a score means what a reader expects of it.

Each gets features of classes that lie far apart, of classes that overlap, and of classes that are identical.

Axes: n samples, D width, C classes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from einops import repeat
from torch import Tensor

from jepa_core.evaluate.probes import ProbeScores
from jepa_core.evaluate.scoring import NamesHeadline
from jepa_core.protocols import TokenProbe
from jepa_core.testing.outcomes import NotAsked, require, require_equal, untouched_randomness
from jepa_core.testing.subject import Subject

CLASSES, WIDTH, TRAIN, HELD_OUT = 4, 16, 240, 400

Labelled = tuple[Tensor, Tensor]
"""Features [n, D] and labels int64 [n]."""


@dataclass(frozen=True)
class ProbeCase:
    """A probe with its settings, and features to judge."""

    subject: Subject

    def make(self) -> Any:
        """A new one."""
        torch.manual_seed(0)
        return self.subject.component(self.subject.config)

    def scores(self, train: Labelled, held_out: Labelled) -> Mapping[str, float]:
        """The scores of a new probe."""
        return score(self.make(), train, held_out)

    def top1(self, train: Labelled, held_out: Labelled) -> float:
        """The share of held-out samples that it classifies correctly: its `top1`, or that of its guesses.

        Raises NotAsked for a probe that guesses no classes.
        """
        scores = self.scores(train, held_out)
        if "top1" in scores:
            return scores["top1"]
        if isinstance(scores, ProbeScores):
            return scores.guesses.cpu().eq(held_out[1]).double().mean().item()
        raise NotAsked("it guesses no classes: it has neither a score top1 nor guesses (ProbeScores)")

    def headline(self, train: Labelled, held_out: Labelled) -> Headline:
        """The score that stands in the table. Raises Failed where it is missing."""
        probe = self.make()
        scores = score(probe, train, held_out)
        require(bool(scores), "there are no scores")
        name = probe.headline if isinstance(probe, NamesHeadline) else next(iter(scores))
        require(name in scores, f"its headline {name!r} is not among its scores: {', '.join(scores)}")
        return Headline(name, scores[name], scores.get(f"{name}_se", 0.0), scores.get("chance"))


class Headline(NamedTuple):
    """The score of a probe that stands in the table."""

    name: str
    value: float
    error: float
    """Its standard error, 0 where the probe gives none."""
    chance: float | None
    """The probe's own chance level, None where it gives none."""


def score(probe: Any, train: Labelled, held_out: Labelled) -> Mapping[str, float]:
    """The scores of features [n, D]; a token probe gets them as the features of each of two tokens."""
    judge = probe
    if isinstance(probe, TokenProbe):
        judge = probe.on_tokens
        train, held_out = ((repeat(x, "n d -> n two d", two=2), y) for x, y in (train, held_out))
    scores: Mapping[str, float] = judge(train, held_out, CLASSES)
    return scores


def class_features(distance: float = 10.0) -> tuple[Labelled, Labelled]:
    """Training and held-out features; each class's mean is `distance` standard deviations from the origin."""
    draw = torch.Generator().manual_seed(7)
    parts = []
    for count in (TRAIN, HELD_OUT):
        labels = torch.arange(count) % CLASSES
        centres = distance * torch.eye(CLASSES, WIDTH)[labels]
        parts.append((centres + torch.randn(count, WIDTH, generator=draw), labels))
    return parts[0], parts[1]


def scores(case: ProbeCase) -> None:
    """Scores are finite numbers by name, the headline among them; `top1` is a share of 1."""
    train, held_out = class_features()
    scores = case.scores(train, held_out)
    nonfinite = [name for name, score in scores.items() if not math.isfinite(score)]
    require(not nonfinite, f"not finite: {', '.join(nonfinite)}")
    case.headline(train, held_out)
    top1 = scores.get("top1", 0.0)
    require(0 <= top1 <= 1, f"top1 is a share of 1; got {top1}")


def tells_apart(case: ProbeCase) -> None:
    """Classes that lie far apart are told apart: without a mistake, or by another headline than on noise."""
    try:
        top1 = case.top1(*class_features())
    except NotAsked:
        apart, noise = case.headline(*class_features()), case.headline(*class_features(0))
        error = 4 * math.hypot(apart.error, noise.error)
        message = (
            f"{apart.name} is {apart.value:.4g} of classes ten deviations apart, {noise.value:.4g} on noise"
        )
        require(abs(apart.value - noise.value) > error, message)
        return
    require(top1 == 1, f"classes ten deviations apart are guessed right in {top1:.1%}")


def chance_on_noise(case: ProbeCase) -> None:
    """Features that know nothing of the classes score as guessing does, within four standard errors.

    Asked of guessed classes, and of any other headline whose probe gives its `chance` and standard error.
    """
    try:
        top1 = case.top1(*class_features(0))
    except NotAsked:
        noise = case.headline(*class_features(0))
        if noise.chance is None or not noise.error:
            raise
        message = (
            f"on noise {noise.name} is {noise.value:.4g} ± {noise.error:.2g}; chance is {noise.chance:.4g}"
        )
        require(abs(noise.value - noise.chance) <= 4 * noise.error, message)
        return
    chance = 1 / CLASSES
    error = math.sqrt(chance * (1 - chance) / HELD_OUT)
    require(abs(top1 - chance) <= 4 * error, f"on noise top1 is {top1:.1%}; guessing gives {chance:.0%}")


def labels_unseen(case: ProbeCase) -> None:
    """Held-out labels are for scoring only: the guesses are the same whatever they are."""
    train, (features, labels) = class_features(0)
    # one guess a sample, so the scores with all labels 0, all 1, … add up to 1
    total = sum(case.top1(train, (features, torch.full_like(labels, c))) for c in range(CLASSES))
    message = f"with each class in turn as the only held-out label, top1 adds up to {total:.2f}, not to 1"
    require(abs(total - 1) < 1e-6, message)


def samples_alone(case: ProbeCase) -> None:
    """A held-out sample is judged by itself: two parts of them score what both together do."""
    train, (features, labels) = class_features(1.0)
    cut = HELD_OUT // 5
    parts = [(features[:cut], labels[:cut]), (features[cut:], labels[cut:])]
    in_parts = sum(case.top1(train, part) * len(part[1]) for part in parts) / HELD_OUT
    at_once = case.top1(train, (features, labels))
    message = f"top1 is {at_once:.4f} for all held-out samples at once, {in_parts:.4f} for two parts of them"
    require(abs(in_parts - at_once) < 1e-6, message)


def repeatable(case: ProbeCase) -> None:
    """The same features give the same scores, and no global randomness is drawn from."""
    train, held_out = class_features(1.0)
    probe = case.make()
    with untouched_randomness():
        first = score(probe, train, held_out)
    torch.manual_seed(99)
    second = score(probe, train, held_out)
    require(dict(first) == dict(second), f"the second time the scores are {dict(second)}, not {dict(first)}")


def inputs_as_they_are(case: ProbeCase) -> None:
    """No feature or label that it is given is changed in place."""
    inputs = [tensor for part in class_features() for tensor in part]
    copies = [tensor.clone() for tensor in inputs]
    case.scores((inputs[0], inputs[1]), (inputs[2], inputs[3]))
    for tensor, before in zip(inputs, copies, strict=True):
        require_equal(tensor, before, "features and labels after the probe")


CHECKS = (
    scores,
    tells_apart,
    chance_on_noise,
    labels_unseen,
    samples_alone,
    repeatable,
    inputs_as_they_are,
)
