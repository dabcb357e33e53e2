"""Stacked levels: which frames, prompts and actions a prediction hangs on; groups, roll-outs, bad input."""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Generator, Tensor, nn

from jepa_core import Field, Recipe, UserError, build_model, load_recipe, sample_masks, train
from jepa_core.assembly import build, random_batch
from jepa_core.evaluate.run import evaluate_run
from jepa_core.planning import Policy, WorldInterface, play
from jepa_core.testing import check_encoder, check_recipe
from jepa_stacked.networks import LevelPredictor
from jepa_stacked.plans import ROWS, DistantGoals, LevelsPolicy, check_plans, draw_pairs
from jepa_stacked.prompts import Given
from jepa_stacked.variant import Stacked

SMALL = ("train.device=cpu", "train.log_every=1", "probes.linear=false", "probes.knn=false")
ROOMS = (
    "init.encoder=false",
    "data.episodes=40",
    "data.workers=0",
    "variant.levels.frames.hidden=16",
    "variant.levels.windows.hidden=16",
    "variant.levels.windows.width=8",
    "train.batch_size=4",
)


def films(*overrides: str) -> Recipe:
    return load_recipe("stacked/selftest", *SMALL, *overrides)


def rooms(*overrides: str) -> Recipe:
    return load_recipe("stacked/two_rooms", *SMALL, *ROOMS, *overrides)


def stack(recipe: Recipe, size: int = 6) -> tuple[Stacked, Any]:
    """A model whose weights were shaken, so that nothing hangs on nothing by its initial zeros."""
    model = build_model(recipe)
    assert isinstance(model, Stacked)
    torch.manual_seed(0)
    for parameter in model.parameters():
        parameter.data.add_(0.1 * torch.randn_like(parameter))
    return model.eval(), random_batch(recipe, model, size, Generator().manual_seed(0))


def predictions(model: Stacked, batch: Any, group: str) -> Tensor:
    """[B, L - S, P, D] of a group."""
    step = model(batch, sample_masks(model, batch.batch_size)).step
    level = model.levels[group.removesuffix("_rollout")]
    values = step.groups[group].predictions[0].values
    return values.view(batch.batch_size, -1, 16 if values.shape[0] % 16 == 0 else 1, level.width)


def moved(before: Tensor, after: Tensor) -> list[int]:
    """The windows whose predictions differ."""
    return [n for n in range(before.shape[1]) if not torch.allclose(before[:, n], after[:, n])]


def test_groups_of_every_level() -> None:
    model, batch = stack(films())
    step = model(batch, sample_masks(model, 6)).step
    assert list(step.groups) == ["frames", "frames_rollout", "windows", "windows_rollout"]
    shapes = {name: tuple(group.predictions[0].values.shape) for name, group in step.groups.items()}
    assert shapes == {
        "frames": (6 * 8 * 16, 16),
        "frames_rollout": (6 * 8 * 16, 16),
        "windows": (6 * 2 * 16, 16),
        "windows_rollout": (6 * 2 * 16, 16),
    }
    assert step.predictions is step.groups["windows"].predictions
    z = model.features_of_levels(batch.views["film"])
    torch.testing.assert_close(step.groups["windows"].targets[0].values, z[1][:, 1:].flatten(0, 2))
    torch.testing.assert_close(step.groups["frames"].targets[0].values, z[0][:, 4:].flatten(0, 2))
    torch.testing.assert_close(step.groups["frames"].contexts[0].values, z[0].flatten(0, 2))


def test_a_window_is_predicted_from_the_ones_before_it_alone() -> None:
    """With the true past: another frame 5, of window 1, changes what is expected of window 2 alone."""
    model, batch = stack(films("variant.on_predictions=0"))
    before = predictions(model, batch, "windows")
    batch.views["film"][:, :, 5] += 1
    assert moved(before, predictions(model, batch, "windows")) == [1]
    batch.views["film"][:, :, 11] += 1
    assert moved(before, predictions(model, batch, "windows")) == [1]


def test_the_top_level_s_roll_out_hangs_on_what_is_seen_alone() -> None:
    model, batch = stack(films())
    before = predictions(model, batch, "windows_rollout")
    batch.views["film"][:, :, 4:] += 1
    assert moved(before, predictions(model, batch, "windows_rollout")) == []
    batch.views["film"][:, :, 3] += 1
    assert moved(before, predictions(model, batch, "windows_rollout")) == [0, 1]


