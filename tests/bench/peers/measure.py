"""Times the implementations in turn, and finds the memory of each.

What is unusual: a round is one step of each, and what is compared are times of the same round, so that
another process on the machine slows all alike; which goes first changes from round to round. One thread's
CPU time is measured, several threads' wall clock. Memory and what may not end are measured in forked
processes, which have all packages loaded and none of another's memory (Linux only).
"""

from __future__ import annotations

import gc
import multiprocessing
import os
import resource
import signal
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from jepa_core.assembly import build
from jepa_core.evaluate.flops import count_flops
from jepa_core.runtime.environment import environment
from tests.bench.peers.cases import CASES, Case, Crops, Precision
from tests.bench.peers.lightly_way import Lightly, our_masks, own_masks
from tests.bench.peers.ours import Implementation, Official, Ours
from tests.bench.peers.stable_way import StablePretraining
from tests.bench.peers.table import Measurement, Row

Build = Callable[[Case, Precision, int], Implementation]
STEPS = 100_000
"""Of the schedules of what is timed: no rate changes while it is."""
PATIENCE = 10
"""Seconds of CPU time in which an implementation must have been built and taken its first step."""
WARM, COUNTED = 2, 3
"""Steps of each before the first that is timed; steps in which memory and operations are measured."""
OURS = "ours, the release's masks"


BUILD: dict[str, Build] = {
    OURS: lambda case, precision, steps: Ours(case, "truncated", precision, steps),
    "official way, the release's masks": Official,
    "lightly, the release's masks": lambda *sizes: Lightly(*sizes, our_masks(*sizes)),
    "lightly, its masks": lambda *sizes: Lightly(*sizes, own_masks(sizes[0])),
    "stable-pretraining": StablePretraining,
    "ours, exact masks": lambda case, precision, steps: Ours(case, "exact", precision, steps),
    "ours, as ijepa/demo": lambda case, precision, steps: Ours(case, "union", precision, steps),
    "ours, as ijepa/cifar10_plain": lambda case, precision, steps: Ours(case, "plain", precision, steps),
}
"""What is compared, by name; ratios are to the first."""


@dataclass(frozen=True)
class Clock:
    """Seconds of a call: CPU time with one thread, the wall clock with several."""

    threads: int

    def __call__(self, call: Callable[[], Any]) -> float:
        """Seconds that the call takes."""
        now = time.process_time if self.threads == 1 else time.perf_counter
        start = now()
        call()
        return now() - start


def measure(rounds: int, threads: int, folder: Path) -> None:
    """Every case in both precisions; prints the table and writes it to `folder`."""
    torch.set_num_threads(threads)
    clock = Clock(threads)
    rates = product_rates(clock)
    jobs = [(case, precision) for case in CASES for precision in rates]
    # before this process has trained: what it freed would be used again, and not counted
    memory = [measure_memory(*job) for job in jobs]
    rows: list[Row] = []
    for (case, precision), peaks in zip(jobs, memory, strict=True):
        rows += measure_case(case, precision, rounds, clock, rates[precision], peaks)
        made = Measurement(_machine(threads), {str(k): v for k, v in rates.items()}, tuple(rows))
        made.save(folder)
    print(made.markdown())


def training_images(case: Case) -> Tensor:
    """CIFAR-10's, uint8 [N, h, w, 3]."""
    samples = build("data", case.recipe("union", "fp32", 10).data).split("train")
    images: Tensor = samples.tensors()[0].permute(0, 2, 3, 1)
    return images


def _machine(threads: int) -> dict[str, Any]:
    facts = environment()
    packages = {name: version(name) for name in ("torch", "timm", "lightly", "stable-pretraining")}
    load = f"{os.getloadavg()[0]:.1f} of {facts['cpu']['cores']} cores"
    return {"processor": facts["cpu"]["model"], "threads": threads, "load": load, **packages}


