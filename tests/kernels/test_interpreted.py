"""Runs the tests of the Triton kernels, `interpreted/`, in a process where Triton interprets them."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

HERE = Path(__file__).parent


def _files() -> list[str]:
    return sorted(path.name for path in (HERE / "interpreted").glob("test_*.py"))


def _interpreter_works() -> bool:
    """Triton 3.6 cannot interpret loops with runtime bounds beside numpy 2.4 and later."""
    triton = pytest.importorskip("triton")
    import numpy

    version = tuple(int(part) for part in triton.__version__.split(".")[:2])
    return version >= (3, 7) or tuple(int(part) for part in numpy.__version__.split(".")[:2]) < (2, 4)


@pytest.mark.timeout(900)
@pytest.mark.parametrize("file", _files())
def test_kernels_under_the_interpreter(file):
    if not _interpreter_works():
        pytest.skip("this triton cannot interpret loops with runtime bounds beside this numpy")
    words = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", str(HERE / "interpreted" / file)]
    env = {**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    process = subprocess.run(words, env=env, capture_output=True, text=True, cwd=HERE.parents[1])
    assert process.returncode == 0, process.stdout[-8000:] + process.stderr[-2000:]
