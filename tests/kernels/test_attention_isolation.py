"""Isolation of sequences: neighbours, order, padding, uninitialised memory, JEPA modes, a broken mask."""

import dataclasses

import pytest
import torch

from jepa_kernels import Layout, attention_matmul, attention_torch, block_attention
from jepa_kernels import padding as padding_module
from tests.kernels.attention_cases import IMPLS, assert_within_budget, both_ways, draw_inputs, pack

LENGTHS = [9, 4, 21, 1, 13]
CLOSE = {"rtol": 2e-6, "atol": 2e-6}  # fp32: a neighbour may change the padded shape, so the summing order


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(1)


@pytest.fixture
def _poisoned_memory():
    """torch.empty gives NaN."""
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize("impl", IMPLS)
def test_neighbours_do_not_matter(impl):
    qkv, grad = draw_inputs(pack(LENGTHS), torch.float32)
    together = both_ways(qkv, grad, pack(LENGTHS), impl)
    for piece in (slice(0, 9), slice(13, 34)):
        alone = both_ways(qkv[piece], grad[piece], pack([piece.stop - piece.start]), impl)
        for a, b in zip(alone, together, strict=True):
            torch.testing.assert_close(a, b[piece], **CLOSE)


@pytest.mark.parametrize("impl", IMPLS)
def test_a_neighbour_full_of_nan_does_not_leak(impl):
    qkv, grad = draw_inputs(pack(LENGTHS), torch.float32)
    clean = both_ways(qkv, grad, pack(LENGTHS), impl)
    spoiled = qkv.clone()
    spoiled[9:13] = float("nan")
    unaffected = torch.arange(len(qkv)).sub(11).abs() > 2
    for a, b in zip(both_ways(spoiled, grad, pack(LENGTHS), impl), clean, strict=True):
        assert torch.equal(a[unaffected], b[unaffected])


@pytest.mark.parametrize("impl", IMPLS)
def test_order_of_sequences_and_of_rows_does_not_matter(impl):
    lengths = [9, 4, 21]
    qkv, grad = draw_inputs(pack(lengths), torch.float32)
    rows = torch.cat([torch.randperm(21) + 13, torch.randperm(9), torch.randperm(4) + 9])
    straight = both_ways(qkv, grad, pack(lengths), impl)
    shuffled = both_ways(qkv[rows], grad[rows], pack([21, 9, 4]), impl)
    for a, b in zip(straight, shuffled, strict=True):
        torch.testing.assert_close(a[rows], b, **CLOSE)


