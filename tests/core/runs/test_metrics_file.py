"""metrics.jsonl: strict JSON whatever happened, merged by step, forgiving only a last line cut short."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from jepa_core import UserError
from jepa_core.runs.metrics_file import keep_until, read_metrics, to_line


def test_what_is_written_is_read_back() -> None:
    assert json.loads(to_line(3, {"loss": 0.25, "corrupt_images": 0})) == {
        "step": 3,
        "loss": 0.25,
        "corrupt_images": 0,
    }


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_what_is_not_finite_is_null(value: float) -> None:
    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is no JSON")

    line = json.loads(to_line(1, {"loss": value, "lr": 0.5}), parse_constant=refuse)
    assert line == {"step": 1, "loss": None, "lr": 0.5}


def test_a_resumed_run_is_merged_and_a_cut_last_line_left_out(tmp_path: Path) -> None:
    path = tmp_path / "m.jsonl"
    lines = [{"step": 1, "loss": 3.0}, {"step": 2, "loss": 2.0}, {"step": 1, "lr": 0.1}]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    path.write_text(path.read_text() + '{"step": 2, "loss": 1.5}\n{"note": 1}\n{"step": 3, "lo')
    assert read_metrics(path) == [{"step": 1, "loss": 3.0, "lr": 0.1}, {"step": 2, "loss": 1.5}]


def test_a_broken_line_in_the_middle_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "m.jsonl").write_text('{"step": 1}\nnonsense\n{"step": 2}\n')
    with pytest.raises(UserError, match=r"m.jsonl, line 2 is not JSON: 'nonsense'"):
        read_metrics(tmp_path / "m.jsonl")


def test_where_there_is_no_file_nothing_was_logged(tmp_path: Path) -> None:
    assert read_metrics(tmp_path / "m.jsonl") == []


def test_what_a_resumed_run_will_write_again_is_dropped(tmp_path: Path) -> None:
    path = tmp_path / "m.jsonl"
    path.write_text("".join(to_line(step, {"loss": step / 4}) for step in (1, 2, 3)) + '{"step": 4')
    keep_until(path, 2)
    assert path.read_text() == '{"step": 1, "loss": 0.25}\n{"step": 2, "loss": 0.5}\n'