def product_rates(clock: Clock, side: int = 1024, repeats: int = 15) -> dict[Precision, float]:
    """Operations a second of a square matrix product in each precision, the best of `repeats` in turn."""
    dtypes: dict[Precision, torch.dtype] = {"bf16": torch.bfloat16, "fp32": torch.float32}
    factors = {name: torch.randn(side, side).to(dtype) for name, dtype in dtypes.items()}
    least = dict.fromkeys(dtypes, float("inf"))
    for _ in range(repeats):
        for name, factor in factors.items():
            least[name] = min(least[name], clock(lambda factor=factor: factor @ factor))  # type: ignore[misc]
    return {name: 2 * side**3 / seconds for name, seconds in least.items()}


def measure_memory(case: Case, precision: Precision) -> dict[str, float | None]:
    """MiB of each implementation; None where it does not take its first step in time."""
    batches = first_batches(case)
    return {name: in_fork(peak_memory, build, case, precision, batches) for name, build in BUILD.items()}


def first_batches(case: Case) -> list[Tensor]:
    """The crops of the steps in which memory and operations are measured."""
    crops = Crops(training_images(case), case)
    return [crops.draw(step) for step in range(COUNTED)]


def measure_case(
    case: Case,
    precision: Precision,
    rounds: int,
    clock: Clock,
    rate: float,
    memory: dict[str, float | None],
) -> list[Row]:
    """A row for each implementation; `rate`: operations a second of the machine in this precision."""
    crops, batches = Crops(training_images(case), case), first_batches(case)
    usable = {name: BUILD[name](case, precision, STEPS) for name, peak in memory.items() if peak}
    flops = {name: in_fork(_flops, way, batches) or 0 for name, way in usable.items()}
    times: dict[str, list[float]] = {name: [] for name in usable}
    names = list(usable)
    for number in range(-WARM, rounds):
        for name in names[number % len(names) :] + names[: number % len(names)]:
            seconds = clock(lambda way=usable[name], step=number + WARM: way(crops.draw(step), step))  # type: ignore[misc]
            if number >= 0:
                times[name].append(seconds)
    base = times[OURS]
    return [
        Row(case.name, precision, name, None)
        if name not in usable
        else Row(
            case.name,
            precision,
            name,
            milliseconds=1e3 * statistics.median(times[name]),
            least=1e3 * min(times[name]),
            ratios=tuple(own / first for own, first in zip(times[name], base, strict=True)),
            gigaflops=flops[name] / 1e9,
            share=flops[name] / rate / statistics.median(times[name]),
            peak_mib=memory[name],
        )
        for name in BUILD
    ]


def _flops(way: Implementation, batches: list[Tensor]) -> float:
    """Operations of a step, the mean over the batches."""
    return statistics.mean(
        count_flops(lambda images=images, step=step: way(images, step))  # type: ignore[misc]
        for step, images in enumerate(batches)
    )


def peak_memory(build: Build, case: Case, precision: Precision, batches: list[Tensor]) -> float:
    """MiB that a training process holds at most above what it held before: weights, states, activations.

    The process is killed where the first step takes longer than `PATIENCE`.
    """
    gc.collect()
    before = _resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak is what is held now
    _, hard = resource.getrlimit(resource.RLIMIT_CPU)
    resource.setrlimit(resource.RLIMIT_CPU, (PATIENCE, hard))
    way = build(case, precision, STEPS)
    for step, images in enumerate(batches):
        way(images, step)
        resource.setrlimit(resource.RLIMIT_CPU, (hard, hard))
    return (_resident("VmHWM") - before) / 1024


def _resident(what: str) -> int:
    """KiB of this process: VmRSS now, VmHWM at most."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(what)).split()[1])


def in_fork(call: Callable[..., float], *arguments: Any) -> float | None:
    """The result of a call in a process forked for it; None where it was killed for its CPU time.

    Raises RuntimeError where it fails.
    """
    context = multiprocessing.get_context("fork")
    results = context.SimpleQueue()
    child = context.Process(target=lambda: results.put(call(*arguments)))
    child.start()
    child.join()
    if child.exitcode == -signal.SIGXCPU:
        return None
    if child.exitcode:
        raise RuntimeError(f"a measurement ended with exit code {child.exitcode}; its error stands above")
    return float(results.get())
