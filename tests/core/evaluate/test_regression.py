"""The ridge evaluation: exact fits, chance without knowledge, standard errors as in simulation."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from jepa_core import Field, Sample, build_model, load_recipe
from jepa_core.data.field_transforms.pipeline import field_transforms
from jepa_core.errors import UserError
from jepa_core.evaluate import EvaluationContext
from jepa_core.evaluate.regression import STRENGTHS, fit_ridge, is_vector, regression, score_ridge

Part = tuple[torch.Tensor, torch.Tensor]


def linear(count: int, noise: float, seed: int, width: int = 6, elements: int = 2) -> Part:
    """Features and targets of one fixed linear map, with noise on the targets."""
    weight = torch.randn(width, elements, generator=torch.Generator().manual_seed(99), dtype=torch.float64)
    draw = torch.Generator().manual_seed(seed)
    x = torch.randn(count, width, generator=draw, dtype=torch.float64)
    return x, x @ weight + 3 + noise * torch.randn(count, elements, generator=draw, dtype=torch.float64)


def test_a_linear_target_is_told_exactly_and_in_its_unit() -> None:
    scores = score_ridge(linear(300, 0, 0), linear(100, 0, 1), "m/s")
    assert scores["r2"].value == pytest.approx(1, abs=1e-6)
    assert scores["rmse"].value == pytest.approx(0, abs=1e-3)
    assert (scores["rmse"].unit, scores["rmse"].better, scores["r2"].better) == ("m/s", "lower", "higher")


def test_noise_is_the_error_that_remains() -> None:
    scores = score_ridge(linear(4000, 0.5, 0), linear(4000, 0.5, 1))
    assert scores["rmse"].value == pytest.approx(0.5, rel=0.05)
    spread = linear(4000, 0.5, 1)[1]
    expected = (1 - 0.25 / spread.var(0)).mean().item()
    assert scores["r2"].value == pytest.approx(expected, abs=0.01)


def test_features_that_know_nothing_are_at_chance() -> None:
    """R² is not above 0 by more than its error, and RMSE is that of the training mean."""
    (_, y), (_, z) = linear(500, 1, 0), linear(500, 1, 1)
    draw = torch.Generator().manual_seed(5)
    blind = [torch.randn(500, 6, generator=draw, dtype=torch.float64) for _ in range(2)]
    scores = score_ridge((blind[0], y), (blind[1], z))
    assert abs(scores["r2"].value) < 0.05
    assert scores["rmse"].value == pytest.approx(scores["rmse"].chance, rel=0.03)


def test_the_training_mean_scores_exactly_chance() -> None:
    """Features that do not vary leave the mean of the training targets to predict."""
    (_, y), (_, z) = linear(50, 1, 0), linear(40, 1, 1)
    scores = score_ridge((torch.ones(50, 3).double(), y), (torch.ones(40, 3).double(), z))
    assert scores["r2"].value == pytest.approx(scores["r2"].chance, abs=1e-12)
    assert scores["rmse"].value == pytest.approx(scores["rmse"].chance)


@pytest.mark.parametrize("metric", ["r2", "rmse"])
def test_the_standard_error_is_that_of_a_simulation(metric: str) -> None:
    """One ridge judged on many held-out draws: its errors are the deviation of the scores."""
    train = linear(400, 1.0, 0)
    scores = [score_ridge(train, linear(150, 1.0, seed))[metric] for seed in range(1, 121)]
    deviation = torch.tensor([score.value for score in scores]).std().item()
    mean_error = sum(score.se or 0 for score in scores) / len(scores)
    assert mean_error == pytest.approx(deviation, rel=0.2)


def test_the_strength_is_chosen_and_few_samples_of_wide_features_are_solved() -> None:
    """More features than samples: the dual gives what the primal formula gives."""
    x, y = linear(30, 0.1, 0, width=80)
    ridge = fit_ridge(x, y)
    assert ridge.strength in STRENGTHS
    z = (x - x.mean(0)) / x.std(0, correction=0)
    expected = torch.linalg.solve(
        z.T @ z / 30 + ridge.strength * torch.eye(80).double(), z.T @ (y - y.mean(0)) / 30
    )
    assert torch.allclose(ridge.weight, expected, atol=1e-8)
    noise = torch.randn(600, 40, generator=torch.Generator().manual_seed(1)).double()
    blind = torch.randn(600, 1, generator=torch.Generator().manual_seed(2)).double()
    assert fit_ridge(noise, blind).strength >= 1, "features of noise are shrunk"


def test_an_element_that_does_not_vary_is_left_out_of_r2() -> None:
    (x, y), (u, v) = linear(200, 0, 0), linear(100, 0, 1)
    y, v = (torch.cat([part, torch.full((len(part), 1), 7.0)], 1) for part in (y, v))
    assert score_ridge((x, y), (u, v))["r2"].value == pytest.approx(1, abs=1e-6)
    flat = torch.full((200, 1), 7.0).double()
    assert math.isnan(score_ridge((x, flat), (u, flat[:100]))["r2"].value)


def test_too_few_samples_and_lost_features_are_one_line() -> None:
    x, y = linear(100, 0, 0)
    with pytest.raises(UserError, match=r"a ridge takes 4 training samples or more, .* got 3 and 100"):
        score_ridge((x[:3], y[:3]), (x, y))
    with pytest.raises(UserError, match="the features are not finite: the encoder has diverged"):
        score_ridge((x / 0, y), (x, y))


@pytest.mark.parametrize(
    ("value", "is_one"),
    [
        (1.5, True),
        ([1, 2], True),
        (torch.ones(3), True),
        (torch.ones(3, 2), False),
        ("up", False),
        (["up"], False),
    ],
)
def test_what_a_vector_is(value: object, is_one: bool) -> None:
    assert is_vector(value) is is_one


class Film:
    """Six frames, each of one brightness; a window says that of its first frame."""

    def __init__(self, seed: int) -> None:
        draw = torch.Generator().manual_seed(seed)
        self.values = torch.randint(256, (6,), generator=draw, dtype=torch.uint8)

    def starts(self, frames: int) -> range:
        return range(7 - frames)

    def window(self, start: int, frames: int) -> Sample:
        shown = self.values[start : start + frames, None, None, None].expand(-1, 3, 16, 16)
        return Sample({"image": shown}, targets={"light": self.values[start : start + 1].float()})


class Films:
    classes, note = None, "films"

    def __len__(self) -> int:
        return 40

    def __getitem__(self, index: int) -> Sample:
        return Sample({"image": Film(index)})


class FilmSource:
    def __init__(self, **more: Field) -> None:
        self.more = more

    def fields(self) -> dict[str, Field]:
        return {"views.image": Field("image")} | {f"targets.{k}": field for k, field in self.more.items()}

    def split(self, name: str) -> Films:
        return Films()


@pytest.mark.parametrize("light", [True, False])
def test_targets_that_only_the_window_of_a_recording_brings_are_told(tiny_recipe: Path, light: bool) -> None:
    """They stand in no sample before its window is read; a source without targets has no table."""
    recipe = load_recipe(tiny_recipe)
    source = FilmSource(light=Field("vector", (1,), units="cd")) if light else FilmSource()
    model, twin = build_model(recipe), build_model(recipe, seed=1)
    for one in (model, twin):
        one.transforms = field_transforms(source, recipe)
        one.transforms.set_view_shapes({"": one.encoder.view_shape()})
    tables = regression(EvaluationContext(recipe, model.eval(), twin.eval(), source, split="test"))
    if not light:
        assert tables is None
        return
    (table,) = tables or []
    assert (table.task, table.count) == ("light", 40)
    rows = {row.name: row.scores for row in table.rows}
    assert rows["raw pixels"]["r2"].value > 0.99
    assert rows["trained"]["rmse"].unit == "cd"
