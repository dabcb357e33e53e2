"""`jepa doctor`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer
from rich.markup import escape
from rich.table import Table

from jepa_core.cli.console import AsJson, lines, out, print_json

if TYPE_CHECKING:
    from jepa_core.doctor.check import Check

STYLES = {"ok": "green", "warning": "bold yellow", "problem": "bold red"}


def doctor(as_json: AsJson = False) -> None:
    """Look at this machine and this installation, and train two steps, without any data.

    Every line is ok, a warning or a problem, with what to do about it.
    Ends with exit code 1 where there is a problem.
    """
    from jepa_core.doctor.examine import examine
    from jepa_core.runtime.environment import environment

    checks: list[Check] = []
    for check in examine():
        checks.append(check)
        if not as_json:
            _show(check, first=len(checks) == 1 or checks[-2].topic != check.topic)
    bad = sum(check.state == "problem" for check in checks)
    if as_json:
        facts = [check.facts() for check in checks]
        print_json({"ok": not bad, "checks": facts, "environment": environment()})
    else:
        _conclude(bad, sum(check.state == "warning" for check in checks))
    if bad:
        raise typer.Exit(1)


def _show(check: Check, first: bool) -> None:
    """Prints one check, its state first, under a heading where it is the `first` of its topic."""
    if first:
        out.print(f"\n[bold]{escape(check.topic)}[/]", highlight=False)
    table = Table.grid(padding=(0, 2, 0, 0))
    table.add_column(min_width=9, no_wrap=True)
    table.add_column(width=26)
    table.add_column(overflow="fold")
    style = STYLES[check.state]
    table.add_row(f"  [{style}]{check.state}[/]", escape(check.name), escape(check.said))
    if check.advice:
        table.add_row("", "", f"[{style}]→[/] {escape(check.advice)}")
    lines(table)


def _conclude(problems: int, warnings: int) -> None:
    def count(number: int, what: str) -> str:
        return f"{number} {what}{'s' * (number != 1)}"

    counts = [count(n, what) for n, what in ((problems, "problem"), (warnings, "warning")) if n]
    out.print(f"\n{' and '.join(counts)}; see → above." if counts else "\nAll is well.", highlight=False)
