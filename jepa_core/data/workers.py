"""Reading the items of a data set in worker processes, without the surprises of the stock way."""

from __future__ import annotations

import logging
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


@cache
def _say_that_these_are_many(workers: int) -> None:
    log.warning(
        "data.workers is %d, on %d cores: workers that share a core slow each other", workers, cores()
    )


@contextmanager
def one_thread() -> Iterator[None]:
    """Sums are formed in one order, on any machine and in any worker: the same bits."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


class _Guarded(Dataset[T]):
    """Hands a UserError over as a value: a worker would wrap its message into a traceback."""

    def __init__(self, dataset: Dataset[T]) -> None:
        self.dataset = dataset

    def __getitem__(self, index: Any) -> T | UserError:  # type: ignore[override]
        try:
            return self.dataset[index]
        except UserError as error:
            return error


class WorkerDied(UserError):
    """A process that reads data has ended without being told to by its parent."""


def _leave_signals_to_the_parent(_: int) -> None:
    """Ctrl-C and SIGUSR1 reach the whole process group, but the step in flight still needs its data.

    SIGTERM ends a worker: with it the parent ends those that do not stop by themselves.
    """
    for number in (signal.SIGINT, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)


def _tell_of_deaths_when_data_is_wanted() -> None:
    """Takes back the handler that torch's loader sets: it raises wherever the program is, in the midst of an
    optimizer step, say. Without it a worker's end is found when its batch is due, within five seconds."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)


def _of_a_dead_worker(error: Exception, workers: int) -> bool:
    """Whether torch's loader found a worker dead, or what it was about to fetch from it gone.

    What a worker itself meets comes as "Caught OSError in DataLoader worker process 0".
    """
    if isinstance(error, RuntimeError):
        return str(error).startswith("DataLoader worker")
    return workers > 0 and not str(error).startswith("Caught")


def iterate(dataset: Dataset[T], items: Iterable[Any], workers: int, pin_memory: bool = False) -> Iterator[T]:
    """`dataset[i]` for each of `items`, in order, read by `workers` processes of one torch thread each.

    Draws nothing from the global random state. Says so once where the workers are more than the cores.
    Raises a worker's UserError as it was, and WorkerDied.
    """
    if workers > cores():
        _say_that_these_are_many(workers)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "This DataLoader will create")  # it is said in one line, above
        started = iter(
            DataLoader(
                _Guarded(dataset),
                batch_size=None,
                sampler=items,
                num_workers=workers,
                pin_memory=pin_memory,
                generator=torch.Generator(),
                worker_init_fn=_leave_signals_to_the_parent if workers else None,
            )
        )
    if workers:
        _tell_of_deaths_when_data_is_wanted()
    try:
        for item in started:
            if isinstance(item, UserError):
                raise item
            yield item
    except (RuntimeError, OSError, EOFError) as error:
        if not _of_a_dead_worker(error, workers):
            raise
        raise WorkerDied(
            f"a data worker died ({error}); if it was killed for want of memory, lower data.workers"
        ) from error
