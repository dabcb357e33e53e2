"""RankMe and spread on known spectra; prediction retrieval on predictions whose score is known; the alarm."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from jepa_core.evaluate import (
    AlarmSettings,
    CollapseReading,
    collapse_warning,
    feature_std,
    prediction_retrieval,
    rankme,
)
from jepa_core.types import IndexSet, MaskPlan, Tokens
from jepa_core.types.step import Step

BATCH, GRID, WIDTH = 16, (3, 4), 24
TOKENS = 12


def test_rankme_of_equal_singular_values_is_the_width() -> None:
    assert rankme(torch.eye(32)) == pytest.approx(32, rel=1e-3)


def test_rankme_of_one_direction_is_one() -> None:
    assert rankme(torch.arange(1, 21)[:, None] * torch.randn(1, 8)) == pytest.approx(1, abs=1e-3)


def test_rankme_is_the_papers_formula() -> None:
    sigma = np.array([5.0, 3.0, 1.0, 0.5])
    left, right = (torch.linalg.qr(torch.randn(n, 4, dtype=torch.float64))[0] for n in (50, 4))
    p = sigma / sigma.sum() + 1e-7
    features = (left * torch.tensor(sigma)) @ right.T
    assert rankme(features) == pytest.approx(np.exp(-(p * np.log(p)).sum()), rel=1e-9)


def test_rankme_does_not_centre() -> None:
    assert rankme(torch.randn(64, 8) + 1000) < 1.2


def test_rankme_looks_at_2048_samples_the_same_ones() -> None:
    features = torch.randn(3000, 4)
    assert rankme(features) == rankme(features)
    assert rankme(features) == pytest.approx(4, abs=0.01)


def test_rankme_of_nothing_and_of_nan() -> None:
    assert rankme(torch.zeros(8, 4)) == 0.0
    assert math.isnan(rankme(torch.tensor([[1.0, math.nan]])))


def test_feature_std_follows_its_definition() -> None:
    features = torch.randn(50, 6) + 1
    unit = features.double().numpy()
    unit = unit / np.linalg.norm(unit, axis=1, keepdims=True) * np.sqrt(6)
    assert feature_std(features) == pytest.approx(unit.std(0).mean())


def test_feature_std_is_one_for_all_directions_and_zero_for_one() -> None:
    assert feature_std(torch.randn(4000, 64)) == pytest.approx(1, abs=0.02)
    assert feature_std(torch.rand(100, 1) * torch.randn(1, 64).expand(100, 64)) == pytest.approx(0, abs=1e-6)


def random_keep(seed: int) -> IndexSet:
    """About half of the tokens, different ones and different numbers for each sample."""
    return IndexSet.from_mask(torch.rand(BATCH, TOKENS, generator=torch.Generator().manual_seed(seed)) < 0.5)


def step_of(predictions: list[Tokens]) -> Step:
    return Step(tuple(predictions), tuple(predictions), (), None, MaskPlan())


def predicted(dense: Tensor, keeps: list[IndexSet]) -> Step:
    """A step whose predictions are what `dense` [B, N, D] holds at the hidden tokens."""
    whole = Tokens(dense.reshape(-1, dense.shape[-1]), IndexSet.full(BATCH, TOKENS), GRID)
    return step_of([whole.gather(keep) for keep in keeps])


KEEPS = [random_keep(1), random_keep(2)]


def test_perfect_predictions_are_all_retrieved_from_ragged_sets() -> None:
    candidates = torch.randn(BATCH, TOKENS, WIDTH)
    assert KEEPS[0].uniform is None
    assert prediction_retrieval(predicted(candidates * 3, KEEPS), candidates) == 1.0


def test_retrieval_is_a_brute_force_count() -> None:
    candidates = torch.randn(BATCH, TOKENS, WIDTH)
    step = predicted(candidates + 2 * torch.randn(BATCH, TOKENS, WIDTH), KEEPS)
    hits = []
    for tokens in step.predictions:
        for value, sample, place in zip(tokens.values, tokens.at.samples, tokens.at.index, strict=True):
            scores = [float(value @ c / c.norm()) for c in candidates[:, place]]
            hits.append(scores.index(max(scores)) == sample)
    assert 0.1 < np.mean(hits) < 0.95
    assert prediction_retrieval(step, candidates) == pytest.approx(np.mean(hits), abs=1e-6)


def test_predictions_that_know_only_positions_are_at_chance() -> None:
    positions = torch.randn(1, TOKENS, WIDTH).expand(BATCH, -1, -1)
    candidates = 3 * positions + torch.randn(BATCH, TOKENS, WIDTH)
    every = [IndexSet.full(BATCH, TOKENS)]
    assert prediction_retrieval(predicted(positions, every), candidates) == pytest.approx(1 / BATCH)


def test_predictions_of_another_image_are_never_right() -> None:
    candidates = torch.randn(BATCH, TOKENS, WIDTH)
    assert prediction_retrieval(predicted(candidates.roll(1, 0), KEEPS), candidates) == 0.0


def test_collapsed_targets_tie_and_give_exactly_chance() -> None:
    positions = torch.randn(1, TOKENS, WIDTH).expand(BATCH, -1, -1)
    noise = 1e-7 * torch.randn(BATCH, TOKENS, WIDTH)
    assert prediction_retrieval(predicted(positions, KEEPS), positions + noise) == pytest.approx(1 / BATCH)
    constant = torch.ones(BATCH, TOKENS, WIDTH)
    assert prediction_retrieval(predicted(constant, KEEPS), constant) == pytest.approx(1 / BATCH)


def test_predictions_that_are_not_finite_win_nothing() -> None:
    candidates = torch.randn(BATCH, TOKENS, WIDTH)
    assert prediction_retrieval(predicted(candidates * math.nan, KEEPS), candidates) == 0.0


def test_a_bounded_draw_stands_for_all_predictions() -> None:
    candidates = torch.randn(BATCH, TOKENS, WIDTH)
    step = predicted(candidates + 2 * torch.randn(BATCH, TOKENS, WIDTH), [IndexSet.full(BATCH, TOKENS)] * 8)
    every, some = (prediction_retrieval(step, candidates, most) for most in (10_000, 512))
    assert every != some
    assert some == pytest.approx(every, abs=4 * math.sqrt(every * (1 - every) / 512))
    assert some == prediction_retrieval(step, candidates, 512)


def test_candidates_of_another_shape_are_an_error() -> None:
    with pytest.raises(
        ValueError, match=r"\[B, N, D\] = \[16, 12, 24\] on grid \(3, 4\); got \[16, 11, 24\]"
    ):
        prediction_retrieval(
            predicted(torch.randn(BATCH, TOKENS, WIDTH), KEEPS), torch.randn(BATCH, 11, WIDTH)
        )


def test_a_step_without_predictions_is_an_error() -> None:
    with pytest.raises(ValueError, match="this step has none"):
        prediction_retrieval(step_of([]), torch.randn(BATCH, TOKENS, WIDTH))


def looks(*values: tuple[float, float, float | None]) -> list[CollapseReading]:
    return [CollapseReading(10 * i, *value) for i, value in enumerate(values)]


ALARM = AlarmSettings(std_below=0.05, rankme_share=0.5, retrieval_share=0.25, looks=2)


def test_a_healthy_run_is_left_alone() -> None:
    assert collapse_warning([], ALARM) is None
    assert collapse_warning(looks((20, 0.8, 0.01), (15, 0.7, 0.3), (30, 0.8, 0.6)), ALARM) is None


def test_one_bad_look_is_not_enough() -> None:
    assert collapse_warning(looks((20, 0.8, 0.9), (2, 0.01, 0.1)), ALARM) is None
    assert collapse_warning(looks((20, 0.8, 0.9), (2, 0.01, 0.1), (19, 0.8, 0.9)), ALARM) is None


def test_the_alarm_names_what_is_wrong_and_when() -> None:
    warning = collapse_warning(looks((20, 0.8, 0.9), (9, 0.04, 0.2), (8, 0.03, 0.1)), ALARM)
    assert warning == (
        "step 20: the features may be collapsing: feature std 0.030 is under 0.05 (0 is a full collapse); "
        "RankMe 8.0 is under 50% of its 20.0 at the start; "
        "prediction retrieval 10.0% is under 25% of its best 90.0%"
    )


def test_noise_around_chance_is_not_a_loss() -> None:
    assert collapse_warning(looks((20, 0.8, 0.02), (20, 0.8, 0.002), (20, 0.8, 0.001)), ALARM) is None


def test_the_alarm_does_without_retrieval() -> None:
    warning = collapse_warning(looks((20, 0.8, None), (9, 0.8, None), (8, 0.8, None)), ALARM)
    assert (
        warning == "step 20: the features may be collapsing: RankMe 8.0 is under 50% of its 20.0 at the start"
    )


def test_features_that_are_not_finite_are_reported_at_once() -> None:
    warning = collapse_warning(looks((20, 0.8, 0.9), (math.nan, math.nan, 0.0)), ALARM)
    assert warning == "step 10: the features are not finite; the run has diverged"
