"""The Triton attention as operations of torch: torch.compile keeps one graph, opcheck passes."""

import pytest
import torch
from torch._dynamo.testing import CompileCounterWithBackend
from torch.library import opcheck

from jepa_kernels import Layout, block_attention
from jepa_kernels.triton_attention import general_attention, short_attention
from tests.kernels.attention_cases import both_ways, draw_inputs, pack

SHORT = [pack([5, 0, 17]), pack([9, 3, 4]), pack([1, 2, 40]), pack([30, 64, 11])]
LONG = [pack([150, 3]), pack([20, 131]), pack([9, 140])]
SHARED = [
    Layout.jepa(torch.tensor([3, 6]), torch.tensor([[2, 4], [5, 1]]), "shared"),
    Layout.jepa(torch.tensor([9, 1]), torch.tensor([[2, 3], [0, 7]]), "shared"),
    Layout.jepa(torch.tensor([2, 2]), torch.tensor([[8, 1], [3, 3]]), "shared"),
]


@pytest.fixture(autouse=True)
def _fresh_compiler():
    torch.manual_seed(0)
    torch._dynamo.reset()


@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
@pytest.mark.parametrize("layouts", [SHORT, LONG, SHARED], ids=["short", "long", "shared"])
def test_many_layouts_in_one_graph(layouts, backend):
    """The second layout makes the numbers of rows symbols; all others find that graph."""
    counter = CompileCounterWithBackend(backend)
    compiled = torch.compile(
        lambda x, layout: block_attention(x, layout, impl="triton"), backend=counter, fullgraph=True
    )
    for layout in layouts:
        qkv, grad = draw_inputs(layout, torch.float32, heads=1, width=16)
        leaf = qkv.clone().requires_grad_()
        out = compiled(leaf, layout)
        out.backward(grad)
        for got, expected in zip((out, leaf.grad), both_ways(qkv, grad, layout, "triton"), strict=True):
            assert torch.equal(got.detach().double(), expected)
    assert counter.frame_count == 2


def test_the_short_operation_passes_opcheck():
    layout = SHORT[0]
    qkv, _ = draw_inputs(layout, torch.float32, heads=1, width=16)
    results = opcheck(
        short_attention, (qkv.requires_grad_(), layout.seg, layout.min_len, layout.max_len, 0.2)
    )
    assert set(results.values()) == {"SUCCESS"}


def test_the_general_operation_passes_opcheck_on_plain_sequences():
    layout = pack([150, 131])  # no class takes any, so that all of LSE is written
    qkv, _ = draw_inputs(layout, torch.float32, heads=1, width=16)
    lengths = (layout.min_len, layout.max_len, layout.max_queries, layout.max_queries)
    words = (qkv.requires_grad_(), layout.seg, layout.seg, layout.seg, *lengths, True, 0.2)
    assert set(opcheck(general_attention, words).values()) == {"SUCCESS"}


def test_the_general_operation_passes_opcheck():
    layout = SHARED[0]
    readers = layout.readers
    qkv, _ = draw_inputs(layout, torch.float32, heads=1, width=16)
    lengths = (layout.min_len, layout.max_len, layout.max_queries, readers.longest)
    words = (qkv.requires_grad_(), layout.seg, readers.pieces, readers.runs, *lengths, False, 0.2)
    assert set(opcheck(general_attention, words).values()) == {"SUCCESS"}
