"""The Triton attention compiled for cards that are not here: tensor cores, no spills, shared memory.

Here stands a part of the tuning table; `python -m jepa_kernels.compile_report` compiles all of it.
"""

import re

import pytest
import torch

from jepa_kernels import triton_attention_table as table

pytest.importorskip("triton")
from jepa_kernels.compile_ahead import SHARED_LIMIT, Compiled, compile_ahead
from jepa_kernels.compile_report import Case, cases, compile_case, line, problems

HALF, FULL = torch.bfloat16, torch.float32
PART = [*cases(90, (24, 64, 80), (HALF,)), *cases(80, (64, 80), (HALF,))]
PART += [case for case in cases(90, (32,), (FULL,)) if case.short]


def short(kernel, width, keys, capability=90, dtype=HALF):
    """The case of one class."""
    return next(c for c in cases(capability, (width,), (dtype,)) if (c.kernel, c.keys) == (kernel, keys))


@pytest.mark.parametrize(
    "case", PART, ids=lambda c: f"sm_{c.capability}-{c.kernel}-{c.width}-{c.dtype}-{c.tiles}"
)
def test_it_compiles_within_the_limits(case):
    compiled = compile_case(case)
    assert problems(case, compiled) == []
    assert compiled.stack <= 128, "the general path may spill a little, not more"
    print(line(case, compiled))


@pytest.mark.parametrize("width", [24, 64, 80])
def test_the_loop_free_backward_holds_four_programs_and_hoppers_instructions(width):
    compiled = compile_case(short("short backward", width, 64))
    assert compiled.tensor_cores == "wgmma"
    assert compiled.programs >= 4
    assert compiled.ptx.count("bar.sync") < 16, "no loop, whose tiles would wait for each other"


def test_large_tiles_use_the_instructions_of_hopper():
    assert compile_case(short("short forward", 64, 128)).tensor_cores == "wgmma"
    assert compile_case(short("short backward", 64, 128)).tensor_cores == "wgmma"


def test_a_limit_on_registers_is_kept():
    compiled = compile_case(short("short forward", 24, 128))
    assert compiled.registers <= 128
    assert compiled.programs == 4


def test_rows_are_loaded_sixteen_bytes_at_a_time():
    """Head widths that are no power of two as well: D = 24 and 80 are multiples of 8 numbers of 2 bytes."""
    for width in (24, 64, 80):
        for kernel in ("short forward", "short backward"):
            compiled = compile_case(short(kernel, width, 64))
            loads = [word for word in compiled.ptx.split() if word.startswith("ld.global")]
            wide = [word for word in loads if ".v4." in word]
            assert len(wide) >= len(loads) - 2, f"D = {width}: all but start and length"


def test_lse_and_delta_come_eight_bytes_at_a_time():
    case = next(c for c in cases(90, (64,), (HALF,)) if c.kernel == "general key_gradient" and c.keys == 0)
    copies = re.findall(
        r"cp\.async\.\w+\.shared\.global \[[^]]*\], \[[^]]*\], (0x[0-9a-f]+)", compile_case(case).ptx
    )
    assert {int(size, 16) for size in copies} == {8, 16}


def test_the_number_of_heads_is_not_compiled_for():
    from jepa_kernels import triton_attention_general as general
    from jepa_kernels import triton_attention_short as classes

    kernels = [classes.forward_kernel, classes.backward_kernel, general.forward_kernel]
    kernels += [general.query_gradient_kernel, general.key_gradient_kernel]
    for kernel in kernels:
        assert [p.do_not_specialize for p in kernel.params if p.name == "heads"] == [True]


def test_a_layout_that_reads_itself_needs_no_readers():
    case = next(c for c in cases(90, (64,), (HALF,)) if c.kernel == "general key_gradient")
    assert problems(case, compile_case(case, plain=True)) == []


def test_the_table_has_a_row_for_every_input():
    for width in range(1, table.WIDEST + 1):
        for dtype in (torch.bfloat16, torch.float16, torch.float32):
            rows = [table.row_for(width, dtype, capability) for capability in table.CAPABILITIES]
            for row in rows:
                assert row.short_bound == table.short_bound(width, dtype), "graphs guard on one bound"
                bounds = [0, *(c.keys for c in row.classes)]
                assert [c.over for c in row.classes] == bounds[:-1], "no length is left out"
                for c in row.classes:
                    assert c.forward.keys == c.backward.keys == c.keys


def test_head_widths_are_split_where_that_is_less():
    assert [table.parts(width) for width in (8, 24, 40, 64, 80, 88, 96, 100, 128)] == [
        (16, 0),
        (32, 0),
        (32, 16),
        (64, 0),
        (64, 16),
        (64, 32),
        (64, 32),
        (128, 0),
        (128, 0),
    ]
    assert table.parts(80, whole=True) == (128, 0)
    for width in range(1, table.WIDEST + 1):
        assert width <= sum(table.parts(width)) <= sum(table.parts(width, whole=True))


def test_tiles_are_written_and_read():
    for text in ("64x128 w4", "16x256 w8 s2", "128x128 w8 r128", "16x128 w8 s3 r128 whole"):
        assert str(table.Tiles.parse(text)) == text
    with pytest.raises(ValueError, match="tiles are written like '64x128 w4 s2 r128 whole'; got '64x128'"):
        table.Tiles.parse("64x128")


@pytest.mark.parametrize(("capability", "row_capability"), [(120, 90), (90, 90), (89, 80), (80, 80)])
def test_a_card_takes_the_rows_of_the_newest_that_is_no_newer(capability, row_capability):
    assert table.row_for(64, HALF, capability) is table.TABLE[row_capability, 64, 2]


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