def test_the_level_below_goes_towards_what_the_one_above_expects() -> None:
    """Frames hang on the prompt, which is given to the top level alone, through its expectations."""
    model, batch = stack(films())
    given = model.given(batch, "caption")
    z = model.features_of_levels(batch.views["film"])
    other = given.with_others_prompt()
    for one, two in zip(model.imagine(z, given, 3), model.imagine(z, other, 3), strict=True):
        assert moved(one, two) == list(range(one.shape[1]))
    own, goals = model.level(0), torch.randn(6, 4, 16, 16)
    assert moved(own.roll(z[0], None, goals, 4), own.roll(z[0], None, goals + 1, 4)) == [0, 1, 2, 3]
    assert not own.reads_prompt


def test_each_part_of_a_window_has_a_subgoal_of_its_own() -> None:
    """All frames of a window are expected alike: what leads them must say which of them comes next."""
    level, last, expected = stack(films())[0].level(0), torch.randn(2, 1, 16, 16), torch.randn(2, 3, 16, 16)
    goals = level.split_subgoals(last, expected)
    assert goals.shape == (2, 12, 16, 16)
    assert not any(torch.allclose(goals[:, 0], goals[:, part]) for part in (1, 2, 3))
    assert moved(goals, level.split_subgoals(last + 1, expected)) == [0, 1, 2, 3]
    expected[:, 1] += 1
    assert moved(goals, level.split_subgoals(last, expected)) == list(range(4, 12))


def test_a_level_is_rolled_out_in_training_as_in_the_evaluation() -> None:
    """Towards subgoals on its own output to the end: begun anew from true frames it would need no subgoal."""
    model, batch = stack(films("variant.on_predictions=1"))
    z, given = model.features_of_levels(batch.views["film"]), model.given(batch)
    for name, ahead in zip(model.names, model.imagine(z, given, 2), strict=True):
        torch.testing.assert_close(predictions(model, batch, f"{name}_rollout"), ahead)


def test_some_samples_are_led_by_what_is_really_there_above() -> None:
    model, batch = stack(films("variant.on_predictions=0"))
    before = predictions(model, batch, "frames_rollout")
    batch.views["film"][:, :, 8:] += 1
    assert moved(before, predictions(model, batch, "frames_rollout")) == [4, 5, 6, 7]


def test_a_level_above_learns_on_predictions_of_the_one_below() -> None:
    """With `on_predictions` the windows' history is made of rolled frames: true ones do not reach it."""
    model, batch = stack(films("variant.on_predictions=1", "variant.levels.frames.history=1"))
    z = model.features_of_levels(batch.views["film"])
    given = model.given(batch)
    rolled = model._roll(z, model._conditions(z, given))[0][0]
    history = model._history(model.level(1), z[1], rolled)
    torch.testing.assert_close(history[:, :1], z[1][:, :1])
    torch.testing.assert_close(history[:, 1:], model.level(1).encode_windows(rolled))
    assert not torch.allclose(history[:, 1:], z[1][:, 1:])
    model.config = model.config.model_copy(update={"on_predictions": 0.0})
    torch.testing.assert_close(model._history(model.level(1), z[1], rolled), z[1])


def test_a_roll_out_feeds_on_its_own_predictions() -> None:
    model, batch = stack(films())
    level, given = model.level(1), model.given(batch, "speech")
    z = model.features_of_levels(batch.views["film"])[1]
    condition = level.conditions(given.prompt, None, 3)
    assert condition is not None
    first = level.predict(z[:, 0][:, None], condition[:, 0])
    second = level.predict(first[:, None], condition[:, 1])
    torch.testing.assert_close(level.roll(z, condition, None, 2), torch.stack([first, second], 1))


def test_by_actions_alone_a_level_is_rolled_out_anew_in_each_window() -> None:
    model, batch = stack(rooms())
    level, z = model.level(0), model.features_of_levels(batch.views["film"])[0]
    condition = level.conditions(None, model.given(batch).actions, 20)
    assert condition is not None
    begun = z[:, 5:10]  # frame 9 is the one before window 2
    anew = level.roll_in_windows(z, condition)
    torch.testing.assert_close(anew[:, 5:10], level.roll(begun, condition[:, 5:10], None, 5))
    torch.testing.assert_close(predictions(model, batch, "frames_rollout"), anew)


# --- prompts


