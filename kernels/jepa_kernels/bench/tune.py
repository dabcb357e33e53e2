"""Tunes the attention's tiles on this GPU, and chooses by measurement up to where `impl="auto"` takes Triton.

    for line in tune_items(record): print(line)  # `kernels/benchmarks/gpu.sh --tune`; then record.write(path)

For each item all candidates are timed by a few replays, the best KEPT by many, twice. A candidate becomes the
table's row where both runs agree within AGREE, it is faster than the table's own, and its numbers are those
of the table's own but for rounding. What is written says the day, the device and both times.
"""

import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import torch

from jepa_kernels import triton_attention_table as table
from jepa_kernels.bench import attention, candidates
from jepa_kernels.bench.rows import PROBLEMS, Settings
from jepa_kernels.bench.shapes import Case
from jepa_kernels.bench.timing import Call, copies_for, replays, stream_aside
from jepa_kernels.bench.tuning_items import GENERAL, Item, items, launches
from jepa_kernels.triton_attention_table import Tiles

KEPT = 4
AGREE = 0.03
CLOSE = 5e-3  # relative: two right kernels in bf16 differ by their rounding
FIRST, SECOND = 0.01, 0.05  # seconds of replays of a candidate, in the two rounds
BOUNDS = (64, 128, 256, 512)
PEERS = ("ours: varlen", "SDPA padded, cuDNN", "SDPA padded, flash", "SDPA padded, efficient")
Timer = Callable[[Sequence[Call], float], float]


def on_gpu(calls: Sequence[Call], seconds: float) -> float:
    """Median seconds of a call with cold caches, over replays of a graph of them."""
    return median(replays(calls, seconds))


def on_cpu(calls: Sequence[Call], seconds: float) -> float:
    """Seconds of the first call, by the wall clock: for dry runs."""
    start = time.perf_counter()
    calls[0]()
    return time.perf_counter() - start


@dataclass
class Record:
    """The table's document while it is tuned: `document` is what the file holds."""

    document: dict[str, Any]
    capability: int
    device: torch.device
    timer: Timer = on_gpu
    samples: int | None = None
    listed: dict[str, list[Tiles]] = field(default_factory=candidates.read)

    def row(self, width: int) -> dict[str, Any]:
        """The row for bf16 heads of this width on this card; on a new card a copy of the nearest."""
        rows = self.document["rows"]
        if str(self.capability) not in rows:
            nearest = max(capability for capability in table.CAPABILITIES if capability <= self.capability)
            rows[str(self.capability)] = json.loads(json.dumps(rows[str(nearest)]))
        row: dict[str, Any] = rows[str(self.capability)][f"{table.kind(width, 2)} x 2"]
        return row

    def install(self) -> None:
        """Makes the operations take the rows of the document from now on."""
        table.TABLE.update(table.read_table(json.dumps(self.document)))

    def write(self, path: Path) -> None:
        """Writes the file, a row a line. Raises OSError where it cannot."""
        path.write_text(format_table(self.document), encoding="utf-8")


def format_table(document: dict[str, Any]) -> str:
    """The text of the table's file, one row a line."""
    blocks = []
    for capability, rows in document["rows"].items():
        lines = ",\n".join(f"   {json.dumps(kind)}: {json.dumps(row)}" for kind, row in rows.items())
        blocks.append(f'  "{capability}": {{\n{lines}\n  }}')
    head = [f" {json.dumps(key)}: {json.dumps(document[key])}" for key in ("source", "measured")]
    return "{\n" + ",\n".join(head) + ',\n "rows": {\n' + ",\n".join(blocks) + "\n }\n}\n"


def tune_items(record: Record, chosen: Sequence[Item] | None = None) -> Iterator[str]:
    """Tunes every item, records and installs its fastest tiles, and yields a line for each."""
    for item in items(record.samples) if chosen is None else chosen:
        with stream_aside(record.device):
            yield _tune(record, item)
        record.install()


