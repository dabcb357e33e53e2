"""The Triton attention, run by Triton's interpreter, against float64: both paths, every dtype and width."""

import dataclasses

import pytest
import torch
import triton
import triton.language as tl
from hypothesis import given, settings
from hypothesis import strategies as st

from jepa_kernels import Layout, block_attention, explain
from jepa_kernels import triton_attention_general as general
from jepa_kernels import triton_attention_short as short
from jepa_kernels.readers import readers_of
from jepa_kernels.triton_attention import INTERPRETED
from jepa_kernels.triton_attention_parts import LOG2E
from tests.kernels.attention_cases import DTYPES, assert_within_budget, both_ways, draw_inputs, pack, truth

SHARED = Layout.jepa(torch.tensor([7, 20, 0]), torch.tensor([[4, 9, 1], [6, 0, 30]]), "shared")
LAYOUTS = {
    "short": pack([5, 0, 1, 33, 17, 16, 50]),
    "one length": Layout.dense(3, 16),
    "long": pack([3, 130, 0, 65]),
    "shared": SHARED,
    "shared, long": Layout.jepa(torch.tensor([70, 1]), torch.tensor([[66, 20]]), "shared"),
}
NO_KEYS = Layout.from_segments(torch.tensor([[0, 2, 0, 0, 0, 0], [2, 9, 0, 2, 5, 6], [11, 3, 0, 0, 11, 3]]))


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@pytest.fixture
def _poisoned_memory():
    """torch.empty gives NaN."""
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


def budget(qkv, grad, layout):
    """The common budget, doubled in bf16: the interpreter truncates where a GPU rounds to nearest."""
    slack = 2 if qkv.dtype == torch.bfloat16 else 1
    floor = max(1e-5, torch.finfo(qkv.dtype).eps)
    assert_within_budget(qkv, grad, layout, "triton", floor=floor, slack=slack)


def test_the_kernels_are_interpreted():
    assert INTERPRETED


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", LAYOUTS)
def test_error_is_within_the_budget(name, dtype):
    budget(*draw_inputs(LAYOUTS[name], dtype, heads=2, width=32), LAYOUTS[name])


EVERY_CLASS = [129, 0, 64, 256, 1, 128, 65, 257]
"""Lengths around each class bound, unsorted, so that every launch of a batch has work."""


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("width", [24, 64, 80])
def test_every_class_of_lengths_in_one_batch(width, dtype):
    budget(*draw_inputs(pack(EVERY_CLASS), dtype, heads=1, width=width), pack(EVERY_CLASS))


@pytest.mark.parametrize("width", [8, 16, 24, 40, 64, 72, 80, 88, 128])
@pytest.mark.parametrize("name", ["short", "shared"])
def test_every_head_width(name, width):
    budget(*draw_inputs(LAYOUTS[name], torch.float32, heads=1, width=width), LAYOUTS[name])


EDGES = [0, 1, 2, 15, 16, 17, 31, 32, 33, 63, 64, 65]


@settings(max_examples=30, deadline=None, derandomize=True)
@given(
    lengths=st.lists(st.sampled_from(EDGES), max_size=4),
    width=st.sampled_from([8, 24, 32]),
    dtype=st.sampled_from(DTYPES),
)
def test_plain_sequences_of_any_length(lengths, width, dtype):
    layout = pack(lengths)
    budget(*draw_inputs(layout, dtype, heads=1, width=width), layout)


@st.composite
def any_layout(draw):
    """Segments that read any two ranges which do not overlap."""
    lengths = draw(st.lists(st.integers(0, 40), min_size=1, max_size=4))
    total = sum(lengths)
    rows, start = [], 0
    for length in lengths:
        cuts = sorted(draw(st.lists(st.integers(0, total), min_size=4, max_size=4)))
        rows.append([start, length, cuts[0], cuts[1] - cuts[0], cuts[2], cuts[3] - cuts[2]])
        start += length
    return Layout.from_segments(torch.tensor(rows))


@settings(max_examples=30, deadline=None, derandomize=True)
@given(layout=any_layout(), dtype=st.sampled_from([torch.float32, torch.float16]))
def test_any_two_key_ranges(layout, dtype):
    """The gradient of a key sums over whatever queries read it, in one run or many, or none."""
    budget(*draw_inputs(layout, dtype, heads=1, width=16), layout)


