"""Maskers keep their promises: valid, ascending, disjoint sets, or an error that names the sizes."""

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from jepa_core.errors import UserError
from jepa_core.maskers.blocks import BlockSampler
from jepa_core.protocols import Masker
from jepa_core.settings import parse
from jepa_ijepa.maskers import Block, Multiblock, Random, Rasterised, Union
from tests.plugins.reference_masks import OFFICIAL, exact_size, official_size

MASKERS = {
    "multiblock": Multiblock,
    "block": Block,
    "random": Random,
    "rasterised": Rasterised,
    "union": Union,
}
GRIDS = [(16,), (4, 4), (14, 14), (5, 9), (4, 6, 6)]


def make(name, **values):
    return MASKERS[name](parse(MASKERS[name].Config, {"name": name, **values}, "masker"))


def draw(masker, grid, batch=8, seed=0):
    return masker(grid, batch, torch.Generator().manual_seed(seed))


def rows(index_set):
    return [row.tolist() for row in index_set.split()]


def assert_valid(plan, grid, batch, more_than=0):
    contexts, targets = ([rows(one) for one in sets] for sets in (plan.contexts, plan.targets))
    for chosen in itertools.chain(*contexts, *targets):
        assert len(chosen) > more_than
        assert chosen == sorted(set(chosen))
        assert chosen[0] >= 0
        assert chosen[-1] < math.prod(grid)
    for context, target in itertools.product(contexts, targets):
        assert len(context) == len(target) == batch
        assert all(set(seen).isdisjoint(hidden) for seen, hidden in zip(context, target, strict=True))


@pytest.mark.parametrize("grid", GRIDS, ids=str)
@pytest.mark.parametrize("name", MASKERS)
def test_sets_are_valid_on_grids_of_any_rank(name, grid):
    masker = make(name)
    masker.check(grid)
    assert isinstance(masker, Masker)
    assert_valid(draw(masker, grid, batch=33), grid, 33)


@pytest.mark.parametrize("name", MASKERS)
def test_a_plan_depends_on_the_given_generator_and_on_nothing_else(name):
    masker, plans = make(name), []
    for seed, others in ((1, 5), (1, 6), (2, 5)):
        torch.manual_seed(others)
        np.random.seed(others)
        before = torch.get_rng_state()
        plan = draw(masker, (9, 9), seed=seed)
        assert torch.equal(torch.get_rng_state(), before)
        plans.append([rows(one) for one in (*plan.contexts, *plan.targets)])
    assert plans[0] == plans[1]
    assert plans[0] != plans[2]


def fits(masker, grid):
    """Whether `check` lets the grid pass; an error must name it."""
    try:
        masker.check(grid)
    except UserError as error:
        return "x".join(map(str, grid)) not in str(error)
    return True


@settings(max_examples=120, deadline=None, derandomize=True)
@given(st.data())
def test_multiblock_says_no_beforehand_or_gives_valid_masks(data):
    share = st.tuples(st.floats(0.02, 1), st.floats(0.02, 1)).map(sorted)
    grid = tuple(data.draw(st.lists(st.integers(1, 9), min_size=1, max_size=3)))
    values = {
        "targets": data.draw(st.integers(1, 6)),
        "contexts": data.draw(st.integers(1, 2)),
        "target_scale": data.draw(share),
        "context_scale": data.draw(share),
        "time_scale": data.draw(share),
        "target_aspect": data.draw(st.tuples(st.floats(0.1, 8), st.floats(0.1, 8)).map(sorted)),
        "min_keep": data.draw(st.integers(0, 6)),
        "sizes": data.draw(st.sampled_from(["batch", "sample"])),
        "truncate": data.draw(st.sampled_from(["none", "first", "random"])),
        "last_row": data.draw(st.booleans()),
        "correlated": data.draw(st.booleans()),
        "rounding": data.draw(st.sampled_from(["area", "sides"])),
    }
    masker = make("multiblock", **values)
    if not fits(masker, grid):
        return
    for seed in range(3):
        assert_valid(draw(masker, grid, 5, seed), grid, 5, more_than=values["min_keep"])


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    st.sampled_from(["block", "random", "rasterised"]),
    st.lists(st.integers(1, 7), min_size=1, max_size=3).map(tuple),
    st.floats(0.01, 1),
)
def test_the_other_maskers_say_no_beforehand_or_split_the_grid(name, grid, share):
    key = {"block": "scale", "random": "ratio"}.get(name)
    masker = make(name, **({key: share} if key else {}))
    if not fits(masker, grid):
        return
    plan = draw(masker, grid, 4)
    assert_valid(plan, grid, 4)
    for sets in zip(*(rows(one) for one in (*plan.contexts, *plan.targets)), strict=True):
        assert sorted(itertools.chain(*sets)) == list(range(math.prod(grid)))


