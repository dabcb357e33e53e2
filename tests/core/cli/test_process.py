"""What `jepa` does to its process: threads, closed streams, encodings, the width of the terminal."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from jepa_core.cli import process
from jepa_core.cli.console import Printer, out, print_json
from jepa_core.errors import UserError


def run(*words: str, shell: str = "", **variables: str) -> subprocess.CompletedProcess[str]:
    """`python -m jepa_core WORDS` with these variables; `shell` is what stands behind it on the line."""
    inherited = {key: value for key, value in os.environ.items() if key != "COLUMNS"}
    return subprocess.run(
        ["bash", "-c", f'"$@" {shell}', "bash", sys.executable, "-m", "jepa_core", *words],
        capture_output=True,
        text=True,
        env={**inherited, **variables},
        check=False,
        timeout=120,
    )


def test_the_package_is_the_command() -> None:
    assert run("--version").stdout.startswith("jepa-core ")
    usage = run("train", "--nonsense")
    assert (usage.returncode, usage.stderr.splitlines()[1]) == (2, "`jepa train --help` lists what it takes")


@pytest.mark.parametrize(
    ("chosen", "count"),
    [
        ({}, "1000"),
        ({"GOMP_SPINCOUNT": "7"}, "7"),
        ({"OMP_WAIT_POLICY": "active"}, None),
        ({"OMP_WAIT_POLICY": "passive", "GOMP_SPINCOUNT": "5"}, "5"),
    ],
)
def test_idle_threads_sleep_soon_unless_the_user_chose(
    monkeypatch: pytest.MonkeyPatch, chosen: dict[str, str], count: str | None
) -> None:
    for name in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY"):
        monkeypatch.delenv(name, raising=False)
    for name, value in chosen.items():
        monkeypatch.setenv(name, value)
    process.limit_spinning()
    assert os.environ.get("GOMP_SPINCOUNT") == count


def test_spinning_is_limited_before_torch_loads_and_by_the_command_alone() -> None:
    code = (
        "import os, sys\nos.environ.pop('GOMP_SPINCOUNT', None)\nimport jepa_core.cli\n"
        "print('GOMP_SPINCOUNT' in os.environ, 'torch' in sys.modules)\nsys.argv = ['jepa', '--version']\n"
        "try:\n    jepa_core.cli.main()\nexcept SystemExit:\n"
        "    print(os.environ['GOMP_SPINCOUNT'], 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    first, _, last = done.stdout.splitlines()
    assert (first, last) == ("False False", "1000 False")


def test_an_encoding_that_lacks_characters_ends_nothing(tmp_path: Path) -> None:
    shown = run("recipes", "show", "ijepa/demo", "data.path=/größe", PYTHONIOENCODING="ascii")
    assert (shown.returncode, shown.stderr) == (0, "")
    assert "gr\\xf6\\xdfe" in shown.stdout
    wrong = run("train", "größe.toml", PYTHONIOENCODING="ascii:strict")
    assert (wrong.returncode, wrong.stderr) == (2, "error: recipe file 'gr\\xf6\\xdfe.toml' does not exist\n")


@pytest.mark.parametrize("closed", [">&-", "<&-", "2>&-", ">&- 2>&-", "<&- >&- 2>&-"])
def test_closed_streams_are_no_error(closed: str) -> None:
    done = run("recipes", "show", "ijepa/demo", shell=closed)
    assert done.returncode == 0
    assert done.stderr == ""
    assert ("[masker]" in done.stdout) is (">&-" not in closed.replace("2>&-", ""))
    assert run("recipes", "show", "ijepa/nothing", shell=closed).returncode == 2


@pytest.mark.parametrize("columns", ["0", "-3", "wide", ""])
def test_a_width_that_is_none_is_ignored(columns: str) -> None:
    shown = run("plugins", COLUMNS=columns)
    assert (shown.returncode, shown.stderr) == (0, "")
    assert "loaded  jepa_core.builtin" in shown.stdout
    assert "Usage: jepa" in run("--help", COLUMNS=columns).stdout


def test_a_printer_has_a_width(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "0")
    assert Printer().width == 80
    assert Printer(width=30).width == 30


@pytest.mark.parametrize("word", ["caf\udce9", "a\0b"])
def test_words_that_no_recipe_can_hold_are_refused(jepa, word: str) -> None:
    with pytest.raises(UserError):
        process.check_words(["train", word])
    for words in (["train", word], ["train", "ijepa/demo", f"data.path={word}"], ["eval", word]):
        refused = jepa(*words)
        assert (refused.code, refused.out) == (2, "")
        assert refused.err.endswith(" is not text in UTF-8 without NUL; names and overrides must be\n")


def test_control_characters_are_printed_as_escapes_and_names_between_colons_stay(
    capsys: pytest.CaptureFixture[str],
) -> None:
    out.print("a \x1b[31mred\x07 :cat: \x9b2J\nnext", markup=False, soft_wrap=True)
    assert capsys.readouterr().out == "a \\x1b[31mred\\x07 :cat: \\x9b2J\nnext\n"


def test_json_is_ascii_and_has_no_nan(capsys: pytest.CaptureFixture[str]) -> None:
    print_json({"ü\x9b": [float("nan"), (1.5, float("-inf"))], "b": {"c": True}})
    printed = capsys.readouterr().out
    assert printed.isascii()
    assert json.loads(printed) == {"ü\x9b": [None, [1.5, None]], "b": {"c": True}}
