"""What is asked of probes (`protocols.Probe`, `TokenProbe`): that a score means what a reader takes it for.

Each is shown features of classes that lie far apart, of classes that overlap, and of classes that nothing
tells apart.

Axes: n samples, D width, C classes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from einops import repeat
from torch import Tensor

from jepa_core.protocols import TokenProbe
from jepa_core.testing.outcomes import require, require_equal, untouched_randomness
from jepa_core.testing.subject import Subject

CLASSES, WIDTH, TRAIN, HELD_OUT = 4, 16, 240, 400

Labelled = tuple[Tensor, Tensor]
"""Features [n, D] and labels int64 [n]."""


@dataclass(frozen=True)
class ProbeCase:
    """A probe with its settings, and features to judge."""

    subject: Subject

    def make(self) -> Any:
        """A fresh one."""
        torch.manual_seed(0)
        return self.subject.component(self.subject.config)

    def scores(self, train: Labelled, held_out: Labelled) -> Mapping[str, float]:
        """What a fresh probe says."""
        return judged(self.make(), train, held_out)

    def top1(self, train: Labelled, held_out: Labelled) -> float:
        """The share of held-out samples that it guesses right."""
        return self.scores(train, held_out)["top1"]


def judged(probe: Any, train: Labelled, held_out: Labelled) -> Mapping[str, float]:
    """What a probe says of features [n, D]; one of tokens gets them as the features of each of two tokens."""
    judge = probe
    if isinstance(probe, TokenProbe):
        judge = probe.on_tokens
        train, held_out = ((repeat(x, "n d -> n two d", two=2), y) for x, y in (train, held_out))
    scores: Mapping[str, float] = judge(train, held_out, CLASSES)
    return scores


def apart(distance: float = 10.0) -> tuple[Labelled, Labelled]:
    """Training and held-out features of classes that lie so many deviations from the origin; 0: on it."""
    draw = torch.Generator().manual_seed(7)
    parts = []
    for count in (TRAIN, HELD_OUT):
        labels = torch.arange(count) % CLASSES
        centres = distance * torch.eye(CLASSES, WIDTH)[labels]
        parts.append((centres + torch.randn(count, WIDTH, generator=draw), labels))
    return parts[0], parts[1]


def scores(case: ProbeCase) -> None:
    """Scores are finite numbers by name, `top1` among them, a share of 1."""
    found = case.scores(*apart())
    strange = [name for name, score in found.items() if not math.isfinite(score)]
    require(not strange, f"not finite: {', '.join(strange)}")
    require("top1" in found, f"there is no score 'top1'; got {', '.join(found) or 'none'}")
    require(0 <= found["top1"] <= 1, f"top1 is a share of 1; got {found['top1']}")


def tells_apart(case: ProbeCase) -> None:
    """Classes that lie far apart are told apart without a mistake."""
    top1 = case.top1(*apart())
    require(top1 == 1, f"classes ten deviations apart are guessed right in {top1:.1%}")


def chance_on_noise(case: ProbeCase) -> None:
    """Features that know nothing of the classes score as guessing does, within four standard errors."""
    chance = 1 / CLASSES
    error = math.sqrt(chance * (1 - chance) / HELD_OUT)
    top1 = case.top1(*apart(0))
    require(abs(top1 - chance) <= 4 * error, f"on noise top1 is {top1:.1%}; guessing gives {chance:.0%}")


def labels_unseen(case: ProbeCase) -> None:
    """Held-out labels are for scoring only: the guesses are the same whatever they are."""
    train, (features, labels) = apart(0)
    # one guess a sample, so the scores with all labels 0, all 1, … add up to 1
    whole = sum(case.top1(train, (features, torch.full_like(labels, c))) for c in range(CLASSES))
    said = f"with each class in turn as the only held-out label, top1 adds up to {whole:.2f}, not to 1"
    require(abs(whole - 1) < 1e-6, said)


def samples_alone(case: ProbeCase) -> None:
    """A held-out sample is judged by itself: two parts of them score what both together do."""
    train, (features, labels) = apart(1.0)
    cut = HELD_OUT // 5
    parts = [(features[:cut], labels[:cut]), (features[cut:], labels[cut:])]
    alone = sum(case.top1(train, part) * len(part[1]) for part in parts) / HELD_OUT
    together = case.top1(train, (features, labels))
    said = f"top1 is {together:.4f} for all held-out samples at once, {alone:.4f} for two parts of them"
    require(abs(alone - together) < 1e-6, said)


def repeatable(case: ProbeCase) -> None:
    """The same features give the same scores, and no global randomness is drawn from."""
    train, held_out = apart(1.0)
    probe = case.make()
    with untouched_randomness():
        first = judged(probe, train, held_out)
    torch.manual_seed(99)
    second = judged(probe, train, held_out)
    require(dict(first) == dict(second), f"the second time the scores are {dict(second)}, not {dict(first)}")


def inputs_as_they_are(case: ProbeCase) -> None:
    """No feature or label that it is given is changed in place."""
    given = [tensor for part in apart() for tensor in part]
    copies = [tensor.clone() for tensor in given]
    case.scores((given[0], given[1]), (given[2], given[3]))
    for tensor, before in zip(given, copies, strict=True):
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
