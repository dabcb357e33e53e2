"""How much of this machine other processes use, from the kernel's counters in /proc.

A training step that computes with as many threads as there are cores slows down severalfold as soon as
another process wants one of them, since the threads wait for each other. Linux only; elsewhere nothing is
known and nothing is said. Counted are the cores that this process may run on, and as its own use that of all
its descendants (data workers).
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

PROC = Path("/proc")
SHORTEST = 0.2
"""Seconds below which the counters, which advance by 1/100 s, are too coarse to compare."""
NEGLIGIBLE = 0.2
"""Share of our cores that others may use before it is worth a word."""


@dataclass(frozen=True)
class Load:
    """Use of our cores over some time."""

    others: float
    """Cores that other processes kept busy, on average."""
    cores: int
    """Cores that this process may use."""
    own: float = 0.0
    """Cores that this process and its descendants kept busy, on average."""

    def slows(self, threads: int) -> bool:
        """Whether `threads` busy threads of ours do not fit beside the others."""
        return self.others > NEGLIGIBLE * self.cores and self.others + threads > self.cores

    def __str__(self) -> str:
        return f"other processes use {self.others:.1f} of {self.cores} core{'s' * (self.cores != 1)}"


class LoadMeter:
    """Measures from one call of `read` to the next, the first time from its construction."""

    def __init__(self) -> None:
        self._cores = _our_cores()
        self._last = self._counters()

    def read(self) -> Load | None:
        """The load since the last call; None where the system does not say, or that was just now."""
        before, now = self._last, self._counters()
        if before is None or now is None:
            return None
        wall = now[0] - before[0]
        if wall < SHORTEST:
            return None
        self._last = now
        own = max(now[2] - before[2], 0.0) / wall
        others = (now[1] - before[1]) / wall - own
        return Load(min(max(others, 0.0), float(len(self._cores))), len(self._cores), own)

    def _counters(self) -> tuple[float, float, float] | None:
        """(seconds on a clock, core-seconds used on our cores by anyone, core-seconds used by us)."""
        pid = os.getpid()
        if not (PROC / f"{pid}/task/{pid}/children").exists():  # not Linux, or a kernel built without it
            return None
        try:
            second = os.sysconf("SC_CLK_TCK")
            used, own = _ticks_used(self._cores), sum(map(_ticks_of, _descendants(pid)))
        except (OSError, ValueError, IndexError):  # /proc may be restricted, or written otherwise
            return None
        return time.monotonic(), used / second, own / second


def _our_cores() -> frozenset[int]:
    return frozenset(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else frozenset()


def _ticks_used(cores: frozenset[int]) -> int:
    """Clock ticks that these cores were not idle: user, nice, system, irq, softirq and steal of proc(5)."""
    total = 0
    for line in (PROC / "stat").read_text(encoding="ascii").splitlines():
        name, *counts = line.split()
        if name[:3] == "cpu" and name[3:].isdigit() and int(name[3:]) in cores:
            user, nice, system, _idle, _iowait, *rest = map(int, counts[:8])
            total += user + nice + system + sum(rest)
    return total


def _descendants(pid: int) -> Iterator[int]:
    """The process and those that it, or one of its descendants, started and that still run."""
    yield pid
    for thread in (PROC / str(pid) / "task").iterdir():
        try:
            children = (thread / "children").read_text(encoding="ascii")
        except (FileNotFoundError, ProcessLookupError):  # a thread that has just ended
            continue
        for child in map(int, children.split()):
            yield from _descendants(child)


def _ticks_of(pid: int) -> int:
    """Clock ticks of one process and of its children that have ended; 0 where it has just ended itself."""
    try:
        fields = (PROC / str(pid) / "stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2]
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return sum(map(int, fields.split()[11:15]))
