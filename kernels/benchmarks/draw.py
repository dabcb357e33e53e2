"""Pictures of what `jepa bench kernels --json` wrote: for each operation, time beside the best peer's.

    python kernels/benchmarks/draw.py docs/benchmarks/kernels.json      # writes kernels-*.png beside it

A bar is a share of the roofline that the same run measured: 100 % is a kernel that nothing can beat. The
lighter part is what the kernel reaches in a CUDA graph, where there is one.
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


def _time(seconds: float) -> str:
    return f"{seconds * 1e3:.2f} ms" if seconds >= 1e-3 else f"{seconds * 1e6:.0f} µs"


def _where(document: dict[str, Any]) -> str:
    found = document["environment"]
    machine = found["gpus"][0]["name"] if document["device"] != "cpu" else found["cpu"]["model"]
    return f"{machine}, torch {found['versions']['torch']}, {document['date'][:10]}"


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


if __name__ == "__main__":
    main(sys.argv[1:])
