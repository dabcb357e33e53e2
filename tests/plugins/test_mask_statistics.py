"""What maskers do over many batches: the official preset equals the table published for it, the exact
preset throws nothing away and treats first and last rows alike, and both equal a slow sampler.

All statistics are of independent batches, so a tolerance is 4 to 4.5 standard errors of the mean over
batches, plus the rounding (and the simulation error) of a published figure where there is one.
"""

import itertools
import tomllib
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch

import jepa_ijepa
from jepa_ijepa.maskers import Block, Multiblock, Random
from tests.plugins.reference_masks import OFFICIAL, TARGETS, cut_first, exact_batch, official_batch

RECIPES = sorted(Path(jepa_ijepa.__file__).parent.glob("recipes/official_*.toml"))


@dataclass
class Batches:
    """Statistics of n batches on one grid; shares are of a grid's tokens."""

    context: np.ndarray  # [n, B] tokens of each context
    target: np.ndarray  # [n] tokens of a target
    hidden: np.ndarray  # [n, H, W] share of samples in which a token is in some target
    visible: np.ndarray  # [n, H, W] share of samples in which a token is in the context


@cache
def run(grid, batch, count, seed=0, **values):
    masker = Multiblock(Multiblock.Config(name="multiblock", **values))
    generator = torch.Generator().manual_seed(seed)
    tokens, found = grid[0] * grid[1], []
    for _ in range(count):
        plan = masker(grid, batch, generator)
        hidden = torch.stack([target.mask(tokens) for target in plan.targets]).any(0)
        visible = plan.contexts[0].mask(tokens)
        shares = [mask.double().mean(0).view(grid).numpy() for mask in (hidden, visible)]
        found.append((plan.contexts[0].lengths.numpy(), plan.targets[0].uniform, *shares))
    return Batches(*(np.stack(one) for one in zip(*found, strict=True)))


def error_of_mean(per_batch):
    return per_batch.std(0, ddof=1) / np.sqrt(len(per_batch))


TABLE = [
    # grid, batch, batches, target size: range and mean, union, context before: mean and sd, after the cut
    ((14, 14), 1, 500, (30, 40, 33.5), 0.446, (81.5, 13.6), 81.5),
    ((14, 14), 16, 250, (30, 40, 33.5), 0.44, (81.9, 13.6), 60),
    ((14, 14), 128, 200, (30, 40, 33.5), 0.45, (81.7, 13.6), 50),
    ((16, 16), 32, 150, (35, 54, 44.8), 0.45, (109, 18.5), 75),
    ((16, 16), 128, 80, (35, 54, 44.8), 0.45, (109, 18.5), 67),
]


@pytest.mark.parametrize(("grid", "batch", "count", "size", "union", "before", "after"), TABLE)
def test_the_official_preset_has_the_official_statistics(grid, batch, count, size, union, before, after):
    whole = run(grid, batch, count, **{**OFFICIAL, "truncate": "none"})
    cut = run(grid, batch, count, seed=1, **OFFICIAL)
    assert size[0] <= whole.target.min() <= whole.target.max() <= size[1]
    assert abs(whole.target.mean() - size[2]) < 4 * error_of_mean(whole.target) + 0.3
    hidden = whole.hidden.mean((1, 2))
    assert abs(hidden.mean() - union) < 4 * error_of_mean(hidden) + 0.006
    context = whole.context.mean(1)
    assert abs(context.mean() - before[0]) < 4 * error_of_mean(context) + 0.5
    assert abs(whole.context.std() - before[1]) < 0.8
    kept = cut.context.mean(1)
    assert (cut.context == cut.context[:, :1]).all()
    assert abs(kept.mean() - after) < 4 * error_of_mean(kept) + 0.6


def test_the_official_target_sizes_come_as_often_as_published():
    law = Multiblock(Multiblock.Config(name="multiblock", **OFFICIAL)).target_law
    sizes = law.draw((14, 14), 20000, torch.Generator().manual_seed(0)).tolist()
    published = {(5, 6): 0.26, (6, 5): 0.12, (6, 6): 0.22, (7, 5): 0.36, (8, 5): 0.03}
    for size, share in published.items():
        assert abs(sizes.count(list(size)) / 20000 - share) < 4 * 0.0034 + 0.01
    assert set(map(tuple, sizes)) == set(published)


def test_the_official_cut_loses_the_bottom_of_the_image():
    published = [0.74, 0.59, 0.47, 0.35, 0.25, 0.20, 0.18, 0.18, 0.18, 0.17, 0.12, 0.06, 0.02, 0.00]
    rows = run((14, 14), 128, 200, seed=1, **OFFICIAL).visible.mean(2)
    assert (abs(rows.mean(0) - published) < 4.5 * error_of_mean(rows) + 0.008).all()
    whole = run((14, 14), 128, 200, **{**OFFICIAL, "truncate": "none"}).visible.mean((0, 2))
    assert whole[0] == pytest.approx(0.745, abs=0.01)
    assert whole[:13] == pytest.approx(whole[12::-1], abs=0.01)
    assert whole[13] == 0


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_the_official_recipes_use_what_is_tested_here(recipe):
    masker = tomllib.loads(recipe.read_text())["masker"]
    assert {key: masker.get(key) for key in OFFICIAL} == OFFICIAL


