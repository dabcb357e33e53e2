"""Ragged sets in fixed room: what fits, how much is added, and that fillers reach nothing."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from jepa_core import build_model, load_recipe, sample_masks
from jepa_core.training.plan_buckets import MULTIPLE, STEP, PlanBuckets, SetBuckets
from jepa_core.types import IndexSet, MaskPlan, Tokens, grid_size
from jepa_core.types.padded_set import valid_rows

LENGTHS = st.lists(st.integers(0, 9), min_size=4, max_size=4)


def sets(*lengths: list[int]) -> list[IndexSet]:
    return [IndexSet.from_lists([range(n) for n in row]) for row in lengths]


@settings(deadline=None, max_examples=60)
@given(st.lists(LENGTHS, min_size=1, max_size=6), LENGTHS)
def test_a_set_is_padded_to_a_rung_or_not_at_all(seen: list[list[int]], new: list[int]) -> None:
    bucket = SetBuckets.measure(sets(*seen), tokens=9)
    for one in sets(*seen, new):
        size = bucket.bucket_for(one)
        if size is None:
            assert one.lengths.tolist() == new, "what was measured fits"
            assert new not in seen
            continue
        padded = bucket.pad(one, size, 9)
        assert padded.total == size == int(padded.lengths.sum())
        assert padded.max_length == bucket.longest >= int(padded.lengths.max())
        assert padded.batch_size == 4
        assert torch.equal(padded.index[: one.total], one.index)
        assert torch.equal(padded.lengths[:4], one.lengths)
        assert padded.index.numel() == 0 or 0 <= int(padded.index.min()) <= int(padded.index.max()) < 9
        if padded.valid is not None:
            assert torch.equal(padded.valid, torch.arange(size) < one.total)
            assert (padded.flat(9)[one.total :] // 9 == 3).all(), "fillers hold the last sample's tokens"


def test_rungs_are_multiples_an_eighth_apart() -> None:
    ragged = [IndexSet.from_lists([range(n)] * 99 + [range(n + 1)]) for n in (20, 21, 40, 60)]
    bucket = SetBuckets.measure(ragged, tokens=64)
    assert bucket.sizes[0] < 2001 * STEP
    assert bucket.sizes[-1] >= 6001
    assert all(size % MULTIPLE == 0 for size in bucket.sizes)
    ratios = [above / below for below, above in zip(bucket.sizes, bucket.sizes[1:], strict=False)]
    assert len(ratios) > 8
    assert max(ratios) <= STEP


def test_sets_of_one_length_are_left_alone() -> None:
    kept = IndexSet.full(4, 6)
    bucket = SetBuckets.measure([kept, IndexSet.full(4, 6)], tokens=6)
    size = bucket.bucket_for(kept)
    assert size == 24
    assert bucket.pad(kept, size, 6) is kept
    assert bucket.bucket_for(IndexSet.full(4, 5)) is None
    assert bucket.bucket_for(IndexSet.full(3, 6)) is None


def test_all_sets_of_a_plan_get_as_many_fillers() -> None:
    plans = [
        MaskPlan((IndexSet.full(4, 3),), (one,)) for one in sets([1, 2, 3, 4], [9, 9, 2, 9], [5, 5, 5, 6])
    ]
    padded = PlanBuckets.measure(plans, 9).pad(plans[0])
    assert padded is not None
    assert len(padded.contexts[0].lengths) == len(padded.targets[0].lengths) > 4
    assert padded.batch_size == 4


def test_plans_of_other_sets_do_not_fit_and_cannot_be_measured_together() -> None:
    one = MaskPlan((IndexSet.full(4, 3),), (IndexSet.full(4, 2),))
    two = MaskPlan(one.contexts, one.targets * 2)
    assert PlanBuckets.measure([one], 9).pad(two) is None
    with pytest.raises(ValueError, match="plans have different sets or pairs"):
        PlanBuckets.measure([one, two], 9)
    padded = PlanBuckets.measure([MaskPlan(), MaskPlan()], 9).pad(MaskPlan())
    assert padded is not None
    assert padded.empty


def test_means_and_real_rows_leave_fillers_out() -> None:
    seen = sets([1, 2, 3, 4], [2, 3, 4, 9])
    bucket = SetBuckets.measure(seen, tokens=9)
    size = bucket.bucket_for(seen[0])
    assert size is not None
    padded = bucket.pad(seen[0], size, 9)
    values = torch.randn(padded.total, 5)
    mine = Tokens(values[:10], seen[0], (9,)).mean()
    torch.testing.assert_close(Tokens(values, padded, (9,)).mean(), mine)
    rows = valid_rows([seen[0], padded])
    assert rows is not None
    assert rows.tolist() == [True] * 20 + [False] * (padded.total - 10)
    assert valid_rows(seen) is None


@pytest.mark.parametrize(
    "overrides", [(), ("predictor.context=shared", "masker.sets=2")], ids=["ijepa", "shared"]
)
def test_fillers_reach_neither_features_nor_guesses_nor_gradients(
    tiny_recipe: Path, overrides: tuple[str, ...]
) -> None:
    model = build_model(load_recipe(tiny_recipe, *overrides))
    plans = [sample_masks(model, 8, step=n) for n in range(8)]
    images = torch.randn(8, 3, 16, 16)
    padded = PlanBuckets.measure(plans, grid_size(model.grid())).pad(plans[0])
    assert padded is not None
    found = []
    for plan in (plans[0], padded):
        model.zero_grad()
        output = model(images, plan)
        output.loss.backward()
        gradient = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
        rows = [t.values[: s.total] for t, s in zip(output.step.predictions, plans[0].targets, strict=True)]
        found.append((output.loss.detach(), torch.cat(rows).detach(), gradient))
    for plain, with_padding in zip(*found, strict=True):
        torch.testing.assert_close(with_padding, plain, rtol=1e-4, atol=1e-6)
