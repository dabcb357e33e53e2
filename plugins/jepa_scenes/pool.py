"""Several processes that render shards, each a `python -m jepa_scenes.pool`.

What is unusual: a worker reads its shards as JSON from standard input and writes a byte for each picture to
standard output. It imports neither torch nor the program that started it, needs no guard around a script's
main part, and ends by itself once nobody reads what it writes.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from threading import Lock

from jepa_core.errors import UserError
from jepa_core.runtime.progress import Progress
from jepa_scenes.shards import Look, Shard, render_shard


def render_all(look: Look, shards: Sequence[Shard], processes: int, progress: Progress) -> None:
    """Renders the shards, `processes` at a time. Raises UserError where one cannot be written."""
    progress.begin("rendering scenes", sum(shard.last - shard.first for shard in shards))
    if min(processes, len(shards)) < 2:
        for shard in shards:
            render_shard(look, shard, lambda: progress.advance(1))
        return
    shares = [share for start in range(processes) if (share := shards[start::processes])]
    workers = [_start(look, share) for share in shares]
    lock = Lock()
    try:
        with ThreadPoolExecutor(len(workers)) as threads:
            errors = list(threads.map(lambda worker: _follow(worker, progress, lock), workers))
    finally:
        for worker in workers:
            worker.kill()
            worker.wait()
    if failures := [error for error in errors if error]:
        raise UserError(failures[0])


def _start(look: Look, shards: Sequence[Shard]) -> subprocess.Popen[bytes]:
    task = {"look": asdict(look), "shards": [[str(s.file), s.first, s.last] for s in shards]}
    worker = subprocess.Popen(
        [sys.executable, "-m", "jepa_scenes.pool"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert worker.stdin is not None
    with suppress(BrokenPipeError), worker.stdin:
        worker.stdin.write(json.dumps(task).encode())
    return worker


def _follow(worker: subprocess.Popen[bytes], progress: Progress, lock: Lock) -> str:
    """Counts a worker's pictures until it ends; its error in one line, "" without one."""
    assert worker.stdout is not None
    assert worker.stderr is not None
    while done := os.read(worker.stdout.fileno(), 64):
        with lock:
            progress.advance(len(done))
    lines = worker.stderr.read().decode(errors="replace").strip().splitlines()
    if worker.wait() == 0:
        return ""
    return lines[-1] if lines else f"a process that renders scenes ended with code {worker.returncode}"


def main() -> None:
    """Renders what standard input asks for."""
    task = json.load(sys.stdin)
    look = Look(**task["look"])
    for file, first, last in task["shards"]:
        try:
            render_shard(look, Shard(Path(file), first, last), _say_done)
        except UserError as error:
            sys.exit(str(error))


def _say_done() -> None:
    sys.stdout.write(".")
    sys.stdout.flush()


if __name__ == "__main__":
    with suppress(BrokenPipeError, KeyboardInterrupt):
        main()
