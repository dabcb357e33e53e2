"""`kernels/benchmarks/gpu.sh` and the pictures: what they say of what is missing, draw of what is there."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from kernels.benchmarks import draw

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "kernels/benchmarks/gpu.sh"


@pytest.mark.skipif(torch.cuda.is_available(), reason="speaks of a machine without a GPU")
def test_without_a_gpu_it_says_so_and_runs_nothing(tmp_path):
    env = {**os.environ, "PYTHON": sys.executable, "OUT": str(tmp_path)}
    ran = subprocess.run([SCRIPT], capture_output=True, text=True, env=env)
    assert ran.returncode == 2
    assert "torch sees no GPU here" in ran.stdout
    assert "--dry-run" in ran.stdout
    assert list(tmp_path.iterdir()) == []


def row(impl, seconds, **more):
    facts = {"op": "ema", "case": "B/16", "direction": "update", "impl": impl, "median_s": seconds}
    return {**facts, "roofline": 1e-4 / seconds, "graph_roofline": None, **more}


def document(rows):
    found = {"gpus": [], "cpu": {"model": "a CPU"}, "versions": {"torch": "2.11"}}
    return {"date": "2026-11-22 10:00:00", "device": "cpu", "environment": found, "rows": rows}


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
