"""The tables that a measurement becomes: JSON for programs, markdown for people."""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Row:
    """One implementation in one case; `milliseconds` is None where it draws no masks on this grid.

    milliseconds, least: of a step, median and least
    ratios: of each round, its time over that of the first row
    gigaflops: operations of a step, products alone
    share: of the machine's rate of matrix products in this precision
    peak_mib: memory at most, MiB
    """

    case: str
    precision: str
    name: str
    milliseconds: float | None
    least: float | None = None
    ratios: tuple[float, ...] = ()
    gigaflops: float | None = None
    share: float | None = None
    peak_mib: float | None = None

    @property
    def ratio(self) -> float:
        """The median over the rounds."""
        return statistics.median(self.ratios)


@dataclass(frozen=True)
class Measurement:
    """All rows, and where they were measured. `product_rates` are operations a second by precision."""

    machine: dict[str, Any]
    product_rates: dict[str, float]
    rows: tuple[Row, ...]

    def save(self, folder: Path) -> None:
        """Writes `peers.json` and `peers.md`."""
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "peers.json").write_text(json.dumps(asdict(self), indent=1) + "\n")
        (folder / "peers.md").write_text(self.markdown())

    @classmethod
    def load(cls, folder: Path) -> Measurement:
        """What `save` wrote."""
        facts = json.loads((folder / "peers.json").read_text())
        rows = tuple(Row(**{**row, "ratios": tuple(row["ratios"])}) for row in facts["rows"])
        return cls(facts["machine"], facts["product_rates"], rows)

    def markdown(self) -> str:
        """A table for each case and precision, below the machine."""
        rates = self.product_rates
        about = ", ".join(f"{name} {value}" for name, value in self.machine.items())
        parts = [
            f"{about}. Matrix products: bf16 {rates['bf16'] / 1e9:.0f}, fp32 {rates['fp32'] / 1e9:.0f} "
            f"GFLOP/s, ratio {rates['bf16'] / rates['fp32']:.2f}."
        ]
        groups = dict.fromkeys((row.case, row.precision) for row in self.rows)
        for case, precision in groups:
            rows = [row for row in self.rows if (row.case, row.precision) == (case, precision)]
            parts.append(f"{case}, {precision}:\n\n" + "\n".join(_lines(rows)))
        return "\n\n".join(parts) + "\n"


@dataclass(frozen=True)
class Curve:
    """kNN of one training: `points` (seconds of CPU time, share of images classified rightly), the first
    before any step."""

    name: str
    seed: int
    points: tuple[tuple[float, float], ...]


def curves_table(curves: Sequence[Curve]) -> str:
    """A line for each implementation: the mean over its seeds before and after training, in percent."""
    lines = ["| training | seeds | CPU s | kNN before | kNN after | gain |", "| --- |" + " ---: |" * 5]
    for name in dict.fromkeys(curve.name for curve in curves):
        own = [curve for curve in curves if curve.name == name]
        seconds = statistics.mean(curve.points[-1][0] for curve in own)
        before, after = (100 * statistics.mean(curve.points[end][1] for curve in own) for end in (0, -1))
        lines.append(
            f"| {name} | {len(own)} | {seconds:.0f} | {before:.1f} | {after:.1f} | {after - before:+.1f} |"
        )
    return "\n".join(lines)


def _lines(rows: Sequence[Row]) -> list[str]:
    head = "| step | ms | least | times ours | middle half | GFLOP | share of products | peak MiB |"
    return [head, "| --- |" + " ---: |" * 7, *map(_line, rows)]


def _line(row: Row) -> str:
    if row.milliseconds is None:
        return f"| {row.name} | draws no masks on this grid: does not end |" + " – |" * 6
    low, _, high = statistics.quantiles(row.ratios, n=4)
    cells = [
        row.name,
        f"{row.milliseconds:.0f}",
        f"{row.least:.0f}",
        f"{row.ratio:.2f}",
        f"{low:.2f} to {high:.2f}",
        f"{row.gigaflops:.1f}",
        f"{row.share:.2f}".lstrip("0"),
        f"{row.peak_mib:.0f}",
    ]
    return f"| {' | '.join(cells)} |"