def test_a_prompt_is_of_any_kind_and_none_is_a_vector_of_its_own() -> None:
    model, batch = stack(films())
    text, voice = (model.given(batch, kind).prompt for kind in ("caption", "speech"))
    assert text is not None
    assert voice is not None
    assert text.shape == voice.shape == (6, 16)
    assert not torch.allclose(text, voice)
    mixed = model.given(batch).prompt
    assert mixed is not None
    torch.testing.assert_close(mixed[::2], text[::2])
    torch.testing.assert_close(mixed[1::2], voice[1::2])
    none = model.prompts.without(Given(text)).prompt
    assert none is not None
    assert (none == none[:1]).all()
    model.train()
    model.config = model.config.model_copy(update={"prompt_dropout": 0.5})
    torch.manual_seed(0)
    dropped = [(model.given(batch, "caption").prompt == model.prompts.none).all(1) for _ in range(50)]
    assert 0.4 < torch.stack(dropped).float().mean() < 0.6


def test_the_direction_is_part_of_both_kinds() -> None:
    model, batch = stack(films())
    before = [model.given(batch, kind).prompt for kind in ("caption", "speech")]
    batch.condition["direction"] = batch.condition["direction"] + 1
    after = [model.given(batch, kind).prompt for kind in ("caption", "speech")]
    changes = [b - a for a, b in zip(before, after, strict=True) if a is not None and b is not None]
    torch.testing.assert_close(changes[0], changes[1])
    assert changes[0].abs().max() > 0.01


def test_every_part_is_trained() -> None:
    model, batch = stack(films())
    model.train()(batch, sample_masks(model, 6)).loss.backward()
    assert [name for name, p in model.named_parameters() if p.grad is None] == []


@pytest.mark.parametrize(("setting", "reached"), [("false", False), ("true", True)])
def test_a_level_moves_those_below_where_that_is_asked_for(setting: str, reached: bool) -> None:
    model, batch = stack(films(f"variant.lower_gradient={setting}", "variant.on_predictions=0"))
    step = model(batch, sample_masks(model, 6)).step
    step.groups["windows"].predictions[0].values.square().sum().backward()
    touched = {
        name.split(".")[0] for name, p in model.named_parameters() if p.grad is not None and p.grad.any()
    }
    assert ("encoder" in touched) == reached


def test_the_target_encoder_s_frames_are_the_target_where_there_is_one() -> None:
    model, batch = stack(films("target_update.name=ema", "variant.target_gradient=false"))
    step = model(batch, sample_masks(model, 6)).step
    assert model.target_encoder is not None
    own = model.features_of_levels(batch.views["film"], "target")[0]
    torch.testing.assert_close(step.groups["frames"].targets[0].values, own[:, 4:].flatten(0, 2))
    assert not step.groups["windows"].targets[0].values.requires_grad


@pytest.mark.slow
def test_a_level_learns_which_thing_a_prompt_names() -> None:
    """Three of eight things lie in sixteen cells; the named one goes to the next cell, and no other."""
    torch.manual_seed(0)
    looks, names, rows = torch.randn(8, 16), torch.randn(8, 32), torch.arange(64)
    level = LevelPredictor(16, 1, 16, hidden=64, depth=2, heads=4, condition=32)
    optimizer = torch.optim.AdamW(level.parameters(), lr=3e-3)
    for step in range(401):
        things = torch.rand(64, 8).argsort(1)[:, :3]
        cells = torch.rand(64, 16).argsort(1)[:, :3]
        before = torch.zeros(64, 16, 16).index_put((rows[:, None], cells), looks[things])
        after = before.index_put((rows, cells[:, 0]), -looks[things[:, 0]], accumulate=True)
        after = after.index_put((rows, (cells[:, 0] + 1) % 16), looks[things[:, 0]], accumulate=True)
        errors = [
            (level(before[:, None], names[things[:, named]]) - after).square().mean() for named in (0, 1)
        ]
        if step < 400:
            optimizer.zero_grad()
            errors[0].backward()
            optimizer.step()
    copied = (before - after).square().mean()
    assert errors[0] < 0.6 * copied
    assert errors[1] > copied


# --- other encoders, actions, more levels


