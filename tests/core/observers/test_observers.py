"""Core's observers on their own: the journal of starts and stops, and the collapse alarm."""

from __future__ import annotations

import io
import math
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import pytest
import torch
from rich.console import Console

from jepa_core import hookimpl, load_recipe, plugins, train
from jepa_core.errors import printable
from jepa_core.evaluate import collapse
from jepa_core.observers import progress_bar
from jepa_core.observers.standard import CollapseAlarm, Journal, MetricsWriter, Terminal, standard
from jepa_core.recipes import names
from jepa_core.runs.events_file import read_events
from jepa_core.runs.metrics_file import METRICS, read_metrics, to_line
from jepa_core.runs.run import Run
from jepa_core.runtime.machine_load import Load


class StopsAt:
    """Ends the run with an error at a step."""

    def __init__(self, step: int) -> None:
        self.step = step

    @hookimpl
    def jepa_step_ended(self, run: Run, step: int) -> None:
        if step == self.step:
            raise RuntimeError("the cat stepped on the switch")


def journal(folder: Path) -> list[dict[str, Any]]:
    """The events that `Journal` writes; the run itself writes others."""
    return [event for event in read_events(folder) if event["kind"] in ("started", "stopped")]


def test_a_run_is_journalled_from_start_to_stop(tiny_recipe: Path, tmp_path: Path) -> None:
    train(load_recipe(tiny_recipe), tmp_path, watch=[Journal()])
    started, stopped = journal(tmp_path)
    assert (started["kind"], started["step"], started["resumed"]) == ("started", 0, False)
    assert started["environment"]["versions"]["torch"]
    assert (started["total_steps"], started["device"], started["precision"]) == (6, "cpu", "fp32")
    assert started["images"] == 52
    assert started["parameters"] > 1000
    assert (stopped["kind"], stopped["step"], stopped["why"]) == ("stopped", 6, "finished")
    assert stopped["seconds"] >= 0


def test_an_error_and_the_way_on_are_journalled(tiny_recipe: Path, tmp_path: Path) -> None:
    recipe = load_recipe(tiny_recipe, "train.checkpoint_every=2")
    with pytest.raises(RuntimeError, match="the cat"):
        train(recipe, tmp_path, watch=[Journal(), StopsAt(3)])
    train(recipe, tmp_path, resume=True, watch=[Journal()])
    steps = [(event["kind"], event["step"]) for event in journal(tmp_path)]
    assert steps == [("started", 0), ("stopped", 3), ("started", 2), ("stopped", 6)]
    assert [event["resumed"] for event in read_events(tmp_path, "started")] == [False, True]
    assert read_events(tmp_path, "stopped")[0]["why"] == "error RuntimeError: the cat stepped on the switch"


def test_the_standard_observers_write_metrics_before_others_read_them() -> None:
    assert [type(observer) for observer in standard()][:2] == [MetricsWriter, Journal]
    assert Terminal in map(type, standard())


PAGE = (Path(__file__).parents[3] / "docs/observers.md").read_text(encoding="utf-8")
FENCES = re.findall(r"^```python\n(.*?)^```", PAGE, re.M | re.S)


@pytest.fixture
def wandb(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, Any]]:
    """A stand-in for wandb and trackio that writes down what it is told."""
    told: list[tuple[str, Any]] = []
    module: Any = ModuleType("wandb")
    module.init = lambda **facts: told.append(("init", facts))
    module.log = lambda metrics, step: told.append(("log", (step, metrics)))
    module.finish = lambda: told.append(("finish", None))
    monkeypatch.setitem(sys.modules, "wandb", module)
    return told


def test_the_observer_of_the_docs_tells_wandb_all(
    wandb: list[tuple[str, Any]], tiny_recipe: Path, tmp_path: Path
) -> None:
    code = next(fence for fence in FENCES if "import wandb" in fence)
    assert len([line for line in code.splitlines() if line.strip()]) <= 12
    plugin: Any = ModuleType("jepa_wandb")
    exec(code, vars(plugin))
    plugins.registry().register(plugin, "wandb")
    try:
        run = train(load_recipe(tiny_recipe, "train.log_every=4"), tmp_path / "mine", watch=[MetricsWriter()])
    finally:
        plugins.registry().manager.unregister(name="wandb")
    assert [what for what, _ in wandb] == ["init", "log", "log", "finish"]
    assert wandb[0][1]["name"] == "mine"
    assert wandb[0][1]["config"]["optimizer"]["lr"] == 1e-3
    assert [facts[0] for what, facts in wandb if what == "log"] == [4, 6]
    assert wandb[1][1][1]["loss"] == run.metrics()[0]["loss"]


