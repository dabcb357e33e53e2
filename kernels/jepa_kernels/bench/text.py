"""Results as plain text: a table for each direction of a case, then what could not run and why."""

from collections.abc import Iterator, Sequence
from typing import Any

HEAD = ("", "cold", "warm", "launched", "GB/s", "TFLOP/s", "roofline", "waste", "error", "bits", "MiB")


def lines(facts: Sequence[dict[str, Any]]) -> Iterator[str]:
    """The lines for the rows of one case, as `Row.facts` gives them.

    roofline: share of it with cold caches; waste: computed over needed; error: over torch's in the same type
    of numbers; bits: whether two runs gave the same bits
    """
    for direction in dict.fromkeys(row["direction"] for row in facts):
        timed_rows = [row for row in facts if row["direction"] == direction and "reason" not in row]
        if timed_rows:
            yield from _table([(f"  {direction}", *HEAD[1:]), *map(_cells, timed_rows)])
    for name, reason in {row["impl"]: row["reason"] for row in facts if "reason" in row}.items():
        yield f"  not run: {name}: {reason}"


def _table(rows: list[tuple[str, ...]]) -> Iterator[str]:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        rest = "  ".join(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))
        yield f"{row[0].ljust(widths[0])}  {rest}".rstrip()


def _cells(row: dict[str, Any]) -> tuple[str, ...]:
    return (
        f"    {row['impl']}",
        *(seconds(row[name]) for name in ("median_s", "graph_s", "launched_s")),
        f"{row['gb_s']:,.0f}",
        f"{row['tflop_s']:,.1f}",
        f"{100 * row['roofline']:.0f} %",
        _number(row["computed_over_useful"]),
        _number(row.get("over_torch")),
        {True: "same", False: "DIFFER", None: ""}[row.get("same_bits")],
        "" if row["peak_bytes"] is None else f"{row['peak_bytes'] / 2**20:,.0f}",
    )


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


def seconds(value: float | None) -> str:
    """Milliseconds or microseconds, as text; empty for None."""
    if value is None:
        return ""
    return f"{value * 1e3:,.2f} ms" if value >= 1e-3 else f"{value * 1e6:,.1f} us"
