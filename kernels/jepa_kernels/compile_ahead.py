"""Compiling a Triton kernel for a GPU that is not there: registers, spills, shared memory and PTX.

    compiled = compile_ahead(kernel, {"x": "*bf16", "n": "i32"}, {"SIZE": 64}, warps=4, capability=90)

What is unusual: no GPU and no driver are needed, since Triton brings its own assembler; so a CPU machine can
tell that a kernel fits a card, uses its tensor cores and keeps its numbers in registers. It cannot tell how
fast it is. Pointers are taken to be 16-byte aligned, as torch's are.
"""

import re
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

SHARED_LIMIT = {80: 163 * 1024, 90: 227 * 1024}
"""Bytes of shared memory that one program may use, by compute capability (A100, H100 and H200)."""

_RESERVED = 1024  # bytes of shared memory that the driver takes of each program
_REGISTERS = 65536  # of a processor
_THREADS = 2048
_PROGRAMS = 32


@dataclass(frozen=True)
class Compiled:
    """The assembler's report on one kernel.

    registers: 32-bit registers of a thread, 255 at most
    stack: bytes of a thread's stack; what registers spill to
    shared: bytes of shared memory
    ptx: the program, before assembly
    warps, capability: what it was compiled for
    """

    registers: int
    stack: int
    shared: int
    ptx: str
    warps: int = 4
    capability: int = 90

    @property
    def tensor_cores(self) -> str:
        """Which tensor core instructions the program has: wgmma (from 9.0 on), mma, both or none."""
        units = [name for name, word in (("wgmma", "wgmma.mma"), ("mma", "mma.sync")) if word in self.ptx]
        return "+".join(units) or "none"

    @property
    def programs(self) -> int:
        """Resident programs a multiprocessor: the limit by registers, shared memory and threads."""
        threads = 32 * self.warps
        registers = -(-self.registers // 8) * 8  # a warp is given multiples of 256
        shared = self.shared + _RESERVED
        limits = (_PROGRAMS, _THREADS // threads, _REGISTERS // (threads * registers))
        return min(*limits, (SHARED_LIMIT[self.capability] + _RESERVED) // shared)


def compile_ahead(
    kernel: Any,
    types: Mapping[str, str],
    constants: Mapping[str, Any],
    warps: int,
    stages: int = 1,
    capability: int = 90,
    registers: int | None = None,
) -> Compiled:
    """Compiles `kernel` (from `triton.jit`) for `capability`, 10 * major + minor.

    types: Triton's name of the type of each runtime argument: "*bf16", "*i32", "fp32", "i32"
    constants: the value of each compile-time argument; names that the kernel does not have are ignored
    registers: the most that a thread may use, where it is limited
    Raises Triton's errors for what does not compile, and TypeError under TRITON_INTERPRET=1.
    """
    from triton import compile
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource
    from triton.runtime import JITFunction

    if not isinstance(kernel, JITFunction):
        raise TypeError(f"only a kernel of triton.jit can be compiled, got {type(kernel).__name__}")
    names = kernel.arg_names
    fixed = {name: value for name, value in constants.items() if name in names}
    signature = {name: "constexpr" if name in fixed else types[name] for name in names}
    aligned = [(index,) for index, name in enumerate(names) if signature[name].startswith("*")]
    source = ASTSource(
        kernel,
        signature,
        constexprs={(names.index(name),): value for name, value in fixed.items()},
        attrs={index: [["tt.divisibility", 16]] for index in aligned},
    )
    target = GPUTarget("cuda", capability, 32)
    options = {"num_warps": warps, "num_stages": stages, "maxnreg": registers, "enable_fp_fusion": True}
    binary = compile(source, target=target, options=options)
    used, stack = _resources(binary.asm["cubin"])
    return Compiled(used, stack, binary.metadata.shared, binary.asm["ptx"], warps, capability)


def _resources(cubin: bytes) -> tuple[int, int]:
    """(registers, bytes of stack) of the one function in an assembled program."""
    from triton import knobs

    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        words = [knobs.nvidia.cuobjdump.path, "--dump-resource-usage", file.name]
        usage = subprocess.run(words, check=True, capture_output=True, text=True).stdout
    resources = dict(re.findall(r"\b(REG|STACK):(\d+)", usage))
    return int(resources["REG"]), int(resources["STACK"])
