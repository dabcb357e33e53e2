"""`kernels/benchmarks/gpu.sh` and the pictures: its parts and their time, a dry run, what is drawn."""

import json
import os
import subprocess
import sys
import time
from importlib import metadata
from pathlib import Path

import pytest
import torch

from jepa_kernels.triton_attention_table import FILE, read_table
from kernels.benchmarks import draw, gpu, gpu_parts

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "kernels/benchmarks/gpu.sh"


def start(out, *words):
    env = {**os.environ, "PYTHON": sys.executable, "OUT": str(out)}
    return subprocess.run([SCRIPT, *words], capture_output=True, text=True, env=env)


@pytest.mark.skipif(torch.cuda.is_available(), reason="speaks of a machine without a GPU")
def test_without_a_gpu_it_says_so_and_runs_nothing(tmp_path):
    process = start(tmp_path)
    assert process.returncode == 2
    assert "torch sees no GPU here" in process.stdout
    assert "--dry-run" in process.stdout
    assert list(tmp_path.iterdir()) == []


@pytest.mark.timeout(600)
@pytest.mark.long
def test_a_dry_run_goes_through_every_part(tmp_path):
    before = FILE.read_text()
    process = start(tmp_path, "--dry-run")
    assert process.returncode == 0, process.stdout + process.stderr
    log = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    parts = list(dict.fromkeys(line["part"] for line in log))
    assert parts == [
        "ceilings",
        "correctness",
        "attention",
        "steps",
        "compile",
        "tune",
        "auto",
        "ema",
        "types",
        "memcheck",
    ]
    assert not [line for line in log if line.get("wrong")]
    (results,) = (path for path in tmp_path.glob("*-torch-*.json"))
    document = json.loads(results.read_text())
    assert document["dry_run"] is True
    assert {row["impl"] for row in document["rows"] if "reason" not in row} >= {
        "ours: triton",
        "ours: foreach",
    }
    reports = [line["report"] for line in log if line["part"] == "steps" and "report" in line]
    assert [[way["name"] for way in report["ways"]] for report in reports] == [
        ["jepa-core", "the released code's way"],
        ["jepa-core"],
    ]
    tuned = json.loads((tmp_path / FILE.name).read_text())
    assert tuned["measured"]["device"] == "no GPU: a dry run"
    assert read_table((tmp_path / FILE.name).read_text()).keys() == read_table(before).keys()
    assert FILE.read_text() == before, "a dry run leaves the table alone"


@pytest.mark.parametrize(("words", "last"), [([], 210), (["--tune"], 240), (["--rest"], 150)])
def test_parts_end_one_after_the_other(words, last):
    ends = [part.end for part in gpu.plan(words)]
    assert ends == sorted(ends)
    assert ends[-1] == last


def test_the_whole_takes_less_than_ten_minutes_and_the_most_valuable_comes_first():
    assert sum(gpu.plan(words)[-1].end for words in ([], ["--tune"], ["--rest"])) == 600
    assert [part.name for part in gpu.plan([])] == ["ceilings", "correctness", "attention", "steps"]


def test_a_part_that_fails_or_hangs_leaves_the_others_their_time(tmp_path, monkeypatch):
    monkeypatch.setattr(gpu, "GRACE", 0.2)

    def good(run):
        yield {"say": "one"}
        yield {"say": "two"}

    def late(run):
        yield {"say": "first"}
        yield {"say": "never looked for"}

    def raise_error(run):
        yield {"say": "before"}
        raise RuntimeError("no kernel\nat all")

    def hanging(run):
        time.sleep(30)
        yield {}

    run = gpu.Run(tmp_path, dry=True)
    parts = [gpu.Part("late", -1, late), gpu.Part("broken", 60, raise_error)]
    parts += [gpu.Part("hanging", run.seconds + 0.3, hanging), gpu.Part("good", 60, good)]
    parts[0] = gpu.Part("late", run.seconds + 1e-9, late)
    gpu.carry_out(run, parts)
    log = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [line["say"] for line in log if line["part"] == "late"] == ["first", "its 0 s are over"]
    assert [line["say"] for line in log if line["part"] == "broken"][-1] == "FAILED: RuntimeError: no kernel"
    assert "FAILED: TimeoutError: interrupted after" in next(x["say"] for x in log if x["part"] == "hanging")
    assert [line["say"] for line in log if line["part"] == "good"] == ["one", "two"]
    assert run.wrong == 2


