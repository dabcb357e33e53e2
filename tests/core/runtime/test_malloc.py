"""The allocator keeps freed blocks: a large tensor made again lands on pages that are there already."""

import subprocess
import sys
from pathlib import Path

import pytest

from jepa_core import build_model, load_recipe, train, training_step
from jepa_core.bench import step as bench_step
from jepa_core.runtime.malloc import keep_freed_blocks
from jepa_kernels.bench.ceilings import Ceilings

CODE = """
import resource, torch
from jepa_core.runtime.malloc import keep_freed_blocks
KEEP and keep_freed_blocks()
def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
torch.ones(2**24)
before = faults()
for _ in range(20):
    torch.ones(2**24)
print(faults() - before)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc is the allocator on Linux")
@pytest.mark.slow
def test_freed_blocks_are_used_again():
    if not keep_freed_blocks():
        pytest.skip("this Linux has another C library")
    counts = {}
    for keep in (False, True):
        code = CODE.replace("KEEP", str(keep))
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        counts[keep] = int(done.stdout)
    assert counts[True] < counts[False] / 2


@pytest.mark.parametrize("module", ["trainer", "training.build", "bench.step"])
def test_the_library_keeps_them_too(tiny_recipe: Path, tmp_path: Path, monkeypatch, module: str) -> None:
    calls = []
    monkeypatch.setattr(f"jepa_core.{module}.keep_freed_blocks", lambda: calls.append(module))
    recipe = load_recipe(tiny_recipe, "train.steps=1")
    if module == "trainer":
        train(recipe, tmp_path / "run", watch=[])
    elif module == "training.build":
        training_step(build_model(recipe), recipe)
    else:
        bench_step.measure_step(recipe, Ceilings(1e12, 1e11), 1)
    assert calls
