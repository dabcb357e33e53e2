"""The Triton loss compiled for GPUs that are not here, at the widths of real encoders: nothing is spilled."""

import pytest

pytest.importorskip("triton")

import triton

from jepa_kernels import triton_loss
from jepa_kernels.compile_ahead import compile_ahead


@pytest.mark.parametrize("capability", [80, 90])
@pytest.mark.parametrize("width", [192, 1024, 1280, 1408])
@pytest.mark.parametrize("kind", range(3))
def test_rows_stay_in_registers(kind, width, capability):
    types = {"z": "*bf16", "h": "*fp32", "rows": "*i64", "dz": "*bf16", "sums": "*fp32"}
    types |= {"count": "i32", "stride": "i32", "beta": "fp32", "eps": "fp32"}
    constants = {"D": width, "W": triton.next_power_of_2(width), "ROWS": triton_loss.ROWS}
    constants |= {"KIND": kind, "NORMALIZE": True}
    compiled = compile_ahead(triton_loss.kernel, types, constants, warps=4, capability=capability)
    assert compiled.stack == 0
    assert compiled.registers <= 128
