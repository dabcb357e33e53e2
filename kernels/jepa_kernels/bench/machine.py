"""The machine of a result (versions, processor, clocks), and the name of the results file.

By torch and the standard library alone, since the benchmarks need no installed project.
"""

import os
import platform
import re
import shutil
import subprocess
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from jepa_kernels.bench.shapes import VERSION

PACKAGES = ("torch", "triton", "numpy")
_QUERY = "name,driver_version,clocks.sm,clocks.mem,clocks.max.sm,clocks.max.mem,power.limit"


def about() -> dict[str, Any]:
    """For a document of results: `date`, `shapes` (version of the cases) and `environment`:

    `versions` {python, torch, triton, numpy, cuda}, `platform`, `cpu` {model, cores, threads}, `gpus`
    [{name, memory_gib}] and `clocks`, what nvidia-smi says of driver, clocks and power (None without it).
    """
    environment: dict[str, Any] = {"versions": _versions(), "platform": platform.platform()}
    environment["cpu"] = {
        "model": _cpu(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "threads": torch.get_num_threads(),
    }
    devices = [torch.cuda.get_device_properties(n) for n in range(torch.cuda.device_count())]
    environment["gpus"] = [
        {"name": gpu.name, "memory_gib": round(gpu.total_memory / 2**30)} for gpu in devices
    ]
    environment["clocks"] = _clocks()
    return {"date": time.strftime("%Y-%m-%d %H:%M:%S %z"), "shapes": VERSION, "environment": environment}


def results_path(folder: Path, document: dict[str, Any]) -> Path:
    """<device>-torch-<version>-triton-<version>.json, small letters and digits."""
    environment = document["environment"]
    on_gpu = document["device"] != "cpu"
    device = environment["gpus"][0]["name"] if on_gpu else environment["cpu"]["model"]
    versions = environment["versions"]
    release = {name: str(versions.get(name) or "none").partition("+")[0] for name in ("torch", "triton")}
    words = f"{device} torch {release['torch']} triton {release['triton']}"
    return folder / (re.sub(r"[^a-z0-9.]+", "-", words.lower()).strip("-") + ".json")


def _versions() -> dict[str, str | None]:
    versions: dict[str, str | None] = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            versions[name] = None
    return {**versions, "cuda": torch.version.cuda}


def _cpu() -> str:
    info = Path("/proc/cpuinfo")
    text = info.read_text(encoding="utf-8") if info.exists() else ""
    match = re.search(r"model name\s*: (.*)", text)
    return match.group(1).strip() if match else platform.processor() or platform.machine()


def _clocks() -> dict[str, str] | None:
    if not torch.cuda.is_available() or shutil.which("nvidia-smi") is None:
        return None
    words = ["nvidia-smi", f"--query-gpu={_QUERY}", "--format=csv,noheader"]
    output = subprocess.run(words, capture_output=True, text=True, timeout=20, check=False).stdout
    first = output.strip().partition("\n")[0]
    return dict(zip(_QUERY.split(","), first.split(", "), strict=False)) if first else None
