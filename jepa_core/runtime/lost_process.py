"""Which process of a run is gone, where a collective call has failed.

A collective's own error names an address and a port. The processes of the same host are looked at directly;
one on another host is found by its address.
"""

from __future__ import annotations

import re
import socket
import time
from collections.abc import Sequence
from dataclasses import dataclass

from jepa_core.runtime.process_identity import ProcessIdentity

PATIENCE = 15.0
"""Seconds that a process which closed its connections may take to end."""

_CONNECTION = re.compile(
    r"gloo|nccl|connection|peer|socket|broken pipe|timed? ?out|process ?group|store|distributed",
    re.IGNORECASE,
)
_ADDRESS = re.compile(r"\[([0-9a-fA-F.:]+)\]:\d+")


@dataclass(frozen=True)
class Member:
    """One process of a run, as the others know it."""

    process: ProcessIdentity
    address: str
    """Of its host, "" where the name cannot be looked up."""

    @classmethod
    def of_this_process(cls) -> Member:
        """The process that calls."""
        process = ProcessIdentity.of_this_process()
        try:
            address = socket.gethostbyname(process.host)
        except (OSError, UnicodeError):
            address = ""
        return cls(process, address)


def name_lost_process(members: Sequence[Member], rank: int, error: Exception) -> str | None:
    """The error in a line that names the rank and the host of the process that is gone, as far as known.

    `rank` is that of the process that asks. None for an error of another kind.
    """
    text = str(error)
    if not _CONNECTION.search(text):
        return None
    lost = _find_ended(members)
    if lost:
        which = " and ".join(_describe(members, number) for number in lost)
        return f"{which} ended, so process {rank} cannot go on"
    address = _ADDRESS.search(text)
    hosts = sorted({m.process.host for m in members if address is not None and m.address == address[1]})
    others = sorted({m.process.host for m in members})
    where = f"on host {hosts[0]}" if len(hosts) == 1 else f"on one of the hosts {', '.join(others)}"
    return f"a process {where} ended or was cut off, so process {rank} cannot go on ({_first_line(text)})"


def _find_ended(members: Sequence[Member]) -> list[int]:
    """Ranks of the processes of this host that have ended, waiting a little for the first."""
    end = time.monotonic() + PATIENCE
    while True:
        lost = [number for number, member in enumerate(members) if member.process.state() == "dead"]
        if lost or time.monotonic() > end:
            return lost
        time.sleep(0.05)


def _describe(members: Sequence[Member], number: int) -> str:
    process = members[number].process
    return f"process {number} of {len(members)} (rank {number}, host {process.host}, pid {process.pid})"


def _first_line(text: str) -> str:
    return text.partition("\n")[0][:200]
