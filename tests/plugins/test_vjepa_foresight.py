"""Predictions over time: an oracle is right, a stranger's clip is not; copies and other times by search."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor

from jepa_core import build_model, load_recipe, sample_masks
from jepa_core.assembly import build
from jepa_core.types import IndexSet, MaskPlan, Tokens
from jepa_vjepa.foresight import (
    another_time,
    compare,
    course,
    draw,
    foresight,
    future_plan,
    nearest_visible,
    pair_scores,
)
from tests.plugins.made_clips import write_video

GRID = (3, 2, 2)
N = 12


def plan_of(*hidden: list[int]) -> tuple[IndexSet, IndexSet]:
    """(visible, hidden) of each clip."""
    keep = torch.zeros(len(hidden), N, dtype=torch.bool)
    for row, tokens in enumerate(hidden):
        keep[row, tokens] = True
    return IndexSet.from_mask(~keep), IndexSet.from_mask(keep)


def scores(guess: Tensor, truth: Tensor, *hidden: list[int]) -> dict[str, Tensor]:
    visible, at = plan_of(*hidden)
    values = guess.flatten(0, 1)[at.flat(N)]
    return dict(pair_scores(Tokens(values, at, GRID), truth, visible))


def test_an_oracle_has_cosine_one_and_another_clips_truth_none() -> None:
    truth = torch.randn(40, N, 16, generator=torch.Generator().manual_seed(0)) + 5
    hidden = [[4, 5, 8, 9]] * 40
    right = scores(truth, truth, *hidden)["prediction"]
    assert right.isfinite().sum(0).tolist() == [0, 0, 0, 0, 40, 40, 0, 0, 40, 40, 0, 0]
    torch.testing.assert_close(right[:, [4, 5, 8, 9]], torch.ones(40, 4))
    stranger = scores(truth.roll(1, 0), truth, *hidden)["prediction"]
    assert abs(stranger.nanmean()) < 0.1, "what all clips share counts for nothing"
    noise = 1e-3 * torch.randn(truth.shape, generator=torch.Generator().manual_seed(1))
    shared = scores(truth.mean(0) + noise, truth, *hidden)["prediction"]
    assert abs(shared.nanmean()) < 0.1


def test_the_copy_is_of_the_nearest_visible_token_and_the_other_time_of_the_same_place() -> None:
    truth = torch.randn(3, N, 8, generator=torch.Generator().manual_seed(1))
    guess = torch.randn(3, N, 8, generator=torch.Generator().manual_seed(2))
    hidden = [[4, 8], [0, 4], [4, 5, 6, 7]]
    found = scores(guess, truth, *hidden)
    exact, own = truth - truth.mean(0), guess - truth.mean(0)

    def cosine(one: Tensor, other: Tensor) -> float:
        return float(one @ other / one.norm() / other.norm())

    copied = found["copy of the nearest visible token"]
    assert float(copied[0, 4]) == pytest.approx(cosine(exact[0, 0], exact[0, 4]), abs=1e-5)
    assert float(copied[1, 4]) == pytest.approx(cosine(exact[1, 5], exact[1, 4]), abs=1e-5)
    assert float(copied[2, 6]) == pytest.approx(cosine(exact[2, 2], exact[2, 6]), abs=1e-5)
    moved = found["prediction for another time"]
    assert float(moved[0, 4]) == pytest.approx(cosine(own[0, 8], exact[0, 4]), abs=1e-5)
    assert float(moved[0, 8]) == pytest.approx(cosine(own[0, 4], exact[0, 8]), abs=1e-5)
    assert moved[2].isnan().all(), "nothing else is hidden at these places"


def test_nearest_and_another_time_agree_with_a_search() -> None:
    keep = torch.rand(5, N, generator=torch.Generator().manual_seed(3)) < 0.4
    keep[:, 7] = True
    places = np.stack(np.unravel_index(np.arange(N), GRID), 1)
    near, other = nearest_visible(keep, GRID), another_time(keep, GRID)
    for row in range(5):
        seen = [i for i in range(N) if keep[row, i]]
        for i in range(N):
            away = [np.linalg.norm(places[i] - places[j]) for j in seen]
            assert np.linalg.norm(places[i] - places[near[row, i]]) == pytest.approx(min(away))
            later = [(i + 4 * ahead) % N for ahead in range(1, GRID[0]) if keep[row, (i + 4 * ahead) % N]]
            assert int(other[row, i]) == (later[0] if later else -1)


def test_a_course_is_the_mean_of_clips_with_their_error() -> None:
    values = torch.full((4, N), torch.nan)
    values[:, 4] = torch.tensor([0.1, 0.2, 0.3, 0.4])
    values[0, 5] = 0.3  # the first clip has two hidden tokens: their mean, .2, counts once
    found = course([values], GRID)
    assert found.mean.isnan().tolist() == [True, False, True]
    assert float(found.mean[1]) == pytest.approx(np.mean([0.2, 0.2, 0.3, 0.4]))
    assert float(found.error[1]) == pytest.approx(np.std([0.2, 0.2, 0.3, 0.4]) / np.sqrt(3))


def test_the_future_hides_the_second_half_for_every_pair() -> None:
    like = MaskPlan(*([plan_of([0])[side]] * 2 for side in (0, 1)), ((0, 0), (1, 1)))
    plan = future_plan(like, (4, 2, 2), 3)
    assert (len(plan.contexts), len(plan.targets), plan.pairs, plan.batch_size) == (2, 2, ((0, 0), (1, 1)), 3)
    assert plan.contexts[1].dense().tolist() == [list(range(8))] * 3
    assert plan.targets[0].dense().tolist() == [list(range(8, 16))] * 3


def test_the_section_of_a_run_on_clips(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    for name in "abcd":
        film = random.integers(0, 256, (12, 40, 40, 3), dtype=np.uint8)
        write_video(tmp_path / "clips" / f"{name}.mp4", film)
    own = ["data.name=clips", f"data.path={tmp_path / 'clips'}", "data.frame_step=1", "data.hold_out=time"]
    recipe = load_recipe("vjepa/selftest", *own, "data.test_share=0.8", "data.val_share=0.0")
    model = build_model(recipe).eval()
    with torch.no_grad():
        section = foresight(recipe, model, build("data", recipe.data))
        assert section is not None
        assert "tokens of 4 clips of the test split" in section.says
        left, right = section.draw().axes
        shape = model.encoder.view_shape()
        views = torch.randn(3, *shape)
        courses = compare(model, views, sample_masks(model, 3))
    assert [text.get_text() for text in section.draw().legends[0].get_texts()] == list(courses)
    assert (left.get_title("left"), right.get_title("left")) == (
        "hidden as in training",
        "the first half visible",
    )
    assert len(draw({"one": courses}).axes) == 1
    for one in courses.values():
        assert one.mean.shape == (model.grid()[0],)
        assert (one.mean.abs() <= 1 + 1e-5).all()


def test_images_have_no_such_section() -> None:
    recipe = load_recipe("ijepa/selftest")
    assert foresight(recipe, build_model(recipe), SimpleNamespace()) is None  # type: ignore[arg-type]
