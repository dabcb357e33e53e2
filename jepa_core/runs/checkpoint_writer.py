"""Saving a run's checkpoints in a thread: training waits for the copy off the device, not for the disk."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from torch import Tensor

from jepa_core.runs import checkpoints
from jepa_core.runs.events_file import record


class CheckpointWriter:
    """Saves a run's checkpoints in a thread, one after the other. A context, which at its end waits for it.

    An error in the thread is raised, as a UserError, by the next call of `save`, `check` or `wait`.
    """

    def __init__(self, folder: Path, keep: int) -> None:
        self.folder, self.keep = folder, keep
        self.saved: int | None = None
        """The step that was handed over last."""
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="checkpoints")
        self._pending: Future[None] | None = None

    def __enter__(self) -> CheckpointWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._thread.shutdown(wait=True)
        if kind is None:  # an error that ends the run anyway says more than a failed write after it
            self.wait()

    def save(self, step: int, weights: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
        """Copies everything to the CPU and returns; waits first for the checkpoint before."""
        self.wait()
        self._pending = self._thread.submit(self._write, step, snapshot(weights), snapshot(state))
        self.saved = step

    def _write(self, step: int, weights: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
        """Writes the checkpoint and then an event, which tells later if the checkpoints were lost."""
        checkpoints.save(self.folder, step, weights, state, self.keep)
        record(self.folder, "checkpoint_saved", step)

    def check(self) -> None:
        """Raises the thread's error, if there is one by now, without waiting."""
        if self._pending is not None and self._pending.done():
            self._pending.result()

    def wait(self) -> None:
        """Returns when the last checkpoint is on the disk."""
        if self._pending is not None:
            self._pending.result()


def snapshot(value: Any) -> Any:
    """A copy on the CPU of tensors in mappings, lists and tuples: training may go on while it is written."""
    if isinstance(value, Tensor):
        return value.detach().to("cpu", copy=True)
    if isinstance(value, Mapping):
        return {key: snapshot(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(snapshot(inner) for inner in value)
    return value
