"""Two processes in one gloo process group, which run jobs for checks: `on_both(job, arguments)`.

What is unusual: they start when first needed and then wait for further jobs, since starting takes seconds.
They are plain interpreters that receive pickles, so the caller's main module is not imported again.
"""

from __future__ import annotations

import atexit
import os
import pickle
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from datetime import timedelta
from pathlib import Path
from subprocess import DEVNULL, PIPE, Popen
from tempfile import TemporaryDirectory
from typing import IO, Any, TypeVar

import torch
from torch import distributed as dist

from jepa_core.runtime.distributed import Ranks
from jepa_core.runtime.plugin_calls import PluginError, call_plugin
from jepa_core.testing.outcomes import Failed, NotAsked

Argument = TypeVar("Argument")
Result = TypeVar("Result")

PROCESSES = 2
SECONDS = 120
"""How long a job may take; the first one's time includes that of starting."""
GRACE = 5
"""How many seconds longer one may take when the other has failed."""


def on_both(job: Callable[[Ranks, Argument], Result], arguments: Sequence[Argument]) -> list[Result]:
    """What `job(ranks, argument)` returns in each of two processes; `job` is a function of a module.

    Raises Failed with what a process raised, and NotAsked where job or argument cannot be sent to another.
    """
    try:
        packed = [pickle.dumps((job, argument)) for argument in arguments]
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise NotAsked(f"it cannot be sent to another process: {error}") from None
    return _pair().run(packed)


class Pair:
    """The two processes."""

    def __init__(self) -> None:
        self.alive = True
        self._folder = TemporaryDirectory()
        command = [sys.executable, "-c", f"from {__name__} import serve; serve()"]
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "CUDA_VISIBLE_DEVICES": ""}
        self._processes = [
            Popen(command, stdin=PIPE, stdout=PIPE, stderr=DEVNULL, env=environment) for _ in range(PROCESSES)
        ]
        for rank, process in enumerate(self._processes):
            self._send(process, pickle.dumps((rank, Path(self._folder.name, "store").as_uri())))
        atexit.register(self.close)

    def run(self, packed: Sequence[bytes]) -> list[Any]:
        """The results of one pickled (job, argument) for each process. Raises Failed."""
        with ThreadPoolExecutor(PROCESSES) as threads:
            for process, job in zip(self._processes, packed, strict=True):
                self._send(process, pickle.dumps(job))
            replies = [threads.submit(_reply, process) for process in self._processes]
            unanswered = wait(replies, SECONDS, FIRST_EXCEPTION).not_done
            unanswered = wait(unanswered, GRACE).not_done  # one that waits for the failed one never answers
            if unanswered:
                self.close()
        for reply in sorted(replies, key=unanswered.__contains__):
            if error := reply.exception():
                raise Failed(
                    f"no answer within {SECONDS} seconds" if unanswered == set(replies) else str(error)
                )
        return [reply.result() for reply in replies]

    def close(self) -> None:
        """Kills both processes."""
        self.alive = False
        for process in self._processes:
            process.kill()
            process.wait()
        self._folder.cleanup()

    @staticmethod
    def _send(process: Popen[bytes], packed: bytes) -> None:
        assert process.stdin is not None
        process.stdin.write(packed)
        process.stdin.flush()


_running: dict[tuple[str, ...], Pair] = {}


def _pair() -> Pair:
    """The running pair; a new one where it has ended, or where sys.path has changed since."""
    path = tuple(sys.path)
    if path not in _running or not _running[path].alive:
        while _running:
            _running.popitem()[1].close()
        _running[path] = Pair()
    return _running[path]


def _reply(process: Popen[bytes]) -> Any:
    """What a process answers. Raises Failed with what went wrong in it."""
    assert process.stdout is not None
    try:
        result, error = pickle.load(process.stdout)
    except (EOFError, pickle.UnpicklingError):
        raise Failed("a process ended before it had answered") from None
    if error:
        raise Failed(error)
    return result


def serve() -> None:
    """Main function of each process: joins the group, then answers jobs until its input ends."""
    jobs, answers = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # gloo prints to standard output, which carries the answers
    rank, store = pickle.load(jobs)
    torch.set_num_threads(1)
    timeout = timedelta(seconds=SECONDS)
    dist.init_process_group("gloo", init_method=store, rank=rank, world_size=PROCESSES, timeout=timeout)
    while (answer := _answer(jobs, Ranks(rank, PROCESSES, rank))) is not None:
        pickle.dump(answer, answers)
        answers.flush()


def _answer(jobs: IO[bytes], ranks: Ranks) -> tuple[Any, str] | None:
    """(result, error text) of the next job; None at the end of the input."""
    try:
        packed = pickle.load(jobs)
    except EOFError:
        return None
    try:
        job, argument = call_plugin(pickle.loads, packed)
        return call_plugin(job, ranks, argument), ""
    except PluginError as error:
        return None, f"in one of two processes, {error}"
