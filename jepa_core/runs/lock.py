"""One owner at a time: the lock on a run's folder.

    with RunLock(folder): …        raises RunLocked where another process has the folder

A process that wants the folder writes a claim, `lock-TIME-TOKEN.json`, and lists all claims. It owns the
folder once it sees no other; where it sees others, all but the earliest withdraw. The claim holds host,
process and start, and a thread renews the file's time every HEARTBEAT seconds.

What is unusual: no file is ever taken over. A claim's name is drawn anew, so removing a dead process's
claim cannot remove a new owner's, and nothing depends on flock, which NFS may lack. A claim is dead at once
where its process is known to have ended (same host and boot), so `--resume auto` after `kill -9` goes on at
once; elsewhere when it was not renewed for STALE seconds, by the file server's clock.
"""

from __future__ import annotations

import json
import os
import secrets
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, ClassVar

from jepa_core.errors import UserError
from jepa_core.runtime.atomic_write import PARTIAL
from jepa_core.runtime.process_identity import ProcessIdentity
from jepa_core.runtime.regular_file import open_regular

HEARTBEAT = 10.0
"""Seconds between two renewals of a claim."""

STALE = 120.0
"""Seconds without a renewal after which a claim of another host is dead."""

WAIT = 10.0
"""Seconds for which the earliest of several claims waits for the others to withdraw."""

PATTERN = "lock-*.json"


class RunLocked(UserError):
    """Another process works on the run."""

    exit_code: ClassVar[int] = 73
    """EX_CANTCREAT of sysexits.h."""


@dataclass(frozen=True)
class Claim:
    """One process's claim on a run's folder. `process` is None where the file cannot be understood."""

    file: Path
    process: ProcessIdentity | None
    since: str
    """UTC, ISO 8601; "" where it is not known."""
    renewed: float
    """The file's time, by the clock of the file server."""

    def is_dead(self, now: float) -> bool:
        """Whether its process is known to have ended, or has not renewed it for STALE seconds."""
        state = "unknown" if self.process is None else self.process.state()
        return state == "dead" or (state == "unknown" and now - self.renewed > STALE)

    def describe(self, now: float) -> str:
        """Who it is, in a line."""
        if self.process is None:
            return f"another process ({self.file})"
        text = f"process {self.process.pid} on host {self.process.host}, since {self.since}"
        if self.process.state() == "unknown":
            text += f", last heard of {max(0.0, now - self.renewed):.0f} s ago (given up after {STALE:.0f} s)"
        return text


def read_claims(folder: Path) -> list[Claim]:
    """All claims on a run's folder, earliest first, dead ones too."""
    claims = [read_claim(file) for file in sorted(folder.glob(PATTERN))]
    return [claim for claim in claims if claim is not None]


def read_owner(folder: Path) -> Claim | None:
    """The process that works on a run, or None. For commands that only read; on a clock of this host."""
    return next((claim for claim in read_claims(folder) if not claim.is_dead(time.time())), None)


def read_claim(file: Path) -> Claim | None:
    """A claim's file, whatever is in it; None where it is gone."""
    try:
        renewed = file.stat().st_mtime
        with open_regular(file) as stream:
            text = stream.read()
    except OSError:
        return None
    except UserError:  # a pipe, a device, a folder
        return Claim(file, None, "", renewed)
    try:
        facts = json.loads(text)
        process = ProcessIdentity(
            str(facts["host"]), str(facts["place"]), int(facts["pid"]), _number(facts["started"])
        )
        return Claim(file, process, str(facts["since"]), renewed)
    except (ValueError, TypeError, KeyError, ArithmeticError, RecursionError):  # damaged, or not ours
        return Claim(file, None, "", renewed)


def _number(value: Any) -> int | None:
    return None if value is None else int(value)


class RunLock:
    """Holds a run's folder, which is made where it is missing. Used as a context.

    Raises RunLocked where another process has it, UserError where the folder cannot be written.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._made: list[Path] = []
        self._file: Path | None = None
        self._end = threading.Event()

    def __enter__(self) -> RunLock:
        self._make_folder()
        try:
            self._file = self._write_claim()
            self._wait_to_be_alone()
        except OSError as error:
            self._release()
            raise _write_error(self.folder, error) from None
        except BaseException:
            self._release()
            raise
        threading.Thread(target=self._renew, name="run-lock", daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._release()

    def check(self) -> None:
        """Raises UserError where the claim is gone: the folder was removed, or given to another process."""
        if self._file is not None and not self._file.exists():
            owner = read_owner(self.folder)
            if owner is not None:
                raise UserError(f"{str(self.folder)!r} was taken over by {owner.describe(time.time())}")
            raise UserError(f"the run's folder {str(self.folder)!r} was removed or moved while it trained")

    def _make_folder(self) -> None:
        if self.folder.exists() and not self.folder.is_dir():
            raise UserError(f"the run's folder {str(self.folder)!r} is a file; name another")
        missing = [path for path in (self.folder, *self.folder.parents) if not path.exists()]
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise _write_error(self.folder, error) from None
        self._made = missing

    def _write_claim(self) -> Path:
        process = ProcessIdentity.of_this_process()
        since = datetime.now(UTC).isoformat(timespec="seconds")
        file = self.folder / f"lock-{time.time_ns():020d}-{secrets.token_hex(4)}.json"
        partial = file.with_suffix(PARTIAL)
        text = json.dumps(vars(process) | {"since": since}) + "\n"
        try:
            try:
                partial.write_text(text, encoding="utf-8")
            except FileNotFoundError:  # another process, which had made the folder too, has removed it again
                self.folder.mkdir(parents=True, exist_ok=True)
                partial.write_text(text, encoding="utf-8")
            return partial.rename(file)  # so that no other process reads half a claim
        finally:
            partial.unlink(missing_ok=True)  # of a full disk

    def _wait_to_be_alone(self) -> None:
        """Returns when this is the only living claim. Raises RunLocked when another one stays."""
        assert self._file is not None
        end = time.monotonic() + WAIT
        while others := self._others():
            if others[0].file < self._file or time.monotonic() > end:
                who = others[0].describe(self._now())
                raise RunLocked(f"{str(self.folder)!r} is in use by {who}; it must end first")
            time.sleep(0.02)

    def _others(self) -> list[Claim]:
        """Living claims of others; dead ones are removed."""
        others, now = [], self._now()
        for claim in read_claims(self.folder):
            if claim.file == self._file:
                continue
            if claim.is_dead(now):
                with suppress(FileNotFoundError):
                    claim.file.unlink()
            else:
                others.append(claim)
        return others

    def _now(self) -> float:
        """The file server's time: that of this claim, renewed now."""
        assert self._file is not None
        os.utime(self._file)
        return self._file.stat().st_mtime

    def _renew(self) -> None:
        while not self._end.wait(HEARTBEAT):
            with suppress(
                OSError
            ):  # a file server that is away for a moment; `check` sees a claim that is gone
                if self._file is not None:
                    os.utime(self._file)

    def _release(self) -> None:
        """Removes the claim, and the folders that were made for it where nothing else was put into them."""
        if self._file is not None:
            with suppress(OSError):
                self._file.unlink()
        self._file = None
        for folder in self._made:
            with suppress(OSError):
                folder.rmdir()


def _write_error(folder: Path, error: OSError) -> UserError:
    return UserError(f"the run's folder {str(folder)!r} cannot be written: {error.strerror}")