@pytest.mark.parametrize("layout", [pack([]), pack([0, 0]), Layout.dense(0, 7), Layout.dense(3, 0)])
@pytest.mark.parametrize("width", [24, 128])
def test_empty_batches(layout, width):
    out, grad = both_ways(*draw_inputs(layout, torch.float32, width=width), layout, "triton")
    assert (out.shape, grad.shape) == ((0, 2, width), (0, 3, 2, width))


def test_rows_without_keys_give_zero_and_take_no_gradient():
    out, grad = both_ways(*draw_inputs(NO_KEYS, torch.float32), NO_KEYS, "triton")
    assert torch.equal(out[:2], torch.zeros_like(out[:2]))
    assert torch.equal(grad[:2, 0], torch.zeros_like(grad[:2, 0]))
    assert torch.equal(grad[2:5, 1:], torch.zeros_like(grad[2:5, 1:])), "rows that nobody reads"
    assert bool(grad[2:].abs().sum() > 0)


@pytest.mark.usefixtures("_poisoned_memory")
@pytest.mark.parametrize(
    "layout", [*LAYOUTS.values(), NO_KEYS, pack(EVERY_CLASS)], ids=[*LAYOUTS, "no keys", "every class"]
)
def test_uninitialised_memory_is_never_read(layout):
    assert bool(torch.empty(4).isnan().all())
    for part in both_ways(*draw_inputs(layout, torch.float32, heads=1), layout, "triton"):
        assert bool(part.isfinite().all())


@pytest.mark.parametrize("name", LAYOUTS)
def test_two_runs_are_bitwise_equal(name):
    case = draw_inputs(LAYOUTS[name], torch.float16, heads=1)
    first, second = (both_ways(*case, LAYOUTS[name], "triton") for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def rows_of(lengths, index):
    """The packed rows of one sequence."""
    start = sum(lengths[:index])
    return torch.arange(start, start + lengths[index])


@pytest.mark.parametrize(("width", "dtype"), [(24, torch.float16), (80, torch.float16), (32, torch.float32)])
def test_bits_depend_on_a_sequences_own_length_alone(width, dtype):
    """A sequence gives the same bits alone and in a batch, in any order."""
    qkv, grad = draw_inputs(pack(EVERY_CLASS), dtype, heads=1, width=width)
    together = both_ways(qkv, grad, pack(EVERY_CLASS), "triton")
    places = [rows_of(EVERY_CLASS, index) for index in range(len(EVERY_CLASS))]
    backwards = torch.cat(places[::-1])
    moved = both_ways(qkv[backwards], grad[backwards], pack(EVERY_CLASS[::-1]), "triton")
    assert all(torch.equal(a[backwards], b) for a, b in zip(together, moved, strict=True))
    for length, rows in zip(EVERY_CLASS, places, strict=True):
        alone = both_ways(qkv[rows], grad[rows], pack([length]), "triton")
        assert all(torch.equal(a[rows], b) for a, b in zip(together, alone, strict=True)), length


@pytest.mark.parametrize("width", [24, 64])
def test_bounds_on_lengths_do_not_change_a_bit(width):
    """The bounds choose launches only; they do not change how a sequence is computed."""
    lengths = [9, 64, 70]
    qkv, grad = draw_inputs(pack(lengths), torch.float16, heads=1, width=width)
    offsets = torch.tensor([0, *lengths]).cumsum(0)
    layouts = [Layout.packed(offsets, max_len=bound) for bound in (70, 128, 200, 600)]
    layouts += [dataclasses.replace(layouts[0], min_len=2), dataclasses.replace(layouts[2], min_len=2)]
    first, *repeats = [both_ways(qkv, grad, layout, "triton") for layout in layouts]
    for repeat in repeats:
        assert all(torch.equal(a, b) for a, b in zip(first, repeat, strict=True))


@pytest.mark.filterwarnings("ignore:invalid value")
@pytest.mark.parametrize("lengths", [[9, 4, 21, 30], [9, 4, 130, 21]], ids=["short", "long"])
def test_a_neighbour_full_of_nan_does_not_leak(lengths):
    qkv, grad = draw_inputs(pack(lengths), torch.float32, heads=1)
    together = both_ways(qkv, grad, pack(lengths), "triton")
    qkv[rows_of(lengths, 1)] = float("nan")
    untouched = torch.cat([rows_of(lengths, index) for index in (0, 2, 3)])
    spoiled = both_ways(qkv, grad, pack(lengths), "triton")
    assert all(torch.equal(a[untouched], b[untouched]) for a, b in zip(together, spoiled, strict=True))


def test_a_bound_on_the_longest_may_be_loose():
    """A caller that does not read the lengths gives the longest that it will ever have."""
    qkv, grad = draw_inputs(pack([9, 4, 21]), torch.float32)
    for bound in (64, 200):
        loose = Layout.packed(torch.tensor([0, 9, 13, 34]), max_len=bound)
        for got, expected in zip(both_ways(qkv, grad, loose, "triton"), truth(qkv, grad, loose), strict=True):
            torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5)


