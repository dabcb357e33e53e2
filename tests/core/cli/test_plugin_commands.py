"""Commands of plugins: listed with their plugin, run, completed, and one line where they fail."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import pytest
import typer

from jepa_core import UserError, hookimpl, plugins
from jepa_core.cli import plugin_commands


def imagine(run: str, steps: int = 3, fail: str = "") -> None:
    """Imagine in the latent space.

    Second paragraph.
    """
    if fail == "usage":
        raise UserError("no goal was given")
    if fail == "exit":
        sys.exit(0)
    if fail == "typer":
        raise typer.Exit(3)
    if fail:
        raise RuntimeError(f"it broke:\n{fail}")
    print(f"imagined {run} for {steps} steps")


group = typer.Typer(help="Look at latent worlds.")


@group.command()
def draw(colour: str = "red") -> None:
    """Draw one."""
    print(f"drawn in {colour}")


@group.command()
def erase() -> None:
    """Erase it."""


def train() -> None:
    """One that core has."""


class Dreamer:
    @hookimpl
    def jepa_commands(self) -> dict[str, Any]:
        return {"imagine": imagine, "worlds": group, "train": train, "odd": typer.Typer()}


class Second:
    @hookimpl
    def jepa_commands(self) -> dict[str, Any]:
        return {"imagine": train}


class Broken:
    @hookimpl
    def jepa_commands(self) -> dict[str, Any]:
        raise SystemExit(0)


@pytest.fixture(autouse=True)
def _registered() -> Iterator[None]:
    registry = plugins.discover()
    for name, plugin in (("a_dreamer", Dreamer()), ("b_second", Second()), ("c_broken", Broken())):
        registry.register(plugin, name)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plugins, "registry", lambda: registry)
        yield


def test_help_lists_a_command_with_its_plugin(jepa) -> None:
    said = jepa("--help")
    assert said.code == 0
    panel = said.out.partition("Of plugins")[2]
    assert "Imagine in the latent space (plugin a_dreamer)" in panel
    assert "Look at latent worlds (plugin a_dreamer)" in panel
    assert "odd" not in panel
    own = said.out.partition("Of plugins")[0]
    assert "│ train " in own


def test_a_command_runs_with_its_arguments_and_has_help(jepa) -> None:
    said = jepa("imagine", "runs/one", "--steps", 5)
    assert (said.code, said.out) == (0, "imagined runs/one for 5 steps\n")
    assert jepa("worlds", "draw", "--colour", "blue").out == "drawn in blue\n"
    shown = jepa("imagine", "--help").out
    assert "Second paragraph." in shown
    assert "Of the plugin a_dreamer." in shown
    assert "--install-completion" not in jepa("worlds", "--help").out


@pytest.mark.parametrize(
    ("words", "code", "line"),
    [
        (["imagine"], 2, "error: missing argument 'run'\n`jepa imagine --help` lists what it takes\n"),
        (["imagine", "x", "--fail", "usage"], 2, "error: no goal was given\n"),
        (["imagine", "x", "--fail", "typer"], 3, ""),
        (["imagin", "x"], 2, "error: no such command 'imagin'. Did you mean 'imagine'"),
        (["worlds", "drwa"], 2, "error: no such command 'drwa'. Did you mean 'draw'"),
    ],
    ids=["usage", "of the user", "exit code", "misspelt", "misspelt in a group"],
)
def test_what_is_wrong_is_one_line(jepa, words: list[str], code: int, line: str) -> None:
    said = jepa(*words)
    assert said.code == code
    assert "".join(text for text in said.err.splitlines(True) if "is set aside" not in text).startswith(line)


def test_a_paragraph_of_help_breaks_where_the_window_ends(jepa) -> None:
    """And not where the docstring's lines do."""
    assert plugin_commands.join_lines("One\n    two.\n\n    three\n    four") == "One two.\n\nthree four"
    for command in ("imagine", "eval"):
        lines = jepa(command, "--help").out.partition("Arguments")[0].splitlines()
        text = [line.strip() for line in lines]
        cut = [a for a, b in pairwise(text) if a and b and len(f"{a} {b.split()[0]}") < 78]
        assert cut == [], "a line ends although the next word fits"


def test_what_a_command_raises_names_it_and_its_plugin(jepa) -> None:
    said = jepa("imagine", "x", "--fail", "badly")
    assert said.code == 2
    (line,) = [line for line in said.err.splitlines() if line.startswith("error")]
    assert line.startswith(
        "error: command 'imagine' of plugin 'a_dreamer': RuntimeError: it broke: badly, raised in test_plug"
    )
    assert line.endswith("--debug shows the traceback")


def test_a_command_cannot_end_the_program_as_if_all_were_well(jepa) -> None:
    said = jepa("imagine", "x", "--fail", "exit")
    assert said.code == 2
    assert "a component must not end the program" in said.err


def test_a_clash_and_a_broken_command_are_set_aside_with_a_line(jepa, caplog) -> None:
    jepa("--help")
    lines = caplog.text.splitlines()
    assert any(
        "the command 'train' of plugin 'a_dreamer' is set aside: jepa has one" in line for line in lines
    )
    assert any("the command 'odd' of plugin 'a_dreamer' is set aside: RuntimeError" in line for line in lines)
    assert any("the command 'imagine' of plugin 'b_second'" in line and "set aside" in line for line in lines)
    assert any("plugin 'c_broken' is set aside: jepa_commands: SystemExit: 0" in line for line in lines)
    assert jepa("train", "--help").out.count("One that core has") == 0


def test_cores_commands_look_for_no_plugin(jepa, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(reserved: frozenset[str]) -> dict[str, Any]:
        raise AssertionError("looked for plugins")

    monkeypatch.setattr(plugin_commands, "plugin_commands", refuse)
    assert jepa("status", "--help").code == 0


def test_completion_lists_commands_from_the_file_and_loads_the_typed_one(monkeypatch) -> None:
    from typer.main import get_command

    from jepa_core.cli.commands import app

    index = {"commands": {"imagine": "Imagine.", "draw": "Draw."}}
    monkeypatch.setattr(plugin_commands, "load_known", lambda: index)
    monkeypatch.setenv("_JEPA_COMPLETE", "complete_zsh")
    command: Any = get_command(app)
    assert command.list_commands(None)[-2:] == ["draw", "imagine"]
    assert command.get_command(None, "imagine").help == "Imagine."
    _, real, rest = command.resolve_command(None, ["imagine", "runs"])
    assert ([each.name for each in real.params], rest) == (["run", "steps", "fail"], ["runs"])
