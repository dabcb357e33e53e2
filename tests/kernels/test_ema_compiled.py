"""The Triton EMA compiled for GPUs that are not here: it moves 128 bits at a time, and keeps to registers."""

import re

import pytest

pytest.importorskip("triton")

from jepa_kernels import triton_ema
from jepa_kernels.compile_ahead import compile_ahead

VECTORS = triton_ema.CHUNK // (triton_ema.WARPS * 32) // 4  # 128-bit moves of a thread over fp32


@pytest.mark.parametrize("capability", [80, 90])
@pytest.mark.parametrize("shadow", [False, True])
@pytest.mark.parametrize("student", triton_ema.STUDENT_TYPES, ids=str)
def test_whole_chunks_move_128_bits_at_a_time(student, shadow, capability):
    constants = {
        "STUDENT": triton_ema.STUDENT_TYPES[student],
        "SHADOW": shadow,
        "CHUNK": triton_ema.CHUNK,
        "ROUND": False,
    }
    types = {"table": "*i64", "alpha": "*fp32"}
    compiled = compile_ahead(
        triton_ema.kernel, types, constants, warps=triton_ema.WARPS, capability=capability
    )
    loads = len(re.findall(r"ld\.global[\w.]*\.v4\.b32", compiled.ptx))
    stores = len(re.findall(r"st\.global[\w.]*\.v4\.b32", compiled.ptx))
    assert loads == VECTORS + VECTORS * student.itemsize // 4
    assert stores == VECTORS + (VECTORS // 2 if shadow else 0)
    assert compiled.stack == 0, "no number leaves the registers"
    assert compiled.registers <= 128, "enough programs at a time to hide memory's latency"
