"""The world plugin: the pairing of frames and actions, the variant, planners, `jepa plan`, bad input."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from torch import Generator, Tensor

from jepa_core import Field, Recipe, UserError, build_model, load_recipe, plugins, sample_masks, train
from jepa_core.assembly import build, random_batch
from jepa_core.data import CorruptSample
from jepa_core.evaluate.run import evaluate_run
from jepa_core.planning import Played, RandomPolicy, play, way_length
from jepa_core.testing import check_encoder, check_recipe
from jepa_world.agent import Agent, agent_of
from jepa_world.command import by_distance, distance_table, plan, trained_twins, wilson
from jepa_world.episodes import RecordedEpisode
from jepa_world.evaluation import copy_errors, imagined, open_loop
from jepa_world.pictures import distance_section, draw_distance
from jepa_world.two_rooms import DOOR, THICKNESS, TwoRooms
from jepa_world.variant import WorldModel
from jepa_world.worlds import Episode, play_behaviour

SMALL = ("train.device=cpu", "train.log_every=1", "probes.linear=false", "probes.knn=false")
NOWHERE = Generator().manual_seed(0)


def small(*overrides: str) -> Recipe:
    return load_recipe("world/selftest", *SMALL, *overrides)


def model_and_batch(recipe: Recipe, size: int = 6) -> tuple[WorldModel, Any]:
    model = build_model(recipe)
    assert isinstance(model, WorldModel)
    return model, random_batch(recipe, model, size, Generator().manual_seed(0))


class Line:
    """A world whose motion is the action: a state is a place, its frame has that value."""

    state_names, action_names = ("place",), ("step",)
    reach, budget, tolerance = 3.0, 5, 0.1

    def draw_states(self, count: int, split: str, generator: Generator) -> Tensor:
        return torch.randint(20, 200, (count, 1), generator=generator).float()

    def draw_goals(self, states: Tensor, generator: Generator) -> Tensor:
        return states + 6

    def draw_actions(
        self, states: Tensor, memory: Tensor | None, generator: Generator
    ) -> tuple[Tensor, None]:
        return torch.randint(-3, 4, states.shape, generator=generator).float(), None

    def step(self, states: Tensor, actions: Tensor) -> Tensor:
        return states + actions

    def render(self, states: Tensor) -> Tensor:
        return states[:, :, None, None].expand(-1, 3, 4, 4).byte()

    def distance(self, states: Tensor, goals: Tensor) -> Tensor:
        return (states - goals).abs()[:, 0]


def test_an_action_leaves_the_frame_of_its_position() -> None:
    """In a world whose motion is the action, frame t and action t make frame t + 1, in every window."""
    states, actions = play_behaviour(Line(), 3, 10, "train")
    episode = Episode(Line(), states[0], actions[0])
    assert list(episode.starts(4)) == list(range(8))
    for start in episode.starts(4):
        window = episode.window(start, 4)
        places = window.views["film"][:, 0, 0, 0].float()
        torch.testing.assert_close(places[:-1] + window.condition["actions"][:, 0], places[1:])
        torch.testing.assert_close(window.targets["state"], places[-1:])


def test_actions_between_the_frames_of_a_window_are_concatenated() -> None:
    frames = np.arange(13, dtype=np.uint8)[:, None, None, None].repeat(3, 3)
    actions = np.arange(12, dtype=np.float32)[:, None]
    episode = RecordedEpisode(frames, actions, frames[:, 0, 0, :1], 5, "line")
    assert list(episode.starts(3)) == [0, 1, 2]
    window = episode.window(2, 3)
    assert window.views["film"][:, 0, 0, 0].tolist() == [2, 7, 12]
    assert window.condition["actions"].tolist() == [[2, 3, 4, 5, 6], [7, 8, 9, 10, 11]]
    assert window.targets["state"].tolist() == [12]


def test_the_model_reads_an_action_at_the_frame_that_it_leaves() -> None:
    """Of three frames of history, the prediction hangs on their own actions and on no later one."""
    model, batch = model_and_batch(
        small("variant.history=3", "variant.horizon=2", "predictor={name='vit_predictor',width=24,depth=1,"
              "heads=2,condition='adaln'}")
    )  # fmt: skip
    for parameter in model.predictor.parameters():
        parameter.data.add_(0.05 * torch.randn_like(parameter))
    model.eval()
    base = model(batch, sample_masks(model, 6)).step.predictions[0].values.view(6, 6, -1)
    actions = batch.condition["actions"]
    for t in range(8):
        changed = actions.clone()
        changed[:, t] += 1
        batch.condition["actions"] = changed
        other = model(batch, sample_masks(model, 6)).step.predictions[0].values.view(6, 6, -1)
        moved = [n for n in range(6) if not torch.allclose(other[:, n], base[:, n])]
        assert moved == [n for n in range(6) if n <= t <= n + 2]  # window n has frames n, n + 1, n + 2


def test_a_roll_out_feeds_on_its_own_predictions() -> None:
    model, batch = model_and_batch(small("variant.horizon=3"))
    step = model(batch, sample_masks(model, 6)).step
    z = model.states(batch.views["film"].transpose(1, 2).flatten(0, 1)).unflatten(0, (6, -1))
    state = z[:, :1]
    ahead = []
    for t in range(3):
        state = model.predict_next(state, batch.condition["actions"][:, t : t + 1])[:, None]
        ahead.append(state[:, 0])
    rolled = step.groups["rollout"]
    torch.testing.assert_close(rolled.predictions[0].values, torch.stack(ahead, 1).flatten(0, 2))
    torch.testing.assert_close(rolled.targets[0].values, z[:, 1:4].flatten(0, 2))
    torch.testing.assert_close(step.targets[0].values, z[:, 1:].flatten(0, 2))


def test_groups_for_every_published_loss() -> None:
    model, batch = model_and_batch(small())
    step = model(batch, sample_masks(model, 6)).step
    assert set(step.groups) == {"rollout", "smooth", "frames", "actions"}
    assert len(step.groups["frames"].contexts) == 9
    torch.testing.assert_close(
        step.groups["actions"].targets[0].values.view(6, 8, 2), batch.condition["actions"]
    )
    assert step.targets[0].values.requires_grad
    detached, batch = model_and_batch(small("variant.target_gradient=false"))
    assert not detached(batch, sample_masks(detached, 6)).step.targets[0].values.requires_grad
    ema, batch = model_and_batch(small("target_update.name=ema", "variant.target_gradient=false"))
    assert not ema(batch, sample_masks(ema, 6)).step.targets[0].values.requires_grad


TINY = {
    "lewm": ("encoder.image_size=28", "encoder.width=32", "encoder.depth=1", "encoder.heads=2",
             "predictor.depth=1", "predictor.width=32", "predictor.heads=2", "variant.projector.hidden=16"),
    "pldm": ("encoder.channels=[4]", "encoder.width=16", "predictor.hidden=16", "data.frames=9",
             "transforms.film.frames=9", "variant.horizon=8"),
    "dino_wm": ("encoder={name='official_tiny',image_size=28,patch_size=14,width=32,depth=1,heads=2}",
                "predictor.depth=1", "predictor.width=24", "predictor.heads=2", "init.encoder.from=timm:x"),
    "vjepa2_ac": ("encoder={name='vjepa_tiny',frames=2,image_size=32,width=24,depth=1,heads=2}",
                  "predictor.depth=1", "predictor.width=24", "predictor.heads=2", "data.frames=5",
                  "transforms.film.frames=5", "variant.history=3"),
}  # fmt: skip
PLAYED = ("data={name='two_rooms',frames=4,episodes=20,length=12}",)


@pytest.mark.parametrize("name", TINY)
def test_published_recipes_build_and_step(name: str) -> None:
    """Smaller parts in the place of the published ones; the settings are those of the recipe."""
    frames = {"vjepa2_ac": 5, "pldm": 9}.get(name, 4)
    data = f"data={{name='two_rooms',frames={frames},episodes=20,length=12}}"
    recipe = load_recipe(f"world/{name}", data, *TINY[name], *SMALL, "train.batch_size=4")
    model, batch = model_and_batch(recipe, 4)
    output = model(batch, sample_masks(model, 4))
    output.loss.backward()
    assert output.loss.isfinite()
    trained = [
        p
        for part in ("predictor", "channels")
        for p in (getattr(model, part) or torch.nn.Identity()).parameters()
    ]
    assert all(p.grad is not None for p in trained)
    assert all(p.grad is None for p in model.encoder.parameters()) == ("init" in recipe.to_table())


def test_settings_that_are_published() -> None:
    lewm, ac = load_recipe("world/lewm"), load_recipe("world/vjepa2_ac")
    assert (lewm.variant.history, lewm.terms["spread"].weight, lewm.terms["spread"].slices) == (3, 0.09, 1024)  # type: ignore[attr-defined]
    assert (lewm.optimizer.lr, lewm.train.batch_size, lewm.variant.planner.candidates) == (5e-5, 128, 300)  # type: ignore[attr-defined]
    assert (ac.objective.name, ac.terms["rollout"].weight, ac.objective.weight) == ("l1", 1.0, 1.0)
    assert ac.variant.planner.candidates == 400  # type: ignore[attr-defined]


# --- two rooms


def test_the_dot_stays_out_of_the_wall_and_passes_the_door() -> None:
    world = TwoRooms()
    states, actions = play_behaviour(world, 300, 40, "train")
    offset = (states[..., :2] - states[..., 2:]).abs()
    assert not ((offset[..., 0] < THICKNESS) & (offset[..., 1] > DOOR)).any()
    assert states[..., :2].min() >= 4
    assert states[..., :2].max() <= 60
    assert actions.norm(dim=-1).max() <= world.reach + 1e-4
    right = states[..., 0] > states[..., 2]
    assert (right[:, 1:] != right[:, :-1]).any(1).float().mean() > 0.2


def test_layouts_of_the_splits_are_disjoint() -> None:
    layouts = {
        split: {tuple(row) for row in TwoRooms().layouts(split).tolist()}
        for split in ("train", "val", "test")
    }
    assert len(layouts["train"] | layouts["val"] | layouts["test"]) == sum(map(len, layouts.values()))
    assert len(layouts["test"]) >= 20


def test_goals_are_in_the_other_room() -> None:
    world = TwoRooms()
    states = world.draw_states(200, "test", Generator().manual_seed(0))
    goals = world.draw_goals(states, Generator().manual_seed(1))
    assert ((states[:, 0] > states[:, 2]) != (goals[:, 0] > goals[:, 2])).all()
    torch.testing.assert_close(states[:, 2:], goals[:, 2:])


def test_the_shortest_way_leads_through_the_door() -> None:
    """Straight within a room and through an open door; round the door's edges otherwise."""
    world, layout = TwoRooms(), [32.0, 18.0]
    ways = {  # from, to: the length
        ((10.0, 40.0), (20.0, 50.0)): 200**0.5,
        ((10.0, 18.0), (50.0, 18.0)): 40.0,
        ((10.0, 14.0), (50.0, 22.0)): (40**2 + 8**2) ** 0.5,
        ((30.0, 50.0), (34.0, 50.0)): 2 * 27 + 4.0,
        ((50.0, 53.0), (14.0, 53.0)): 2 * (16**2 + 30**2) ** 0.5 + 4.0,
    }
    states, goals = (torch.tensor([[*pair[end], *layout] for pair in ways]) for end in (0, 1))
    torch.testing.assert_close(
        way_length(world, states, goals), torch.tensor(list(ways.values())), rtol=2e-4, atol=0
    )
    torch.testing.assert_close(way_length(world, goals, states), way_length(world, states, goals))


