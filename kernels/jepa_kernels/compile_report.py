"""Compiles every attention kernel of the tuning table for GPUs that are not there, and prints what it takes.

    python -m jepa_kernels.compile_report                       # all of the table: a few minutes
    python -m jepa_kernels.compile_report --capability 90 --width 64 --dtype bfloat16

Registers are of a thread, stack is bytes a thread spills to, programs is how many of them one processor
holds at a time (by registers, shared memory and threads). A line ends in "!" where a limit is broken.

Axes: W head width padded to a power of two; D the head width.
"""

import argparse
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch

from jepa_kernels.compile_ahead import SHARED_LIMIT, Compiled, compile_ahead
from jepa_kernels.triton_attention_table import LONG, TABLE, Tiles, padded

HEAD_WIDTHS = (8, 16, 24, 32, 64, 80, 88, 128)
DTYPES = (torch.bfloat16, torch.float16, torch.float32)
_TRITON_NAMES = {torch.bfloat16: "*bf16", torch.float16: "*fp16", torch.float32: "*fp32"}
_REGISTERS = 65536  # of a processor
_THREADS = 2048
_PROGRAMS = 32


class Case(NamedTuple):
    """One kernel as it is launched for some input."""

    kernel: str
    width: int
    keys: int
    dtype: torch.dtype
    tiles: Tiles
    capability: int

    @property
    def short(self) -> bool:
        """Whether it belongs to the short path, which must not spill."""
        return self.kernel.startswith("short")


def cases(capability: int, widths: tuple[int, ...] = HEAD_WIDTHS) -> Iterator[Case]:
    """Every kernel that the table launches for these head widths, each tiling once."""
    seen = set()
    for width in widths:
        for dtype in DTYPES:
            for (w, keys, size), row in TABLE.items():
                if (w, size) != (padded(width), dtype.itemsize):
                    continue
                named = [(f"general {name}", t) for name, t in row.general._asdict().items()]
                if row.short:
                    named += [(f"short {name}", t) for name, t in row.short._asdict().items()]
                for name, tiles in named:
                    if (name, width, dtype, tiles) not in seen:
                        seen.add((name, width, dtype, tiles))
                        yield Case(name, width, keys, dtype, tiles, capability)


def compile_case(case: Case, plain: bool = False) -> Compiled:
    """Compiles one case; `plain`: the key gradient's variant for layouts that read themselves."""
    from jepa_kernels.triton_attention import constants

    number = _TRITON_NAMES[case.dtype]
    types = dict.fromkeys(("qkv", "out", "grad", "dqkv"), number)
    types |= dict.fromkeys(("seg", "pieces", "runs"), "*i32") | dict.fromkeys(("lse", "delta"), "*fp32")
    types |= {"total": "i32", "heads": "i32", "scale": "fp32"}
    fixed = {**constants(case.width, case.dtype, case.tiles), "PLAIN": plain}
    kernel = _kernels()[case.kernel]
    return compile_ahead(kernel, types, fixed, case.tiles.warps, case.tiles.stages, case.capability)


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
    """What is wrong with a compiled case, in words; empty where nothing is."""
    found = []
    if compiled.tensor_cores == "none":
        found.append("uses no tensor cores")
    if case.short and compiled.stack:
        found.append(f"spills {compiled.stack} bytes")
    limit = SHARED_LIMIT[case.capability]
    if compiled.shared > limit:
        found.append(f"takes {compiled.shared} bytes of shared memory of {limit}")
    return found


def line(case: Case, compiled: Compiled) -> str:
    """One row of the report."""
    keys = "long" if case.keys == LONG else str(case.keys)
    tiles = f"{case.tiles.queries}x{case.tiles.keys}/{case.tiles.warps}/{case.tiles.stages}"
    threads = 32 * case.tiles.warps
    fits = [_PROGRAMS, _THREADS // threads, _REGISTERS // (threads * compiled.registers)]
    fits += [SHARED_LIMIT[case.capability] // compiled.shared] if compiled.shared else []
    broken = "".join(f"  ! {words}" for words in problems(case, compiled))
    return (
        f"sm_{case.capability} {case.kernel:22} {str(case.dtype)[6:]:8} {case.width:3} {keys:>4} {tiles:12} "
        f"{compiled.registers:4} {compiled.stack:5} {compiled.shared // 1024:6}K {min(fits):8} "
        f"{compiled.tensor_cores}{broken}"
    )


HEAD = "card  kernel                 dtype      D keys tiles/w/st   regs stack  shared programs tensor cores"


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
    given = words.parse_args()
    print(HEAD)
    broken = 0
    for capability in given.capability:
        for case in cases(capability, tuple(given.width)):
            if given.dtype and str(case.dtype)[6:] not in given.dtype:
                continue
            compiled = compile_case(case)
            print(line(case, compiled), flush=True)
            broken += bool(problems(case, compiled))
    print(f"{broken} broken")
    return int(broken > 0)


if __name__ == "__main__":
    raise SystemExit(main())
