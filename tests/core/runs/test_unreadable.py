"""A checkpoint that cannot be read is not damaged: nothing is renamed, no older one is taken."""

from __future__ import annotations

import errno
import io
import os
import shutil
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from jepa_core import UserError, load_recipe, train
from jepa_core.runs import checkpoints
from jepa_core.runs.events_file import read_events
from jepa_core.runs.load import open_model


@pytest.fixture
def run(tiny_recipe: Path, tmp_path: Path) -> Path:
    """A finished run with checkpoints of steps 2 and 4."""
    train(load_recipe(tiny_recipe, "train.steps=4", "train.checkpoint_every=2"), tmp_path / "run", watch=[])
    return tmp_path / "run"


def names(run: Path) -> list[str]:
    return sorted(path.name for path in (run / "checkpoints").iterdir())


def fail_to_open(monkeypatch: pytest.MonkeyPatch, path: Path, number: int) -> None:
    """From now on the file cannot be opened."""
    original = io.open

    def failing(file: Any, *arguments: Any, **named: Any) -> Any:
        if str(file) == str(path):
            raise OSError(number, os.strerror(number), str(file))
        return original(file, *arguments, **named)

    monkeypatch.setattr(io, "open", failing)
    monkeypatch.setattr("builtins.open", failing)


@pytest.mark.parametrize("number", [errno.EACCES, errno.EPERM, errno.EIO, errno.ESTALE, errno.ENOTCONN])
@pytest.mark.parametrize("file", [checkpoints.MANIFEST, checkpoints.WEIGHTS, checkpoints.STATE])
def test_an_unreadable_file_stops_and_changes_nothing(
    run: Path, tiny_recipe: Path, monkeypatch: pytest.MonkeyPatch, file: str, number: int
) -> None:
    before = names(run)
    fail_to_open(monkeypatch, run / "checkpoints/step-00000004" / file, number)
    recipe = load_recipe(tiny_recipe, "train.steps=8", "train.checkpoint_every=2")
    with pytest.raises(UserError) as error:
        train(recipe, run, resume="auto", watch=[], allow_change=["train.steps"])
    text = str(error.value)
    assert text.startswith(f"checkpoint {run / 'checkpoints/step-00000004'} cannot be read (")
    assert os.strerror(number) in text
    assert "does not mean that it is damaged" in text
    assert "\n" not in text
    assert not isinstance(error.value, checkpoints.DamagedCheckpoint)
    assert names(run) == before
    assert read_events(run, "checkpoint_damaged") == []


def test_a_folder_that_cannot_be_listed_is_not_an_empty_one(
    run: Path, tiny_recipe: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(path: Any = ".") -> list[str]:
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(os, "listdir", failing)
    with pytest.raises(UserError, match="checkpoints cannot be read: Permission denied"):
        open_model(run)


@pytest.mark.parametrize("file", [checkpoints.WEIGHTS, checkpoints.STATE])
def test_what_becomes_a_folder_or_a_pipe_is_damaged(run: Path, file: str) -> None:
    path = run / "checkpoints/step-00000004" / file
    path.unlink()
    os.mkfifo(path)
    good, damages = checkpoints.newest_good(run)
    assert good == run / "checkpoints/step-00000002"
    assert damages == [f"{path} is a pipe; expected a regular file"]
    path.unlink()
    path.mkdir()
    assert checkpoints.newest_good(run) == (good, [f"{path} is a folder; expected a regular file"])


@pytest.mark.parametrize("mask", [0o022, 0o002, 0o077])
def test_files_have_the_permissions_of_the_umask(tiny_recipe: Path, tmp_path: Path, mask: int) -> None:
    before = os.umask(mask)
    try:
        train(load_recipe(tiny_recipe, "train.steps=1"), tmp_path / "run")
    finally:
        os.umask(before)
    files = [path for path in (tmp_path / "run").rglob("*") if path.is_file()]
    assert {stat.S_IMODE(path.stat().st_mode) for path in files} == {0o666 & ~mask}


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that every user may enter."""
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        yield Path(folder)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may become another user")
def test_another_user_is_told_what_may_not_be_read(run: Path, open_folder: Path) -> None:
    shutil.copytree(run, open_folder / "run")
    newest = open_folder / "run/checkpoints/step-00000004"
    os.chmod(newest, 0o700)
    code = (
        "import os, sys\nfrom pathlib import Path\nfrom jepa_core.runs import checkpoints\n"
        "os.setgroups([]); os.setgid(65534); os.setuid(65534)\n"
        "try: print(checkpoints.newest_good(Path(sys.argv[1])))\n"
        "except Exception as error: print(type(error).__name__, error)"
    )
    words = [sys.executable, "-c", code, str(open_folder / "run")]
    done = subprocess.run(words, capture_output=True, text=True, timeout=120)
    said = f"UserError checkpoint {newest} cannot be read ({newest}/manifest.json: Permission denied)"
    assert done.stdout.startswith(said), done.stdout + done.stderr


def test_a_checkpoint_that_training_drops_while_it_is_read_is_followed_by_the_newer_one(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read, newer = checkpoints.load_weights, run / "checkpoints/step-00000004"
    shutil.copytree(newer, run / "aside")

    def drop_before_reading(checkpoint: Path, model: Any) -> None:
        if checkpoint == newer and (run / "aside").exists():
            manifest = (run / "aside/manifest.json").read_text().replace('"step": 4', '"step": 6')
            (run / "aside/manifest.json").write_text(manifest)
            (run / "aside").rename(run / "checkpoints/step-00000006")
            shutil.rmtree(checkpoint)
        read(checkpoint, model)

    monkeypatch.setattr(checkpoints, "load_weights", drop_before_reading)
    assert open_model(run)[2] == 6