@pytest.mark.parametrize("grid", [(14, 14), (8, 8), (6, 10)], ids=str)
def test_the_exact_preset_treats_first_and_last_rows_and_columns_alike(grid):
    found = run(grid, 64, 250)
    for share in (found.visible, found.hidden):
        for lines in (share.mean(2), share.mean(1)):
            difference = (lines - lines[:, ::-1])[:, : lines.shape[1] // 2]
            assert (lines.mean(0) > 0.1).all()
            assert (abs(difference.mean(0)) < 4.5 * error_of_mean(difference)).all()


def test_the_exact_preset_shows_as_much_at_any_batch_size():
    found = [run((14, 14), batch, count).context for batch, count in ((1, 500), (16, 300), (128, 200))]
    means = [context.mean(1) for context in found]
    for one, other in itertools.combinations(means, 2):
        error = np.hypot(error_of_mean(one), error_of_mean(other))
        assert abs(one.mean() - other.mean()) < 4.5 * error
    assert (found[2].max(1) - found[2].min(1) > 20).all()


def test_the_exact_preset_keeps_every_visible_token():
    masker = Multiblock(Multiblock.Config(name="multiblock", context_scale=1.0))
    plan = masker((14, 14), 64, torch.Generator().manual_seed(0))
    hidden = torch.stack([target.mask(196) for target in plan.targets]).any(0)
    assert torch.equal(plan.contexts[0].mask(196), ~hidden)


def reference(sampler, grid, batch, count, cut):
    rng, found = np.random.default_rng(7), []
    for _ in range(count):
        targets, contexts = sampler(rng, grid, batch)
        visible = np.array(contexts)
        if cut:
            kept = cut_first(contexts)
            visible = np.zeros((batch, grid[0] * grid[1]), dtype=bool)
            np.put_along_axis(visible, kept, True, 1)
        visible = visible.reshape(batch, *grid)
        hidden = np.array(targets).any(1).mean(0)
        found.append((visible.sum((1, 2)), targets[0][0].sum(), hidden, visible.mean(0)))
    return Batches(*(np.stack(one) for one in zip(*found, strict=True)))


@pytest.mark.parametrize("grid", [(14, 14), (9, 6)], ids=str)
@pytest.mark.parametrize("preset", ["exact", "official"])
def test_masks_are_spread_as_by_a_sampler_written_block_by_block(preset, grid):
    values, sampler = ({}, exact_batch) if preset == "exact" else (OFFICIAL, official_batch)
    if preset == "official" and grid == (9, 6):
        values = {**OFFICIAL, "min_keep": 3}
        sampler = lambda rng, grid, batch: official_batch(rng, grid, batch, min_keep=3)  # noqa: E731
    ours = run(grid, 8, 400, **values)
    slow = reference(sampler, grid, 8, 200, cut=preset == "official")
    for name in ("context", "target", "hidden", "visible"):
        a, b = (getattr(one, name).astype(float) for one in (ours, slow))
        if a.ndim == 2:
            a, b = a.mean(1), b.mean(1)
        error = np.sqrt(error_of_mean(a) ** 2 + error_of_mean(b) ** 2)
        assert (abs(a.mean(0) - b.mean(0)) <= 4.5 * error).all(), name


def test_targets_cover_each_token_as_often_as_inclusive_bounds_give():
    masker = Multiblock(Multiblock.Config(name="multiblock", target_scale=36 / 196, target_aspect=1))
    generator, counts = torch.Generator().manual_seed(0), torch.zeros(196)
    for _ in range(40):
        counts += sum(target.mask(196).sum(0) for target in masker((14, 14), 128, generator).targets)
    starts = np.array([sum(0 <= line - start < 6 for start in range(9)) for line in range(14)]) / 9
    expected = np.outer(starts, starts).ravel()
    draws = 40 * 128 * TARGETS
    z = (counts.numpy() / draws - expected) / np.sqrt(expected * (1 - expected) / draws)
    assert abs(z).max() < 4.5


@pytest.mark.parametrize("masker", [Block(Block.Config(name="block")), Random(Random.Config(name="random"))])
def test_block_and_random_hide_opposite_places_equally_often(masker):
    generator, found = torch.Generator().manual_seed(0), []
    for _ in range(300):
        found.append(masker((8, 8), 16, generator).targets[0].mask(64).double().mean(0).view(8, 8).numpy())
    hidden = np.stack(found)
    difference = (hidden - hidden[:, ::-1, ::-1])[:, :4]
    assert (abs(difference.mean(0)) <= 4.5 * error_of_mean(difference)).all()
    if isinstance(masker, Random):
        assert (abs(hidden.mean(0) - 38 / 64) < 4.5 * error_of_mean(hidden)).all()