def test_both_paths_agree():
    """The general kernels run the same sequences where the layout is not marked plain."""
    qkv, grad = draw_inputs(LAYOUTS["short"], torch.float32)
    seg = LAYOUTS["short"].seg
    general = dataclasses.replace(LAYOUTS["short"], plain=False, readers=readers_of(seg, len(qkv)))
    for a, b in zip(
        both_ways(qkv, grad, LAYOUTS["short"], "triton"), both_ways(qkv, grad, general, "triton"), strict=True
    ):
        torch.testing.assert_close(a, b, rtol=2e-5, atol=2e-6)


def test_jepa_modes_agree_where_targets_are_cut_off():
    context, none = torch.tensor([5, 3, 1]), torch.zeros(1, 3, dtype=torch.long)
    shared, repeat = Layout.jepa(context, none, "shared"), Layout.jepa(context, none, "repeat")
    qkv, grad = draw_inputs(shared, torch.float32)
    pairs = zip(both_ways(qkv, grad, shared, "triton"), both_ways(qkv, grad, repeat, "triton"), strict=True)
    for a, b in pairs:
        torch.testing.assert_close(a, b, rtol=2e-6, atol=2e-6)


def test_scale_and_large_scores():
    for name in ("short", "shared, long"):
        qkv, _ = draw_inputs(LAYOUTS[name], torch.float32, heads=1)
        expected = block_attention(qkv.double() * 30, LAYOUTS[name], scale=1.0, impl="reference")
        got = block_attention(qkv * 30, LAYOUTS[name], scale=1.0, impl="triton")
        torch.testing.assert_close(got.double(), expected, rtol=1e-3, atol=1e-2)


def test_a_gradient_that_is_not_contiguous():
    layout = LAYOUTS["short"]
    qkv, grad = draw_inputs(layout, torch.float32)
    strided = grad.transpose(0, 1).contiguous().transpose(0, 1)
    plain, from_strided = (both_ways(qkv, g, layout, "triton")[1] for g in (grad, strided))
    assert torch.equal(plain, from_strided)


def test_explain_says_that_it_can_run():
    line = next(c for c in explain(draw_inputs(SHARED, torch.float32)[0], SHARED) if c.impl == "triton")
    assert line == ("triton", True, "can take this input", False)


@pytest.mark.parametrize(
    ("dtype", "width", "message"),
    [
        (torch.float64, 8, "needs float32, bfloat16 or float16, got torch.float64"),
        (torch.float32, 160, "needs a head width up to 128, got 160"),
    ],
)
def test_what_it_cannot_take_is_said(dtype, width, message):
    with pytest.raises(ValueError, match=f"impl 'triton' of block_attention cannot run here: it {message}"):
        block_attention(torch.randn(4, 3, 1, width, dtype=dtype), Layout.dense(1, 4), impl="triton")


@triton.jit
def scores_without_mask(q, k, valid, scale, REST: tl.constexpr, PRECISION: tl.constexpr):
    """`scores_of` without its mask, for heads of one part."""
    return tl.dot(q[0], tl.trans(k[0]), input_precision=PRECISION) * (scale * LOG2E)


@pytest.mark.parametrize("name", ["short", "shared, long"])
def test_a_broken_mask_fails_the_budget(name, monkeypatch):
    """Keys past the end left unmasked must fail: else the tests above prove nothing."""
    layout = LAYOUTS[name]
    case = draw_inputs(layout, torch.bfloat16, heads=1)
    budget(*case, layout)
    for module in (short, general):
        monkeypatch.setattr(module, "scores_of", scores_without_mask)
    with pytest.raises(AssertionError, match="output: error"):
        budget(*case, layout)
