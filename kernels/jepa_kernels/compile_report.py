"""Compiles every attention kernel of the tuning table for GPUs that are not there, and prints its resources.

    python -m jepa_kernels.compile_report                       # all of the table: a few minutes
    python -m jepa_kernels.compile_report --capability 90 --width 64 --dtype bfloat16

Registers are of a thread, stack is bytes a thread spills to, programs is how many of them one processor
holds at a time (by registers, shared memory and threads). A line ends in "!" where a limit is broken.

Axes: D head width; in `keys`, up to how many a sequence has.
"""

import argparse
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch

from jepa_kernels.compile_ahead import SHARED_LIMIT, Compiled, compile_ahead
from jepa_kernels.triton_attention_table import SMALL, Row, Tiles, row_for

HEAD_WIDTHS = (8, 16, 24, 32, 40, 64, 80, 88, 128)
DTYPES = (torch.bfloat16, torch.float16, torch.float32)
SPARE = 8  # bytes of stack that a kernel of the short path may have: two registers
LONG = 0  # keys of a kernel that takes any number
_TRITON_NAMES = {torch.bfloat16: "*bf16", torch.float16: "*fp16", torch.float32: "*fp32"}


class Case(NamedTuple):
    """One kernel as it is launched for some input; `over`: the longest sequence that it leaves to others."""

    kernel: str
    width: int
    keys: int
    dtype: torch.dtype
    tiles: Tiles
    capability: int
    over: int = 0

    @property
    def short(self) -> bool:
        """Whether it belongs to the short path, which must not spill."""
        return self.kernel.startswith("short")


def cases(
    capability: int, widths: tuple[int, ...] = HEAD_WIDTHS, dtypes: tuple[torch.dtype, ...] = DTYPES
) -> Iterator[Case]:
    """Every kernel that the table launches for these head widths and types, each tiling once."""
    seen = set()
    for width in widths:
        for dtype in dtypes:
            for name, keys, over, tiles in _launches(row_for(width, dtype, capability)):
                if (name, width, dtype, tiles) not in seen:
                    seen.add((name, width, dtype, tiles))
                    yield Case(name, width, keys, dtype, tiles, capability, over)


def _launches(row: Row) -> Iterator[tuple[str, int, int, Tiles]]:
    """(kernel, up to how many keys, over how many, tiles)."""
    for length_class in row.classes:
        yield "short forward", length_class.keys, length_class.over, length_class.forward
        yield "short backward", length_class.keys, length_class.over, length_class.backward
    for keys, general in ((SMALL, row.small), (LONG, row.general)):
        for name, tiles in general._asdict().items():
            yield f"general {name}", keys, row.short_bound if keys == LONG else 0, tiles


def compile_case(case: Case, plain: bool = False) -> Compiled:
    """Compiles one case; `plain`: the key gradient's variant for layouts that read themselves."""
    from jepa_kernels.triton_attention import constants

    number, tiles = _TRITON_NAMES[case.dtype], case.tiles
    types = dict.fromkeys(("qkv", "out", "grad", "dqkv"), number)
    types |= dict.fromkeys(("seg", "pieces", "runs"), "*i32") | {"lse": "*fp32", "stats": "*i64"}
    types |= {"total": "i32", "heads": "i32", "scale": "fp32"}
    fixed = constants(case.width, case.dtype, tiles)
    fixed |= {"OVER": case.over, "TAKEN": case.over, "PLAIN": plain}
    kernel = _kernels()[case.kernel]
    return compile_ahead(
        kernel, types, fixed, tiles.warps, tiles.stages, case.capability, registers=tiles.registers
    )


def _kernels() -> dict[str, Any]:
    from jepa_kernels import triton_attention_general as general
    from jepa_kernels import triton_attention_short as short

    return {
        "short forward": short.forward_kernel,
        "short backward": short.backward_kernel,
        "general forward": general.forward_kernel,
        "general query_gradient": general.query_gradient_kernel,
        "general key_gradient": general.key_gradient_kernel,
    }


def problems(case: Case, compiled: Compiled) -> list[str]:
    """The limits that a compiled case breaks, as text; empty if none."""
    complaints = []
    if compiled.tensor_cores == "none":
        complaints.append("uses no tensor cores")
    if case.short and compiled.stack > SPARE:
        complaints.append(f"spills {compiled.stack} bytes")
    limit = SHARED_LIMIT[case.capability]
    if compiled.shared > limit:
        complaints.append(f"takes {compiled.shared} bytes of shared memory of {limit}")
    return complaints


def line(case: Case, compiled: Compiled) -> str:
    """One row of the report."""
    keys = "any" if case.keys == LONG else str(case.keys)
    broken = "".join(f"  ! {words}" for words in problems(case, compiled))
    return (
        f"sm_{case.capability} {case.kernel:22} {str(case.dtype)[6:]:8} {case.width:3} {keys:>4} "
        f"{case.tiles!s:20} {compiled.registers:4} {compiled.stack:5} {compiled.shared // 1024:6}K "
        f"{compiled.programs:8} {compiled.tensor_cores}{broken}"
    )


HEAD = (
    "card  kernel                 dtype      D keys tiles                regs stack  shared programs "
    "tensor cores"
)


def main() -> int:
    """Prints the report; the exit status is 1 where a limit is broken."""
    words = argparse.ArgumentParser(
        prog="python -m jepa_kernels.compile_report", description=__doc__.split("\n")[0]
    )
    words.add_argument(
        "--capability", type=int, nargs="*", choices=sorted(SHARED_LIMIT), default=sorted(SHARED_LIMIT)
    )
    words.add_argument("--width", type=int, nargs="*", default=HEAD_WIDTHS, help="head widths")
    words.add_argument("--dtype", nargs="*", choices=[str(d)[6:] for d in DTYPES], default=None)
    arguments = words.parse_args()
    dtypes = tuple(d for d in DTYPES if arguments.dtype is None or str(d)[6:] in arguments.dtype)
    print(HEAD)
    broken = 0
    for capability in arguments.capability:
        for case in cases(capability, tuple(arguments.width), dtypes):
            compiled = compile_case(case)
            print(line(case, compiled), flush=True)
            broken += bool(problems(case, compiled))
    print(f"{broken} broken")
    return int(broken > 0)


if __name__ == "__main__":
    raise SystemExit(main())
