"""Reading the items of a data set in worker processes, without the surprises of the stock way."""

from __future__ import annotations

import logging
import os
import signal
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any, TypeVar

import torch
from torch.utils.data import DataLoader, Dataset

from jepa_core.errors import UserError

T = TypeVar("T")

log = logging.getLogger("jepa")


def cores() -> int:
    """Processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


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


def _leave_signals_to_the_parent(_: int) -> None:
    """A signal to the whole process group stops the run after its step, which still needs the workers.

    They end when the parent tells them to, or is gone.
    """
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)


def iterate(dataset: Dataset[T], items: Iterable[Any], workers: int, pin_memory: bool = False) -> Iterator[T]:
    """`dataset[i]` for each of `items`, in order, read by `workers` processes of one torch thread each.

    Draws nothing from the global random state. Says so once where the workers are more than the cores.
    Raises a worker's UserError as it was.
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
    try:
        for item in started:
            if isinstance(item, UserError):
                raise item
            yield item
    except RuntimeError as error:
        if not str(error).startswith("DataLoader worker"):
            raise
        raise UserError(
            f"a data worker died ({error}); if it was killed for want of memory, lower data.workers"
        ) from error