def test_levels_above_an_encoder_of_clips() -> None:
    """A step is a clip of the encoder's length; its tokens are the cells."""
    model, batch = stack(
        films("encoder={name='vjepa_tiny',frames=2,image_size=32,width=24,depth=1,heads=2}",
              "transforms.film.frames=24", "transforms.film.size=32", "data.future=20",
              "transform.crop_scale=[1.0,1.0]")
    )  # fmt: skip
    assert model.step_frames == 2
    assert model.context == 8
    z = model.features_of_levels(batch.views["film"])
    assert [tuple(level.shape[:3]) for level in z] == [(6, 12, 4), (6, 3, 4)]
    changed = batch.views["film"].clone()
    changed[:, :, 2:4] += 1
    assert moved(z[0], model.features_of_levels(changed)[0]) == [1]
    assert model(batch, sample_masks(model, 6)).loss.isfinite()


def test_a_world_model_s_frames_with_macro_actions_and_a_third_level() -> None:
    far = "variant.levels.far={stride=5,width=8,hidden=16,macro=4}"
    recipe = rooms("data.frames=50", "data.length=60", "transforms.film.frames=50", far)
    model, batch = stack(recipe, 2)
    assert [model.level(n).frames for n in range(3)] == [1, 5, 25]
    assert [model.level(n).start for n in range(3)] == [25, 5, 1]
    step = model(batch, sample_masks(model, 2)).step
    counts = {name: len(group.targets[0].values) // 2 for name, group in step.groups.items()}
    assert counts == {
        "frames": 25, "frames_rollout": 25, "windows": 5, "windows_rollout": 5, "far": 1, "far_rollout": 1
    }  # fmt: skip


def test_a_shared_level_has_the_features_of_the_last_step_of_its_windows() -> None:
    """What stands still and what moves is one and the same to it, and its predictions are of a frame."""
    model, batch = stack(rooms())
    film = batch.views["film"]
    frames, windows = model.features_of_levels(film)
    torch.testing.assert_close(windows, frames[:, 4::5])
    still = film[:, :, -1:].expand(-1, -1, 5, -1, -1)
    torch.testing.assert_close(model.features_of_levels(still)[1][:, 0], windows[:, -1])
    own, _ = stack(rooms("variant.levels.windows.shared=false"))
    assert (model.level(1).width, own.level(1).width) == (48, 8)


@pytest.mark.parametrize(("action", "window"), [(3, []), (4, [0]), (8, [0]), (9, [1]), (18, [2])])
def test_a_macro_action_is_made_of_the_actions_that_lead_through_a_window(
    action: int, window: list[int]
) -> None:
    """Action t leads to frame t + 1: those of window 1, frames 5 to 9, are actions 4 to 8."""
    model, batch = stack(rooms("variant.on_predictions=0"))
    before = predictions(model, batch, "windows")
    batch.condition["actions"][:, action] += 1
    assert moved(before, predictions(model, batch, "windows")) == window


def test_a_frame_is_told_the_action_that_leads_to_it() -> None:
    model, batch = stack(rooms())
    level, z = model.level(0), model.features_of_levels(batch.views["film"])
    given = model.given(batch)

    def forced() -> Tensor:
        return level.force(z[0], level.conditions(None, given.actions, 20), None)

    before = forced()
    batch.condition["actions"][:, 10] += 1
    assert moved(before, forced()) == [11 - 5]


def test_without_subgoals_frames_hang_on_actions_alone() -> None:
    model, batch = stack(rooms())
    z, given = model.features_of_levels(batch.views["film"]), model.given(batch)
    before = model.imagine(z, given, 3)
    for parameter in model.level(1).parameters():
        parameter.data.add_(1)
    after = model.imagine(z, given, 3)
    assert moved(before[0], after[0]) == []
    assert moved(before[1], after[1]) == [0, 1, 2]


def test_a_frozen_first_level_stays_as_it_is() -> None:
    recipe = load_recipe("stacked/two_rooms", *SMALL, *ROOMS[1:])
    model = build_model(recipe)
    batch = random_batch(recipe, model, 4, Generator().manual_seed(0))
    model(batch, sample_masks(model, 4)).loss.backward()
    assert all(p.grad is None for p in model.encoder.parameters())
    trained = {name.split(".")[1] for name, p in model.named_parameters() if p.grad is not None}
    assert trained == {"frames", "windows"}


def test_checks_of_the_parts() -> None:
    check_encoder("frame_grid", image_size=32, patch=4, width=16, channels=(8, 8))
    check_recipe("stacked/selftest")


# --- bad input


MISFITS = [
    (films, "variant.levels.windows.stride=5",
     "variant.levels.windows.stride is 5, which does not divide the 12 windows of 'frames' in a film of"),
    (films, "variant.levels.windows.stride=12",
     "a film of 12 frames ends before a prediction does: variant.levels sees 12 frames first and"),
    (films, "variant.levels.frames.stride=2",
     "variant.levels.frames is the first level, one step of the encoder each; its stride is 2, expected 1"),
    (films, "variant.levels.windows.macro=8",
     "variant.levels.windows.macro makes macro-actions of condition.actions, which the data source lacks"),
    (films, "variant.prompts=['capton','speech']",
     "unknown prompt of variant.prompts, an entry of [encoders], 'capton'; known: caption, speech."),
    (films, "variant.prompts=['caption']",
     "[encoders.speech] reads no prompt; variant.prompts has: caption"),
    (films, "variant.beside=['way']",
     "unknown vector of variant.beside, a condition of the source, 'way'; known: direction"),
    (films, "predictor={name='vit_predictor'}",
     "has predictors of its own (variant.levels); got predictor 'vit_predictor', expected"),
    (films, "variant.levels.windows.heads=3",
     "a level's hidden width of 16 cannot be split among 3 heads"),
    (films, "encoder={name='vjepa_tiny',frames=8,image_size=64,width=24,depth=1,heads=2}",
     "the encoder takes clips of 8 frames, which do not divide films of 12"),
    (rooms, "variant.levels.frames.history=20", "a film of 20 frames ends before a prediction does"),
]  # fmt: skip


@pytest.mark.parametrize(("recipe", "override", "line"), MISFITS)
def test_levels_and_prompts_that_do_not_fit(recipe: Any, override: str, line: str) -> None:
    with pytest.raises(UserError) as caught:
        build_model(recipe(override))
    assert line in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_batch_that_lacks_what_is_read_and_an_unknown_kind() -> None:
    model, batch = stack(films())
    with pytest.raises(UserError, match="unknown kind of prompt 'sound'; known: caption, speech"):
        model.given(batch, "sound")
    batch.condition.pop("direction")
    with pytest.raises(UserError, match=r"variant 'stacked' needs condition.direction; the batch has: none"):
        model.given(batch)


# --- plans over two levels


class Line:
    """A world of places on a plane; nothing stands in the way."""

    state_names, action_names = ("x", "y"), ("dx", "dy")
    reach, budget, tolerance = 3.0, 30, 3.0

    def draw_states(self, count: int, split: str, generator: Generator) -> Tensor:
        return 64 * torch.rand(count, 2, generator=generator)

    def draw_goals(self, states: Tensor, generator: Generator) -> Tensor:
        return 64 * torch.rand(len(states), 2, generator=generator)

    def draw_actions(
        self, states: Tensor, memory: Tensor | None, generator: Generator
    ) -> tuple[Tensor, None]:
        return torch.randn(states.shape, generator=generator), None

    def step(self, states: Tensor, actions: Tensor) -> Tensor:
        return states + actions

    def render(self, states: Tensor) -> Tensor:
        return states[:, :1, None, None].expand(-1, 3, 4, 4).byte()

    def distance(self, states: Tensor, goals: Tensor) -> Tensor:
        return (states - goals).norm(dim=1)


class Perfect(nn.Module):
    """Predicts a place from a place and a move; of windows from the sum of their moves."""

    def forward(self, past: Tensor, condition: Tensor, subgoal: None = None) -> Tensor:
        return past[:, -1] + condition[:, None]


def perfect(row: str, monkeypatch: pytest.MonkeyPatch) -> Policy:
    """Plans by levels that know `Line`: a feature is the place, a window's the place in its last frame."""
    level = SimpleNamespace(macro=nn.Identity(), predict=Perfect())
    last = SimpleNamespace(
        stride=5,
        predict=Perfect(),
        frames=5,
        macro=lambda moves: moves.unflatten(-1, (5, 2)).sum(-2),
        encode_windows=lambda z: z.unflatten(1, (-1, 5))[:, :, -1],
    )
    learned = {"condition.actions": {"mean": [0.0, 0.0], "std": [1.0, 1.0]}}
    fields = {"condition.actions": Field("sequence", (19, 2))}
    model: Any = SimpleNamespace(
        level=lambda number: (level, last)[number],
        transforms=SimpleNamespace(fields=fields, state=lambda: learned),
    )
    monkeypatch.setattr(WorldInterface, "look", lambda self, states: states[:, None])
    evaluation = DistantGoals(DistantGoals.Config(candidates=64, iterations=6, windows=3, flat_last=0))
    return evaluation.policy(row, model, Line(), Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("row", "least"), [("two levels", 20), ("upper level", 18), ("one level", 20), ("random actions", 0)]
)
def test_plans_over_levels_that_know_the_world_reach_goals(
    row: str, least: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    starts, goals = draw_pairs(Line(), "test", 30.0, 24, Generator().manual_seed(0))
    reached = int(play(Line(), perfect(row, monkeypatch), starts, goals).success.sum())
    assert reached >= least
    assert least or reached <= 12


def test_all_kinds_of_plan_make_as_many_model_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = {}
    for row in ("two levels", "upper level", "one level"):
        policy = perfect(row, monkeypatch)
        starts = torch.zeros(3, 2)
        policy.begin(starts, torch.full((3, 2), 20.0))
        actions = policy.act(starts[:, None], torch.tensor([True, True, False]))
        assert actions.shape == (3, 5, 2)
        calls[row] = policy.effort.calls / policy.effort.plans
    assert calls["one level"] == 64 * 6 * 3 * 5
    assert calls["two levels"] == pytest.approx(calls["one level"], rel=0.02)
    assert calls["upper level"] == calls["one level"]


def test_macro_actions_are_those_of_actions_that_the_world_allows(monkeypatch: pytest.MonkeyPatch) -> None:
    """The goal is far: the upper level goes as far as five steps lead, in its plan and in its subgoal."""
    policy = perfect("two levels", monkeypatch)
    assert isinstance(policy, LevelsPolicy)
    macros: list[Tensor] = []
    predict = policy.upper.predict
    monkeypatch.setattr(policy.upper, "predict", lambda z, macro: macros.append(macro) or predict(z, macro))
    actions = policy.descend(torch.zeros(2, 5, 1, 2), torch.full((2, 1, 2), 50.0))
    assert torch.cat(macros).norm(dim=-1).max() <= 15 + 1e-4
    torch.testing.assert_close(macros[-1], torch.full((2, 2), 15 / 2**0.5), rtol=0.2, atol=0)
    torch.testing.assert_close(actions.sum(1), macros[-1], rtol=0.05, atol=0)


@pytest.mark.parametrize(
    ("override", "line"),
    [
        ("variant.subgoals=true", "plans are made by actions alone: set variant.subgoals=false"),
        (
            "variant.levels.windows.macro=0",
            "plans are made with two levels that have macro-actions and a history of 1",
        ),
    ],
)
def test_levels_that_no_plan_is_made_of(override: str, line: str) -> None:
    model, _ = stack(rooms(override), 2)
    with pytest.raises(UserError, match=re.escape(line)):
        check_plans(model, build("data", rooms().data))


def test_a_source_without_a_world_and_goals_that_are_nowhere() -> None:
    model, _ = stack(rooms(), 2)
    with pytest.raises(UserError, match="'prompted_films' has no world to plan in"):
        check_plans(model, build("data", films().data))
    with pytest.raises(UserError, match=r"the world has 0 of 3 goals 200 away \(distances, episodes\)"):
        draw_pairs(Line(), "test", 200.0, 3, Generator().manual_seed(0))


def test_goals_that_are_rare_are_found_by_further_draws() -> None:
    """At 75 pixels 100,000 draws of two_rooms gave 32 of 40."""
    world = build("data", rooms().data).world
    starts, goals = draw_pairs(world, "test", 75.0, 100, Generator().manual_seed(0))
    assert (len(starts), len(goals)) == (100, 100)
    assert (world.distance(starts, goals) - 75).abs().max() <= 2.5
    assert len(torch.cat([starts, goals], 1).unique(dim=0)) == 100


@pytest.mark.slow
def test_a_run_above_a_world_model_plans(tmp_path: Path) -> None:
    few = ("data.episodes=60", "train.steps=3", "train.batch_size=8")
    world = load_recipe(
        "world/selftest", *SMALL, "data.episodes=60", "encoder.width=48", "encoder.channels=[32]"
    )
    first = train(world, tmp_path / "world").folder
    recipe = load_recipe("stacked/two_rooms", *SMALL, *ROOMS[1:], *few, f"init.encoder.run={first}")
    run = train(recipe, tmp_path / "run").folder
    settings = ["evaluations.distant_goals={episodes=3,candidates=4,iterations=1,distances=[25.0,50.0]}"]
    (table,) = evaluate_run(run, [], overrides=settings, evaluations=["distant_goals"]).evaluations
    assert table.error == ""
    assert [row.name for row in table.rows] == list(ROWS)
    assert list(table.own) == ["25 away", "50 away"]
