"""Batch size and steps that are settled when a run starts: by the images, by hours, once."""

from __future__ import annotations

from itertools import count
from pathlib import Path

import pytest

from jepa_core import UserError, load_recipe, train
from jepa_core.assembly import build
from jepa_core.data.field_transforms.pipeline import field_transforms
from jepa_core.recipes.duration import steps_of
from jepa_core.runs import settle
from jepa_core.runs.events_file import read_events
from jepa_core.runs.folder import RECIPE
from jepa_core.runs.settle import adopt_settled, shrink_batch, spend_hours
from jepa_core.runtime.distributed import Ranks
from tests.core.runs.test_run import Watcher

HOURS = ("train.hours=1", "train.epochs=1000000")


@pytest.mark.parametrize(
    ("images", "size"), [(10_000, 128), (1024, 128), (1023, 64), (500, 32), (100, 8), (20, 2), (2, 2)]
)
def test_the_batch_is_halved_until_an_epoch_has_its_steps(tiny_recipe: Path, images: int, size: int) -> None:
    recipe = load_recipe(tiny_recipe, "train.batch_size=128", "train.epoch_steps=8", "train.micro_batch=64")
    train = shrink_batch(recipe, images).train
    assert (train.batch_size, train.micro_batch) == (size, min(size, 64))
    assert shrink_batch(load_recipe(tiny_recipe, "train.batch_size=128"), images).train.batch_size == 128


def test_one_image_is_too_few(tiny_recipe: Path) -> None:
    recipe = load_recipe(tiny_recipe, "train.epoch_steps=8")
    with pytest.raises(UserError, match=r"^the training split has 1 image; a run takes 2 or more$"):
        shrink_batch(recipe, 1)


def spend(recipe, folder: Path, tick: float):
    """Hours spent by a clock that goes on by `tick` seconds whenever it is looked at."""
    ticks = count()
    source = build("data", recipe.data)
    samples, transforms = source.split("train"), field_transforms(source, recipe)
    return spend_hours(recipe, samples, transforms, Ranks(), folder, lambda: tick * next(ticks))


def test_hours_become_the_steps_that_fit_into_them(tmp_path: Path, tiny_recipe: Path) -> None:
    settled, budget = spend(load_recipe(tiny_recipe, *HOURS), tmp_path, 2.0)
    assert budget is not None
    assert 1 <= budget.seconds_per_step <= 4
    assert settled.train.steps == budget.steps
    assert budget.steps == pytest.approx(0.95 * 3600 / budget.seconds_per_step, rel=0.02)
    assert settled.train.hours == 1
    assert list(tmp_path.iterdir()) == []


def test_hours_are_no_more_than_the_epochs_and_give_one_step_at_least(
    tmp_path: Path, tiny_recipe: Path
) -> None:
    settled, _ = spend(load_recipe(tiny_recipe, "train.hours=1", "train.epochs=2"), tmp_path, 0.01)
    assert settled.train.steps == 2 * (52 // 8)
    settled, _ = spend(load_recipe(tiny_recipe, "train.hours=1e-6"), tmp_path, 10.0)
    assert settled.train.steps == 1


def test_steps_go_before_hours(tmp_path: Path, tiny_recipe: Path) -> None:
    recipe = load_recipe(tiny_recipe, "train.hours=1", "train.steps=5")
    assert spend(recipe, tmp_path, 1.0) == (recipe, None)


@pytest.fixture
def few_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settle, "SECONDS", 0.0)


def test_steps_are_fixed_once_and_the_run_is_that_of_its_steps(
    tmp_path: Path, tiny_recipe: Path, few_seconds: None
) -> None:
    words = ("train.hours=1", "train.epochs=2", "train.batch_size=32", "train.epoch_steps=6")
    recipe = load_recipe(tiny_recipe, *words)
    first = Watcher()
    run = train(recipe, tmp_path / "hours", watch=[first])
    written = load_recipe(run.folder / RECIPE)
    assert (written.train.steps, written.train.hours, written.train.batch_size) == (12, 1, 8)
    (event,) = read_events(run.folder, "time_budget")
    assert event["steps"] == 12
    plain = Watcher()
    train(load_recipe(tiny_recipe, "train.steps=12", "train.batch_size=8"), tmp_path / "steps", watch=[plain])
    assert [line["loss"] for line in first.metrics] == [line["loss"] for line in plain.metrics]


def test_a_resumed_run_measures_nothing_and_goes_on_bit_for_bit(
    tmp_path: Path, tiny_recipe: Path, few_seconds: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ("train.hours=1", "train.epochs=1", "train.batch_size=32", "train.epoch_steps=6")
    recipe = load_recipe(tiny_recipe, *words, "train.checkpoint_every=2")
    whole = Watcher()
    train(recipe, tmp_path / "whole", watch=[whole])
    with pytest.raises(KeyboardInterrupt):
        train(recipe, tmp_path / "cut", watch=[Watcher(stops=3)])
    monkeypatch.setattr(settle, "_time_steps", lambda *_: pytest.fail("a resumed run is not timed"))
    rest = Watcher()
    train(recipe, tmp_path / "cut", resume="auto", watch=[rest])
    assert [line["loss"] for line in rest.metrics] == [line["loss"] for line in whole.metrics][2:]


def test_what_was_settled_is_adopted_and_what_is_asked_otherwise_is_not(tiny_recipe: Path) -> None:
    asked = load_recipe(tiny_recipe, *HOURS, "train.batch_size=64", "train.epoch_steps=6")
    written = load_recipe(tiny_recipe, *HOURS, "train.steps=9", "train.batch_size=8", "train.epoch_steps=6")
    assert adopt_settled(asked, written) == written
    longer = adopt_settled(load_recipe(tiny_recipe, "train.hours=2"), written)
    assert longer.train.steps is None
    other = load_recipe(tiny_recipe, *HOURS, "train.batch_size=48", "train.epoch_steps=6")
    assert adopt_settled(other, written).train.batch_size == 48


def test_another_number_of_hours_is_refused_on_resuming(
    tmp_path: Path, tiny_recipe: Path, few_seconds: None
) -> None:
    words = ("train.epochs=1",)
    train(load_recipe(tiny_recipe, "train.hours=1", *words), tmp_path / "run", watch=[])
    with pytest.raises(UserError, match=r"train.hours \(1.0 → 2.0\), train.steps \(6 → none\)"):
        train(load_recipe(tiny_recipe, "train.hours=2", *words), tmp_path / "run", resume=True, watch=[])


def test_a_share_of_the_steps_is_warm_up(tiny_recipe: Path) -> None:
    text = tiny_recipe.read_text().replace(", warmup_steps = 2", ", warmup_share = 0.25")
    recipe = tiny_recipe.with_name("share.toml")
    recipe.write_text(text)
    assert steps_of(load_recipe(recipe, "train.steps=20")) == (20, 5)
    assert steps_of(load_recipe(recipe, "train.steps=20", "optimizer.warmup_steps=1")) == (20, 1)


def test_hours_alone_are_no_number_of_steps_for_who_needs_one(tiny_recipe: Path) -> None:
    with pytest.raises(UserError, match=r"train.hours becomes a number of steps when a run starts"):
        steps_of(load_recipe(tiny_recipe, "train.hours=1"), 64)
