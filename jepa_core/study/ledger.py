"""Who does which cell, and what came of it: what workers agree on, wherever it is kept.

A worker claims a cell, renews its claim while it works (`beat`), and closes it with what came of it. A claim
is a generation of a cell: the highest generation owns it, and a worker whose generation is no longer the
highest has lost it. Generations only grow, so a claim that was given to somebody else is never won back.
"""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, Protocol

from jepa_core.runtime.process_identity import ProcessIdentity

Ended = Literal["", "done", "stopped", "error", "user_error", "retry"]
"""How a claim ended: not yet (or its worker vanished), with a result, by a signal, with an error that is
tried again, with one of the user's that is not, or by `--retry`, which forgets what was before."""

VANISHED = 10
"""Workers that may vanish in a row at the same step of a cell before the cell counts as failed."""


class ClaimLost(Exception):
    """Another worker has the cell: this one was silent for longer than the lease."""


@dataclass(frozen=True)
class Attempt:
    """One generation of a cell's claim."""

    identity: str
    """Of the cell that was claimed."""
    nonce: str
    """Drawn anew for each claim."""
    process: ProcessIdentity
    lease: float
    """Seconds of silence after which the claim is given away."""
    ended: Ended = ""
    error: str = ""
    seconds: float = 0.0
    """Training time."""
    cpu_seconds: float = 0.0
    """CPU time while it trained."""
    step: int = 0
    """The newest optimizer step."""

    def to_json(self) -> dict[str, Any]:
        """As plain values."""
        return asdict(self)

    @classmethod
    def from_json(cls, facts: Mapping[str, Any]) -> Attempt:
        """Takes back what `to_json` gave. Raises TypeError, KeyError or ValueError for anything else."""
        facts = dict(facts)
        return cls(process=ProcessIdentity(**facts.pop("process")), **facts)


@dataclass
class Claim:
    """A worker's claim on a cell; `progress` is renewed by the worker, and stored with every beat."""

    cell: str
    generation: int
    attempt: Attempt
    evict: bool
    """Whether the last owner may still be alive, so that its folder must be moved away from under it."""
    progress: dict[str, Any] = field(default_factory=dict)
    """`seconds`, `cpu_seconds`, `step`."""


@dataclass(frozen=True)
class Record:
    """What is known of a cell."""

    attempts: Sequence[Attempt] = ()
    """All generations of the cell's present identity since the last `--retry`, oldest first."""
    outcome: Mapping[str, Any] | None = None
    """What came of it (see `cell_run`); None until then."""
    running: bool = False
    """Whether a worker that is not given up has it."""

    @property
    def errors(self) -> list[str]:
        """What it failed with, oldest first."""
        return [attempt.error for attempt in self.attempts if attempt.ended == "error"]

    @property
    def user_error(self) -> str:
        """The error of the user's that ended it, or ""."""
        return next((a.error for a in self.attempts if a.ended == "user_error"), "")

    @property
    def workers_lost(self) -> int:
        """Workers that vanished in a row without coming further than the one before."""
        lost = [a.step for a in self.attempts if not a.ended]
        lost = lost[:-1] if self.running else lost
        return sum(step == lost[-1] for step in lost) if lost else 0


class Ledger(Protocol):
    """Where claims and outcomes are kept."""

    def records(self, cells: Iterable[tuple[str, str]]) -> dict[str, Record]:
        """What is known of cells, given as (id, identity)."""
        ...

    def claim(self, cell: str, identity: str) -> Claim | None:
        """A claim on a cell, or None where another worker has it."""
        ...

    def beat(self, claim: Claim) -> bool:
        """Renews a claim; False where it is lost."""
        ...

    def close(
        self, claim: Claim, ended: Ended, error: str = "", outcome: Mapping[str, Any] | None = None
    ) -> None:
        """Ends a claim and publishes what came of it. Raises ClaimLost where it is another worker's."""
        ...

    def forget(self, cell: str, identity: str) -> None:
        """Lets a failed cell be tried again, as if nothing had been."""
        ...

    def share(self, key: str, value: Any) -> Any:
        """Publishes a plain value that all workers use; the first one stays, and is returned."""
        ...

    def shared_value(self, key: str) -> Any:
        """A value that was published, or None."""
        ...


def new_attempt(identity: str, lease: float) -> Attempt:
    """An attempt of this process."""
    return Attempt(identity, secrets.token_hex(8), ProcessIdentity.of_this_process(), lease)


def since_retry(attempts: Iterable[Attempt], identity: str) -> list[Attempt]:
    """The attempts at one identity after the last `--retry`."""
    own: list[Attempt] = []
    for attempt in attempts:
        if attempt.identity == identity:
            own = [] if attempt.ended == "retry" else [*own, attempt]
    return own


class Heartbeat:
    """Renews a claim from a thread while it is entered; `check` raises ClaimLost once it is lost.

    A process that was stopped for longer than the lease wakes up in the middle of its work. So `check` asks
    the ledger itself where the last beat is old, and does not wait for the thread.
    """

    def __init__(self, ledger: Ledger, claim: Claim) -> None:
        self.ledger, self.claim = ledger, claim
        self._end = threading.Event()
        self._lost = False
        self._last = time.monotonic()
        self._lock = threading.Lock()

    def __enter__(self) -> Heartbeat:
        self._thread = threading.Thread(target=self._run, name="study-heartbeat", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join()

    def check(self) -> None:
        """Raises ClaimLost where the cell is another worker's."""
        if time.monotonic() - self._last > self.claim.attempt.lease / 2:
            self._beat()
        if self._lost:
            raise ClaimLost(self.claim.cell)

    def _run(self) -> None:
        while not self._end.wait(min(10.0, max(0.05, self.claim.attempt.lease / 6))):
            with suppress(Exception):  # a server that is away for a moment; the next beat tries again
                self._beat()

    def _beat(self) -> None:
        with self._lock:
            if not self.ledger.beat(self.claim):
                self._lost = True
            self._last = time.monotonic()
