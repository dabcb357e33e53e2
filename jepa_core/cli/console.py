"""What all commands share: the consoles they print to, and arguments that several of them take.

What is unusual: every text that is printed through a `Printer` has its control characters written as
escapes, so that a name from a file, a recipe or a plugin cannot steer the terminal.
"""

from __future__ import annotations

import json
import logging
import math
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console, RenderableType
from rich.markup import escape
from rich.measure import Measurement
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from jepa_core.cli import completion as complete
from jepa_core.errors import printable

MAX_COLUMNS = 1000
"""Columns, more than any terminal has."""


class Printer(Console):
    """A console that prints control characters as escapes and takes `:names:` in a text for no emoji.

    A width of 0 (`COLUMNS=0`, or a terminal that knows no size) is taken as 80.
    """

    def __init__(self, *, stderr: bool = False, width: int | None = None) -> None:
        super().__init__(stderr=stderr, width=width, emoji=False)
        if self.width < 1:
            self.width = 80

    def render_str(self, text: str, **options: Any) -> Text:
        """A text as rich prints it; line ends and tabs stay."""
        return super().render_str(printable(text, keep="\n\t"), **options)


out = Printer()
err = Printer(stderr=True)

RecipeName = Annotated[
    str, typer.Argument(help="A recipe's name or a .toml file", autocompletion=complete.recipes)
]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(
        help="section.setting=value, any number", show_default=False, autocompletion=complete.overrides
    ),
]
RunFolder = Annotated[Path, typer.Argument(help="A run's folder", autocompletion=complete.runs)]
Role = Annotated[
    str,
    typer.Option(
        help="Which encoder: target, context, or of [encoders.text] text and text/context",
        autocompletion=complete.one_of("target", "context"),
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print as JSON")]


class LogToStderr(logging.Handler):
    """While it is entered, the library's log lines (a download, a split held out) go to standard error.

    Lines about the recipe wait until the command has begun its work, or has ended well: an error is the
    only line. Each of them is printed once.
    """

    log = logging.getLogger("jepa")
    waits = "jepa.recipes"

    def __enter__(self) -> None:
        self.waiting: dict[str, None] = {}
        self.level_before = self.log.level
        self.log.setLevel(logging.INFO)
        self.log.addHandler(self)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: object) -> None:
        if kind is None or (isinstance(error, SystemExit) and error.code in (None, 0)):
            self.print_waiting()
        self.log.removeHandler(self)
        self.log.setLevel(self.level_before)

    def emit(self, record: logging.LogRecord) -> None:
        """Prints one record to the `sys.stderr` of this moment, which a progress bar may have replaced."""
        line = printable(self.format(record), keep="\n")
        if record.name == self.waits:
            self.waiting.setdefault(line)
        else:
            print(line, file=sys.stderr)

    def print_waiting(self) -> None:
        """Prints the lines about the recipe; of several processes of a run the first one does."""
        if os.environ.get("RANK", "0") == "0":
            for line in self.waiting:
                print(line, file=sys.stderr)
        self.waiting.clear()


log_lines = LogToStderr()


def say(text: str) -> None:
    """Prints one line as it is: no markup, no colours of numbers, not wrapped."""
    out.print(text, soft_wrap=True, highlight=False, markup=False)


def warn(text: str) -> None:
    """Prints one line to standard error as it is."""
    err.print(text, soft_wrap=True, highlight=False, markup=False)


def print_json(value: Any) -> None:
    """Prints plain values as JSON in ASCII, which no terminal and no encoding can spoil.

    NaN and infinity, which JSON lacks, are null.
    """
    print(json.dumps(_replace_nonfinite(value), indent=2, allow_nan=False))


def _replace_nonfinite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _replace_nonfinite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_replace_nonfinite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def lines(content: RenderableType) -> None:
    """Prints a table, or the like, without the blanks that fill its lines up to the right edge."""
    with out.capture() as rendered:
        out.print(content, highlight=False)
    for line in rendered.get().splitlines():
        text = Text.from_ansi(line)
        text.rstrip()
        out.print(text, soft_wrap=True, highlight=False)


def whole(table: Table) -> None:
    """Prints a table without cutting any cell, in a terminal that is too narrow for it as well."""
    needed = Measurement.get(out, out.options.update(max_width=MAX_COLUMNS), table).maximum
    Printer(width=max(out.width, needed)).print(table)


def title(name: str, description: str) -> None:
    """A heading line: the name in bold, and what it is."""
    out.print(f"[bold]{escape(name)}[/]  {escape(description)}", highlight=False)


def rows(head: tuple[str, ...], cells: Sequence[tuple[str, ...]]) -> None:
    """Prints a table without rules: a header, then a line for each row of cells."""
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    for name in head:
        table.add_column(name, overflow="fold", min_width=min(len(name), 8))
    for row in cells:
        table.add_row(*(escape(cell) for cell in row))
    lines(table)


def blocks(entries: Sequence[tuple[str, Sequence[tuple[str, str]]]]) -> None:
    """For each (name, [(label, text), …]) the name, and under it a labelled line for each text.

    Long lines wrap under their own beginning; a text that is empty is left out.
    """
    for number, (name, texts) in enumerate(entries):
        if number:
            out.print()
        out.print(escape(name), style="bold", highlight=False, soft_wrap=True)
        table = Table.grid(padding=(0, 2, 0, 0))
        table.add_column(no_wrap=True, style="dim")
        table.add_column(overflow="fold")
        for label, text in texts:
            if text and label:
                table.add_row(f"  {label}", escape(text))
            elif text:
                lines(Padding(escape(text), (0, 0, 0, 2)))
        lines(table)


def document(text: str) -> None:
    """Prints a TOML document as it is; on a terminal its comments are dimmed."""
    for line in text.splitlines():
        style = "dim" if line.startswith("#") else None
        out.print(escape(line), style=style, highlight=False, soft_wrap=True)
