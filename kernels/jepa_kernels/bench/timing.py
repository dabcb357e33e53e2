"""How long a call takes: with cold caches, one call at a time, and replayed from a CUDA graph.

What is unusual: both ends are given. On a GPU the first time is of calls between two events, each after the
second-level cache was overwritten: what a training step pays, launches included. The other is of a CUDA
graph that holds the call ten times over: no launches, and data that may still lie in the cache: what the
kernels alone can do. The truth of a captured step lies between. On a CPU it is the wall clock, caches as
they are.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

FLUSH = 256 * 2**20  # bytes: several times the second-level cache of any GPU
IN_A_GRAPH = 10


@dataclass(frozen=True)
class Time:
    """Seconds of one call.

    median, low, high: of calls one by one (low and high: quantiles .2 and .8)
    graph: replayed from a CUDA graph; None where there is none
    peak: bytes on the GPU above what was there before; None on a CPU
    """

    median: float
    low: float
    high: float
    graph: float | None = None
    peak: int | None = None


def measure(call: Callable[[], Any], device: torch.device, seconds: float) -> Time:
    """Times `call` for about `seconds`, after warming up; raises whatever the call raises."""
    call()
    if device.type != "cuda":
        return Time(*_quantiles(_repeated(lambda: _wall(call), seconds)))
    peak = _peak(call)
    flush = torch.empty(FLUSH // 4, dtype=torch.int32, device=device)
    times = _repeated(lambda: _events(call, flush), seconds)
    return Time(*_quantiles(times), peak=peak)


def _repeated(once: Callable[[], float], seconds: float) -> list[float]:
    """At least five times, after two that do not count."""
    once(), once()
    end = time.perf_counter() + seconds
    times: list[float] = []
    while len(times) < 5 or time.perf_counter() < end:
        times.append(once())
    return times


def _wall(call: Callable[[], Any]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def _events(call: Callable[[], Any], flush: torch.Tensor) -> float:
    flush.zero_()
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    call()
    end.record()
    end.synchronize()
    return start.elapsed_time(end) / 1e3


def replayed(call: Callable[[], Any], seconds: float) -> float:
    """Seconds of one call replayed from a CUDA graph, on the current device.

    Raises RuntimeError where the call cannot be captured.
    """
    aside = torch.cuda.Stream()
    aside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(aside):
        for _ in range(3):
            call()
    torch.cuda.current_stream().wait_stream(aside)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(IN_A_GRAPH):
            call()
    return sorted(_repeated(lambda: _timed_replay(graph), seconds))[0] / IN_A_GRAPH


def _timed_replay(graph: torch.cuda.CUDAGraph) -> float:
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    graph.replay()
    end.record()
    end.synchronize()
    return start.elapsed_time(end) / 1e3


def _peak(call: Callable[[], Any]) -> int:
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    call()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() - before


def _quantiles(times: list[float]) -> tuple[float, float, float]:
    ordered = sorted(times)
    at = [ordered[round(share * (len(ordered) - 1))] for share in (0.5, 0.2, 0.8)]
    return at[0], at[1], at[2]
