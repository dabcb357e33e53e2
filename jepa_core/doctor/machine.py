"""Versions, processors, memory, and whether other processes keep the processors busy."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from jepa_core.doctor.check import Check
from jepa_core.runtime.environment import GIB, environment
from jepa_core.runtime.machine_load import Load, LoadMeter

SHARED = Path("/dev/shm")
DRIVER = Path("/proc/driver/nvidia/version")
LOAD_SECONDS = 0.5
"""How long the use of the cores by other processes is measured."""


def versions() -> Iterator[Check]:
    """The packages that a result depends on, the system, and the commit of the working folder."""
    facts = environment()
    names = [f"{name} {version}" for name, version in facts["versions"].items() if version]
    yield Check("versions", "packages", "ok", ", ".join(names), details=facts["versions"])
    yield Check("versions", "system", "ok", facts["platform"])
    git = facts["git"]
    if git is None:
        yield Check("versions", "git", "ok", "this folder is no repository; runs will name no commit")
    else:
        changed = (
            ", with changes since: a run here is not repeated by its commit alone" if git["dirty"] else ""
        )
        yield Check("versions", "git", "ok", f"commit {git['commit'][:12]}{changed}", details=git)


def devices() -> Iterator[Check]:
    """The CPU with its cores, threads and memory, its load, shared memory, and every GPU."""
    import torch

    from jepa_core.runtime.devices import fast_bf16

    facts = environment()
    yield _cpu(facts["cpu"], facts["memory_gib"])
    yield from _load(facts["cpu"]["cores"], facts["cpu"]["threads"])
    yield _precision("CPU", fast_bf16(torch.device("cpu")))
    yield from _shared_memory()
    for index in range(torch.cuda.device_count()):
        yield _gpu(index, torch.cuda.get_device_properties(index))
        yield _precision(f"cuda:{index}", fast_bf16(torch.device("cuda", index)))
    if not torch.cuda.is_available():
        yield _no_gpu(torch.version.cuda)


def _cpu(cpu: dict[str, Any], memory: float | None) -> Check:
    cores, threads = cpu["cores"], cpu["threads"]
    size = f", {memory:g} GiB memory" if memory else ""
    text = f"{cpu['model']}: {_count(cores, 'core')}, {_count(threads, 'thread')} for torch{size}"
    details = {**cpu, "memory_gib": memory}
    if threads < cores:
        asked = os.environ.get("OMP_NUM_THREADS")
        why = f"OMP_NUM_THREADS is {asked}; unset it" if asked else f"set OMP_NUM_THREADS={cores}"
        advice = f"{why} to use all of them, unless other runs share this machine"
        return Check("devices", "CPU", "warning", text, advice, details)
    if threads > cores:
        advice = f"set OMP_NUM_THREADS={cores}: more threads than cores wait for each other"
        return Check("devices", "CPU", "warning", text, advice, details)
    return Check("devices", "CPU", "ok", text, details=details)


def _load(cores: int, threads: int) -> Iterator[Check]:
    """How many of our cores other processes use; nothing where the system does not say."""
    load = measure_load(cores)
    if load is None:
        return
    details = {"others": round(load.others, 2), "cores": load.cores}
    if load.slows(threads):
        free = max(1, math.floor(load.cores - load.others))
        text = f"the machine is busy: {load}, and torch computes with {_count(threads, 'thread')}"
        fewer = f", or train with OMP_NUM_THREADS={free}" if free < threads else ""
        advice = (
            "training steps then take several times as long, since threads wait for each other: end the "
            f"other processes or wait for them{fewer}"
        )
        yield Check("devices", "load", "warning", text, advice, details)
    else:
        yield Check("devices", "load", "ok", str(load), details=details)


def measure_load(cores: int) -> Load | None:
    """The load over `LOAD_SECONDS`; outside Linux the system's average of the last minute, if any."""
    meter = LoadMeter()
    time.sleep(LOAD_SECONDS)
    load = meter.read()
    if load is None and hasattr(os, "getloadavg"):  # absent on Windows
        load = Load(min(os.getloadavg()[0], float(cores)), cores)
    return load


def _precision(device: str, fast: bool) -> Check:
    text = "fast here, so train.precision=auto takes it" if fast else "slow here, so auto takes fp32"
    return Check("devices", f"bf16 on {device}", "ok", text, details={"fast": fast})


def _shared_memory() -> Iterator[Check]:
    """Data workers pass batches through shared memory, of which containers often have only 64 MiB."""
    if not SHARED.is_dir():
        return
    space = os.statvfs(SHARED)
    size = space.f_bavail * space.f_frsize / GIB
    text = f"{size:.2g} GiB free in {SHARED}"
    if size < 1:
        advice = "data.workers above 0 may die of it; start the container with --shm-size=8g"
        yield Check("devices", "shared memory", "warning", text, advice, {"free_gib": round(size, 3)})
    else:
        yield Check("devices", "shared memory", "ok", text, details={"free_gib": round(size, 3)})


def _gpu(index: int, properties: Any) -> Check:
    capability, size = f"{properties.major}.{properties.minor}", properties.total_memory / GIB
    text = f"{properties.name}, {size:.0f} GiB, compute capability {capability}"
    details = {"name": properties.name, "memory_gib": round(size, 1), "capability": capability}
    return Check("devices", f"cuda:{index}", "ok", text, details=details)


def _no_gpu(built_for: str | None) -> Check:
    """A machine without a GPU is ok; an NVIDIA driver without a GPU in torch is a warning."""
    if not DRIVER.exists():
        return Check("devices", "GPU", "ok", "none; training runs on the CPU")
    if built_for is None:
        text = "there is an NVIDIA driver, but torch is built for the CPU alone"
        return Check("devices", "GPU", "warning", text, "install torch with CUDA: pytorch.org/get-started")
    text = f"there is an NVIDIA driver, but torch, built for CUDA {built_for}, finds no GPU"
    advice = "look at nvidia-smi and CUDA_VISIBLE_DEVICES; the driver may be older than that CUDA"
    return Check("devices", "GPU", "warning", text, advice)


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'s' * (number != 1)}"
