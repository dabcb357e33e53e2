"""Folders with entries that are no images: links that lead nowhere or in circles, pipes, odd names."""

from __future__ import annotations

import logging
import os
import time
from pathlib import Path

import pytest

from jepa_core.data import CorruptSample
from jepa_core.errors import UserError
from tests.core.data.sources.test_sources import folder, labelled, write


def train(path: Path):
    return folder(path, val_share=0, test_share=0).split("train")


def two_classes(path: Path) -> Path:
    for name in ("cat/1", "cat/2", "dog/1"):
        write(path / f"{name}.png")
    return path


@pytest.mark.parametrize("target", ["gone.png", "broken.png"], ids=["dangling", "looping"])
def test_a_broken_link_to_an_image_is_one_corrupt_sample(tmp_path: Path, target: str) -> None:
    two_classes(tmp_path)
    (tmp_path / "cat/broken.png").symlink_to(target)
    samples = train(tmp_path)
    assert samples.keys() == ["cat/1.png", "cat/2.png", "cat/broken.png", "dog/1.png"]
    assert [samples[index][1] for index in (0, 1, 3)] == [0, 0, 1]
    with pytest.raises(CorruptSample, match=r"No such file|Too many levels of symbolic links"):
        samples[2]


@pytest.mark.parametrize("name", ["away", "cat/away", "away.png"])
@pytest.mark.parametrize("looping", [False, True])
def test_other_broken_links_are_left_out_with_a_count(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, name: str, looping: bool
) -> None:
    """`away.png` lies beside the class folders: it has no class, and must not take theirs from the others."""
    two_classes(tmp_path)
    (tmp_path / name).symlink_to(Path(name).name if looping else "nowhere")
    with caplog.at_level(logging.WARNING, logger="jepa"):
        samples = train(tmp_path)
    assert labelled(samples) == [("cat/1.png", 0), ("cat/2.png", 0), ("dog/1.png", 1)]
    assert [record.getMessage() for record in caplog.records] == [
        f"data: left out of {tmp_path}, as they lead to no file: 1 entries, such as {name!r}"
    ]


def test_a_pipe_among_the_classes_and_one_among_the_images(tmp_path: Path) -> None:
    two_classes(tmp_path)
    os.mkfifo(tmp_path / "a.png")
    os.mkfifo(tmp_path / "dog/a.png")
    samples = train(tmp_path)
    assert samples.keys() == ["cat/1.png", "cat/2.png", "dog/1.png", "dog/a.png"]
    with pytest.raises(CorruptSample, match="it is a pipe"):
        samples[3]


@pytest.mark.parametrize("classes", [True, False])
def test_folders_that_link_to_each_other_are_each_read_once(tmp_path: Path, classes: bool) -> None:
    """Twelve folders with links to all others: 12! paths lead through them."""
    root = tmp_path / "data" / "all" if not classes else tmp_path / "data"
    names = [f"{number:02}" for number in range(12)]
    for name in names:
        write(root / name / "1.png")
        for other in names:
            (root / name / f"to-{other}").symlink_to(root / other)
    (root / names[0] / "up").symlink_to(tmp_path / "data")
    before = time.monotonic()
    keys = train(tmp_path / "data").keys()
    assert time.monotonic() - before < 20
    if classes:
        assert len(keys) == 12 * 12
        assert {f"{name}/1.png" for name in names} <= set(keys)
    else:
        assert keys == [f"all/{name}/1.png" for name in names], "by their own paths, not through links"


def test_a_folder_deeper_than_the_stack_of_python(tmp_path: Path) -> None:
    two_classes(tmp_path)
    deep = tmp_path / "dog"
    for _ in range(1200):
        deep = deep / "d"
        deep.mkdir()
    write(deep / "2.png")
    try:
        assert len(train(tmp_path)) == 4
    finally:  # pytest's own removal of the folder is recursive
        (deep / "2.png").unlink()
        os.removedirs(deep)


def test_names_that_are_no_utf_8_are_read_and_shown_with_escapes(tmp_path: Path) -> None:
    two_classes(tmp_path)
    odd = os.fsdecode(b"caf\xe9")
    write(tmp_path / odd / f"{odd}.png")
    samples = train(tmp_path)
    assert samples.classes == ["caf\\udce9", "cat", "dog"]
    assert labelled(samples)[0] == (f"{odd}/{odd}.png", 0)


@pytest.mark.parametrize("name", ["nul\0byte", "x" * 300])
def test_a_path_that_no_folder_can_have(tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError, match=r"data\.path .* cannot be read: "):
        train(tmp_path / name)


def test_a_pipe_in_place_of_the_folder(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(UserError, match="is a pipe; expected a folder of images"):
        train(tmp_path / "pipe")


def test_classes_are_looked_up_in_no_more_time_where_there_are_many() -> None:
    """A list was searched: 217 µs a file at 21,841 classes, 51 minutes for ImageNet-22k."""
    from jepa_core.data.sources.folder import _labels

    classes = [f"n{number:08}" for number in range(21_841)]
    files = [f"{name}/1.jpg" for name in classes] * 10
    before = time.monotonic()
    labels = _labels(files, classes, Path("data"))
    assert labels[:3] == [0, 1, 2]
    assert time.monotonic() - before < 10, "a list would take 47 seconds"


@pytest.mark.parametrize("name", ["npz", "folder", "webdataset"])
def test_a_home_folder_that_is_not_known(name: str) -> None:
    from jepa_core.builtin import jepa_data
    from jepa_core.settings import parse

    source = jepa_data()[name]
    with pytest.raises(UserError):
        source(parse(source.Config, {"name": name, "path": "~nobody-here/x"}, "data")).split("train")