def test_success_is_told_by_distance() -> None:
    """Ten episodes of a world without ways of its own: parts of 3, 3, 2 and 2, the nearest first."""
    starts = torch.zeros(10, 1)
    goals = torch.tensor([9.0, 1, 2, 3, 4, 5, 6, 7, 8, 0])[:, None]
    near, none = goals[:, 0] < 4, torch.zeros(10, dtype=torch.bool)
    results = {
        name: Played(ok, starts[:, None], starts, goals) for name, ok in (("trained", near), ("no-op", none))
    }
    parts = by_distance(Line(), results)
    assert [(part["from"], part["to"], part["episodes"]) for part in parts] == [
        (0, 2, 3),
        (3, 5, 3),
        (6, 7, 2),
        (8, 9, 2),
    ]
    assert [part["success"]["trained"] for part in parts] == pytest.approx([1, 1 / 3, 0, 0])
    assert {part["success"]["no-op"] for part in parts} == {0.0}
    table = {"episodes": 10, "rows": [{"name": name} for name in results], "by_distance": parts}
    assert list(distance_table(table).columns[2].cells) == ["33", "0"]
    assert [line.get_ydata().tolist() for line in draw_distance(parts).axes[0].lines][1] == [0, 0, 0, 0]
    assert distance_section(parts).title == "Success against distance"


