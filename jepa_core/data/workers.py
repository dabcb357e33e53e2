"""Reads the items of a data set in worker processes, with torch's DataLoader.

What is unusual: a worker's UserError arrives as it was raised, signals to the process group leave the workers
reading, a worker that dies is found when its item is due, and too few open files are found before the start.
"""

from __future__ import annotations

import logging
import os
import resource
import signal
import threading
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any, TypeVar

import torch
from torch.utils.data import DataLoader, Dataset

from jepa_core.errors import UserError
from jepa_core.runtime.environment import cores

T = TypeVar("T")

log = logging.getLogger("jepa")


OPEN_FILES, OPEN_FILES_A_WORKER = 24, 12
"""Files that reading opens besides those that are open: pipes and shared memory. Measured with the masks of
`ijepa`: one worker trains with 52 open files allowed and not with 44, four with 92 and not with 76."""


@cache
def _warn_of_too_many(workers: int) -> None:
    log.warning(
        "data.workers is %d, on %d cores: workers that share a core slow each other", workers, cores()
    )


@contextmanager
def one_thread() -> Iterator[None]:
    """Inside, torch uses one thread, so that floating-point sums have the same order on every machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


class _ErrorsAsItems(Dataset[T]):
    """Gives a UserError as an item: raised in a worker, its message would be wrapped into a traceback."""

    def __init__(self, dataset: Dataset[T]) -> None:
        self.dataset = dataset

    def __getitem__(self, index: Any) -> T | UserError:  # type: ignore[override]
        try:
            return self.dataset[index]
        except UserError as error:
            return error


class WorkerDied(UserError):
    """A worker process that ended while items were still wanted of it."""


def _ignore_signals(_: int) -> None:
    """In a worker: Ctrl-C, SIGUSR1 and SIGUSR2 reach the whole process group, but the step that is being
    computed still needs its data.

    SIGTERM ends a worker: the parent sends it to those that do not stop by themselves.
    """
    for number in (signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)


def _reset_sigchld() -> None:
    """Removes the handler of torch's loader, which raises when a worker dies, wherever the program is, even
    within an optimizer step. Without it a dead worker is found when its item is due, within five seconds."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)


def _is_of_dead_worker(error: Exception, workers: int) -> bool:
    """Whether torch's loader raised because a worker is dead, or because its shared memory is gone.

    Errors that were raised in a worker begin with "Caught OSError in DataLoader worker process 0".
    """
    if isinstance(error, RuntimeError):
        return str(error).startswith("DataLoader worker")
    return workers > 0 and not str(error).startswith("Caught")


def _check_open_files(workers: int) -> None:
    """Raises UserError where the process may not open the files that so many workers need."""
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = OPEN_FILES + OPEN_FILES_A_WORKER * workers
    if limit == resource.RLIM_INFINITY or limit > 64 * needed:
        return
    try:
        needed += len(os.listdir("/proc/self/fd"))
    except FileNotFoundError:  # no Linux
        return
    except OSError as error:
        raise _too_many_open_files(workers) from error
    if needed > limit:
        raise _too_many_open_files(workers)


def _too_many_open_files(workers: int) -> UserError:
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return UserError(
        f"data.workers is {workers}, and this process may have {limit} files open, which is too few for "
        "their pipes; raise it (ulimit -n) or lower data.workers"
    )


def iterate(dataset: Dataset[T], items: Iterable[Any], workers: int, pin_memory: bool = False) -> Iterator[T]:
    """`dataset[i]` for each of `items`, in order, read by `workers` processes of one torch thread each.

    Draws nothing from the global random state. Warns once where the workers are more than the cores.
    Raises a worker's UserError as it was, WorkerDied, and UserError where too many files would be open.
    """
    if workers:
        _check_open_files(workers)
    if workers > cores():
        _warn_of_too_many(workers)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "This DataLoader will create")  # warned of above
        loader = DataLoader(
            _ErrorsAsItems(dataset),
            batch_size=None,
            sampler=items,
            num_workers=workers,
            pin_memory=pin_memory,
            generator=torch.Generator(),
            worker_init_fn=_ignore_signals if workers else None,
        )
    try:
        batches = iter(loader)
        if workers:
            _reset_sigchld()
        for item in batches:
            if isinstance(item, UserError):
                raise item
            yield item
    except (RuntimeError, OSError, EOFError) as error:
        if workers and "Too many open files" in str(error):
            raise _too_many_open_files(workers) from error
        if not _is_of_dead_worker(error, workers):
            raise
        raise WorkerDied(
            f"a data worker died ({error}); if it was killed for want of memory, lower data.workers"
        ) from error
