"""Probes whose headline is no `top1` are checked by the score that they name, or by their guesses."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from jepa_core import ComponentSettings
from jepa_core.evaluate import KNN, ProbeScores
from jepa_core.testing import Outcome, check_probe, examine


class Accuracy(KNN):
    """Nearest neighbours, whose share has another name."""

    def __call__(self, train: Any, held_out: Any, classes: int) -> ProbeScores:
        scores = super().__call__(train, held_out, classes)
        return ProbeScores({"accuracy": scores["top1"]}, scores.guesses)


class FitsOnBoth(Accuracy):
    """It looks at held-out labels."""

    def __call__(self, train: Any, held_out: Any, classes: int) -> ProbeScores:
        both = tuple(torch.cat(parts) for parts in zip(train, held_out, strict=True))
        return super().__call__(both, held_out, classes)


class Separation:
    """The variance of held-out features between training means, as a share; it guesses nothing."""

    class Config(ComponentSettings):
        """It has no settings."""

    headline = "between"
    floor = 0.0

    def __init__(self, config: Config) -> None:
        self.config = config

    def __call__(self, train: Any, held_out: Any, classes: int) -> dict[str, float]:
        means = torch.stack([train[0][train[1] == c].mean(0) for c in range(classes)])
        between = means.var(0).sum() / (means.var(0).sum() + held_out[0].var(0).sum())
        value = self.floor + (1 - self.floor) * between.item()
        return {"classes": float(classes), "between": value, "between_se": 0.02, "chance": 0.0}


class SameOfAll(Separation):
    """It says the same whatever the features are."""

    floor = 1.0


def by_property(component: type) -> dict[str, Outcome]:
    return {outcome.property: outcome for outcome in examine("probe", component)}


def test_a_probe_that_guesses_is_checked_by_its_guesses_whatever_its_score_is_called() -> None:
    assert {outcome.state for outcome in examine("probe", Accuracy)} == {"holds"}
    assert by_property(FitsOnBoth)["labels unseen"].state == "fails"


def test_a_probe_that_guesses_nothing_is_checked_by_its_headline() -> None:
    check_probe(Separation)
    states = {name: outcome.state for name, outcome in by_property(Separation).items()}
    assert {name for name, state in states.items() if state == "not asked"} == {
        "labels unseen",
        "samples alone",
    }
    assert by_property(Separation)["samples alone"].said.startswith("it guesses no classes")


@pytest.mark.parametrize(
    ("prop", "said"),
    [
        ("tells apart", "between is 1 of classes ten deviations apart, 1 on noise"),
        ("chance on noise", "on noise between is 1 ± 0.02; chance is 0"),
    ],
)
def test_a_headline_that_says_nothing_fails(prop: str, said: str) -> None:
    assert by_property(SameOfAll)[prop].said == said
    assert by_property(SameOfAll)[prop].state == "fails"


def test_a_probe_without_scores_fails() -> None:
    class Silent(Separation):
        """It has nothing to say."""

        def __call__(self, train: Any, held_out: Any, classes: int) -> dict[str, float]:
            return {}

    assert by_property(Silent)["scores"].said == "there are no scores"
