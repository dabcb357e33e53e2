"""The allocator keeps freed blocks: a large tensor made again lands on pages that are there already."""

import subprocess
import sys

import pytest

from jepa_core.runtime.malloc import keep_freed_blocks

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
