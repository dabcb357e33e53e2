"""`Layout`: what its constructors describe, and what they refuse."""

import pytest
import torch

from jepa_kernels import Layout


def test_packed_sequences_read_themselves():
    layout = Layout.packed(torch.tensor([0, 2, 2, 5]))
    assert layout.seg.tolist() == [[0, 2, 0, 2, 0, 0], [2, 0, 2, 0, 0, 0], [2, 3, 2, 3, 0, 0]]
    assert (layout.total, layout.max_len, layout.max_queries) == (5, 3, 3)
    assert (layout.uniform, layout.plain, layout.has_unread) == (None, True, False)
    assert layout.seg.dtype == torch.int32
    assert layout.query_offsets.tolist() == layout.key_offsets.tolist() == [0, 2, 2, 5]


def test_dense_is_uniform():
    layout = Layout.dense(3, 4)
    assert (layout.total, layout.max_len, layout.uniform, layout.segments) == (12, 4, 4, 3)
    same = Layout.packed(torch.tensor([0, 4, 8, 12]), uniform=4)
    assert torch.equal(layout.seg, same.seg)
    assert same.uniform == 4


def test_jepa_repeat_packs_target_sets_outermost():
    layout = Layout.jepa(torch.tensor([3, 5]), [torch.tensor([1, 2]), torch.tensor([4, 0])])
    assert layout.seg[:, 1].tolist() == [4, 7, 7, 5]
    assert layout.plain


def test_jepa_shared_packs_context_then_targets():
    layout = Layout.jepa(torch.tensor([3, 1]), torch.tensor([[2, 4]]), "shared")
    assert layout.seg.tolist() == [
        [0, 3, 0, 3, 0, 0],
        [3, 2, 0, 3, 3, 2],
        [5, 1, 5, 1, 0, 0],
        [6, 4, 5, 1, 6, 4],
    ]
    assert (layout.total, layout.max_len, layout.max_queries, layout.plain) == (10, 5, 4, False)
    assert layout.key_offsets.tolist() == [0, 3, 8, 9, 14]


def test_from_segments_recognises_plain_and_uniform():
    plain = Layout.from_segments(Layout.dense(3, 4).seg)
    assert (plain.plain, plain.uniform) == (True, 4)
    unread = Layout.from_segments(torch.tensor([[0, 2, 0, 0, 0, 0]]))
    assert (unread.has_unread, unread.unread_rows.tolist()) == (True, [True, True])


def test_to_the_same_device_is_the_same_layout():
    layout = Layout.dense(2, 3)
    assert layout.to("cpu") is layout
    moved = layout.to("meta")
    assert (moved.device.type, moved.total, moved.uniform, moved.plain) == ("meta", 6, 3, True)


def test_known_lengths_may_bound_from_above():
    assert Layout.packed(torch.tensor([0, 2, 5]), max_len=8).max_len == 8


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (
            lambda: Layout.packed(torch.tensor([[0, 1]])),
            "offsets must be a 1-d integer tensor; got shape [1, 2] of torch.int64",
        ),
        (
            lambda: Layout.packed(torch.tensor([])),
            "offsets must be a 1-d integer tensor; got shape [0] of torch.float32",
        ),
        (
            lambda: Layout.packed(torch.tensor([], dtype=torch.long)),
            "offsets is empty; expected [B + 1] integers that start at 0",
        ),
        (
            lambda: Layout.packed(torch.tensor([0, 5, 3])),
            "offsets must start at 0 and never fall; got [0, 5, 3]",
        ),
        (lambda: Layout.packed(torch.tensor([1, 5])), "offsets must start at 0 and never fall; got [1, 5]"),
        (
            lambda: Layout.packed(torch.tensor([0, 5]), max_len=4),
            "max_len=4, but the longest sequence has 5 rows",
        ),
        (lambda: Layout.packed(torch.tensor([0, 5]), total=4), "total=4, but the sequences hold 5 rows"),
        (
            lambda: Layout.packed(torch.tensor([0, 5, 9]), uniform=5),
            "uniform=5, but sequence lengths are [5, 4]",
        ),
        (
            lambda: Layout.packed(torch.tensor([2, 4]), uniform=2),
            "offsets must start at 0 and never fall; got [2, 4]",
        ),
        (lambda: Layout.dense(2, -1), "batch and length must not be negative; got batch=2, length=-1"),
        (
            lambda: Layout.jepa(torch.tensor([3]), torch.tensor([[1]]), "both"),
            "unknown mode 'both' for Layout.jepa; known: repeat, shared",
        ),
        (
            lambda: Layout.jepa(torch.tensor([3]), torch.tensor([[1, 2]])),
            "target_lengths must be [M, B] with B = 1 as in context_lengths; got [1, 2]",
        ),
        (
            lambda: Layout.jepa(torch.tensor([-3]), torch.tensor([[1]])),
            "context_lengths must not be negative; got [-3]",
        ),
        (
            lambda: Layout.from_segments(torch.zeros(2, 5, dtype=torch.int32)),
            "seg must be integers [S, 6]:"
            " ('q_start', 'q_len', 'a_start', 'a_len', 'b_start', 'b_len'); got [2, 5] of torch.int32",
        ),
        (
            lambda: Layout.from_segments(torch.tensor([[1, 2, 0, 1, 0, 0]])),
            "query segments must cover rows in order, from row 0; q_start is [1]",
        ),
        (
            lambda: Layout.from_segments(torch.tensor([[0, 2, 0, 3, 0, 0]])),
            "segment 0 reads key rows 0 to 3 (range a) of a tensor of 2 rows",
        ),
        (
            lambda: Layout.from_segments(torch.tensor([[0, 4, 0, 2, 1, 3]])),
            "segment 0 reads key rows twice: ranges a and b overlap",
        ),
        (lambda: Layout.from_segments(torch.tensor([[0, 2, 0, -1, 0, 0]])), "seg has a negative length"),
    ],
)
def test_errors_say_what_came(build, message):
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        build()
    assert str(caught.value) == message


def test_the_shortest_is_known_where_the_host_has_looked():
    """At least 2, so that no graph is specialised on 0 and 1; sequences without rows do not count."""
    offsets = torch.tensor([0, 9, 9, 14])
    assert Layout.packed(offsets).min_len == 5
    assert Layout.packed(torch.tensor([0, 1, 9])).min_len == 2
    assert Layout.packed(torch.tensor([0])).min_len == 2
    assert (Layout.dense(3, 40).min_len, Layout.dense(3, 1).min_len) == (40, 1)
    assert Layout.jepa(torch.tensor([3, 8]), torch.tensor([[4, 2]])).min_len == 7
    shared = Layout.jepa(torch.tensor([3, 8]), torch.tensor([[4, 2]]), "shared")
    assert Layout.from_segments(shared.seg).min_len == 2
    on_device = Layout.packed(offsets.to("meta"), max_len=9, total=14)
    assert on_device.min_len == 2, "nothing was read"
