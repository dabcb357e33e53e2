"""Index sets, mask plans, tokens and batches against plain Python lists."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from jepa_core import Batch, IndexSet, MaskPlan, Tokens
from jepa_core.types import grid_size

GRID = 12


@st.composite
def ragged(draw: st.DrawFn) -> list[list[int]]:
    """Ascending sets of a grid of 12 tokens, some of them empty."""
    one = st.sets(st.integers(0, GRID - 1)).map(sorted)
    return draw(st.lists(one, min_size=1, max_size=5))


def same(mine: IndexSet, lists: list[list[int]]) -> bool:
    return [part.tolist() for part in mine.split()] == lists


@given(ragged())
def test_lists_mask_and_lengths_are_three_ways_to_write_one_set(lists: list[list[int]]) -> None:
    from_lists = IndexSet.from_lists(lists)
    keep = torch.tensor([[token in row for token in range(GRID)] for row in lists])
    flat = torch.tensor([token for row in lists for token in row], dtype=torch.int32)
    from_lengths = IndexSet.from_lengths(flat, torch.tensor([len(row) for row in lists]))
    for mine in (from_lists, IndexSet.from_mask(keep), from_lengths):
        assert same(mine, lists)
        assert torch.equal(mine.mask(GRID), keep)
        assert mine.index.dtype == mine.lengths.dtype == torch.int64


@given(ragged())
def test_sizes_offsets_and_places(lists: list[list[int]]) -> None:
    mine = IndexSet.from_lists(lists)
    lengths = [len(row) for row in lists]
    assert (mine.batch_size, mine.total, mine.max_length) == (len(lists), sum(lengths), max(lengths))
    assert mine.uniform == (lengths[0] if len(set(lengths)) == 1 else None)
    assert mine.offsets.tolist() == [sum(lengths[:b]) for b in range(len(lists) + 1)]
    assert mine.samples.tolist() == [b for b, row in enumerate(lists) for _ in row]
    assert mine.flat(GRID).tolist() == [b * GRID + token for b, row in enumerate(lists) for token in row]


def test_an_order_of_the_maskers_own_is_kept() -> None:
    dense = torch.tensor([[5, 2, 9], [0, 11, 3]])
    assert torch.equal(IndexSet.from_dense(dense).dense(), dense)
    assert same(IndexSet.from_dense(dense), dense.tolist())


def test_full_holds_every_token_of_every_sample() -> None:
    assert IndexSet.full(2, 3).dense().tolist() == [[0, 1, 2], [0, 1, 2]]


def test_an_empty_batch_is_a_set() -> None:
    mine = IndexSet.from_lists([])
    assert (mine.batch_size, mine.total, mine.max_length, mine.offsets.tolist()) == (0, 0, 0, [0])


def test_a_ragged_set_has_no_dense_form_and_says_so() -> None:
    with pytest.raises(ValueError, match=r"ragged \(lengths 1…3\); it has no dense form\. Use \.index"):
        IndexSet.from_lists([[1, 2, 3], [4]]).dense()


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: IndexSet.from_dense(torch.arange(3)), r"whole numbers \[B, K\]; got torch.int64 \[3\]"),
        (
            lambda: IndexSet.from_dense(torch.rand(2, 3)),
            r"whole numbers \[B, K\]; got torch.float32 \[2, 3\]",
        ),
        (
            lambda: IndexSet.from_dense(torch.ones(2, 3) > 0),
            r"got torch.bool \[2, 3\]. IndexSet.from_mask takes",
        ),
        (lambda: IndexSet.from_mask(torch.ones(2, 3)), r"bool \[B, N\]; got torch.float32 \[2, 3\]"),
        (
            lambda: IndexSet.from_lengths(torch.arange(3), torch.tensor([1, 1])),
            r"lengths \[B\] that add up to S; got \[3\], \[1, 1\]",
        ),
    ],
)
def test_what_is_no_set_is_refused_with_its_shape(make: object, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        make()  # type: ignore[operator]


@pytest.mark.parametrize("index", [[3, 16], [-1, 3]])
def test_an_index_outside_the_grid_is_named_and_takes_no_neighbours_token(index: list[int]) -> None:
    """Unchecked, token 16 of sample 0 would be token 0 of sample 1."""
    mine = IndexSet.from_dense(torch.tensor([index, [0, 1]]))
    with pytest.raises(ValueError, match=rf"from 0 to 15 on this grid; got {min(0, *index)} … {max(index)}"):
        mine.flat(16)


def test_to_keeps_the_set_and_returns_itself_where_it_is_already() -> None:
    mine = IndexSet.from_lists([[1, 2], [3]])
    assert mine.to("cpu") is mine
    moved = mine.to("meta")
    assert (moved.index.device.type, moved.lengths.device.type) == ("meta", "meta")
    assert (moved.max_length, moved.uniform, moved.batch_size) == (2, None, 2)


def test_left_out_pairs_run_target_major() -> None:
    """Row of a prediction = ((target j · contexts) + context i) · B + b (facts §3.5)."""
    contexts = tuple(IndexSet.full(2, 4) for _ in range(2))
    targets = tuple(IndexSet.full(2, 1) for _ in range(3))
    pairs = MaskPlan(contexts, targets).pairs
    assert pairs is not None
    for j in range(3):
        for i in range(2):
            assert pairs[j * 2 + i] == (i, j)


def test_pairs_of_its_own_are_kept_and_travel() -> None:
    one = IndexSet.full(2, 4)
    plan = MaskPlan((one, one), (one, one), pairs=((0, 0), (1, 1)))
    assert plan.to("cpu").pairs == plan.pairs == ((0, 0), (1, 1))
    assert (plan.batch_size, plan.empty) == (2, False)


def test_a_plan_without_sets_is_empty() -> None:
    assert (MaskPlan().empty, MaskPlan().batch_size, MaskPlan().pairs) == (True, None, ())


@pytest.mark.parametrize("pair", [(1, 0), (0, 1), (-1, 0)])
def test_a_pair_outside_the_plan_is_refused(pair: tuple[int, int]) -> None:
    one = IndexSet.full(2, 4)
    with pytest.raises(ValueError, match=r"is outside 1 contexts and 1 targets"):
        MaskPlan((one,), (one,), pairs=(pair,))


def test_sets_of_different_batches_are_refused() -> None:
    with pytest.raises(ValueError, match=r"one batch; got batch sizes \[2, 3\]"):
        MaskPlan((IndexSet.full(2, 4),), (IndexSet.full(3, 4),))


@given(ragged())
def test_gather_takes_each_samples_own_rows(lists: list[list[int]]) -> None:
    batch = len(lists)
    values = torch.arange(batch * GRID * 2.0).view(batch * GRID, 2)
    whole = Tokens(values, IndexSet.full(batch, GRID), (3, 4), layers=(values + 0.5,))
    kept = whole.gather(IndexSet.from_lists(lists))
    rows = [b * GRID + token for b, row in enumerate(lists) for token in row]
    assert kept.values.tolist() == [values[row].tolist() for row in rows]
    assert torch.equal(kept.layers[0], kept.values + 0.5)
    assert kept.grid == (3, 4)


def test_gather_wants_the_whole_grid() -> None:
    part = Tokens(torch.zeros(4, 2), IndexSet.full(2, 2), (3, 4))
    with pytest.raises(ValueError, match=r"whole grid \(3, 4\); got 2 of 12"):
        part.gather(IndexSet.full(2, 1))


@given(ragged())
def test_mean_is_each_samples_own_and_zero_where_it_has_none(lists: list[list[int]]) -> None:
    at = IndexSet.from_lists(lists)
    values = torch.randn(at.total, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    means = Tokens(values, at, (3, 4)).mean()
    rows = iter(values)
    for row, mean in zip(lists, means, strict=True):
        own = [next(rows) for _ in row]
        expected = torch.stack(own).mean(0) if own else torch.zeros(3, dtype=torch.float64)
        torch.testing.assert_close(mean, expected, rtol=1e-12, atol=1e-12)


def test_dense_tokens() -> None:
    values = torch.arange(12.0).view(6, 2)
    dense = Tokens(values, IndexSet.full(2, 3), (3,)).dense()
    assert (list(dense.shape), dense[1, 0].tolist()) == ([2, 3, 2], [6.0, 7.0])
    with pytest.raises(ValueError, match="ragged"):
        Tokens(values, IndexSet.from_lists([[0, 1, 2, 3], [0, 1]]), (4,)).dense()


def test_a_plain_tensor_is_the_only_view_of_its_batch() -> None:
    images = torch.zeros(5, 3, 8, 8)
    batch = Batch.of(images)
    assert (list(batch.views), batch.batch_size) == (["image"], 5)
    assert Batch.of(batch) is batch
    with pytest.raises(TypeError, match=r"jepa_core.Batch or a tensor \[B, C, H, W\]; got list"):
        Batch.of([1, 2])  # type: ignore[arg-type]


def test_a_batch_moves_with_its_condition_and_side_information() -> None:
    batch = Batch({"clip": torch.zeros(1, 3)}, condition=torch.zeros(1, 7), side={"when": torch.zeros(1)})
    moved = batch.to("meta")
    assert {moved.views["clip"].device.type, moved.condition.device.type, moved.side["when"].device.type} == {
        "meta"
    }
    assert Batch({"clip": torch.zeros(1)}, condition="push the cup").to("meta").condition == "push the cup"


class Action(NamedTuple):
    move: Tensor
    name: str


@dataclass(frozen=True)
class Instruction:
    text: str
    actions: list[Action]


def full_batch() -> Batch:
    condition = {
        "a": (torch.zeros(1), [torch.zeros(2)]),
        "b": Instruction("push", [Action(torch.ones(3), "x")]),
    }
    side = {"when": torch.zeros(4)}
    return Batch({"clip": torch.zeros(1, 5)}, condition, side, torch.tensor([6]), step=7)


def test_all_tensors_of_a_batch_move() -> None:
    moved = full_batch().to("meta")
    inner = moved.condition["b"].actions[0]
    held = [moved.views["clip"], moved.side["when"], moved.labels, inner.move, moved.condition["a"][0]]
    assert all(tensor.device.type == "meta" for tensor in [*held, moved.condition["a"][1][0]])
    assert (moved.condition["b"].text, inner.name, moved.step) == ("push", "x", 7)
    assert isinstance(inner, Action)


def test_all_tensors_of_a_batch_are_pinned(monkeypatch: pytest.MonkeyPatch) -> None:
    pinned: list[tuple[int, ...]] = []
    monkeypatch.setattr(Tensor, "pin_memory", lambda self: (pinned.append(tuple(self.shape)), self)[1])
    batch = full_batch().pin_memory()
    assert sorted(pinned) == [(1,), (1,), (1, 5), (2,), (3,), (4,)]
    assert torch.equal(batch.labels, torch.tensor([6]))  # type: ignore[arg-type]


@pytest.mark.parametrize(("grid", "tokens"), [((7,), 7), ((3, 4), 12), ((2, 3, 4), 24)])
def test_grid_size(grid: tuple[int, ...], tokens: int) -> None:
    assert grid_size(grid) == tokens
