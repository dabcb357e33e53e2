"""Packed cross-attention beside a padded one in float64, for plain and shared sequences."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from jepa_core import IndexSet, MaskPlan, UserError
from jepa_core.nn.attention import choose_implementation
from jepa_core.nn.cross_attention import CrossAttention, cross_layout
from jepa_core.nn.packing import pack
from jepa_core.testing.small_parts import ragged_plan, with_padding
from jepa_kernels import Layout
from jepa_kernels.readers import Readers, readers_of

WIDTH, HEADS, BATCH = 12, 3, 3


def condition(lengths: list[int]) -> IndexSet:
    return IndexSet.from_lists([list(range(length)) for length in lengths])


def sequences(mode: str, plan: MaskPlan | None = None) -> tuple[Layout, Tensor]:
    """A predictor's layout and the sample of each of its rows."""
    plan = plan or ragged_plan((3, 4), BATCH)
    packing = pack(plan, mode)
    sets = {"context": plan.contexts, "target": plan.targets}
    samples = torch.cat([sets[source.kind][source.number].samples for source in packing.sources])
    own = torch.empty_like(samples)
    own[packing.rows] = samples
    return packing.layout, own


def made() -> CrossAttention:
    torch.manual_seed(0)
    part = CrossAttention(WIDTH, HEADS).double()
    for parameter in part.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return part


def padded_reference(
    part: CrossAttention, x: Tensor, tokens: Tensor, at: IndexSet, samples: Tensor
) -> Tensor:
    """Every row reads the places of its sample's condition, padded to one length; a mask leaves the real."""
    longest = at.max_length
    padded = torch.zeros(at.batch_size, longest, WIDTH, dtype=x.dtype)
    real = torch.arange(longest) < at.lengths[:, None]
    padded = padded.index_put(tuple(real.nonzero().T), tokens)
    keys = part.key_value(part.norm_tokens(padded))
    key, value = (half.unflatten(-1, (HEADS, -1))[samples] for half in keys.chunk(2, -1))
    query = part.query(part.norm_rows(x)).unflatten(-1, (HEADS, -1))
    scores = torch.einsum("she,slhe->shl", query, key) / (WIDTH // HEADS) ** 0.5
    shares = scores.masked_fill(~real[samples][:, None], -torch.inf).softmax(-1)
    return part.proj(torch.einsum("shl,slhe->she", shares, value).flatten(1))


@pytest.mark.parametrize("impl", ["reference", "matmul", "sdpa"])
@pytest.mark.parametrize("mode", ["repeat", "shared"])
@pytest.mark.parametrize("lengths", [[2, 5, 1], [4, 4, 4], [1, 1, 1]])
def test_it_is_the_padded_reference_in_value_and_gradient(mode: str, lengths: list[int], impl: str) -> None:
    part, at = made(), condition(lengths)
    choose_implementation(part, impl)
    rows, samples = sequences(mode)
    x = torch.randn(rows.total, WIDTH, dtype=torch.float64, requires_grad=True)
    tokens = torch.randn(at.total, WIDTH, dtype=torch.float64, requires_grad=True)
    out = part(x, tokens, cross_layout(at, rows, samples))
    expected = padded_reference(part, x, tokens, at, samples)
    torch.testing.assert_close(out, expected)
    inputs, weight = [x, tokens, *part.parameters()], torch.randn(rows.total, WIDTH, dtype=torch.float64)
    gradients = torch.autograd.grad((out * weight).sum(), inputs)
    for actual, wanted in zip(gradients, torch.autograd.grad((expected * weight).sum(), inputs), strict=True):
        torch.testing.assert_close(actual, wanted)


def test_a_sample_without_condition_reads_zeros() -> None:
    part, at = made(), condition([2, 0, 3])
    rows, samples = sequences("repeat")
    x, tokens = torch.randn(rows.total, WIDTH).double(), torch.randn(5, WIDTH).double().requires_grad_()
    out = part(x, tokens, cross_layout(at, rows, samples))
    assert torch.equal(out[samples == 1], part.proj.bias.expand(int((samples == 1).sum()), -1))
    assert torch.autograd.grad(out.sum(), tokens)[0].isfinite().all()


def readers_by_row(readers: Readers) -> dict[int, set[int]]:
    """For each key row the query rows that read it."""
    by_row = {}
    for start, length, first, count in readers.pieces.tolist():
        runs = readers.runs[first : first + count].tolist()
        queries = {row for begin, size in runs for row in range(begin, begin + size)}
        by_row |= dict.fromkeys(range(start, start + length), queries)
    return by_row


@pytest.mark.parametrize("mode", ["repeat", "shared"])
def test_the_layout_is_what_its_segments_say(mode: str) -> None:
    """What follows from lengths on their device is what the host would work out from the segments."""
    at = condition([2, 0, 3])
    rows, samples = sequences(mode)
    layout = cross_layout(at, rows, samples)
    checked = Layout.from_segments(layout.seg)
    assert (layout.total, layout.max_len, layout.has_unread) == (checked.total, checked.max_len, True)
    assert layout.max_queries >= checked.max_queries
    assert layout.readers is not None
    assert readers_by_row(layout.readers) == readers_by_row(readers_of(layout.seg, layout.total))
    assert layout.readers.longest >= int(layout.readers.pieces[:, 1].max())


def test_padding_sequences_read_the_last_sample_and_change_nothing() -> None:
    at, plan = condition([2, 4, 3]), ragged_plan((3, 4), BATCH)
    rows, samples = sequences("shared", plan.map(lambda own: with_padding(own, 12)))
    layout = cross_layout(at, rows, samples)
    assert int(samples.max()) == BATCH - 1
    Layout.from_segments(layout.seg)


def test_the_host_reads_nothing_so_that_it_can_be_captured() -> None:
    """Fake tensors have no values: reading one would raise."""
    rows, samples = sequences("repeat")
    at = condition([2, 4, 3])
    seg = rows.seg
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        fake = IndexSet(*map(mode.from_tensor, (at.index, at.lengths)), at.max_length)
        layout = Layout(mode.from_tensor(seg), rows.total, rows.max_len, rows.max_queries)
        built = cross_layout(fake, layout, mode.from_tensor(samples))
    assert (built.total, built.max_len) == (at.total + rows.total, 4)


def test_a_width_that_the_heads_do_not_divide_is_refused() -> None:
    with pytest.raises(UserError, match="a width of 12 cannot be split among 5 heads"):
        CrossAttention(12, 5)
