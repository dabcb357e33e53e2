"""Whole runs on small clips by the command line: every encoder and masker; probes, pictures, report."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from jepa_core import observers
from jepa_core.runs.metrics_file import read_metrics
from tests.plugins.made_clips import numbered, write_video

ENCODERS = [f"vjepa_{size}" for size in ("tiny", "small", "base", "large", "huge", "giant")]


@pytest.fixture(scope="module")
def overrides(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Four clips of sixty frames, one damaged, one too short."""
    folder = tmp_path_factory.mktemp("clips")
    for number in range(4):
        write_video(folder / f"{number}.mp4", np.roll(numbered(60, (40, 40)), 9 * number, axis=2))
    write_video(folder / "short.mp4", numbered(3, (40, 40)))
    (folder / "damaged.mp4").write_bytes(b"no film")
    data = {"name": "clips", "path": folder, "frame_step": 1, "hold_out": "time", "sample_every": 6}
    data |= {"val_share": 0.2, "test_share": 0.4, "max_corrupt": 0.5}
    own = [f"data.{key}={value}" for key, value in data.items()]
    return [*own, "train.device=cpu", "train.precision=fp32", "train.log_every=1"]


@pytest.mark.parametrize(
    "part", [*(f"encoder.name={name}" for name in ENCODERS), "masker.name=tube", "masker.name=causal"]
)
def test_every_part_for_clips_trains_by_name(jepa, overrides, tmp_path: Path, monkeypatch, part: str) -> None:
    monkeypatch.setattr(observers, "standard", lambda: [observers.MetricsWriter()])
    small = ["encoder.width=24", "encoder.heads=2", "encoder.depth=1", "train.steps=1"]
    single = ["predictor.mask_tokens=1"] if part.startswith("masker") else []
    said = jepa("train", "vjepa/selftest", *overrides, part, *small, *single, "--run", tmp_path / "run")
    assert said.code == 0, said.err
    assert 0 < read_metrics(tmp_path / "run/metrics.jsonl")[0]["loss"] < 10


def test_a_run_from_clips_to_its_report(jepa, overrides, tmp_path: Path) -> None:
    run = tmp_path / "run"
    probe = ["probes.attentive.name=attentive", "probes.attentive.steps=5", "probes.knn.k=3"]
    trained = jepa("train", "vjepa/selftest", *overrides, *probe, "train.batch_size=16", "--run", run)
    assert trained.code == 0, trained.err
    listed = {line.split("\t")[0] for line in (run / "corrupt_files.tsv").read_text().splitlines()}
    assert listed == {"damaged", "too_short"}
    assert read_metrics(run / "metrics.jsonl")[-1]["corrupt_images"] >= 2
    assert (run / "masks.png").exists()
    assert [path.name for path in (run / "pictures").iterdir()] == ["foresight.png"]
    table = jepa("eval", run, "--probe", "knn,attentive")
    assert table.code == 0, table.err
    for word in ("arrow", "speed", "one frame", "frame differences", "amount of change", "attentive top1"):
        assert word in table.out
    written = json.loads((run / "eval.json").read_text())
    one_frame = next(row for row in written["rows"] if row["name"] == "one frame")
    assert one_frame["scores"]["knn"]["top1"] == 0.5
    assert one_frame["scores"]["attentive"]["top1"] == 0.5
    assert jepa("report", run, "--images", "8").code == 0
    page = (run / "report.html").read_text(encoding="utf-8")
    assert "What is predicted, over time" in page
    assert "<h3>speed</h3>" in page
    pictures = {path.stem for path in (run / "report").iterdir()}
    assert {"foresight", "masks", "pca", "similarity", "neighbours"} <= pictures
