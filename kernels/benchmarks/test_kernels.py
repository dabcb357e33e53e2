"""The benchmark cases and peers under pytest-benchmark, for its comparisons of runs and its histograms.

    pytest kernels/benchmarks --benchmark-enable --benchmark-autosave -k "B/16 and context"
    pytest-benchmark compare

`jepa bench kernels` measures more (cold caches, CUDA graphs, the roofline); this is for watching one kernel
while it is being changed. Each row's bytes and operations stand in its extra_info.
"""

import pytest
import torch

from jepa_kernels.bench import attention, ema
from jepa_kernels.bench.kernels import CPU_SAMPLES
from jepa_kernels.bench.rows import PROBLEMS
from jepa_kernels.bench.shapes import MODELS, STAGES, case

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
SAMPLES = None if DEVICE.type == "cuda" else CPU_SAMPLES


def wait_after(call):
    """`call` followed by a synchronisation of the device."""

    def run():
        call()
        if DEVICE.type == "cuda":
            torch.cuda.synchronize()

    return run


def ready(prepare):
    """The peer's prepared call, run once; skips the test with the reason where it cannot run."""
    try:
        prepared = prepare()
        (prepared if callable(prepared) else prepared.call)()
    except PROBLEMS as problem:
        pytest.skip(str(problem).partition("\n")[0])
    return prepared


@pytest.mark.parametrize("peer", attention.peers(DEVICE))
@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("model", MODELS)
def test_attention(benchmark, model, stage, peer):
    """Forward and backward."""
    shape = case(model, stage, SAMPLES)
    benchmark.group = f"attention {shape.name}"
    benchmark.extra_info |= {
        "bytes": 22 * shape.numbers(),
        "operations": 3.5 * shape.operations(),
    }
    qkv = torch.randn(sum(shape.lengths), 3, shape.heads, shape.width, device=DEVICE).bfloat16()
    prepared = ready(lambda: attention.peers(DEVICE)[peer](shape, qkv))
    grad = torch.randn_like(prepared.call())
    call = wait_after(lambda: torch.autograd.grad(prepared.call(), prepared.leaf, grad))
    benchmark.pedantic(call, rounds=10, warmup_rounds=2)


@pytest.mark.parametrize("peer", ema.PEERS)
@pytest.mark.parametrize("model", ema.ENCODERS)
def test_ema(benchmark, model, peer):
    encoder = ema.ENCODERS[model]
    numbers = sum(torch.Size(shape).numel() for shape in encoder.shapes())
    if DEVICE.type == "cpu" and numbers > ema.LARGEST_ON_CPU:
        pytest.skip("left to a GPU")
    prepare, shadowed = ema.PEERS[peer]
    benchmark.group = f"ema {model}{' with a shadow' if shadowed else ''}"
    benchmark.extra_info["bytes"] = (14 if shadowed else 12) * numbers
    tensors = ema.Tensors.of(encoder, DEVICE)
    call = ready(lambda: prepare(tensors))
    benchmark.pedantic(wait_after(call), rounds=10, warmup_rounds=2)
