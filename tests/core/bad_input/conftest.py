"""What the tables of bad inputs share: a folder full of mistakes, and `answer`, which types a command in it.

`answer("jepa train tiny.toml masker.name=multiblok")` holds what is true of every bad input (exit code 2,
one line or two on standard error, no traceback, nothing on standard output, no run begun) and gives the line.
"""

from __future__ import annotations

import contextlib
import re
import shlex
from collections.abc import Callable
from pathlib import Path

import pytest

from jepa_core import load_recipe, train
from jepa_core.observers.standard import MetricsWriter
from tests.conftest import TINY, Said
from tests.core.bad_input import files

Answer = Callable[[str], str]


@pytest.fixture(scope="session")
def mistakes(tmp_path_factory: pytest.TempPathFactory, tiny_images: Path) -> Path:
    """A folder with `tiny.toml`, `tiny.npz`, and every file that the tables speak of."""
    folder = tmp_path_factory.mktemp("mistakes")
    (folder / "tiny.npz").write_bytes(tiny_images.read_bytes())
    (folder / "tiny.toml").write_text(TINY.format(path="tiny.npz"), encoding="utf-8")
    files.write_recipes(folder)
    files.write_arrays(folder)
    files.write_images(folder)
    files.write_shards(folder)
    files.write_cifar10(folder)
    with contextlib.chdir(folder):
        recipe = load_recipe("tiny.toml", "train.steps=2", "train.checkpoint_every=1")
        train(recipe, "run", watch=[MetricsWriter()])
    files.spoil_runs(folder)
    return folder


@pytest.fixture
def answer(jepa: Callable[..., Said], mistakes: Path, monkeypatch: pytest.MonkeyPatch) -> Answer:
    """Types a command in the folder of mistakes, checks what holds of every answer, and gives it."""
    monkeypatch.chdir(mistakes)
    monkeypatch.setenv("JEPA_DATA", str(mistakes / "cache"))

    def typed(line: str) -> str:
        said = jepa(*shlex.split(line)[1:])
        assert said.code == 2, said
        assert said.out == ""
        first, *hint = said.err.splitlines()
        assert first.startswith("error: ")
        assert len(hint) <= 1
        assert "Traceback" not in said.err
        assert not (mistakes / "runs").exists(), "a run that cannot start leaves nothing behind"
        return said.err.removeprefix("error: ").removesuffix("\n").replace(str(mistakes), "HERE")

    return typed


def agrees(said: str, expected: str) -> bool:
    """Whether an answer is the expected one, in which `…` stands for any text."""
    return bool(re.fullmatch(".*".join(map(re.escape, expected.split("…"))), said))


def table(name: str) -> list[tuple[str, str]]:
    """(what is typed, what is answered) from a file of `$ typed` lines with the answer below each."""
    text = Path(__file__).with_name(name).read_text(encoding="utf-8")
    blocks = [block.partition("\n") for block in text.split("\n\n") if block.startswith("$ ")]
    return [(typed.removeprefix("$ "), said.strip()) for typed, _, said in blocks]
