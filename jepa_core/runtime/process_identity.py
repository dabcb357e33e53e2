"""Who a process is, in words that another process can check: host, boot, process number and start time.

A process number is used again after a while, and means another process in another container or after a
reboot. `ProcessIdentity.state` therefore only judges processes of the same boot and process namespace.
"""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

State = Literal["running", "dead", "unknown"]


@dataclass(frozen=True)
class ProcessIdentity:
    """One process: the host's name, where on it the number counts (boot and namespace), number, start time.

    `place` is "" and `started` None on systems that do not tell (other than Linux).
    """

    host: str
    place: str
    pid: int
    started: int | None

    @classmethod
    def of_this_process(cls) -> ProcessIdentity:
        """The process that calls."""
        return cls(socket.gethostname(), _place(), os.getpid(), _start_time(os.getpid()))

    def state(self) -> State:
        """Whether the process runs; "unknown" for one of another host, container or boot."""
        if (self.host, self.place) != (socket.gethostname(), _place()):
            return "unknown"
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return "dead"
        except (PermissionError, OverflowError):
            pass
        started = _start_time(self.pid)
        if started is None:
            return "dead" if Path("/proc/self/stat").exists() else "running"
        return "running" if self.started in (None, started) else "dead"


def _place(status: str = "/proc/sys/kernel/random/boot_id") -> str:
    """The boot and the namespace of process numbers, or "" where the system does not tell."""
    try:
        return f"{Path(status).read_text(encoding='ascii').strip()} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return ""


def _start_time(pid: int) -> int | None:
    """Clock ticks from boot to the start of a process; None for one that has ended, or without /proc.

    A process that was killed and whose parent has not asked for its exit code yet (state Z) has ended.
    """
    try:
        fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
    except OSError:
        return None
    return None if fields[0] in (b"Z", b"X") else int(fields[19])