def test_the_observer_object_of_the_docs_watches_one_run(
    tiny_recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    code = next(fence for fence in FENCES if "class Lowest" in fence)
    monkeypatch.chdir(tmp_path)
    exec(code.replace("ijepa/selftest", str(tiny_recipe)), {"__name__": "docs"})
    losses = [line["loss"] for line in read_metrics(tmp_path / "runs/observed" / METRICS)]
    assert capsys.readouterr().out.strip() == str(min(losses))


def test_the_docs_name_what_is_there() -> None:
    for target in re.findall(r"\]\(([^)#]+)", PAGE):
        assert (Path(__file__).parents[3] / "docs" / target).exists(), target
    assert "ijepa/selftest" in names()


class FakeRun:
    """What the alarm asks of a run."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.notes: dict[str, Any] = {}
        self.recorded: list[dict[str, Any]] = []

    def metrics(self) -> list[dict[str, Any]]:
        return self.recorded


@pytest.fixture
def alarmed(tmp_path: Path) -> Callable[..., tuple[FakeRun, str]]:
    """Plays RankMe values, one a step, to a fresh alarm; `before` were logged before a resumption."""

    def play(values: Sequence[float], before: Sequence[float | None] = ()) -> tuple[FakeRun, str]:
        run: Any = FakeRun(tmp_path)
        run.recorded = [{"step": i + 1, "rankme": v, "feature_std": 0.5} for i, v in enumerate(before)]
        said = io.StringIO()
        alarm = CollapseAlarm(Console(file=said, width=200))
        alarm.jepa_run_started(run)
        for step, value in enumerate(values, start=len(before) + 1):
            alarm.jepa_step_ended(run, step, {"rankme": value, "feature_std": 0.5})
            alarm.jepa_step_ended(run, step, {})
        return run, said.getvalue()

    return play


def test_a_collapse_is_said_once_and_journalled(alarmed: Callable[..., Any], tmp_path: Path) -> None:
    run, said = alarmed([40, 2, 2, 2, 2, 2])
    (event,) = read_events(tmp_path, "alarm")
    assert event["step"] == 4, "three looks in a row"
    assert event["text"] == run.notes["alarms"][0]
    assert event["text"].startswith("step 4: the features may be collapsing: RankMe 2.0 is under 30%")
    assert said.count("alarm") == 1


def test_a_healthy_run_is_silent(alarmed: Callable[..., Any], tmp_path: Path) -> None:
    assert alarmed([40, 30, 35, 38])[1] == ""
    assert not read_events(tmp_path)


def test_a_resumed_run_is_judged_by_its_whole_log(alarmed: Callable[..., Any], tmp_path: Path) -> None:
    """The start that RankMe is compared with is the run's, not the resumption's."""
    alarmed([2], before=[40, 2, 2])
    assert [event["step"] for event in read_events(tmp_path, "alarm")] == [4]


def test_features_that_are_not_finite_are_an_alarm_also_from_the_log(
    alarmed: Callable[..., Any], tmp_path: Path
) -> None:
    (tmp_path / METRICS).write_text(to_line(1, {"rankme": math.nan}))
    alarmed([math.nan], before=[None])
    assert "not finite" in read_events(tmp_path, "alarm")[0]["text"]


def fake_run(name: str = "mine", note: str = "", total: int = 4, device: str = "cpu") -> Any:
    """What the terminal reads of a run."""
    model = torch.nn.Linear(2, 2)
    model.grid = lambda: (4, 4)  # type: ignore[assignment]
    training = SimpleNamespace(bf16=False, device=torch.device(device), ranks=SimpleNamespace(world_size=1))
    samples = MagicMock(note=note, classes=())
    samples.__len__.return_value = 8
    recipe = SimpleNamespace(name=name, train=SimpleNamespace(eval_every=0))
    return SimpleNamespace(
        model=model, training=training, samples=samples, recipe=recipe, notes={}, step=0, total_steps=total
    )


def shown(run: Any, steps: int = 4, terminal: bool = False) -> str:
    """What the terminal prints of a run."""
    file = io.StringIO()
    observer = Terminal(Console(file=file, width=200, force_terminal=terminal, no_color=True))
    observer.jepa_run_started(run)
    for step in range(1, steps + 1):
        observer.jepa_step_ended(run, step, {"loss": 1.0})
    observer.jepa_run_ended(run)
    return file.getvalue()


@pytest.mark.parametrize("text", ["\x1b[31mred", "\x9b2J", "a\u202eb", "[/b] [red]x[/] [link=http://a]"])
def test_names_do_not_steer_the_terminal(text: str) -> None:
    printed = shown(fake_run(name=text, note=f"images of {text}"))
    assert f"{printable(text)}: 0.00 M" in printed
    assert f"images of {printable(text)}" in printed
    assert printable(printed, keep="\n") == printed
    file = io.StringIO()
    progress = Terminal(Console(file=file, width=200))
    progress.begin(f"features of {text}", 2)
    progress.advance(2)
    assert f"features of {printable(text)}: 2 of 2" in file.getvalue()
    bar = Terminal(Console(file=file, width=200, force_terminal=True))
    with bar:
        bar.begin(f"features of {text}", 2)
        bar.advance(2)
    assert "\x1b[31mred" not in file.getvalue()


def test_an_alarm_does_not_steer_the_terminal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(collapse, "collapse_warning", lambda *_: "[/b] \x1b[31m")
    run: Any = FakeRun(tmp_path)
    file = io.StringIO()
    CollapseAlarm(Console(file=file, width=200)).jepa_step_ended(run, 1, {"loss": 1.0})
    assert file.getvalue() == "alarm [/b] \\x1b[31m\n"


def test_a_busy_machine_is_said_in_the_progress_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress_bar.torch, "get_num_threads", lambda: 2)
    monkeypatch.setattr(progress_bar.LoadMeter, "read", lambda self: Load(1.5, 2))
    line = shown(fake_run()).splitlines()[-1]
    assert line.endswith("loss 1.0000  busy machine: other processes use 1.5 of 2 cores")
    assert "busy" not in shown(fake_run(device="cuda")), "its steps do not need the cores"
    monkeypatch.setattr(progress_bar.LoadMeter, "read", lambda self: Load(0.1, 2))
    assert "busy" not in shown(fake_run())
    monkeypatch.setattr(progress_bar.LoadMeter, "read", lambda self: None)
    assert "busy" not in shown(fake_run())
