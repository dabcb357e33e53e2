"""The source of scenes: its cache, its samples, its commands, and training and probing on it."""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

import jepa_scenes
from jepa_core import UserError, load_recipe, train
from jepa_core.data.cache import save_arrays
from jepa_core.data.named_samples import read_named
from jepa_core.data.samples import ColumnSamples, InMemory
from jepa_core.evaluate import KnownValues
from jepa_core.evaluate.run import evaluate_run
from jepa_core.protocols import DescribesFields, Tasks
from jepa_core.runtime.progress import NoProgress
from jepa_core.testing import check_source
from jepa_scenes import shards
from jepa_scenes.commands import app
from jepa_scenes.pool import render_all
from jepa_scenes.rendering import render_number
from jepa_scenes.shards import FIRST, Look, shards_of
from jepa_scenes.source import ScenesSource

SMALL = {"size": 16, "train_images": 60, "val_images": 12, "test_images": 24, "render_processes": 1}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder in which the small scenes have been rendered."""
    folder = tmp_path_factory.mktemp("data")
    source(path=folder / "scenes").render()
    return folder


@pytest.fixture(autouse=True)
def _data_folder(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JEPA_DATA", str(data))


def source(**settings: Any) -> ScenesSource:
    return ScenesSource(ScenesSource.Config(name="scenes", **{**SMALL, **settings}))


def test_samples_are_images_with_maps_and_a_label() -> None:
    made = source()
    assert isinstance(made, DescribesFields)
    fields = made.fields()
    assert fields["targets.shape"].names == ("ground", "cube", "sphere", "cylinder")
    samples = made.split("val")
    expected = render_number(FIRST["val"] + 5, 0, 16, 43.0)
    sample = read_named(samples, 5, fields)
    assert torch.equal(sample.views["image"], torch.from_numpy(expected.image).permute(2, 0, 1))
    assert torch.equal(sample.targets["ids"], torch.from_numpy(expected.ids).long())
    assert torch.equal(sample.targets["shape"], torch.from_numpy(expected.shapes).long())
    assert sample.targets["depth"].dtype == torch.float32
    assert np.allclose(sample.targets["depth"], expected.depth, rtol=1e-3)
    assert sample.label == expected.count - 3
    assert "val: 12 scenes" in samples.note


def test_labels_agree_with_the_scenes_and_tasks_share_their_images() -> None:
    made = source()
    assert isinstance(made, Tasks)
    assert isinstance(made, KnownValues)
    count, distance = (made.labelled_samples(task, "test", (3, 16, 16)) for task in made.tasks())
    scenes = [render_number(FIRST["test"] + index, 0, 16, 43.0) for index in range(4)]
    assert [count[index].label for index in range(4)] == [scene.count - 3 for scene in scenes]
    edges = [0.0, 8.0, 8.5, 9.0, 9.5, 10.0, 100.0]
    bins = [int(np.searchsorted(edges, scene.distance)) - 1 for scene in scenes]
    assert [distance[index].label for index in range(4)] == bins
    assert torch.equal(count.tensors()[0], distance.tensors()[0])
    assert made.known_values("distance", "test")["the true count"].argmax(1).tolist() == [
        count[index].label for index in range(24)
    ]
    by_distance = source(label="distance").split("test")
    assert [by_distance[index].label for index in range(4)] == bins
    assert by_distance.classes is not None
    assert len(by_distance.classes) == 6


def test_training_reads_whole_batches_from_memory_and_no_maps() -> None:
    samples = source().split("train")
    assert isinstance(samples, InMemory)
    assert isinstance(samples, ColumnSamples)
    assert set(samples.columns()) == {"views.image", "label"}
    assert samples._maps is None


def test_a_part_of_the_samples_keeps_its_maps() -> None:
    samples = source().split("train")
    part = samples.take(np.array([7, 3]), "two")
    assert torch.equal(part[1].targets["depth"], samples[3].targets["depth"])
    assert part[0].label == samples[7].label
    assert part.class_numbers().tolist() == [samples[7].label, samples[3].label]


def test_the_source_passes_the_checks_of_sources() -> None:
    check_source("scenes", **SMALL)


def test_several_processes_render_the_same_bytes(data: Path, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(shards, "IN_A_SHARD", 10)
    look = Look(16, 43.0, 0)
    parts = shards_of(tmp_path, look, "train", 25)
    assert [part.last - part.first for part in parts] == [10, 10, 5]
    render_all(look, parts, 2, NoProgress())
    monkeypatch.undo()
    whole = np.load(data / "scenes" / look.key / "train/000000-000060.npz")
    pieces = [np.load(part.file) for part in parts]
    for name in ("images", "depth", "ids", "shapes", "count", "distance"):
        assert np.array_equal(np.concatenate([piece[name] for piece in pieces]), whole[name][:25])


@pytest.mark.slow
def test_a_killed_process_leaves_whole_shards_and_the_next_one_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    look = Look(16, 43.0, 0)
    code = (
        "from jepa_scenes import shards\nshards.IN_A_SHARD = 3\n"
        "from pathlib import Path\nfrom jepa_scenes.shards import Look, render_shard, shards_of\n"
        "look = Look(16, 43.0, 0)\n"
        f"for s in shards_of(Path({str(tmp_path)!r}), look, 'train', 3000):\n    render_shard(look, s)"
    )
    process = subprocess.Popen([sys.executable, "-c", code])
    folder, limit = tmp_path / look.key / "train", time.monotonic() + 60
    while len(list(folder.glob("*.npz"))) < 2 and time.monotonic() < limit:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    left = {file: file.stat().st_mtime_ns for file in folder.glob("*.npz")}
    assert 2 <= len(left) < 100
    monkeypatch.setattr(shards, "IN_A_SHARD", 3)
    source(path=tmp_path, train_images=3 * len(left) + 3).split("train")
    assert {file: file.stat().st_mtime_ns for file in left} == left, "what was there stays"
    assert len(list(folder.glob("*.npz"))) == len(left) + 1


def first_shard(folder: Path) -> Path:
    return folder / Look(16, 43.0, 0).key / "val/000000-000012.npz"


def test_a_shard_that_is_damaged_or_of_another_version_is_rendered_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    made = source(path=tmp_path).split("val")
    good = first_shard(tmp_path).read_bytes()
    for change, word in ((flip, "damaged|hash|CRC"), (of_another_version, "it was made by v0-16px")):
        caplog.clear()
        change(first_shard(tmp_path))
        assert first_shard(tmp_path).read_bytes() != good
        again = source(path=tmp_path).split("val")
        assert torch.equal(again.images, made.images)
        assert len(caplog.records) == 1
        assert "is not used, and its scenes are rendered again" in caplog.text
        assert any(part in caplog.text for part in word.split("|"))


def flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[2000] ^= 255  # of the images, which come first
    file.write_bytes(content)


def of_another_version(file: Path) -> None:
    """The shard as version 0 would have written it, with black pictures."""
    arrays = {name: array for name, array in np.load(file).items() if name != "sha256"}
    key = arrays["made_by"].tobytes().decode().replace("v1-", "v0-")
    arrays |= {"images": arrays["images"] * 0, "made_by": np.frombuffer(key.encode(), dtype=np.uint8)}
    save_arrays(file, arrays)


def test_scenes_of_another_version_are_told_of_and_not_used(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "v0-16px-00000000/val").mkdir(parents=True)
    with caplog.at_level(logging.INFO, "jepa"):
        assert len(source(path=tmp_path).split("val")) == 12
    lines = [record.message for record in caplog.records]
    assert len(lines) == 1
    assert "scenes of another version" in lines[0]
    assert "v0-16px-00000000; this is v1-16px" in lines[0]


@pytest.mark.skipif(os.geteuid() == 0, reason="the superuser may write everywhere")
def test_a_folder_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(UserError, match=r"^scenes cannot be written to .*Permission denied; set data.path"):
        source(path=tmp_path).split("val")


@pytest.mark.parametrize("processes", [1, 2])
def test_a_file_in_the_way_is_one_line(tmp_path: Path, processes: int, monkeypatch: Any) -> None:
    monkeypatch.setattr(shards, "IN_A_SHARD", 2)
    look = Look(16, 43.0, 0)
    (tmp_path / look.key).write_text("")
    parts = shards_of(tmp_path, look, "val", 4)
    with pytest.raises(UserError, match=r"^scenes cannot be written to .*; set data.path or JEPA_DATA$"):
        render_all(look, parts, processes, NoProgress())


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("data.train_images=0", "data.train_images"),
        ("data.val_images=-1", "data.val_images"),
        ("data.size=0", "data.size"),
        ("data.size=8", "data.size"),
        ("data.field_of_view=20", "data.field_of_view"),
        ("data.label=colour", "data.label"),
        ("data.test_images=2000000", "data.test_images"),
        ("data.sise=64", "data.sise"),
    ],
)
def test_settings_that_make_no_scenes_are_refused(override: str, message: str) -> None:
    with pytest.raises(UserError, match=message) as error:
        load_recipe("ijepa/scenes", override)
    assert "\n" not in str(error.value)


def test_the_preview_is_a_picture(tmp_path: Path) -> None:
    from PIL import Image

    path = jepa_scenes.preview(tmp_path / "new/sheet.png", count=2, size=16)
    with Image.open(path) as picture:
        assert picture.format == "PNG"
        assert picture.width > 200
        colours = len(picture.convert("RGB").getcolors(1 << 20) or [])
    assert colours > 50


def test_commands_draw_and_render(tmp_path: Path) -> None:
    sheet = tmp_path / "a.png"
    told = CliRunner().invoke(app, ["preview", "--out", str(sheet), "--count", "2", "size=16", "--seed", "3"])
    assert told.exit_code == 0, told.output
    assert sheet.read_bytes() != jepa_scenes.preview(tmp_path / "b.png", 2, 16, seed=4).read_bytes()
    assert sheet.read_bytes() == jepa_scenes.preview(tmp_path / "b.png", 2, 16, seed=3).read_bytes()
    told = CliRunner().invoke(app, ["render", *(f"{name}={value}" for name, value in SMALL.items())])
    assert told.exit_code == 0, told.output
    assert told.stdout.startswith("96 scenes in ")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["render", "size=0"], "data.size"),
        (["preview", "colour=red"], "data.colour"),
        (["render", "size"], "'data.size' is not of the form section.setting=value"),
    ],
)
def test_commands_refuse_settings_in_one_line(words: list[str], message: str) -> None:
    told = CliRunner().invoke(app, words)
    assert isinstance(told.exception, UserError)
    assert message in str(told.exception)
    assert "\n" not in str(told.exception)


@pytest.mark.slow
def test_the_group_stands_among_the_commands() -> None:
    told = subprocess.run(
        [sys.executable, "-m", "jepa_core", "scenes", "render", "size=0"], capture_output=True
    )
    assert told.returncode == 2
    assert b"data.size" in told.stderr
    assert b"Traceback" not in told.stderr


@pytest.mark.slow
def test_training_and_the_tables_of_both_tasks(tmp_path: Path) -> None:
    """Two steps; probes of count and distance, with what the true count alone guesses of the distance."""
    overrides = [f"data.{name}={value}" for name, value in SMALL.items()]
    recipe = load_recipe(
        "ijepa/scenes",
        *overrides,
        "encoder.image_size=16",
        "train.steps=2",
        "train.batch_size=16",
        "train.device=cpu",
        "optimizer.warmup_steps=1",
    )
    train(recipe, tmp_path / "run")
    result = evaluate_run(tmp_path / "run", ["linear"], cache=False)
    tables = {table.task: table for table in result.tables}
    assert set(tables) == {"count", "distance"}
    assert tables["count"].classes == 8
    assert tables["distance"].classes == 6
    names = [row.name for row in tables["distance"].rows]
    assert names == ["trained", "random twin", "raw pixels", "the true count"]
    assert [row.name for row in tables["count"].rows] == names[:3]
    assert tables["distance"].row("the true count").width == 8
    written = json.loads((tmp_path / "run/eval.json").read_text())
    assert "the true count" in json.dumps(written)
