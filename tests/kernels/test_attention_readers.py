"""`readers_of`: which queries read a key, against a loop over all of them."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from jepa_kernels import Layout
from jepa_kernels.predictor import shared_readers, shared_segments
from jepa_kernels.readers import Readers, readers_of


def pairs_of(seg):
    """All (query row, key row) pairs of the segments, by their definition."""
    pairs = set()
    for q_start, q_len, a_start, a_len, b_start, b_len in seg.tolist():
        keys = [*range(a_start, a_start + a_len), *range(b_start, b_start + b_len)]
        pairs |= {(q, k) for q in range(q_start, q_start + q_len) for k in keys}
    return pairs


def pairs_read(readers):
    """The same pairs from the readers; asserts that each occurs once."""
    pairs = []
    runs = readers.runs.tolist()
    for k_start, k_len, first, count in readers.pieces.tolist():
        for q_start, q_len in runs[first : first + count]:
            pairs += [
                (q, k) for q in range(q_start, q_start + q_len) for k in range(k_start, k_start + k_len)
            ]
    assert len(pairs) == len(set(pairs))
    return set(pairs)


@settings(max_examples=60, derandomize=True)
@given(data=st.data(), lengths=st.lists(st.integers(0, 5), max_size=5))
def test_every_pair_is_found_once(data, lengths):
    total, rows, start = sum(lengths), [], 0
    for length in lengths:
        a, b, c, d = sorted(data.draw(st.lists(st.integers(0, total), min_size=4, max_size=4)))
        rows.append([start, length, a, b - a, c, d - c])
        start += length
    seg = torch.tensor(rows, dtype=torch.long).view(-1, 6)
    readers = readers_of(seg, total)
    assert pairs_read(readers) == pairs_of(seg)
    starts, piece_lengths = readers.pieces[:, 0].tolist(), readers.pieces[:, 1].tolist()
    assert starts == [sum(piece_lengths[:i]) for i in range(len(starts))]
    assert sum(piece_lengths) == total
    assert readers.longest == max(piece_lengths, default=0)


def test_in_a_shared_layout_each_piece_is_read_by_one_run():
    layout = Layout.jepa(torch.tensor([3, 1]), torch.tensor([[2, 4], [1, 0]]), "shared")
    readers = layout.readers
    assert readers.pieces.tolist() == [[0, 3, 0, 1], [3, 2, 1, 1], [5, 1, 2, 1], [6, 1, 3, 1], [7, 4, 4, 1]]
    assert readers.runs.tolist() == [[0, 6], [3, 2], [5, 1], [6, 5], [7, 4]]


def test_plain_layouts_need_none():
    assert Layout.packed(torch.tensor([0, 2, 5])).readers is None
    assert Layout.from_segments(Layout.dense(3, 4).seg).readers is None


def test_they_move_with_the_layout():
    moved = Layout.jepa(torch.tensor([3]), torch.tensor([[2]]), "shared").to("meta")
    assert (moved.readers.pieces.device.type, moved.readers.longest) == ("meta", 3)


@settings(max_examples=40, derandomize=True)
@given(st.integers(0, 4), st.data())
def test_those_of_a_predictor_follow_from_its_lengths(targets, data):
    """`shared_readers` computes them from the lengths by arithmetic, without reading values on the host."""
    lengths = st.lists(st.integers(0, 4), min_size=3, max_size=3)
    context = torch.tensor(data.draw(lengths))
    table = torch.tensor([data.draw(lengths) for _ in range(targets)], dtype=torch.long).view(targets, 3)
    seg = shared_segments(context, table)
    readers = shared_readers(seg, targets + 1, longest=4)
    assert pairs_read(readers) == pairs_of(seg)
    assert readers.longest >= max(readers.pieces[:, 1].tolist())


def test_a_predictors_layout_needs_no_look_at_the_lengths_where_its_bounds_are_given():
    """With bounds the compiled code builds the same layout without a graph break."""
    context, targets = torch.tensor([3, 1]), torch.tensor([[2, 2], [1, 4]])
    looked_at = Layout.jepa(context, targets, "shared")

    @torch.compile(fullgraph=True, backend="eager")
    def parts(context, targets):
        layout = Layout.jepa(context, targets, "shared", longest=(3, 4), total=13)
        return layout.seg, layout.readers.pieces, layout.readers.runs, layout.max_len, layout.total

    seg, pieces, runs, max_len, total = parts(context, targets)
    assert torch.equal(seg, looked_at.seg)
    assert pairs_read(Readers(pieces, runs, 4)) == pairs_read(looked_at.readers)
    assert (max_len, total) == (7, 13)
    with pytest.raises(ValueError, match="total=12, but the sequences hold 13 rows"):
        Layout.jepa(context, targets, "shared", longest=(3, 4), total=12)
