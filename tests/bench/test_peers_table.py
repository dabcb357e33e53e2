"""The table of `tests/bench/peers`, from a made measurement: it needs none of the packages compared."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.bench.peers.table import Curve, Measurement, Row, curves_table

MADE = Measurement(
    {"processor": "made", "threads": 1},
    {"bf16": 220e9, "fp32": 100e9},
    (
        Row("64 tokens", "bf16", "ours", 200.0, 190.0, (1.0, 1.0, 1.0), 20.0, 0.45, 300.0),
        Row("64 tokens", "bf16", "theirs", 320.0, 290.0, (1.5, 1.6, 1.9), 25.0, 0.36, 512.4),
        Row("16 tokens", "bf16", "theirs", None),
    ),
)


def test_ratios_are_medians_over_the_rounds_and_rates_are_compared() -> None:
    text = MADE.markdown()
    assert "bf16 220, fp32 100 GFLOP/s, ratio 2.20" in text
    assert "| theirs | 320 | 290 | 1.60 | 1.50 to 1.90 | 25.0 | .36 | 512 |" in text
    assert text.index("64 tokens, bf16") < text.index("16 tokens, bf16")


def test_what_draws_no_masks_is_said_and_not_left_out() -> None:
    (line,) = [line for line in MADE.markdown().splitlines() if "does not end" in line]
    assert line.startswith("| theirs |")
    assert line.count("|") == 9


def test_a_measurement_is_read_back_as_it_was_written(tmp_path: Path) -> None:
    MADE.save(tmp_path / "new")
    assert Measurement.load(tmp_path / "new") == MADE
    assert (tmp_path / "new" / "peers.md").read_text() == MADE.markdown()


def test_curves_stand_beside_their_start() -> None:
    curves = [Curve("ours", seed, ((0.0, 0.30), (30.2, 0.40 + seed / 100))) for seed in (0, 1)]
    lines = curves_table(curves).splitlines()
    assert lines[-1] == "| ours | 2 | 30 | 30.0 | 40.5 | +10.5 |"


def test_it_asks_for_pinned_versions_and_runs_without_them() -> None:
    """The command's own file needs nothing but Python, so that it can make its environment."""
    folder = Path(__file__).parent / "peers"
    wanted = (folder / "requirements.txt").read_text().splitlines()
    assert all("==" in line for line in wanted if not line.startswith("#"))
    shown = subprocess.run(
        [sys.executable, "-S", "-m", "tests.bench.peers.run", "--help"],
        capture_output=True,
        text=True,
        cwd=folder.parents[2],
        check=False,
    )
    assert shown.returncode == 0, shown.stderr
    assert "--learn SECONDS" in shown.stdout


@pytest.mark.parametrize("name", ["lightly", "stable_pretraining"])
def test_no_other_code_of_the_project_imports_them(name: str) -> None:
    root = Path(__file__).parents[2]
    folders = ("jepa_core", "plugins", "kernels", "tests")
    files = [path for folder in folders for path in (root / folder).rglob("*.py")]
    users = {path.parent.name for path in files if f"from {name}" in path.read_text(encoding="utf-8")}
    assert users - {"peers"} == set()
