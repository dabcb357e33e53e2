"""The speed of training: by the wall clock, and in CPU time beside it."""

import json
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from jepa_core import load_recipe, train
from jepa_core.evaluate import online
from jepa_core.evaluate.online import SpeedMeter
from jepa_core.observers.standard import MetricsWriter
from jepa_core.runtime.machine_load import Load


class Counters:
    """Stands in for the kernel's counters: three cores of ours, half a core of others."""

    def read(self) -> Load:
        return Load(0.5, 4, 3.0)


def test_speed_is_wall_clock_and_cpu_time_stands_beside_it(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    monkeypatch.setattr(online, "LoadMeter", Counters)
    run: Any = SimpleNamespace(step=4, recipe=SimpleNamespace(train=SimpleNamespace(batch_size=16)))
    meter = SpeedMeter(run)
    now[0], run.step = 110.0, 9
    assert meter.read() == {"images_per_s": 8.0, "cpu_s_per_step": 6.0, "other_cores": 0.5}
    now[0] = 200.0  # an evaluation
    meter.restart()
    now[0], run.step = 201.0, 10
    assert meter.read()["images_per_s"] == 16.0


def test_without_counters_only_the_wall_clock_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Counters, "read", lambda self: None)
    monkeypatch.setattr(online, "LoadMeter", Counters)
    run: Any = SimpleNamespace(step=4, recipe=SimpleNamespace(train=SimpleNamespace(batch_size=16)))
    assert list(SpeedMeter(run).read()) == ["images_per_s"]


def test_a_run_logs_its_cpu_time(tmp_path: Path, tiny_recipe: Path) -> None:
    """More than nothing and, on one thread, no more than the wall clock allows."""
    recipe = load_recipe(tiny_recipe, "train.steps=40", "train.batch_size=32", "train.log_every=40")
    train(recipe, tmp_path / "run", watch=[MetricsWriter()])
    (line,) = [json.loads(text) for text in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    wall = 32 / line["images_per_s"]
    assert 0 < line["cpu_s_per_step"] < 4 * wall + 0.1
    assert line["other_cores"] >= 0
