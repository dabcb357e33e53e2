"""The checks of `gpu.py`: accuracy, bitwise repeatability, graph capture, memory; in a dry run on a CPU."""

import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from jepa_kernels import Layout, block_attention
from jepa_kernels.bench.shapes import load
from tests.kernels.attention_cases import assert_within_budget, both_ways, draw_inputs

if TYPE_CHECKING:
    from kernels.benchmarks.gpu import Run

Facts = dict[str, Any]
EVERY_CLASS = (129, 0, 64, 256, 1, 128, 65, 257)


def pack(lengths: Sequence[int]) -> Layout:
    """Plain sequences of these lengths, on the CPU."""
    return Layout.packed(torch.tensor([0, *lengths]).cumsum(0))


def run_once(width: int, length: int) -> None:
    """Forward and backward on a GPU, in bf16, of two sequences of about this length."""
    layout = pack([length, length - 1]).to("cuda")
    qkv = torch.randn(layout.total, 3, 2, width, dtype=torch.bfloat16, device="cuda", requires_grad=True)
    block_attention(qkv, layout, impl="triton").sum().backward()


def correctness(run: "Run") -> Iterator[Facts]:
    """bf16 in all layouts, both passes, against float64; the same bits five times; capture and replay."""
    dtype = torch.float32 if run.dry else torch.bfloat16
    for width in (24,) if run.dry else (64, 24, 80, 32):
        for name, layout in _layouts(run.dry).items():
            yield _judge_layout(run, f"D {width}, {name}", layout, width, dtype)
        yield _five_times(run, width)
        if not run.dry:
            yield _check_capture(width)


def _layouts(dry: bool) -> dict[str, Layout]:
    layouts = {
        "8 x 8": pack([22, 13, 0, 33, 16, 1, 30]),
        "no keys": Layout.from_segments(torch.tensor([[0, 2, 0, 0, 0, 0], [2, 70, 0, 2, 5, 40]])),
    }
    if dry:
        return layouts
    contexts, targets = torch.tensor([82, 50, 0]), torch.tensor([[33, 40, 30], [36, 0, 35]])
    shared = Layout.jepa(contexts, targets, "shared")
    return {
        "every class": pack(EVERY_CLASS),
        "shared": shared,
        "one length": Layout.dense(6, 64),
        **layouts,
    }


def _judge_layout(run: "Run", what: str, layout: Layout, width: int, dtype: torch.dtype) -> Facts:
    """Both passes of one layout against float64, within the budget of the tests."""
    floor, bad = max(1e-5, torch.finfo(dtype).eps / 2), ""
    try:
        inputs = draw_inputs(layout, dtype, 2, width)
        assert_within_budget(*inputs, layout, "triton", floor, device=run.device.type)
    except AssertionError as error:
        bad = str(error).partition("\n")[0]
    return {"say": f"{what}: {bad or 'ok'}", "wrong": bool(bad)}


def _five_times(run: "Run", width: int) -> Facts:
    lengths, heads, times = ([9, 30], 2, 2) if run.dry else (load("I-JEPA H/14 context").lengths[:32], 4, 5)
    inputs = draw_inputs(pack(lengths), torch.float16 if run.dry else torch.bfloat16, heads, width)
    first, *repeats = [both_ways(*inputs, pack(lengths), "triton", run.device.type) for _ in range(times)]
    same = all(torch.equal(a, b) for repeat in repeats for a, b in zip(first, repeat, strict=True))
    return {"say": f"D {width}: {times} runs {'give the same bits' if same else 'DIFFER'}", "wrong": not same}


def _check_capture(width: int) -> Facts:
    """A captured forward and backward follows other offsets; nothing is read to the host."""
    offsets = torch.tensor([0, 60, 340], dtype=torch.int32, device="cuda")
    qkv = torch.randn(340, 3, 2, width, dtype=torch.bfloat16, device="cuda", requires_grad=True)

    def step() -> Tensor:
        layout = Layout.packed(offsets, max_len=300, total=340)
        out = block_attention(qkv, layout, impl="triton")
        return torch.autograd.grad(out.float().square().sum(), qkv)[0]

    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        step()
        _forbid_waiting(step)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=stream):
            output = step()
        fine = all(_follows(graph, offsets, cut, output, step) for cut in (60, 41, 300))
    torch.cuda.current_stream().wait_stream(stream)
    verdict = "follows the offsets" if fine else "DIFFERS"
    return {"say": f"D {width}: captured, {verdict}", "wrong": not fine}


def _forbid_waiting(step: Callable[[], Tensor]) -> None:
    """Runs `step`; raises where it synchronises with the device."""
    torch.cuda.set_sync_debug_mode("error")
    try:
        step()
    finally:
        torch.cuda.set_sync_debug_mode("default")


def _follows(
    graph: torch.cuda.CUDAGraph, offsets: Tensor, cut: int, output: Tensor, step: Callable[[], Tensor]
) -> bool:
    offsets[1] = cut
    graph.replay()
    return torch.equal(output, step())


def other_types(run: "Run") -> Iterator[Facts]:
    """fp16 and fp32 in every class of lengths, against float64."""
    layout = pack([9, 30] if run.dry else EVERY_CLASS)
    for dtype in (torch.float16, torch.float32):
        for width in (16,) if run.dry else (24, 64, 80, 88):
            yield _judge_layout(run, f"{str(dtype)[6:]}, D {width}", layout, width, dtype)


def memcheck(run: "Run") -> Iterator[Facts]:
    """compute-sanitizer over ragged inputs, where the tool is installed."""
    tool = shutil.which("compute-sanitizer") or "/usr/local/cuda/bin/compute-sanitizer"
    if run.dry or shutil.which(tool) is None:
        yield {"say": f"passed over: {'a dry run' if run.dry else 'no compute-sanitizer here'}"}
        return
    for width in (24, 80, 88):
        code = f"from kernels.benchmarks.gpu_checks import run_once as r; r({width}, 120); r({width}, 250)"
        words = [tool, "--tool", "memcheck", "--error-exitcode", "9", sys.executable, "-c", code]
        process = subprocess.run(words, capture_output=True, text=True, check=False)
        last = process.stdout.strip().rpartition("\n")[2]
        yield {"say": f"D {width}: {last}", "wrong": process.returncode != 0}