@pytest.mark.parametrize("impl", IMPLS)
def test_two_runs_are_bitwise_equal(impl):
    qkv, grad = draw_inputs(pack(LENGTHS), torch.bfloat16)
    first, second = (both_ways(qkv, grad, pack(LENGTHS), impl) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


@pytest.mark.usefixtures("_poisoned_memory")
@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("lengths", [LENGTHS, [7, 7], [0, 3]])
def test_uninitialised_memory_is_never_read(impl, lengths):
    assert bool(torch.empty(4).isnan().all())
    out, grad = both_ways(*draw_inputs(pack(lengths), torch.float32), pack(lengths), impl)
    assert bool(out.isfinite().all())
    assert bool(grad.isfinite().all())


@pytest.mark.parametrize("impl", IMPLS)
def test_ragged_equals_dense_where_lengths_agree(impl):
    dense = Layout.dense(3, 7)
    qkv, grad = draw_inputs(dense, torch.float32)
    ragged = dataclasses.replace(dense, uniform=None)
    for a, b in zip(both_ways(qkv, grad, dense, impl), both_ways(qkv, grad, ragged, impl), strict=True):
        torch.testing.assert_close(a, b, **CLOSE)


@pytest.mark.parametrize("impl", IMPLS)
def test_jepa_repeat_is_each_sequence_on_its_own(impl):
    context, targets = torch.tensor([3, 6]), torch.tensor([[2, 4], [5, 1], [1, 1]])
    layout = Layout.jepa(context, targets)
    qkv, _ = draw_inputs(layout, torch.float32)
    out = block_attention(qkv, layout, impl=impl)
    start = 0
    for target in targets:
        for c, t in zip(context.tolist(), target.tolist(), strict=True):
            piece = slice(start, start + c + t)
            alone = block_attention(qkv[piece], pack([c + t]), impl="reference")
            torch.testing.assert_close(out[piece], alone, **CLOSE)
            start += c + t
    assert start == layout.total


@pytest.mark.parametrize("impl", IMPLS)
def test_jepa_shared_targets_see_what_they_see_in_repeat(impl):
    """A target's queries read the same keys in both modes; only the context's queries differ."""
    context, targets = torch.tensor([5, 3]), torch.tensor([[2, 4], [3, 1]])
    shared, repeat = Layout.jepa(context, targets, "shared"), Layout.jepa(context, targets, "repeat")
    qkv, _ = draw_inputs(shared, torch.float32)
    rows = {"c0": range(5), "t00": range(5, 7), "t10": range(7, 10)}
    rows |= {"c1": range(10, 13), "t01": range(13, 17), "t11": range(17, 18)}
    order = ["c0", "t00", "c1", "t01", "c0", "t10", "c1", "t11"]
    index = torch.tensor([row for part in order for row in rows[part]])
    is_target = torch.tensor([part.startswith("t") for part in order for _ in rows[part]])
    a = block_attention(qkv, shared, impl=impl)[index]
    b = block_attention(qkv[index].contiguous(), repeat, impl=impl)
    torch.testing.assert_close(a[is_target], b[is_target], **CLOSE)
    assert bool(((a - b)[~is_target].abs() > 1e-3).any())


@pytest.mark.parametrize("impl", IMPLS)
def test_jepa_modes_agree_where_targets_are_cut_off(impl):
    context, none = torch.tensor([5, 3, 1]), torch.zeros(1, 3, dtype=torch.long)
    shared, repeat = Layout.jepa(context, none, "shared"), Layout.jepa(context, none, "repeat")
    qkv, grad = draw_inputs(shared, torch.float32)
    for a, b in zip(both_ways(qkv, grad, shared, impl), both_ways(qkv, grad, repeat, impl), strict=True):
        torch.testing.assert_close(a, b, **CLOSE)


@pytest.mark.parametrize("impl", ["matmul", "sdpa"])
def test_the_error_budget_catches_a_broken_mask(impl, monkeypatch):
    """Padded keys left unmasked must fail: else the tests above prove nothing."""
    whole = padding_module.padding

    def remove_bias(layout, growth):
        pad = whole(layout, growth)
        return dataclasses.replace(
            pad, groups=tuple(dataclasses.replace(group, bias=None) for group in pad.groups)
        )

    layout = pack([20, 24, 23])
    qkv, grad = draw_inputs(layout, torch.bfloat16)
    assert_within_budget(qkv, grad, layout, impl)
    for module in (attention_matmul, attention_torch):
        monkeypatch.setattr(module, "padding", remove_bias)
    with pytest.raises(AssertionError, match="output: error"):
        assert_within_budget(qkv, grad, layout, impl)


def test_layers_share_the_padding_of_a_layout():
    layout = pack(LENGTHS)
    qkv, _ = draw_inputs(layout, torch.float32)
    block_attention(qkv, layout, impl="matmul")
    first = padding_module.padding(layout, padding_module.CPU_GROWTH)
    block_attention(qkv, layout, impl="matmul")
    assert padding_module.padding(layout, padding_module.CPU_GROWTH) is first


def test_short_segments_share_a_group_whatever_their_growth():
    groups = padding_module.padding(pack([1, 3, 16, 9, 17, 20]), 1.25).groups
    assert [(g.count, g.keys) for g in groups] == [(4, 16), (2, 20)]


def test_growth_bounds_the_padding():
    layout = pack([17, 18, 21, 23, 28, 46, 43])
    groups = padding_module.padding(layout, 1.25).groups
    assert [(g.count, g.keys) for g in groups] == [(3, 21), (2, 28), (2, 46)]
    assert [(g.count, g.keys) for g in padding_module.padding(layout).groups] == [(7, 46)]
