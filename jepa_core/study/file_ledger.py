"""Claims and outcomes as files in the study's folder: on one disk, or one file system that all hosts share.

    claims/ARM/seed-S/000001.json    a claim, rewritten with every beat; 000002.json takes the cell over
    cells/ARM/seed-S/cell.json       what came of the cell
    shared/KEY.json                  values that all workers use

What is unusual: a claim is never renamed or removed. It is taken over by exclusive creation of the next
number, which one of several workers does, and nobody acts on a claim that was meanwhile given to another. No
clocks are compared: a claim's age is measured against a file touched beside it, on the file server's clock,
and a claim that does not change while a worker looks on for longer than the lease is given up too.
"""

from __future__ import annotations

import json
import os
import secrets
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from jepa_core.errors import UserError
from jepa_core.runtime.atomic_write import atomic_write
from jepa_core.study.ledger import Attempt, Claim, ClaimLost, Ended, Record, new_attempt, since_retry

OUTCOME = "cell.json"


@dataclass(frozen=True)
class ClaimFile:
    """A claim as it is read; `attempt` is None where the file cannot be understood."""

    generation: int
    file: Path
    attempt: Attempt | None
    changed: float
    """The file's time, by the clock of the file server."""


class FileLedger:
    """A `Ledger` of files below a study's folder."""

    def __init__(self, folder: Path, lease: float = 60.0) -> None:
        self.folder, self.lease = folder, lease
        self._seen: dict[Path, tuple[float, float]] = {}
        """Of each claim its file's time, and when this process first saw it so."""
        self._now: tuple[float, float] = (0.0, -1e9)
        self._clock_file = folder / "claims" / f".clock-{secrets.token_hex(6)}"

    def records(self, cells: Iterable[tuple[str, str]]) -> dict[str, Record]:
        """What is known of cells, given as (id, identity)."""
        return {cell: self._record(cell, identity) for cell, identity in cells}

    def claim(self, cell: str, identity: str) -> Claim | None:
        """A claim on a cell, or None where another worker has it."""
        newest = self._newest_claim(cell)
        if newest is not None and self._is_held(newest):
            return None
        generation = newest.generation + 1 if newest else 1
        attempt = new_attempt(identity, self.lease)
        if not _create(self._file(cell, generation), attempt.to_json()):
            return None
        return Claim(cell, generation, attempt, newest is not None and self._may_live(newest))

    def beat(self, claim: Claim) -> bool:
        """Renews a claim; False where it is lost."""
        if not self._is_owner(claim):
            return False
        self._write(claim, replace(claim.attempt, **claim.progress))
        return self._is_owner(claim)

    def close(
        self, claim: Claim, ended: Ended, error: str = "", outcome: Mapping[str, Any] | None = None
    ) -> None:
        """Ends a claim; the outcome is written first. Raises ClaimLost where it is another worker's."""
        if not self._is_owner(claim):
            raise ClaimLost(claim.cell)
        if outcome is not None:
            file = self.folder / "cells" / claim.cell / OUTCOME
            file.parent.mkdir(parents=True, exist_ok=True)
            atomic_write(file, json.dumps(outcome, indent=2) + "\n")
        self._write(claim, replace(claim.attempt, ended=ended, error=error, **claim.progress))

    def forget(self, cell: str, identity: str) -> None:
        """Lets a failed cell be tried again; leaves one alone that a worker has."""
        newest = self._newest_claim(cell)
        if newest is not None and not self._is_held(newest):
            attempt = replace(new_attempt(identity, self.lease), ended="retry")
            _create(self._file(cell, newest.generation + 1), attempt.to_json())

    def share(self, key: str, value: Any) -> Any:
        """Publishes a value; the first one stays, and is returned."""
        _create(self.folder / "shared" / f"{key}.json", value)
        return self.shared_value(key)

    def shared_value(self, key: str) -> Any:
        """A value that was published, or None. Raises UserError for a file that cannot be read."""
        file = self.folder / "shared" / f"{key}.json"
        try:
            return json.loads(file.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        except ValueError:
            raise UserError(f"{str(file)!r} is damaged; remove it, and it is made anew") from None

    def _record(self, cell: str, identity: str) -> Record:
        claims = self._claims(cell)
        attempts = since_retry((c.attempt for c in claims if c.attempt is not None), identity)
        running = bool(claims) and self._is_held(claims[-1])
        return Record(attempts, self._outcome(cell, identity), running)

    def _outcome(self, cell: str, identity: str) -> Mapping[str, Any] | None:
        """What came of a cell: of this recipe, and with the evaluation that it speaks of beside it."""
        folder = self.folder / "cells" / cell
        try:
            outcome = json.loads((folder / OUTCOME).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        if not isinstance(outcome, dict) or outcome.get("identity") != identity:
            return None
        scored = outcome.get("state") in ("done", "collapsed")
        return None if scored and not (folder / "eval.json").is_file() else outcome

    def _claims(self, cell: str) -> list[ClaimFile]:
        folder = self.folder / "claims" / cell
        with suppress(FileNotFoundError, NotADirectoryError):
            numbers = sorted(int(name[:-5]) for name in os.listdir(folder) if name[:-5].isdigit())
            claims = [_read(self._file(cell, number), number) for number in numbers]
            return [claim for claim in claims if claim is not None]
        return []

    def _newest_claim(self, cell: str) -> ClaimFile | None:
        claims = self._claims(cell)
        return claims[-1] if claims else None

    def _file(self, cell: str, generation: int) -> Path:
        return self.folder / "claims" / cell / f"{generation:06d}.json"

    def _is_owner(self, claim: Claim) -> bool:
        """Whether this claim is there and the newest; asked by exact names, not by a listing's cache."""
        if self._file(claim.cell, claim.generation + 1).exists():
            return False
        own = _read(self._file(claim.cell, claim.generation), claim.generation)
        if own is None or own.attempt is None:
            return own is not None  # cut short by a full disk: it is still ours
        return own.attempt.nonce == claim.attempt.nonce

    def _write(self, claim: Claim, attempt: Attempt) -> None:
        atomic_write(self._file(claim.cell, claim.generation), json.dumps(attempt.to_json()) + "\n")

    def _is_held(self, claim: ClaimFile) -> bool:
        """Whether a worker has the cell that is not known to be dead and was heard of within its lease."""
        if claim.attempt is not None and (claim.attempt.ended or claim.attempt.process.state() == "dead"):
            return False
        lease = claim.attempt.lease if claim.attempt else self.lease
        first = self._seen.get(claim.file)
        if first is None or first[0] != claim.changed:
            first = self._seen[claim.file] = (claim.changed, time.monotonic())
        unchanged = time.monotonic() - first[1]
        return max(self._clock() - claim.changed, unchanged) <= lease

    @staticmethod
    def _may_live(claim: ClaimFile) -> bool:
        """Whether the last owner may wake up again and write into its folder."""
        return claim.attempt is None or not (claim.attempt.ended or claim.attempt.process.state() == "dead")

    def _clock(self) -> float:
        """The file server's time, asked for once a second."""
        value, asked = self._now
        if time.monotonic() - asked > 1.0:
            try:
                self._clock_file.touch()
                value = self._clock_file.stat().st_mtime
                self._clock_file.unlink(missing_ok=True)
            except OSError:  # a folder that may only be read: for `status`, the clock of this host must do
                value = time.time()
            self._now = (value, time.monotonic())
        return value + time.monotonic() - self._now[1]


def _read(file: Path, generation: int) -> ClaimFile | None:
    """A claim's file, whatever is in it; None where it is gone."""
    try:
        changed, text = file.stat().st_mtime, file.read_bytes()
    except OSError:
        return None
    try:
        return ClaimFile(generation, file, Attempt.from_json(json.loads(text)), changed)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):  # cut short, or not ours
        return ClaimFile(generation, file, None, changed)


def _create(file: Path, value: Any) -> bool:
    """Writes a file that must not be there yet: whole, or not at all; False where it is there."""
    file.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(value) + "\n"
    beside = file.with_name(f".{file.name}-{secrets.token_hex(6)}")
    try:
        beside.write_text(text, encoding="utf-8")
        os.link(beside, file)
    except FileExistsError:
        return False
    except OSError:  # a file system without hard links: a reader may then see the file half written
        return _create_in_place(file, text)
    finally:
        beside.unlink(missing_ok=True)
    return True


def _create_in_place(file: Path, text: str) -> bool:
    try:
        with file.open("x", encoding="utf-8") as stream:
            stream.write(text)
    except FileExistsError:
        return False
    return True