def test_the_frame_shows_the_state() -> None:
    (frame,) = TwoRooms().render(torch.tensor([[20.0, 40.0, 32.0, 18.0]]))
    dot = frame[0].float()
    place = [(dot.sum(axis) * (torch.arange(64) + 0.5)).sum() / dot.sum() for axis in (0, 1)]
    assert [round(float(p), 1) for p in place] == [20.0, 40.0]
    assert frame[2, 18, 32] == 0
    assert frame[2, 40, 32] == 255


def test_wilson_s_interval() -> None:
    assert wilson(45, 50) == pytest.approx((0.7864, 0.9565), abs=1e-4)
    assert wilson(0, 10)[0] == 0


# --- playing


def test_an_oracle_reaches_goals_that_doing_nothing_does_not() -> None:
    recipe = small()
    model = build_model(recipe)
    source = build("data", recipe.data)
    source_model = trained_transforms(model, recipe)
    agent = agent_of(source_model, source)
    draw = Generator().manual_seed(0)
    starts = agent.world.draw_states(4, "test", draw)
    goals = agent.world.draw_goals(starts, draw)
    oracle = play(agent.world, agent.oracle(recipe.variant.planner, draw), starts, goals)  # type: ignore[attr-defined]
    idle = play(agent.world, RandomPolicy(agent.world, draw, 0.0), starts, goals)
    assert oracle.success.sum() >= 3
    assert idle.success.sum() == 0
    assert oracle.states.shape == (4, agent.world.budget + 1, 4)
    torch.testing.assert_close(idle.states[:, -1], starts)
    s = recipe.variant.planner  # type: ignore[attr-defined]
    assert oracle.calls == s.horizon * s.hold * s.candidates * s.iterations