@pytest.mark.parametrize("grid", [(4, 4), (8, 8), (14, 14), (5, 9), (3, 1)], ids=str)
@pytest.mark.parametrize("scale", [(0.15, 0.2), (0.5, 0.9)], ids=str)
def test_block_sizes_equal_the_rules_worked_out_one_by_one(grid, scale):
    uniform = np.random.default_rng(0).random((400, 3))
    exact = BlockSampler(scale=scale, aspect=(0.75, 1.5)).sizes(grid, uniform)
    assert exact.tolist() == [list(exact_size(grid, u, v, scale, (0.75, 1.5))) for u, v, _ in uniform]
    if min(grid) > 1:
        law = BlockSampler(scale=scale, aspect=(0.75, 1.5), rounding="sides", correlated=True, last_row=False)
        expected = [list(official_size(grid, u, scale, (0.75, 1.5))) for u, _, _ in uniform]
        assert law.sizes(grid, uniform).tolist() == expected


def test_blocks_on_a_4x4_grid_are_two_to_four_tokens_tall_and_wide():
    sizes = BlockSampler(scale=(0.15, 0.2), aspect=(0.75, 1.5)).reachable((4, 4)).tolist()
    assert {(1, 2), (2, 1), (2, 2)} <= set(map(tuple, sizes))
    assert {height * width for height, width in sizes} == {2, 3, 4}


def test_every_size_that_is_drawn_was_foreseen():
    law = BlockSampler(scale=(0.1, 0.6), aspect=(0.5, 2), time_scale=(0.2, 1.0))
    foreseen = set(map(tuple, law.reachable((5, 8, 7)).tolist()))
    drawn = law.draw((5, 8, 7), 5000, torch.Generator().manual_seed(0))
    assert set(map(tuple, drawn.tolist())) <= foreseen


def test_target_blocks_are_rectangles_of_the_drawn_size():
    for grid in ((14, 14), (8, 6, 6)):
        plan = draw(make("multiblock", time_scale=0.5), grid, 16)
        for target in plan.targets:
            for row in rows(target):
                places = np.stack(np.unravel_index(row, grid), -1)
                extent = places.max(0) - places.min(0) + 1
                assert extent.prod() == len(row)
                assert len(grid) == 2 or extent[0] == 4


def test_sizes_are_shared_by_the_batch_or_drawn_for_every_block():
    shared, own = (draw(make("multiblock", sizes=how), (14, 14), 64) for how in ("batch", "sample"))
    assert len({target.uniform for target in shared.targets}) == 1
    assert shared.targets[0].uniform in range(29, 43)
    lengths = torch.stack([target.lengths for target in own.targets], 1)
    assert (lengths != lengths[:, :1]).any()
    assert all(len(set(one.tolist())) > 3 for one in lengths.T)


def test_truncation_to_the_first_tokens_keeps_a_prefix():
    whole, cut = (draw(make("multiblock", truncate=how), (14, 14), 32) for how in ("none", "first"))
    kept = int(whole.contexts[0].lengths.min())
    assert cut.contexts[0].uniform == kept < whole.contexts[0].max_length
    assert rows(cut.contexts[0]) == [row[:kept] for row in rows(whole.contexts[0])]


def test_random_truncation_keeps_every_visible_token_equally_often():
    masker, z = make("multiblock", truncate="random"), torch.zeros(2, 196, dtype=torch.float64)
    for seed in range(60):
        whole = draw(make("multiblock"), (14, 14), 32, seed).contexts[0]
        cut = draw(masker, (14, 14), 32, seed).contexts[0]
        assert cut.uniform == whole.lengths.min()
        assert all(set(a) <= set(b) for a, b in zip(rows(cut), rows(whole), strict=True))
        share = (cut.uniform / whole.lengths)[:, None] * whole.mask(196)
        z += torch.stack([(cut.mask(196).double() - share).sum(0), (share * (1 - share)).sum(0)])
    assert (z[0] / z[1].sqrt()).abs().max() < 4.5


def test_several_contexts_are_cut_to_one_length_and_paired_with_every_target():
    plan = draw(make("multiblock", contexts=2, truncate="first", sizes="sample"), (10, 10), 16)
    assert plan.contexts[0].uniform == plan.contexts[1].uniform is not None
    assert len({target.uniform for target in plan.targets}) == 1
    assert plan.pairs == tuple((i, j) for j in range(4) for i in range(2))


