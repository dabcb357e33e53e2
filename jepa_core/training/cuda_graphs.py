"""CUDA graphs of work whose inputs and results stay at the same addresses: recorded once, then replayed.

What is unusual: the warm-up calls are real work. They run without a graph, on the stream on which the next
call is recorded, so that libraries are loaded, kernels compiled and tables made.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Protocol, TypeVar

import torch

from jepa_core.errors import UserError

WARM = 2
"""Calls that run without a graph before one is recorded."""

T = TypeVar("T")
Work = Callable[[], T]


class Recorder(Protocol):
    """Runs work, and records it."""

    def run(self, work: Work[T]) -> T:
        """Runs the work without a graph, on the stream on which it will be recorded."""
        ...

    def record(self, work: Work[T]) -> Work[T]:
        """Records the work and returns a function that does it again, on the inputs' values at that time."""
        ...


class CudaRecorder:
    """Records work on tensors at fixed addresses; all graphs of one recorder share memory."""

    def __init__(self, device: torch.device) -> None:
        self.stream = torch.cuda.Stream(device)
        self.pool = torch.cuda.graph_pool_handle()

    def run(self, work: Work[T]) -> T:
        """Runs the work without a graph, on the stream on which it will be recorded."""
        self.stream.wait_stream(torch.cuda.current_stream(self.stream.device))
        with torch.cuda.stream(self.stream):
            result = work()
        torch.cuda.current_stream(self.stream.device).wait_stream(self.stream)
        return result

    def record(self, work: Work[T]) -> Work[T]:
        """A function that replays the work and returns the tensors that hold its results.

        Raises UserError where it cannot be recorded.
        """
        graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.graph(graph, pool=self.pool, stream=self.stream):
                result = work()
        except RuntimeError as error:
            why = str(error).partition("\n")[0]
            raise UserError(
                f"the step cannot be recorded in a CUDA graph ({why}); set train.cuda_graph=false"
            ) from error

        def replay() -> T:
            graph.replay()
            return result

        return replay


class SharedPlaces:
    """One place in memory for each tensor that recorded work hands on, whichever graph hands it on.

    Tensors that a graph leaves behind lie in memory that no other graph may use, for as long as they are
    kept; a copy in a shared place lets them go. It holds until the next graph hands on its own.
    `headroom`: how many times as large as the first a later tensor is expected to be.
    """

    def __init__(self, headroom: float = 1.0) -> None:
        self.headroom = headroom
        self._places: dict[
            int, list[torch.Tensor]
        ] = {}  # the last is in use; graphs still write to the others

    def __call__(self, number: int, tensor: torch.Tensor) -> torch.Tensor:
        """A copy of `tensor`, which is the `number`-th of those that each graph hands on."""
        places = self._places.setdefault(number, [])
        if not places or places[-1].numel() < tensor.numel() or places[-1].dtype != tensor.dtype:
            places.append(tensor.new_empty(math.ceil(tensor.numel() * self.headroom)))
        return places[-1][: tensor.numel()].view(tensor.shape).copy_(tensor)


class Recorded:
    """Called, it runs the work WARM times without a graph, then records it, and from then on replays it."""

    def __init__(self, work: Work[Any], recorder: Recorder) -> None:
        self.work, self.recorder = work, recorder
        self.calls = 0
        self._replay: Work[Any] | None = None

    def __call__(self) -> Any:
        self.calls += 1
        if self.calls <= WARM:
            return self.recorder.run(self.work)
        if self._replay is None:
            self._replay = self.recorder.record(self.work)
        return self._replay()
