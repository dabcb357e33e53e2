"""Versions, machine, and commit of the working folder: what a result depends on besides its recipe.

They are in the `started` event of a run, in `jepa report` and in `jepa doctor`. Versions are read from the
metadata of installed distributions, without importing the packages.
"""

from __future__ import annotations

import os
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

PACKAGES = ("jepa-core", "torch", "torchvision", "timm", "triton", "numpy")
GIB = 1024**3


def environment() -> dict[str, Any]:
    """What this process runs in, as plain values for JSON.

    `versions`  {python, jepa-core, torch, torchvision, timm, triton, numpy, cuda}: text, None where absent
    `platform`  operating system, its version and the machine's architecture
    `cpu`       {model, cores, threads}: cores this process may use, threads torch computes with
    `memory_gib`  main memory, or None where the system does not say
    `gpus`      [{name, memory_gib}], empty without a GPU that torch can use
    `git`       {commit, dirty} of the working folder, or None where it is no repository
    """
    import torch

    return {
        "versions": versions(),
        "platform": platform.platform(),
        "cpu": {"model": _cpu_model(), "cores": cores(), "threads": torch.get_num_threads()},
        "memory_gib": _memory_gib(),
        "gpus": _gpus(),
        "git": git_state(Path.cwd()),
    }


def versions() -> dict[str, str | None]:
    """Versions of Python, of the packages a result depends on, and of the CUDA that torch was built for."""
    import torch

    packages = {name: _version_of(name) for name in PACKAGES}
    return {"python": platform.python_version(), **packages, "cuda": torch.version.cuda}


def cores() -> int:
    """Processor cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):  # Linux only
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def git_state(folder: Path) -> dict[str, Any] | None:
    """{commit, dirty} of the repository that `folder` is in, or None.

    `dirty`: files under version control differ from the commit. New files do not count, for a run's own
    folder would make every repository dirty.
    """
    commit = _git(folder, "rev-parse", "HEAD")
    if commit is None:
        return None
    return {"commit": commit, "dirty": bool(_git(folder, "status", "--porcelain", "--untracked-files=no"))}


def _git(folder: Path, *words: str) -> str | None:
    """git's output, or None where it is missing, refuses, or takes longer than a few seconds."""
    try:
        done = subprocess.run(
            ["git", "--no-optional-locks", "-C", str(folder), *words],
            capture_output=True,
            text=True,
            timeout=5,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def _version_of(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _cpu_model() -> str:
    """Linux keeps it in /proc/cpuinfo; elsewhere the platform's own word, or the architecture."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8", errors="replace").splitlines() if info.exists() else []
    models = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(models, "") or platform.processor() or platform.machine()


def _memory_gib() -> float | None:
    names = getattr(os, "sysconf_names", {})  # absent on Windows
    if "SC_PHYS_PAGES" not in names:
        return None
    return round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / GIB, 1)


def _gpus() -> list[dict[str, Any]]:
    import torch

    gpus = []
    for index in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(index)
        gpus.append({"name": properties.name, "memory_gib": round(properties.total_memory / GIB, 1)})
    return gpus
