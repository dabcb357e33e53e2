"""`block_attention` against float64: every implementation, dtype and head width, ragged and dense."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from jepa_kernels import Layout, block_attention
from tests.kernels.attention_cases import (
    DTYPES,
    HEAD_DIMS,
    IMPLS,
    assert_close_in,
    assert_within_budget,
    both_ways,
    draw_inputs,
    pack,
    truth,
)

LAYOUTS = {
    "dense short": Layout.dense(6, 12),
    "dense 16": Layout.dense(5, 16),
    "dense long": Layout.dense(2, 70),
    "ragged": pack([5, 0, 1, 33, 17, 16, 50]),
    "shared": Layout.jepa(torch.tensor([7, 20, 3]), torch.tensor([[4, 9, 1], [6, 0, 30]]), "shared"),
    "no keys": Layout.from_segments(torch.tensor([[0, 2, 0, 0, 0, 0], [2, 9, 0, 2, 5, 6]])),
}


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", [n for n in LAYOUTS if n != "no keys"])
@pytest.mark.parametrize("impl", ["matmul", "sdpa"])
def test_error_is_within_the_budget(impl, name, dtype):
    qkv, grad = draw_inputs(LAYOUTS[name], dtype, heads=3, width=32)
    assert_within_budget(qkv, grad, LAYOUTS[name], impl)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    lengths=st.lists(st.sampled_from([0, 1, 2, 3, 7, 15, 16, 17, 31, 33, 48, 65]), max_size=6),
    width=st.sampled_from(HEAD_DIMS),
    dtype=st.sampled_from(DTYPES),
    impl=st.sampled_from(["matmul", "sdpa"]),
)
def test_error_is_within_the_budget_at_any_length(lengths, width, dtype, impl):
    layout = pack(lengths)
    qkv, grad = draw_inputs(layout, dtype, heads=2, width=width)
    # a handful of numbers may round luckily in torch: half a unit in the last place is always allowed
    assert_within_budget(qkv, grad, layout, impl, floor=torch.finfo(dtype).eps / 2)


@settings(max_examples=25, deadline=None, derandomize=True)
@given(
    context=st.lists(st.integers(0, 20), min_size=1, max_size=3),
    sets=st.integers(0, 3),
    impl=st.sampled_from(["matmul", "sdpa"]),
    data=st.data(),
)
def test_shared_layouts_of_any_lengths(context, sets, impl, data):
    lengths = st.lists(st.integers(0, 18), min_size=len(context), max_size=len(context))
    targets = torch.tensor([data.draw(lengths) for _ in range(sets)], dtype=torch.long)
    layout = Layout.jepa(torch.tensor(context), targets.view(sets, len(context)), "shared")
    qkv, grad = draw_inputs(layout, torch.float32)
    for got, expected in zip(both_ways(qkv, grad, layout, impl), truth(qkv, grad, layout), strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5)


def test_reference_passes_gradcheck_twice():
    layout = Layout.jepa(torch.tensor([2, 1]), torch.tensor([[2, 0]]), "shared")
    qkv = torch.randn(layout.total, 3, 1, 4, dtype=torch.float64, requires_grad=True)
    run = lambda x: block_attention(x, layout, impl="reference")  # noqa: E731
    assert torch.autograd.gradcheck(run, (qkv,))
    assert torch.autograd.gradgradcheck(run, (qkv,))


@pytest.mark.parametrize("name", LAYOUTS)
def test_matmul_is_the_reference_in_float64(name):
    layout = LAYOUTS[name]
    qkv, grad = draw_inputs(layout, torch.float64)
    for got, expected in zip(both_ways(qkv, grad, layout, "matmul"), truth(qkv, grad, layout), strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("impl", IMPLS)
def test_rows_without_keys_give_zero_and_take_no_gradient(impl):
    layout = LAYOUTS["no keys"]
    out, grad = both_ways(*draw_inputs(layout, torch.float32), layout, impl)
    assert torch.equal(out[:2], torch.zeros_like(out[:2]))
    assert torch.equal(grad[:2, 0], torch.zeros_like(grad[:2, 0]))
    assert bool(grad[2:].abs().sum() > 0)


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("layout", [pack([]), pack([0, 0]), Layout.dense(0, 7), Layout.dense(3, 0)])
def test_empty_batches(impl, layout):
    out, grad = both_ways(*draw_inputs(layout, torch.float32), layout, impl)
    assert out.shape == (0, 2, 24)
    assert grad.shape == (0, 3, 2, 24)


@pytest.mark.parametrize("impl", IMPLS)
def test_scale_and_large_scores(impl):
    qkv, _ = draw_inputs(LAYOUTS["ragged"], torch.float32)
    expected = block_attention(qkv.double() * 30, LAYOUTS["ragged"], scale=1.0, impl="reference")
    got = block_attention(qkv * 30, LAYOUTS["ragged"], scale=1.0, impl=impl)
    assert bool(got.isfinite().all())
    torch.testing.assert_close(got.double(), expected, rtol=1e-3, atol=1e-2)


@pytest.mark.parametrize("impl", IMPLS)
def test_autocast_does_not_change_the_dtype(impl):
    qkv, _ = draw_inputs(LAYOUTS["ragged"], torch.float32)
    plain = block_attention(qkv, LAYOUTS["ragged"], impl=impl)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(block_attention(qkv, LAYOUTS["ragged"], impl=impl), plain)


@pytest.mark.parametrize("impl", ["matmul", "sdpa", "auto"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_compiles_to_one_graph_for_one_length(impl, dtype):
    layout = Layout.dense(4, 12)
    qkv, grad = draw_inputs(layout, dtype)
    torch._dynamo.reset()
    compiled = torch.compile(
        lambda x: block_attention(x, layout, impl=impl), backend="aot_eager", fullgraph=True
    )
    leaf = qkv.clone().requires_grad_()
    out = compiled(leaf)
    out.backward(grad)
    expected = both_ways(qkv, grad, layout, impl)
    for got, exact in zip((out, leaf.grad), expected, strict=True):
        assert_close_in(dtype, got, exact)


@pytest.mark.parametrize(
    ("shape", "impl", "message"),
    [
        (
            (4, 3, 1, 8),
            "matmull",
            "unknown impl 'matmull' for block_attention; known: auto, reference, matmul, "
            "sdpa, varlen, triton, flex, xformers. Did you mean 'matmul'?",
        ),
        (
            (4, 3, 1, 8),
            "varlen",
            "impl 'varlen' of block_attention cannot run here: it needs CUDA tensors, got cpu",
        ),
        ((4, 2, 1, 8), "auto", "qkv must be floating point [T, 3, H, D]; got [4, 2, 1, 8] of torch.float32"),
        ((5, 3, 1, 8), "auto", "qkv has T = 5 rows, but the layout covers 4"),
    ],
)
def test_errors_say_what_came_and_what_is_known(shape, impl, message):
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        block_attention(torch.randn(shape), Layout.dense(1, 4), impl=impl)
    assert str(caught.value) == message


def test_strided_qkv_is_refused():
    with pytest.raises(ValueError, match=r"qkv must be contiguous .* got strides"):
        block_attention(torch.randn(3, 4, 1, 8).transpose(0, 1), Layout.dense(1, 4))


def test_a_layout_on_another_device_is_refused():
    with pytest.raises(ValueError, match=r"qkv is on cpu, the layout on meta; move it: layout.to"):
        block_attention(torch.randn(4, 3, 1, 8), Layout.dense(1, 4).to("meta"))