def test_where_redrawing_does_not_help_blocks_go_to_opposite_corners():
    # Targets of 2x2 on 3x3 leave more than 3 tokens only where all 32 coincide.
    masker = make("multiblock", targets=32, target_scale=0.44, target_aspect=1, context_scale=1, min_keep=3)
    plan = draw(masker, (3, 3), 200)
    assert_valid(plan, (3, 3), 200, more_than=3)
    corners = [tuple(row) for row in rows(plan.targets[0])]
    assert {corner: corners.count(corner) > 25 for corner in corners} == dict.fromkeys(
        [(0, 1, 3, 4), (1, 2, 4, 5), (3, 4, 6, 7), (4, 5, 7, 8)], True
    )


def test_the_official_retry_rule_lets_the_last_targets_be_seen():
    # On 6x6 the official context block is 5x5 and never moves, so 20 failures drop one target for certain.
    values = {"target_scale": 0.42, "targets": 6, "target_aspect": 1, "min_keep": 8}
    plan = draw(make("multiblock", **{**OFFICIAL, **values, "truncate": "none"}), (6, 6), 200)
    targets = [[set(row) for row in rows(target)] for target in plan.targets]
    block = {6 * row + column for row in range(5) for column in range(5)}
    dropped = set()
    for b, seen in enumerate(rows(plan.contexts[0])):
        left = [block.difference(*(target[b] for target in targets[:m])) for m in range(7)]
        most = max(m for m in range(7) if len(left[m]) > 8)
        assert set(seen) == left[most]
        dropped.add(6 - most)
    assert dropped >= {3, 4, 5}


@pytest.mark.parametrize(("ratio", "low", "high"), [(0.6, 118, 118), ([0.4, 0.6], 78, 118)])
def test_random_hides_the_asked_share(ratio, low, high):
    masker = make("random", ratio=ratio)
    hidden = [draw(masker, (14, 14), 2, seed).targets[0].uniform for seed in range(100)]
    assert low <= min(hidden) <= low + 2
    assert high - 2 <= max(hidden) <= high


def test_block_hides_one_rectangle_of_the_asked_share():
    plan = draw(make("block"), (14, 14), 16)
    assert abs(plan.targets[0].uniform / 196 - 0.6) < 0.04
    for row in rows(plan.targets[0]):
        places = np.stack(np.unravel_index(row, (14, 14)), -1)
        assert (places.max(0) - places.min(0) + 1).prod() == len(row)


def test_rasterised_shows_one_quadrant_and_predicts_the_others_in_raster_order():
    quadrants = [[0, 1], [2, 3, 4], [5, 6, 10, 11], [7, 8, 9, 12, 13, 14]]
    plan = draw(make("rasterised"), (3, 5), 400)
    shown = [quadrants.index(row) for row in rows(plan.contexts[0])]
    predicted = zip(*(rows(target) for target in plan.targets), strict=True)
    for which, others in zip(shown, predicted, strict=True):
        assert list(others) == quadrants[:which] + quadrants[which + 1 :]
    assert all(60 < shown.count(which) < 140 for which in range(4))  # 100 ± 8.7


def test_rasterised_cuts_space_and_not_time():
    halves = draw(make("rasterised"), (5,), 20)
    assert {
        (*map(tuple, (c, t)),) for c, t in zip(rows(halves.contexts[0]), rows(halves.targets[0]), strict=True)
    } == {
        ((0, 1), (2, 3, 4)),
        ((2, 3, 4), (0, 1)),
    }
    clip = draw(make("rasterised"), (2, 2, 2), 20)
    assert {tuple(row) for row in rows(clip.contexts[0])} == {(0, 4), (1, 5), (2, 6), (3, 7)}


def test_union_has_fixed_counts_and_hides_what_blocks_cover():
    masker = make("union", context=0.35, target=0.4, blocks=1, target_scale=0.25, target_aspect=1.0)
    plan = draw(masker, (8, 8), batch=200)
    assert plan.contexts[0].uniform == 22
    assert plan.targets[0].uniform == 26
    for hidden in rows(plan.targets[0]):
        block = [token for token in hidden if _in_a_square(token, hidden)]
        assert len(block) >= 16


def _in_a_square(token, hidden):
    """Whether a 4x4 square of an 8x8 grid that holds the token is hidden whole."""
    row, column = divmod(token, 8)
    corners = itertools.product(
        range(max(0, row - 3), min(row, 4) + 1), range(max(0, column - 3), min(column, 4) + 1)
    )
    return any({8 * (r + i) + c + j for i in range(4) for j in range(4)} <= set(hidden) for r, c in corners)
