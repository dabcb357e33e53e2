"""Pictures of a file of results: shares of the roofline, case by case, and of attention against length.

    python kernels/benchmarks/draw.py docs/benchmarks/results/FILE.json     # writes FILE-*.png beside it

A bar is a share of the roofline that the same run measured: 100 % is a kernel that nothing can beat. The
lighter part is what the kernel reaches with warm caches, where that was measured.
"""

import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")

from matplotlib.figure import Figure

Rows = list[dict[str, Any]]
OURS, PEER, GRAPH = "#c2410c", "#64748b", 0.35
COLUMNS = 3
PEERS = 4


def draw(document: dict[str, Any], op: str, direction: str) -> Figure | None:
    """One panel a case; None where nothing ran."""
    rows = [r for r in document["rows"] if (r["op"], r["direction"]) == (op, direction) and "reason" not in r]
    cases = list(dict.fromkeys(row["case"] for row in rows))
    if not cases:
        return None
    lines = -(-len(cases) // COLUMNS)
    tall = max(sum(row["case"] == case for row in rows) for case in cases)
    figure = Figure(figsize=(5 * COLUMNS, lines * (0.32 * tall + 0.9)), layout="constrained")
    panels = figure.subplots(lines, COLUMNS, squeeze=False).flatten()
    for panel, case in zip(panels, cases, strict=False):
        _panel(panel, case, [row for row in rows if row["case"] == case])
    for panel in panels[len(cases) :]:
        panel.set_visible(False)
    figure.suptitle(f"{op}, {direction}: share of the roofline, % ({_where(document)})")
    return figure


def _panel(panel: Any, case: str, rows: Rows) -> None:
    rows = sorted(rows, key=lambda row: row["median_s"], reverse=True)
    colours = [OURS if row["impl"].startswith("ours") else PEER for row in rows]
    names = [f"{row['impl']}  {_time(row['median_s'])}" for row in rows]
    panel.barh(names, [100 * (row["graph_roofline"] or 0) for row in rows], color=colours, alpha=GRAPH)
    panel.barh(names, [100 * row["roofline"] for row in rows], color=colours)
    panel.set_title(case, fontsize=10)
    panel.tick_params(labelsize=8)
    panel.spines[["top", "right"]].set_visible(False)


PASSES = ("forward", "backward")


def draw_lengths(document: dict[str, Any]) -> Figure | None:
    """Share of the roofline against tokens a sequence, a panel for each head width and pass: ours, and the
    PEERS peers that are the fastest on most cases. None where no row says its width and length."""
    rows = [r for r in document["rows"] if r["op"] == "attention" and "reason" not in r and "tokens" in r]
    widths = sorted({row["width"] for row in rows})
    if not widths:
        return None
    impls = ["ours: triton", *_fastest(rows)[:PEERS]]
    figure = Figure(figsize=(4 * len(widths), 6.4), layout="constrained")
    panels = figure.subplots(len(PASSES), len(widths), squeeze=False, sharey=True)
    for line, direction in zip(panels, PASSES, strict=True):
        for panel, width in zip(line, widths, strict=True):
            panel_rows = [row for row in rows if (row["direction"], row["width"]) == (direction, width)]
            _curves(panel, panel_rows, impls)
            panel.set_title(f"D = {width}, {direction}", fontsize=10)
    panels[0][0].legend(fontsize=7, frameon=False)
    figure.supxlabel("tokens a sequence, on average", fontsize=9)
    figure.suptitle(f"attention, cold caches: share of the roofline, % ({_where(document)})")
    return figure


def _fastest(rows: Rows) -> list[str]:
    """Peers, those first that are in the upper half on most cases."""
    wins: dict[str, int] = {}
    keys = {(row["case"], row["direction"]) for row in rows}
    for key in keys:
        peers = [
            r for r in rows if (r["case"], r["direction"]) == key and not r["impl"].startswith("ours: tri")
        ]
        for row in sorted(peers, key=lambda row: row["median_s"])[: max(1, len(peers) // 2)]:
            wins[row["impl"]] = wins.get(row["impl"], 0) + 1
    return sorted(wins, key=lambda name: -wins[name])


def _curves(panel: Any, rows: Rows, impls: list[str]) -> None:
    for number, impl in enumerate(impls):
        points = sorted((row["tokens"], 100 * row["roofline"]) for row in rows if row["impl"] == impl)
        colour = OURS if impl == "ours: triton" else f"C{number}"
        if points:
            panel.plot(*zip(*points, strict=True), "o-", label=impl, color=colour, markersize=4)
    panel.tick_params(labelsize=8)
    panel.spines[["top", "right"]].set_visible(False)


def _time(seconds: float) -> str:
    return f"{seconds * 1e3:.2f} ms" if seconds >= 1e-3 else f"{seconds * 1e6:.0f} µs"


def _where(document: dict[str, Any]) -> str:
    environment = document["environment"]
    machine = environment["gpus"][0]["name"] if document["device"] != "cpu" else environment["cpu"]["model"]
    return f"{machine}, torch {environment['versions']['torch']}, {document['date'][:10]}"


def main(paths: Iterable[str]) -> None:
    """Draws each document; names of the pictures are printed."""
    for path in map(Path, paths):
        document = json.loads(path.read_text(encoding="utf-8"))
        for op, direction in dict.fromkeys((row["op"], row["direction"]) for row in document["rows"]):
            figure = draw(document, op, direction)
            if figure is not None:
                target = path.with_name(f"{path.stem}-{op}-{direction.replace(' ', '-')}.png")
                figure.savefig(target, dpi=110)
                print(target)
        lengths = draw_lengths(document)
        if lengths is not None:
            lengths.savefig(target := path.with_name(f"{path.stem}-attention-lengths.png"), dpi=110)
            print(target)


if __name__ == "__main__":
    main(sys.argv[1:])
