"""`python -m jepa_kernels.bench compare BEFORE AFTER`: has one of ours become slower, beside its peers?

Times of two runs are not compared: clocks, neighbours and versions differ. What is compared is our time over
a peer's time in the same run, so that whatever slows both is no change. An implementation fails on a case
where that ratio rose by more than the tolerance beside most of the peers that both runs have.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

TOLERANCE = 0.05
Document = dict[str, Any]
Where = tuple[str, str, str]  # operation, case, direction


class Change(NamedTuple):
    """One of our implementations on one case: the ratio to each peer's time, after over before."""

    op: str
    case: str
    direction: str
    impl: str
    ratios: dict[str, float]

    @property
    def typical(self) -> float:
        """The median over the peers; above 1 is slower than before."""
        return median(self.ratios.values())

    def line(self, tolerance: float) -> str:
        """One row of the comparison."""
        worst = max(self.ratios, key=lambda peer: self.ratios[peer])
        verdict = "SLOWER" if self.typical > 1 + tolerance else "ok"
        what = f"{self.op} {self.case} {self.direction}, {self.impl}"
        return f"{verdict:6} {self.typical:5.2f}  {what}; beside {worst}: {self.ratios[worst]:.2f}"


def compare(before: Document, after: Document) -> list[Change]:
    """Each of our implementations that both documents time beside a peer, the worst first.

    Raises ValueError where the documents are of different versions of the cases.
    """
    versions = [document.get("shapes") for document in (before, after)]
    if versions[0] != versions[1]:
        raise ValueError(f"results of different versions of the cases: {versions[0]} and {versions[1]}")
    return sorted(_changes(_times(before), _times(after)), key=lambda change: -change.typical)


def _times(document: Document) -> dict[Where, dict[str, float]]:
    """Seconds, with cold caches, by where and implementation."""
    times: dict[Where, dict[str, float]] = {}
    for row in document["rows"]:
        if "reason" not in row:
            where = (row["op"], row["case"], row["direction"])
            times.setdefault(where, {})[row["impl"]] = row["median_s"]
    return times


def _changes(before: dict[Where, dict[str, float]], after: dict[Where, dict[str, float]]) -> Iterator[Change]:
    for where in before.keys() & after.keys():
        old, new = before[where], after[where]
        shared = sorted(old.keys() & new.keys())
        peers = [impl for impl in shared if not impl.startswith("ours")]
        for impl in shared:
            if impl.startswith("ours") and peers:
                ratios = {p: (new[impl] / new[p]) / (old[impl] / old[p]) for p in peers}
                yield Change(*where, impl, ratios)


def compare_files(before: Path, after: Path, tolerance: float = TOLERANCE) -> tuple[list[str], bool]:
    """(lines to print, whether nothing became slower) for two files of results.

    Raises ValueError where they cannot be compared, OSError where one cannot be read.
    """
    documents = [json.loads(path.read_text(encoding="utf-8")) for path in (before, after)]
    changes = compare(*documents)
    if not changes:
        raise ValueError("the two files have no case with one of ours and a peer in common")
    lines = [change.line(tolerance) for change in changes]
    slower = sum(change.typical > 1 + tolerance for change in changes)
    lines.append(f"{len(changes)} compared, {slower} slower by more than {100 * tolerance:.0f} %")
    return lines, slower == 0
