"""`block_attention` under torch.compile: one graph for any layout, and few graphs for many layouts."""

import pytest
import timm
import torch
from torch._dynamo.testing import CompileCounterWithBackend
from torch.library import opcheck

from jepa_core.nn.attention import PackedAttention
from jepa_kernels import Layout, block_attention
from jepa_kernels.attention_opaque import padded_attention
from tests.kernels.attention_cases import assert_close_in, both_ways, draw_inputs, pack

PLAIN = [pack([5, 0, 17]), pack([9, 3, 4]), pack([1, 2, 40]), pack([30, 64, 11])]
SHARED = [
    Layout.jepa(torch.tensor([3, 6]), torch.tensor([[2, 4], [5, 1]]), "shared"),
    Layout.jepa(torch.tensor([9, 1]), torch.tensor([[2, 3], [0, 7]]), "shared"),
    Layout.jepa(torch.tensor([2, 2]), torch.tensor([[8, 1], [3, 3]]), "shared"),
]
NO_KEYS = Layout.from_segments(torch.tensor([[0, 2, 0, 0, 0, 0], [2, 9, 0, 2, 5, 6]]))


@pytest.fixture(autouse=True)
def _fresh_compiler():
    torch.manual_seed(0)
    torch._dynamo.reset()


def agrees(compiled, layout, dtype, impl):
    qkv, grad = draw_inputs(layout, dtype)
    leaf = qkv.clone().requires_grad_()
    out = compiled(leaf, layout)
    out.backward(grad)
    for got, expected in zip((out, leaf.grad), both_ways(qkv, grad, layout, impl), strict=True):
        assert_close_in(dtype, got, expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("impl", ["matmul", "sdpa", "auto"])
@pytest.mark.parametrize("layouts", [PLAIN, SHARED, [NO_KEYS]], ids=["plain", "shared", "no keys"])
def test_ragged_layouts_stay_in_one_graph(layouts, impl, dtype):
    """The second layout makes the numbers of rows symbols; all others find that graph."""
    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(
        lambda x, layout: block_attention(x, layout, impl=impl), backend=counter, fullgraph=True
    )
    for layout in layouts:
        agrees(compiled, layout, dtype, impl)
    assert counter.frame_count == min(len(layouts), 2)


def test_a_block_of_timm_is_one_graph():
    block = timm.models.vision_transformer.Block(32, 2, qkv_bias=True, attn_layer=PackedAttention)
    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(lambda x, layout: block(x, attn_mask=layout), backend=counter, fullgraph=True)
    for layout in PLAIN:
        x = torch.randn(layout.total, 32)
        torch.testing.assert_close(compiled(x, layout), block(x, attn_mask=layout), rtol=1e-5, atol=1e-5)
    assert counter.frame_count == 2


def test_layouts_may_be_made_inside_the_graph():
    """From offsets and the lengths that the host knows, as `IndexSet.layout` does."""

    def run(x, offsets, longest):
        layout = Layout.packed(offsets, max_len=longest, total=x.shape[0])
        return block_attention(x, layout, impl="matmul")

    offsets = torch.tensor([0, 5, 5, 22])
    qkv, _ = draw_inputs(pack([5, 0, 17]), torch.float32)
    out = torch.compile(run, backend="aot_eager", fullgraph=True)(qkv, offsets, 17)
    torch.testing.assert_close(out, run(qkv, offsets, 17))


@pytest.mark.parametrize("layout", [PLAIN[0], SHARED[0], NO_KEYS], ids=["plain", "shared", "no keys"])
@pytest.mark.parametrize("impl", ["matmul", "sdpa"])
def test_the_operation_passes_opcheck(impl, layout):
    qkv, _ = draw_inputs(layout, torch.float32)
    results = opcheck(padded_attention, (qkv.requires_grad_(), layout.seg, impl, 0.2))
    assert set(results.values()) == {"SUCCESS"}