def test_plugins_are_found_where_the_project_is_not_installed(monkeypatch):
    """By metadata made of pyproject.toml, on the path of this process."""
    monkeypatch.setattr(gpu_parts, "distributions", list)
    monkeypatch.setattr(sys, "path", list(sys.path))
    assert gpu_parts.make_discoverable(ROOT) is True
    (distribution,) = metadata.distributions(name="jepa-core", path=sys.path[:1])
    installed = metadata.entry_points(group="jepa")
    assert distribution.entry_points
    assert set(distribution.entry_points) <= set(installed)
    monkeypatch.undo()
    assert gpu_parts.make_discoverable(ROOT) is False, "here it is installed"


def test_unknown_words_are_named(capsys):
    assert gpu.main(["--tunes"]) == 2
    assert "unknown: --tunes; known: --dry-run, --tune, --rest" in capsys.readouterr().out


def row(impl, seconds, **more):
    facts = {"op": "ema", "case": "B/16", "direction": "update", "impl": impl, "median_s": seconds}
    return {**facts, "roofline": 1e-4 / seconds, "graph_roofline": None, **more}


def document(rows):
    environment = {"gpus": [], "cpu": {"model": "a CPU"}, "versions": {"torch": "2.11"}}
    return {"date": "2026-11-22 10:00:00", "device": "cpu", "environment": environment, "rows": rows}


def test_a_picture_has_a_bar_for_each_that_ran(tmp_path):
    absent = {"op": "ema", "case": "B/16", "direction": "update", "impl": "ours: triton", "reason": "no GPU"}
    path = tmp_path / "kernels.json"
    path.write_text(json.dumps(document([row("ours: foreach", 2e-4), row("loop", 4e-4), absent])))
    figure = draw.draw(json.loads(path.read_text()), "ema", "update")
    names = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert names == ["loop  400 µs", "ours: foreach  200 µs"]
    widths = [bar.get_width() for bar in figure.axes[0].patches]
    assert widths == pytest.approx([0, 0, 25, 50])
    draw.main([str(path)])
    assert (tmp_path / "kernels-ema-update.png").stat().st_size > 1000


def test_nothing_that_ran_is_no_picture():
    assert draw.draw(document([]), "ema", "update") is None


def test_the_roofline_is_drawn_against_length_for_each_head_width():
    def attention_row(impl, width, tokens, seconds, direction):
        facts = {"op": "attention", "case": f"{width}, {tokens}", "direction": direction}
        return row(impl, seconds) | facts | {"width": width, "tokens": tokens}

    times = {"ours: triton": 1e-5, "ours: varlen": 2e-5, "A": 3e-5, "B": 4e-5, "C": 5e-5, "slowest": 1e-3}
    rows = [
        attention_row(impl, width, tokens, seconds, direction)
        for impl, seconds in times.items()
        for width in (24, 64)
        for tokens in (80, 120)
        for direction in draw.PASSES
    ]
    figure = draw.draw_lengths(document(rows))
    assert [panel.get_title() for panel in figure.axes] == [
        "D = 24, forward",
        "D = 64, forward",
        "D = 24, backward",
        "D = 64, backward",
    ]
    lines = figure.axes[0].get_lines()
    assert lines[0].get_label() == "ours: triton"
    assert list(lines[0].get_xdata()) == [80, 120]
    assert list(lines[0].get_ydata()) == pytest.approx([1000, 1000])
    assert "slowest" not in {line.get_label() for line in lines}
    assert draw.draw_lengths(document([])) is None