def trained_transforms(model: Any, recipe: Recipe) -> Any:
    from jepa_core.data.field_transforms.pipeline import field_transforms
    from jepa_core.runs.transforms_file import set_view_shapes

    source = build("data", recipe.data)
    model.transforms = field_transforms(source, recipe)
    model.transforms.fit(source.split("train"))
    set_view_shapes(model.transforms, model)
    return model.eval()


@pytest.mark.slow
def test_jepa_plan_writes_the_table_films_and_sections(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    few = (
        "data.episodes=200",
        "variant.planner.candidates=8",
        "variant.planner.elites=2",
        "variant.planner.iterations=1",
    )
    train(small(*few), run)
    plan(run, episodes=3, seed=1, as_json=True)
    table = json.loads(capsys.readouterr().out.strip().splitlines()[-1])
    assert table == json.loads((run / "plan.json").read_text())
    assert table["episodes"] == 3
    assert [row["name"] for row in table["rows"]] == [
        "trained", "random policy", "no-op", "oracle", "shuffled actions", "random encoder", "wrong goal",
    ]  # fmt: skip
    assert set(table["rows"][0]) == {"name", "success", "low", "high", "model_calls", "seconds_per_plan"}
    assert len(list((run / "plans").glob("*.gif"))) == 3
    assert sum(part["episodes"] for part in table["by_distance"]) == 3
    assert list(table["open_loop"]) == ["h=1", "h=2", "h=4", "h=8", "h=16"]
    assert set(table["by_distance"][0]["success"]) == {row["name"] for row in table["rows"]}
    assert {path.stem for path in (run / "sections").glob("*.json")} == {"plans", "distance", "energy"}
    before = (run / "twins" / "shuffled_actions" / "events.jsonl").read_text()
    plan(run, episodes=3, seed=1, planner="mppi")
    assert (run / "twins" / "shuffled_actions" / "events.jsonl").read_text() == before
    train(small(*few, "optimizer.lr=1e-3"), run, overwrite=True)
    names = [name for name, _ in trained_twins(run, train_missing=False)]
    assert names == [], "controls of another recipe are none of this run"
    assert dict(trained_twins(run, train_missing=True)).keys() == {"shuffled actions", "random encoder"}
    assert (run / "twins" / "shuffled_actions" / "events.jsonl").read_text() != before
    rows = evaluate_run(run, [], evaluations=["rollouts"]).evaluations[0].rows
    assert [row.name for row in rows] == ["trained", "another's actions", "random twin"]


def test_roll_outs_of_a_perfect_model_have_no_error() -> None:
    z = torch.randn(5, 4, 1, 3)
    assert copy_errors(z, 1).shape == (5, 3)
    torch.testing.assert_close(copy_errors(z, 2)[:, 0], (z[:, 1] - z[:, 2]).square().mean((1, 2)))


def test_the_open_loop_of_a_perfect_model_has_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """Over more steps than windows have; a roll-out that is 100 pixels off is worse than to copy."""
    recipe = small()
    agent = agent_of(trained_transforms(build_model(recipe), recipe), build("data", recipe.data))
    monkeypatch.setattr(Agent, "look", lambda self, states: states[:, None, :2])
    shift = {"by": 0}

    def truth(self: Any, state: Tensor, actions: Tensor) -> Tensor:
        states, taken = play_behaviour(agent.world, 5, 16, "test")
        torch.testing.assert_close(actions, agent.to_model(taken))
        return states[:, 1:, None, :2] + shift["by"]

    monkeypatch.setattr(WorldModel, "roll_out", truth)
    assert open_loop(agent, 5) == {f"h={h}": 0.0 for h in (1, 2, 4, 8, 16)}
    shift["by"] = 100
    assert min(open_loop(agent, 5).values()) > 1


def test_the_section_shows_imagined_films() -> None:
    recipe = small()
    model = trained_transforms(build_model(recipe), recipe)
    section = imagined(recipe, model, build("data", recipe.data))
    assert section is not None
    assert section.pictures[0].pixels.shape == (9, 130, 64, 3)


def test_checks_of_the_parts() -> None:
    check_encoder("frame_cnn", image_size=16, width=16, channels=(4,))
    check_recipe("world/selftest")


# --- worlds of one's own, and recorded episodes


def test_the_world_of_the_page_trains_and_plans(tmp_path: Path) -> None:
    """The plugin of docs/worlds.md: 30 lines of a world, registered as it would be."""
    page = (Path(__file__).parents[2] / "docs/worlds.md").read_text(encoding="utf-8")
    code = re.findall(r"^```python\n(.*?)^```", page, re.M | re.S)[0]
    world = code[code.index("class Cart:") : code.index("@hookimpl")]
    assert len([line for line in world.splitlines() if line.strip()]) <= 30
    module = ModuleType("jepa_cart")
    exec(code, module.__dict__)
    plugins.registry().register(module, "cart")
    try:
        recipe = small("data.name=cart", "variant.history=2", "variant.horizon=7", "data.length=30")
        model = trained_transforms(build_model(recipe), recipe)
        agent = agent_of(model, build("data", recipe.data))
        draw = Generator().manual_seed(0)
        starts = agent.world.draw_states(3, "test", draw)
        goals = agent.world.draw_goals(starts, draw)
        oracle = agent.oracle(recipe.variant.planner, draw)  # type: ignore[attr-defined]
        assert play(agent.world, oracle, starts, goals).success.all()
        few = recipe.variant.planner.model_copy(update={"candidates": 4, "elites": 2, "iterations": 1})  # type: ignore[attr-defined]
        assert play(agent.world, agent.policy(few, draw), starts, goals).states.shape == (3, 31, 2)
    finally:
        plugins.registry().manager.unregister(name="cart")
        plugins.registry().register(object(), "nothing after the cart")


@pytest.fixture
def episodes(tmp_path: Path) -> Path:
    """Files of 12 episodes on a line, of 16 steps; one has 3 steps."""
    h5py = pytest.importorskip("h5py")
    for number in range(2):
        with h5py.File(tmp_path / f"{number}.hdf5", "w") as file:
            for name in range(10):
                length = 3 if (number, name) == (0, 4) else 16
                group = file.create_group(f"data/demo_{name}")
                group["actions"] = np.ones((length, 2), np.float32) * name
                group["obs/agentview_image"] = np.full((length, 64, 64, 3), 20 * name, np.uint8)
                group["obs/state"] = np.arange(length * 3, dtype=np.float32).reshape(-1, 3)
    return tmp_path


def of_files(path: Path, *overrides: str) -> Recipe:
    data = f"data={{name='episodes',path='{path}',frames=9,state='state'}}"
    return small(data, "train.batch_size=4", *overrides)


def test_recorded_episodes_train(episodes: Path, tmp_path: Path) -> None:
    """Splits by episode, actions z-scored by constants that the run keeps, the short episode left out."""
    recipe = of_files(episodes, "data.max_corrupt=0.5")
    source = build("data", recipe.data)
    keys = {split: set(source.split(split).keys()) for split in ("train", "val", "test")}
    assert len(keys["train"] | keys["val"] | keys["test"]) == 20 == sum(map(len, keys.values()))
    run = train(recipe, tmp_path / "run")
    learned = json.loads((run.folder / "transforms.json").read_text())["learned"]["condition.actions"]
    values = np.array([float(key[-1]) for key in keys["train"] if key != "0.hdf5/demo_4"])
    assert learned["mean"] == pytest.approx([values.mean()] * 2, abs=1e-4)
    assert learned["std"] == pytest.approx([values.std()] * 2, abs=1e-4)


def test_push_t_is_played(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("gym_pusht")
    data = "data={name='pusht',frames=3,frame_step=2,episodes=4,length=6}"
    source = build("data", small(data).data)
    episode = source.split("val")[0].views["film"]
    window = episode.window(0, 3)
    assert window.views["film"].shape == (3, 3, 96, 96)
    assert window.condition["actions"].shape == (2, 4)
    assert window.targets["state"].shape == (5,)
    moved = (window.views["film"][0] != window.views["film"][2]).any()
    assert moved


# --- bad input


@pytest.mark.parametrize(
    ("overrides", "line"),
    [
        (["data.length=5"], "setting 'data.length' is 5: episodes of 6 frames; a window has 9 (data.frames)"),
        (["variant.horizon=9"], "variant.horizon 9 need windows of 10 frames; data.frames is 9"),
        (["variant.planner.elites=500"], "setting 'variant.planner.elites' is 500; variant.planner.candi"),
    ],
)  # fmt: skip
def test_settings_that_cannot_be(overrides: list[str], line: str) -> None:
    with pytest.raises(UserError) as caught:
        build_model(small(*overrides))
    assert line in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_episode_shorter_than_the_window_is_corrupt() -> None:
    states, actions = play_behaviour(Line(), 1, 3, "train")
    with pytest.raises(CorruptSample, match="it has 4 frames; a window has 9"):
        Episode(Line(), states[0], actions[0]).starts(9)


@pytest.mark.parametrize(
    ("overrides", "line"),
    [
        (["data.camera=wrist"], "has no 'wrist'; it has: agentview_image, state"),
        (["data.state=pose"], "has no 'pose'; it has: agentview_image, state"),
        (["data.path=nowhere"], "data.path 'nowhere' has no .hdf5 files"),
    ],
)
def test_files_of_another_layout(episodes: Path, overrides: list[str], line: str) -> None:
    with pytest.raises(UserError) as caught:
        build_model(of_files(episodes, *overrides))
    assert line in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("actions", "line"),
    [
        (np.full((16, 2), np.nan, np.float32), "condition.actions is nan at [0, 0]; expected finite numbers"),
        (np.ones((16, 3), np.float32), "condition.actions is shape [8, 3]; expected a sequence [8, 2]"),
    ],
)
def test_actions_that_cannot_be(episodes: Path, tmp_path: Path, actions: Any, line: str) -> None:
    import h5py

    for number in range(2):
        with h5py.File(episodes / f"{number}.hdf5", "a") as file:
            for name in list(file["data"])[1:]:
                del file[f"data/{name}/actions"]
                file[f"data/{name}/actions"] = actions
    with pytest.raises(UserError) as caught:
        train(of_files(episodes, "data.max_corrupt=0.5"), tmp_path / "run")
    assert line in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("source", "package"), [("pusht", "gymnasium"), ("episodes", "h5py")])
