"""Reading the items of a data set in worker processes, without the surprises of the stock way."""

from __future__ import annotations

import signal
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from torch.utils.data import DataLoader, Dataset

from jepa_core.errors import UserError

T = TypeVar("T")


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

    Draws nothing from the global random state. Raises a worker's UserError as it was.
    """
    loader = DataLoader(
        _Guarded(dataset),
        batch_size=None,
        sampler=items,
        num_workers=workers,
        pin_memory=pin_memory,
        generator=torch.Generator(),
        worker_init_fn=_leave_signals_to_the_parent if workers else None,
    )
    try:
        for item in loader:
            if isinstance(item, UserError):
                raise item
            yield item
    except RuntimeError as error:
        if not str(error).startswith("DataLoader worker"):
            raise
        raise UserError(
            f"a data worker died ({error}); if it was killed for want of memory, lower data.workers"
        ) from error
