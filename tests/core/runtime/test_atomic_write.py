"""Files are whole or as they were: after errors, for readers meanwhile, and with several writers."""

from __future__ import annotations

import os
import stat
import threading
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from jepa_core.runtime import atomic_write as module
from jepa_core.runtime.atomic_write import atomic_path, atomic_write


@pytest.fixture(autouse=True)
def usual_umask():
    before = os.umask(0o027)
    yield
    os.umask(before)


def test_text_and_bytes_are_written_with_the_permissions_of_the_umask(tmp_path: Path) -> None:
    atomic_write(tmp_path / "a", "é\n")
    atomic_write(tmp_path / "b", b"\0\1")
    assert ((tmp_path / "a").read_text("utf-8"), (tmp_path / "b").read_bytes()) == ("é\n", b"\0\1")
    assert {stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()} == {0o640}


def test_a_writer_that_makes_private_files_does_not_leave_one(tmp_path: Path) -> None:
    with atomic_path(tmp_path / "weights") as partial:
        save_file({"w": torch.ones(3)}, partial)
    assert stat.S_IMODE((tmp_path / "weights").stat().st_mode) == 0o640
    assert load_file(tmp_path / "weights")["w"].sum() == 3


def fail(*_: object) -> None:
    raise OSError(28, "No space left on device")


@pytest.mark.parametrize("where", ["os.fsync", "os.replace"])
def test_after_an_error_the_file_is_what_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    atomic_write(tmp_path / "a", "before")
    monkeypatch.setattr(module.os, where.removeprefix("os."), fail)
    with pytest.raises(OSError, match="No space left"):
        atomic_write(tmp_path / "a", "after")
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
    assert (tmp_path / "a").read_text() == "before"


def test_an_error_of_the_writer_leaves_no_partial_file(tmp_path: Path) -> None:
    with pytest.raises(KeyError), atomic_path(tmp_path / "a") as partial:  # noqa: PT012
        partial.write_text("half")
        raise KeyError
    assert list(tmp_path.iterdir()) == []


def test_writers_at_once_replace_each_others_result_as_a_whole(tmp_path: Path) -> None:
    texts = [str(n) * 200_000 for n in range(8)]
    threads = [threading.Thread(target=atomic_write, args=(tmp_path / "a", text)) for text in texts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (tmp_path / "a").read_text() in texts
    assert len(list(tmp_path.iterdir())) == 1


def test_a_link_is_followed_and_a_pipe_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "a")
    atomic_write(tmp_path / "link", "text")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "a").read_text() == "text"
    os.mkfifo(tmp_path / "pipe")
    lines: list[str] = []
    reader = threading.Thread(target=lambda: lines.append((tmp_path / "pipe").read_text()))
    reader.start()
    atomic_write(tmp_path / "pipe", "through")
    reader.join()
    assert lines == ["through"]
    assert stat.S_ISFIFO((tmp_path / "pipe").stat().st_mode)


def test_a_long_name_leaves_room_for_the_temporary_one(tmp_path: Path) -> None:
    name = "ü" * 127
    atomic_write(tmp_path / name, "x")
    assert (tmp_path / name).read_text() == "x"


def test_a_folder_in_the_place_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    with pytest.raises(OSError, match="directory"):
        atomic_write(tmp_path / "a", "x")
