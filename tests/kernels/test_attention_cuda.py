"""Attention on a GPU: the Triton kernels compiled, at the sizes of training, and torch's own beside them.

The tests of `interpreted/` say that the kernels compute the right thing; these say that the compiler and the
machine do: tensor cores, many programs at once, capture into a CUDA graph.
"""

import pytest
import torch

from jepa_kernels import Layout, block_attention
from tests.kernels.attention_cases import (
    DTYPES,
    HEAD_DIMS,
    assert_within_budget,
    both_ways,
    draw_inputs,
    pack,
)

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")

LAYOUTS = {
    "one length": Layout.dense(6, 64),
    "8 x 8": pack([22, 13, 0, 33, 16, 1, 30]),
    "14 x 14": pack([82, 64, 115, 50, 128, 127]),
    "long": pack([3, 196, 0, 257, 129]),
    "every class": pack([129, 0, 64, 256, 1, 128, 65, 257]),
    "shared": Layout.jepa(torch.tensor([82, 50, 0]), torch.tensor([[33, 40, 30], [36, 0, 35]]), "shared"),
    "no keys": Layout.from_segments(torch.tensor([[0, 2, 0, 0, 0, 0], [2, 70, 0, 2, 5, 40]])),
}


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("width", [*HEAD_DIMS, 128])
@pytest.mark.parametrize("name", LAYOUTS)
def test_triton_is_within_the_budget(name, width, dtype):
    case = draw_inputs(LAYOUTS[name], dtype, heads=2, width=width)
    floor = max(1e-5, torch.finfo(dtype).eps / 2)
    assert_within_budget(*case, LAYOUTS[name], "triton", floor=floor, device="cuda")


@pytest.mark.parametrize("impl", ["sdpa", "varlen", "matmul", "flex"])
@pytest.mark.parametrize("name", ["one length", "14 x 14", "shared"])
def test_torch_agrees_with_float64(impl, name):
    case = draw_inputs(LAYOUTS[name], torch.bfloat16, heads=2, width=32)
    assert_within_budget(*case, LAYOUTS[name], impl, floor=2e-2, device="cuda")


@pytest.mark.parametrize(("heads", "width"), [(12, 64), (16, 24), (16, 80)])
@pytest.mark.parametrize("mode", ["contexts", "repeat", "shared", "whole"])
def test_training_sizes(mode, heads, width):
    """128 samples, as many programs as a card is given: right, and the same bits five times."""
    contexts, targets = torch.randint(50, 116, (128,)), torch.randint(30, 41, (4, 128))
    layout = {
        "contexts": lambda: pack(contexts.tolist()),
        "repeat": lambda: Layout.jepa(contexts, targets),
        "shared": lambda: Layout.jepa(contexts, targets, "shared"),
        "whole": lambda: Layout.dense(64, 256),
    }[mode]()
    qkv, grad = draw_inputs(layout, torch.bfloat16, heads=heads, width=width)
    got = both_ways(qkv, grad, layout, "triton", "cuda")
    expected = both_ways(qkv.float(), grad.float(), layout, "matmul", "cuda")
    for result, exact in zip(got, expected, strict=True):
        assert (result - exact).norm() <= 1e-2 * exact.norm()
    for _ in range(4):
        again = both_ways(qkv, grad, layout, "triton", "cuda")
        assert all(torch.equal(a, b) for a, b in zip(got, again, strict=True))


@pytest.mark.parametrize("name", LAYOUTS)
def test_uninitialised_memory_is_never_read(name):
    torch.use_deterministic_algorithms(True)
    try:
        case = draw_inputs(LAYOUTS[name], torch.bfloat16)
        for part in both_ways(*case, LAYOUTS[name], "triton", "cuda"):
            assert bool(part.isfinite().all())
    finally:
        torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize("width", [24, 64, 80])
def test_bits_depend_on_a_sequences_own_length_alone(width):
    lengths = [129, 0, 64, 256, 1, 128, 65, 257]
    qkv, grad = draw_inputs(pack(lengths), torch.bfloat16, width=width)
    together = both_ways(qkv, grad, pack(lengths), "triton", "cuda")
    start = 0
    for length in lengths:
        rows = slice(start, start + length)
        alone = both_ways(qkv[rows], grad[rows], pack([length]), "triton", "cuda")
        assert all(torch.equal(a[rows], b) for a, b in zip(together, alone, strict=True)), length
        start += length


@pytest.mark.parametrize(("width", "longest"), [(64, 64), (64, 300), (24, 300), (80, 128)])
def test_it_can_be_captured_in_a_graph(width, longest):
    """Other offsets in the same memory, and the replay follows them: no length was read to the host."""
    total = longest + 40
    offsets = torch.tensor([0, 60, total], dtype=torch.int32, device="cuda")
    qkv = torch.randn(total, 3, 2, width, dtype=torch.bfloat16, device="cuda", requires_grad=True)
    static = torch.zeros_like(qkv)

    def step():
        layout = Layout.packed(offsets, max_len=longest, total=total)
        out = block_attention(qkv, layout, impl="triton")
        static.copy_(torch.autograd.grad(out.float().square().sum(), qkv)[0])

    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        step()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()
    for cut in (60, 41, longest):  # other classes of lengths in turn
        offsets[1] = cut
        graph.replay()
        replayed = static.clone()
        step()
        assert torch.equal(replayed, static)


def test_a_tensor_past_two_to_the_thirty_one_numbers():
    """Row offsets are 64 bits wide."""
    if torch.cuda.mem_get_info()[0] < 24 * 2**30:
        pytest.skip("needs 24 GiB of free device memory")
    length, heads, width = 64, 16, 128
    count = 2**31 // (3 * heads * width * length) + 2
    qkv = torch.zeros(count * length, 3, heads, width, dtype=torch.bfloat16, device="cuda")
    qkv[-length:] = torch.randn(length, 3, heads, width).to("cuda", torch.bfloat16)
    for longest in (length, 200):
        offsets = torch.arange(count + 1, device="cuda", dtype=torch.int32) * length
        out = block_attention(qkv, Layout.packed(offsets, max_len=longest, total=len(qkv)), impl="triton")
        last = block_attention(qkv[-length:].cpu().float(), Layout.dense(1, length), impl="reference")
        torch.testing.assert_close(out[-length:].cpu().float(), last, rtol=2e-2, atol=2e-2)
