"""`ijepa/own`: any folder of images, trained for a few steps, judged with labels and without."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from jepa_core import load_recipe, train
from jepa_core.evaluate.run import evaluate_run
from jepa_core.report.write import write_report
from jepa_core.runs import settle
from tests.core.runs.test_run import Watcher

SMALL = (
    "encoder.image_size=32",
    "encoder.patch_size=8",
    "encoder.width=32",
    "encoder.depth=1",
    "encoder.heads=2",
    "predictor.width=24",
    "predictor.heads=2",
    "predictor.depth=1",
    "train.device=cpu",
    "train.precision=fp32",
    "train.epochs=1",
)


def write_photos(folder: Path, count: int) -> Path:
    """Images of many sizes and formats in nested folders, some beside them."""
    random = np.random.default_rng(0)
    for number in range(count):
        inside = folder / ("", "holiday", "holiday/beach")[number % 3]
        inside.mkdir(parents=True, exist_ok=True)
        sides = random.integers(20, 90, 2)
        image = Image.fromarray(random.integers(0, 256, (*sides, 3), dtype=np.uint8))
        grey = image.convert("L") if number % 5 == 0 else image
        grey.save(inside / f"{number}.{('jpg', 'PNG', 'webp', 'bmp')[number % 4]}")
    return folder


@pytest.fixture(autouse=True)
def _few_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settle, "SECONDS", 0.0)


def test_forty_photos_without_labels_are_trained_on_and_judged(tmp_path: Path) -> None:
    photos = write_photos(tmp_path / "photos", 40)
    run = train(load_recipe("ijepa/own", f"data.path={photos}", *SMALL), tmp_path / "run", watch=[])
    settled = run.recipe.train
    assert (settled.batch_size, settled.steps, settled.hours) == (4, 8, 1)
    table = evaluate_run(run.folder, [], cache=False)
    assert [row.name for row in table.rows] == ["trained", "random twin", "raw pixels"]
    assert not table.rows[0].scores
    assert table.rows[0].rankme > 0
    assert "retrieval" in table.rows[0].predictions
    page = write_report([run.folder]).read_text(encoding="utf-8")
    assert "<h2>Nearest neighbours</h2>" in page


def test_the_report_of_images_without_labels_has_clusters(tmp_path: Path) -> None:
    photos = write_photos(tmp_path / "photos", 100)
    words = (f"data.path={photos}", "data.test_share=0.3", *SMALL)
    run = train(load_recipe("ijepa/own", *words), tmp_path / "run", watch=[])
    page = write_report([run.folder], probes=False).read_text(encoding="utf-8")
    assert "<h2>Clusters</h2>" in page
    assert (run.folder / "report" / "clusters.png").is_file()


def test_before_and_after_with_class_folders_and_a_resume(tmp_path: Path) -> None:
    for name in ("cats", "dogs"):
        write_photos(tmp_path / "photos" / name, 20)
    words = (f"data.path={tmp_path / 'photos'}", *SMALL)
    first = train(load_recipe("ijepa/own", *words), tmp_path / "first", watch=[])
    recipe = load_recipe("ijepa/own", *words, f"init.encoder.run={first.folder}", "train.checkpoint_every=3")
    whole, rest = Watcher(), Watcher()
    run = train(recipe, tmp_path / "second", watch=[whole])
    with pytest.raises(KeyboardInterrupt):
        train(recipe, tmp_path / "cut", watch=[Watcher(stops=5)])
    train(recipe, tmp_path / "cut", resume="auto", watch=[rest])
    assert rest.told[1:-1] == whole.told[4:-1]
    table = evaluate_run(run.folder, ["knn"], cache=False)
    assert [row.name for row in table.rows] == ["trained", "initial weights", "random twin", "raw pixels"]
    assert "top1" in table.row("initial weights").scores["knn"]
    assert table.row("initial weights").rankme == pytest.approx(
        evaluate_run(first.folder, ["knn"], cache=False).rows[0].rankme
    )