def _tune(record: Record, item: Item) -> str:
    own = item.tiles(record.capability)
    copies = copies_for(8 * sum(item.lengths) * item.heads * item.width, record.device)
    launchers = [launches(item, record.device) for _ in range(copies)]
    exact = _result(launchers[0], own)
    quick: list[tuple[float, Tiles]] = []
    for tiles in dict.fromkeys([own, *record.listed.get(item.name, [])]):
        try:
            if _relative_error(_result(launchers[0], tiles), exact) < CLOSE:
                quick.append((record.timer([make(tiles) for make, _ in launchers], FIRST), tiles))
        except PROBLEMS:  # does not fit this card
            continue
    best = [tiles for _, tiles in sorted(quick, key=lambda entry: entry[0])[:KEPT]]
    times = {t: [record.timer([m(t) for m, _ in launchers], SECOND) for _ in range(2)] for t in {own, *best}}
    steady = [t for t, (a, b) in times.items() if abs(a - b) <= AGREE * min(a, b)]
    winner = min(steady, key=lambda tiles: max(times[tiles]), default=own)
    if winner != own and max(times[winner]) >= min(times[own]):
        winner = own
    _enter(record, item, winner, times[winner], times[own])
    speedup = max(times[own]) / max(times[winner])
    return f"{item.name}: {winner}, {1e6 * max(times[winner]):.1f} us, {speedup:.2f} times as fast as {own}"


def _result(launcher: Any, tiles: Tiles) -> torch.Tensor:
    make, out = launcher
    out.zero_()
    make(tiles)()
    values: torch.Tensor = out.to(torch.float32, copy=True)
    return values


def _relative_error(result: torch.Tensor, exact: torch.Tensor) -> float:
    return float((result - exact).norm() / exact.norm().clamp(min=1e-30))


def _enter(record: Record, item: Item, winner: Tiles, times: list[float], before: list[float]) -> None:
    """Puts the tiles into the row, with the day and the seconds of both runs, and of the tiles before."""
    row = record.row(item.width)
    if item.keys:
        row["classes"][str(item.keys)][item.kernel == "short backward"] = str(winner)
    else:
        row["general"][GENERAL.index(item.kernel)] = str(winner)
    day = time.strftime("%Y-%m-%d")
    row.setdefault("times", {})[item.name] = {"date": day, "seconds": times, "before": before}


def choose_bounds(record: Record, widths: Sequence[int] = (24, 64, 80), heads: int = 16) -> Iterator[str]:
    """Sets each width's `taken_up_to`: the longest bound up to which ours beats every peer, passes added."""
    settings = Settings(record.device, quick=record.samples is not None)
    for width in widths:
        row, up_to, ratios = record.row(width), 0, []
        for bound in BOUNDS:
            ratio = _beside_peers(bound, width, heads, settings)
            ratios.append(f"{bound}: {ratio:.2f}" if ratio else f"{bound}: no peer")
            if ratio is None or ratio > 1:
                break
            up_to = bound
        row["taken_up_to"] = up_to
        day = time.strftime("%Y-%m-%d")
        row.setdefault("times", {})["auto"] = {"date": day, "over the best peer": ratios}
        beside = f"time over the best peer's {', '.join(ratios)}"
        yield f"D {width}: auto takes triton up to {up_to} keys; {beside}"


def _beside_peers(bound: int, width: int, heads: int, settings: Settings) -> float | None:
    """Our time over the best peer's on sequences of half the bound up to it; None where no peer ran."""
    generator = torch.Generator().manual_seed(bound)
    count = 2 if settings.quick else max(16, 16384 // bound)
    lengths = torch.randint(bound // 2 + 1, bound + 1, (count,), generator=generator).tolist()
    case, totals = Case("tuning", f"up to {bound}", heads, width, tuple(lengths)), {"ours: triton": 0.0}
    for row in attention.rows(case, settings, ("ours: triton", *PEERS)):
        time_of = row.time.median if row.time else float("inf")
        totals[row.impl] = totals.get(row.impl, 0.0) + time_of
    best = min((seconds for name, seconds in totals.items() if name in PEERS), default=float("inf"))
    return None if best == float("inf") else totals["ours: triton"] / best
