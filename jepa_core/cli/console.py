"""What all commands share: where they print, and arguments that several take."""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

out = Console()
err = Console(stderr=True)

Overrides = Annotated[
    list[str] | None, typer.Argument(help="section.setting=value, any number", show_default=False)
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


def title(what: str, said: str) -> None:
    """A heading line."""
    out.print(f"[bold]{escape(what)}[/]  {escape(said)}", highlight=False, soft_wrap=True)


def rows(head: tuple[str, ...], cells: Sequence[tuple[str, ...]]) -> None:
    """A table without lines."""
    table = Table(box=None, pad_edge=False)
    for name in head:
        table.add_column(name, overflow="fold")
    for row in cells:
        table.add_row(*(escape(cell) for cell in row))
    out.print(table)