def test_an_environment_that_is_not_installed(
    source: str, package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    (tmp_path / "a.hdf5").touch()
    path = f",path='{tmp_path}'" if source == "episodes" else ""
    recipe = small(f"data={{name='{source}',frames=9{path}}}")
    with pytest.raises(UserError, match=r"pip install 'jepa-core\[world\]'"):
        build("data", recipe.data).split("train")


def test_a_goal_outside_the_world() -> None:
    recipe = small()
    agent = agent_of(trained_transforms(build_model(recipe), recipe), build("data", recipe.data))
    starts = agent.world.draw_states(2, "test", Generator().manual_seed(0))
    for place in ([70.0, 10.0], [float("nan"), 10.0]):
        goals = starts.clone()
        goals[1, :2] = torch.tensor(place)
        with pytest.raises(UserError, match=r"goal 1 \(x .*\) is outside the world: x is 4 to 60"):
            play(agent.world, RandomPolicy(agent.world, NOWHERE), starts, goals)


def test_plans_are_of_world_models_alone(tmp_path: Path) -> None:
    recipe = load_recipe("ijepa/demo")
    with pytest.raises(
        UserError, match="the run's variant is 'jepa'; plans are made with the variant 'world'"
    ):
        agent_of(build_model(recipe), None)
    pusht = build("data", small("data={name='pusht',frames=9}").data)
    model = build_model(small())
    with pytest.raises(UserError, match="the data source 'pusht' has no world to plan in"):
        agent_of(model, pusht)


def test_a_source_without_actions() -> None:
    with pytest.raises(UserError, match=r"needs condition\.actions, a sequence of one length"):
        WorldModel(WorldModel.Config(name="world"), fields={"views.film": Field("clip")})
