"""Time of a call: with cold caches, with warm caches, and with its launches.

Three numbers, since none alone is what a training step pays:
    cold      device time; inputs are rotated until they exceed the second-level cache several times
    warm      device time on one input over and over: what the kernel alone can do
    launched  wall time of a call in a row of them: the longer of launching and running

What is unusual: device times are those of CUDA graphs that hold the call many times, on inputs rotated inside
the graph; where a call cannot be captured, of events behind a sleeping kernel, so that the host is ahead of
the device and no launch is counted. Calls and captures share one stream aside, because a backward pass runs
on the stream of its forward. The median of replays counts. On a CPU it is the wall clock, caches as they are.
"""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

Call = Callable[[], Any]

CACHES = 3  # second-level caches that rotated inputs exceed together
MOST = 48  # inputs that are rotated
IN_A_GRAPH = 10  # calls, at least
SLEEP = 1_000_000  # cycles: about half a millisecond, in which the host gets ahead


@dataclass(frozen=True)
class Time:
    """Seconds of one call.

    median, low, high: cold (low and high: quantiles .2 and .8)
    graph: warm, from a CUDA graph; None where there is none
    launched: with launches; None on a CPU, where there are none
    peak: bytes on the GPU above what was there before; None on a CPU
    """

    median: float
    low: float
    high: float
    graph: float | None = None
    peak: int | None = None
    launched: float | None = None


def measure(calls: Call | Sequence[Call], device: torch.device, seconds: float, graph: bool = True) -> Time:
    """Times a call for about `seconds`, after warming up; raises whatever the call raises.

    calls: one, or the same work on inputs that are to be rotated (`copies_for` says on how many)
    graph: whether a CUDA graph can hold them
    """
    calls = [calls] if callable(calls) else list(calls)
    for call in calls:
        call()
    if device.type != "cuda":
        return Time(*_quantiles(_repeat(lambda: _wall(calls[0]), seconds)))
    if torch.cuda.current_stream(device) == torch.cuda.default_stream(device):  # which cannot be captured
        with stream_aside(device):
            return measure(calls, device, seconds, graph)
    peak, launched = _peak(calls[0]), _in_a_row(calls, seconds / 4)
    if not graph:
        return Time(*_quantiles(_one_by_one(calls, device, seconds)), peak=peak, launched=launched)
    rotations = calls * math.ceil(IN_A_GRAPH / len(calls))
    cold = _quantiles(replays(rotations, seconds / 2))
    warm, *_ = _quantiles(replays(calls[:1] * IN_A_GRAPH, seconds / 4))
    return Time(*cold, graph=warm, peak=peak, launched=launched)


def copies_for(moved: float, device: torch.device) -> int:
    """The number of inputs to rotate for a call that moves so many bytes; 1 on a CPU."""
    if device.type != "cuda":
        return 1
    cache = torch.cuda.get_device_properties(device).L2_cache_size
    return min(MOST, max(2, 1 + math.ceil(CACHES * cache / moved)))


@contextmanager
def stream_aside(device: torch.device) -> Iterator[None]:
    """A side stream for preparing, running and capturing calls; the current stream then waits for it."""
    if device.type != "cuda":
        yield
        return
    before, aside = torch.cuda.current_stream(device), torch.cuda.Stream(device)
    aside.wait_stream(before)
    with torch.cuda.stream(aside):
        yield
    before.wait_stream(aside)


def replays(calls: Sequence[Call], seconds: float) -> list[float]:
    """Seconds of one call, for each replay of a CUDA graph that holds all of `calls`.

    Raises RuntimeError where they cannot be captured.
    """
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=torch.cuda.current_stream()):
        for call in calls:
            call()
    return [total / len(calls) for total in _repeat(lambda: _events(graph.replay), seconds)]


def _repeat(once: Callable[[], float], seconds: float) -> list[float]:
    """Times of at least five calls, after two for warming up."""
    once(), once()
    end = time.perf_counter() + seconds
    times: list[float] = []
    while len(times) < 5 or time.perf_counter() < end:
        times.append(once())
    return times


def _wall(call: Call) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def _events(call: Call) -> float:
    """Device time of what the call launches: the device sleeps until the host is done launching."""
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda._sleep(SLEEP)
    start.record()
    call()
    end.record()
    end.synchronize()
    return start.elapsed_time(end) / 1e3


def _one_by_one(calls: Sequence[Call], device: torch.device, seconds: float) -> list[float]:
    """Each call after the caches were overwritten."""
    cache = torch.cuda.get_device_properties(device).L2_cache_size
    flush = torch.empty(CACHES * cache // 4, dtype=torch.int32, device=device)

    def once() -> float:
        flush.zero_()
        return _events(calls[0])

    return _repeat(once, seconds)


def _in_a_row(calls: Sequence[Call], seconds: float) -> float:
    """Seconds of one call among IN_A_GRAPH or more, launches included: the median of rows."""
    row = list(calls) * math.ceil(IN_A_GRAPH / len(calls))

    def once() -> float:
        torch.cuda.synchronize()
        start = time.perf_counter()
        for call in row:
            call()
        torch.cuda.synchronize()
        return (time.perf_counter() - start) / len(row)

    return _quantiles(_repeat(once, seconds))[0]


def _peak(call: Call) -> int:
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
