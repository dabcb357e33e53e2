"""What all commands share: where they print, and arguments that several take."""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console, RenderableType
from rich.markup import escape
from rich.measure import Measurement
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from jepa_core.cli import completion as complete

out = Console()
err = Console(stderr=True)
MOST = 1000
"""Columns, more than any terminal has."""

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
        help="target or context: which encoder", autocompletion=complete.one_of("target", "context")
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print as JSON")]


class Aloud(logging.Handler):
    """While it is entered, what the library logs (a download, a split held out) goes to standard error."""

    log = logging.getLogger("jepa")

    def __enter__(self) -> None:
        self.level_before = self.log.level
        self.log.setLevel(logging.INFO)
        self.log.addHandler(self)

    def __exit__(self, *_: object) -> None:
        self.log.removeHandler(self)
        self.log.setLevel(self.level_before)

    def emit(self, record: logging.LogRecord) -> None:
        """Looks standard error up each time: a progress bar takes its place while it is shown."""
        print(self.format(record), file=sys.stderr)


def lines(shown: RenderableType) -> None:
    """Prints a table, or the like, without the blanks that fill its lines up to the right edge."""
    with out.capture() as drawn:
        out.print(shown, highlight=False)
    for line in drawn.get().splitlines():
        text = Text.from_ansi(line)
        text.rstrip()
        out.print(text, soft_wrap=True, highlight=False)


def whole(table: Table) -> None:
    """Prints a table with every cell whole, in a terminal that is too narrow for it as well."""
    needed = Measurement.get(out, out.options.update(max_width=MOST), table).maximum
    Console(width=max(out.width, needed)).print(table)


def title(what: str, said: str) -> None:
    """A heading line."""
    out.print(f"[bold]{escape(what)}[/]  {escape(said)}", highlight=False)


def rows(head: tuple[str, ...], cells: Sequence[tuple[str, ...]]) -> None:
    """A table without lines. All columns but the last stay whole where the last leaves them room."""
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    for name in head:
        table.add_column(name, overflow="fold", min_width=min(len(name), 8))
    for row in cells:
        table.add_row(*(escape(cell) for cell in row))
    lines(table)


def blocks(entries: Sequence[tuple[str, Sequence[tuple[str, str]]]]) -> None:
    """For each entry its name, and under it labelled lines that wrap; a line without text is left out."""
    for number, (name, texts) in enumerate(entries):
        if number:
            out.print()
        out.print(escape(name), style="bold", highlight=False, soft_wrap=True)
        table = Table.grid(padding=(0, 2, 0, 0))
        table.add_column(no_wrap=True, style="dim")
        table.add_column(overflow="fold")
        for label, said in texts:
            if said and label:
                table.add_row(f"  {label}", escape(said))
            elif said:
                lines(Padding(escape(said), (0, 0, 0, 2)))
        lines(table)


def document(text: str) -> None:
    """A TOML document, as it is; on a terminal its comments are dimmed."""
    for line in text.splitlines():
        style = "dim" if line.startswith("#") else None
        out.print(escape(line), style=style, highlight=False, soft_wrap=True)
