"""`python -m jepa_kernels.bench`: by torch alone, results by device and versions, ratios compared."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from jepa_kernels.bench.__main__ import main
from jepa_kernels.bench.compare import compare, compare_files
from jepa_kernels.bench.machine import about, results_path
from jepa_kernels.bench.text import lines

ROOT = Path(__file__).parents[2]
ALONE = """
import runpy, sys
class Nothing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in %r:
            raise ModuleNotFoundError(f"{name} is not to be needed")
sys.meta_path.insert(0, Nothing())
sys.argv = ["bench", "--quick", "--op", "loss", "--shape", "CIFAR", "--device", "cpu", "--out", sys.argv[1]]
runpy.run_module("jepa_kernels.bench", run_name="__main__")
"""
NOT_NEEDED = (
    "jepa_core",
    "timm",
    "einops",
    "pluggy",
    "pydantic",
    "typer",
    "rich",
    "matplotlib",
    "safetensors",
)


def test_it_needs_torch_alone(tmp_path):
    env = {**os.environ, "PYTHONPATH": str(ROOT / "kernels"), "OMP_NUM_THREADS": "1"}
    words = [sys.executable, "-c", ALONE % (NOT_NEEDED,), str(tmp_path)]
    process = subprocess.run(words, env=env, cwd=tmp_path, capture_output=True, text=True)
    assert process.returncode == 0, process.stderr
    assert "loss: CIFAR T/4" in process.stdout
    (path,) = tmp_path.glob("*.json")
    written = json.loads(path.read_text())
    assert written["shapes"] == 1
    assert path == results_path(tmp_path, written)
    assert [row["impl"] for row in written["rows"]] == ["ours: reference", "ours: triton"]


def test_a_file_is_named_for_device_and_versions():
    document = {**about(), "device": "cuda"}
    document["environment"]["gpus"] = [{"name": "NVIDIA H200", "memory_gib": 139}]
    document["environment"]["versions"] |= {"torch": "2.11.0+cu130", "triton": "3.6.0"}
    assert results_path(Path("r"), document) == Path("r/nvidia-h200-torch-2.11.0-triton-3.6.0.json")


def row(impl, seconds, case="B/16 context", **more):
    facts = {"op": "attention", "case": case, "direction": "forward", "impl": impl, "median_s": seconds}
    return {**facts, **more}


def results(seconds, peers, shapes=1):
    rows = [row("ours: triton", seconds), *(row(f"peer {n}", time) for n, time in enumerate(peers))]
    return {"shapes": shapes, "rows": [*rows, {**row("absent", 0), "reason": "not installed"}]}


def test_ratios_are_compared_and_not_times():
    (same,) = compare(results(1.0, [2.0, 3.0]), results(10.0, [20.0, 30.0]))
    assert same.ratios == {"peer 0": pytest.approx(1), "peer 1": pytest.approx(1)}
    (slower,) = compare(results(1.0, [2.0, 3.0, 4.0]), results(1.2, [2.0, 3.0, 1.0]))
    assert slower.typical == pytest.approx(1.2)
    assert slower.line(0.05).startswith("SLOWER  1.20  attention B/16 context forward, ours: triton")
    assert slower.line(0.3).startswith("ok")
    assert "beside peer 2: 4.80" in slower.line(0.05)


def test_comparing_files_says_whether_all_is_well(tmp_path, capsys):
    paths = [tmp_path / name for name in ("a", "b", "other", "empty")]
    documents = [results(1, [2]), results(1.2, [2]), results(1, [2], 2), {"shapes": 1, "rows": []}]
    for path, document in zip(paths, documents, strict=True):
        path.write_text(json.dumps(document))
    a, b, other_version, empty = paths
    assert compare_files(a, b)[0][-1] == "1 compared, 1 slower by more than 5 %"
    assert main(["compare", str(a), str(b)]) == 1
    assert main(["compare", str(a), str(b), "--tolerance", "0.3"]) == 0
    assert main(["compare", str(a), str(other_version)]) == 2
    assert main(["compare", str(a), str(empty)]) == 2
    assert main(["compare", str(a), str(tmp_path / "nothing")]) == 2
    text = capsys.readouterr().out
    assert "error: results of different versions of the cases: 1 and 2" in text
    assert "error: the two files have no case with one of ours and a peer in common" in text


def test_the_cases_are_listed_with_their_share_on_the_short_path(capsys):
    assert main(["shapes"]) == 0
    text = capsys.readouterr().out
    assert "I-JEPA H/14 context        128 x 85 to 181     16 x  80    74 %" in text
    assert main(["--op", "atention"]) == 2
    assert "unknown operation 'atention'" in capsys.readouterr().out


def test_a_table_says_what_ran_and_what_did_not():
    facts = row("ours: triton", 20e-6, graph_s=15e-6, launched_s=50e-6, gb_s=2100.0, tflop_s=90.0)
    facts |= {"computed_over_useful": 1.5, "over_torch": 1.1, "same_bits": False, "peak_bytes": 3 * 2**20}
    head, row_line, absent = lines(
        [facts | {"roofline": 0.5}, {**row("absent", 0), "reason": "not installed"}]
    )
    assert " ".join(head.split()) == ("forward cold warm launched GB/s TFLOP/s roofline waste error bits MiB")
    assert " ".join(row_line.split()) == (
        "ours: triton 20.0 us 15.0 us 50.0 us 2,100 90.0 50 % 1.50 1.10 DIFFER 3"
    )
    assert absent == "  not run: absent: not installed"
