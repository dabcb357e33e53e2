"""The Triton attention compiled for cards that are not here: tensor cores, no spills, shared memory.

Here stands a part of the tuning table; `python -m jepa_kernels.compile_report` compiles all of it.
"""

import pytest
import torch

from jepa_kernels import triton_attention_table as table

pytest.importorskip("triton")
from jepa_kernels.compile_ahead import SHARED_LIMIT, Compiled, compile_ahead
from jepa_kernels.compile_report import Case, cases, compile_case, line, problems

HALF, FULL = torch.bfloat16, torch.float32
PART = [case for case in cases(90, (24, 64, 80)) if case.dtype is HALF]
PART += [case for case in cases(80, (64,)) if case.dtype is HALF]
PART += [case for case in cases(90, (32,)) if case.dtype is FULL and case.short]


@pytest.mark.parametrize(
    "case", PART, ids=lambda c: f"sm_{c.capability}-{c.kernel}-{c.width}-{c.dtype}-{c.tiles}"
)
def test_it_compiles_within_the_limits(case):
    compiled = compile_case(case)
    assert problems(case, compiled) == []
    assert compiled.stack <= 128, "the general path may spill a little, not more"
    print(line(case, compiled))


def test_large_tiles_use_the_instructions_of_hopper():
    case = next(c for c in cases(90, (64,)) if c.kernel == "short forward" and c.keys == 128)
    assert compile_case(case).tensor_cores == "wgmma"


def test_rows_are_loaded_sixteen_bytes_at_a_time():
    """Head widths that are no power of two as well: D = 24 and 80 are multiples of 8 numbers of 2 bytes."""
    for width in (24, 64, 80):
        case = next(c for c in cases(90, (width,)) if c.kernel == "short forward" and c.keys == 64)
        loads = [word for word in compile_case(case).ptx.split() if word.startswith("ld.global")]
        wide = [word for word in loads if ".v4." in word]
        assert len(wide) >= len(loads) - 2, f"D = {width}: all but start and length"


def test_a_layout_that_reads_itself_needs_no_readers():
    case = next(c for c in cases(90, (64,)) if c.kernel == "general key_gradient")
    assert problems(case, compile_case(case, plain=True)) == []


def test_the_table_has_a_row_for_every_input():
    for width in range(1, table.WIDEST + 1):
        for length in (0, 1, 16, 17, 128, 129, 512, 513, 10**6):
            for dtype in (torch.bfloat16, torch.float16, torch.float32):
                row = table.row_for(width, length, dtype)
                if length <= table.short_up_to(width, dtype):
                    assert row.short.forward.keys >= length
                    assert row.short.backward.keys >= length
                assert row.taken == (length <= table.taken_up_to(width, dtype))


def test_limits_that_are_broken_are_named():
    case = Case("short backward", 64, 128, HALF, table.Tiles(64, 128, 4), 80)
    broken = Compiled(registers=255, stack=16, shared=SHARED_LIMIT[80] + 1, ptx="")
    assert problems(case, broken) == [
        "uses no tensor cores",
        "spills 16 bytes",
        f"takes {SHARED_LIMIT[80] + 1} bytes of shared memory of {SHARED_LIMIT[80]}",
    ]
    assert line(case, broken).endswith("!") is False
    assert "! spills 16 bytes" in line(case, broken)


def test_an_interpreted_kernel_is_refused():
    with pytest.raises(TypeError, match=r"only a kernel of triton.jit can be compiled, got function"):
        compile_ahead(lambda x: x, {}, {}, warps=4)
