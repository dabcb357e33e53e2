"""Commands that plugins bring (hook `jepa_commands`), beside core's own in `jepa --help`.

What is unusual: no plugin is looked for until the list is shown or a word is typed that is none of core's
commands. A plugin's command is foreign code: what it raises is one line that names it, and one that cannot be
built from its function is set aside with a warning.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from inspect import cleandoc
from pathlib import Path
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup
from typer.main import get_command

from jepa_core.cli.completion_index import load_known
from jepa_core.cli.error_lines import WrongUsage
from jepa_core.errors import UserError, describe_error, printable

PANEL = "Of plugins"

PASSED_ON: tuple[type[Exception], ...] = (UserError, typer.Exit, typer.Abort, WrongUsage)
"""The user's mistakes, and how the parser ends a command."""

COMPLETION = ("install_completion", "show_completion")
"""Options that typer adds to a program; `jepa` has them already."""


class WithPlugins(TyperGroup):
    """Core's commands, then those of plugins."""

    _of_plugins: dict[str, Any] | None = None

    def list_commands(self, ctx: Any) -> list[str]:
        """The names of all commands, core's first."""
        own = super().list_commands(ctx)
        return [*own, *sorted(set(self._commands_to_list()) - set(own))]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """The command of this name, core's before a plugin's; None where there is none."""
        command = super().get_command(ctx, cmd_name)
        command = command if command is not None else self._commands_to_list().get(cmd_name)
        if command is not None:
            command.help = join_lines(command.help or "")
        return command

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """(name, command, further words) of what is typed; its suggestions know the commands of plugins."""
        own = self.commands
        if args and args[0] not in own:
            self.commands = {**self._loaded(), **own}
        try:
            return super().resolve_command(ctx, args)
        finally:
            self.commands = own

    def _commands_to_list(self) -> dict[str, Any]:
        """As for a list: while a shell asks for completions, from the file that is kept for them."""
        if "_JEPA_COMPLETE" not in os.environ:
            return self._loaded()
        index = load_known()
        texts = index["commands"] if index else {}
        return {name: TyperCommand(name, help=text) for name, text in texts.items()}

    def _loaded(self) -> dict[str, Any]:
        if self._of_plugins is None:
            self._of_plugins = plugin_commands(frozenset(self.commands))
        return self._of_plugins


def plugin_commands(reserved: frozenset[str]) -> dict[str, Any]:
    """The commands of plugins by name; one with a name in `reserved` is set aside with a warning."""
    from jepa_core import plugins
    from jepa_core.runtime.plugin_calls import PluginError, call_plugin

    registry = plugins.registry()
    offered, owners = registry.functions("command")
    commands = {}
    for name, function in offered.items():
        owner = owners[name]
        if name in reserved or name.startswith("-"):
            registry.note(
                owner, f"the command {name!r} of plugin {owner!r} is set aside: jepa has one of this name"
            )
            continue
        try:
            commands[name] = call_plugin(build_command, name, function, owner)
        except PluginError as error:
            registry.note(owner, f"the command {name!r} of plugin {owner!r} is set aside: {printable(error)}")
    return commands


def build_command(name: str, command: Callable[..., Any], plugin: str) -> Any:
    """A function or a `typer.Typer` as a command of `jepa` that says whose it is and fails in one line.

    Raises whatever typer raises for a function that it cannot make a command of.
    """
    app = command
    if not isinstance(app, typer.Typer):
        app = typer.Typer(add_completion=False)
        app.command(name)(command)
    built = get_command(app)
    built.params = [each for each in built.params if each.name not in COMPLETION]
    built.name = name
    built.help = f"{(built.help or '').strip()}\n\nOf the plugin {plugin}.".strip()
    first = built.help.partition("\n")[0].strip()
    built.short_help = (
        first if first.startswith("Of the plugin") else f"{first.rstrip('.')} (plugin {plugin})"
    )
    built.rich_help_panel = PANEL  # type: ignore[attr-defined]  # TyperCommand and TyperGroup have it
    guard(built, name, plugin)
    return built


def join_lines(text: str) -> str:
    """Each paragraph of a docstring on one line, as its lines end elsewhere in a terminal's window."""
    paragraphs = cleandoc(text).split("\n\n")
    return "\n\n".join(" ".join(paragraph.split()) for paragraph in paragraphs)


def guard(command: Any, name: str, plugin: str) -> None:
    """Makes a command turn what it raises into one UserError; the parser's own exceptions pass."""
    invoke = command.invoke

    def invoke_guarded(context: Any) -> Any:
        try:
            return invoke(context)
        except PASSED_ON:
            raise
        except Exception as error:
            text = f"command {name!r} of plugin {plugin!r}: {describe_error(error)}{place_of(error)}"
            raise UserError(f"{text}; --debug shows the traceback") from error

    command.invoke = invoke_guarded


def place_of(error: BaseException) -> str:
    """`, raised in FILE:LINE`, where an exception was raised."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    if trace is None:
        return ""
    return f", raised in {Path(trace.tb_frame.f_code.co_filename).name}:{trace.tb_lineno}"
