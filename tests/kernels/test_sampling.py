"""Masks drawn on the device have the law of the masker `multiblock`: sizes exactly, the rest by statistics.

Two samples of one law are compared: means over independent batches within 4.5 standard errors, and lengths
by a chi-square test whose threshold one honest comparison in 10,000 would cross. Seeds are fixed.
"""

from dataclasses import asdict, replace
from functools import cache
from itertools import pairwise

import numpy as np
import pytest
import torch
from scipy import stats
from torch.utils._python_dispatch import TorchDispatchMode

from jepa_ijepa.maskers import Multiblock as HostMasker
from jepa_kernels.sampling import OFFICIAL, Multiblock, block_sides, pack, sample_multiblock

EXACT = Multiblock()
CROWDED = Multiblock(target_scale=(0.35, 0.45), context_scale=(0.5, 0.7), min_keep=3)
LAWS = {
    "exact": ((14, 14), EXACT),
    "official": ((14, 14), OFFICIAL),
    "exact, not square": ((6, 9), EXACT),
    "many redrawn": ((6, 6), CROWDED),
    "many dropped": ((6, 6), replace(CROWDED, retry="drop", min_keep=6, last_row=False, rounding="sides")),
}
BATCH, BATCHES = 32, 250


def host(law):
    return HostMasker(HostMasker.Config(name="multiblock", **asdict(law)))


def sequences(packed):
    bounds = packed.offsets.tolist()
    return [packed.index[a:b] for a, b in pairwise(bounds)]


def as_masks(packed, tokens):
    masks = torch.zeros(len(packed.offsets) - 1, tokens, dtype=torch.bool)
    for row, index in zip(masks, sequences(packed), strict=True):
        row[index] = True
    return masks


@cache
def draw_batches(name, how):
    """(visible, hidden) bool [batches, B, N] and the token count of a target [batches]."""
    (grid, law), generator, batches = LAWS[name], torch.Generator().manual_seed(11), []
    tokens, masker = grid[0] * grid[1], host(law)
    for _ in range(BATCHES):
        if how == "host":
            plan = masker(grid, BATCH, generator)
            masks = torch.stack([target.mask(tokens) for target in plan.targets])
            batches.append((plan.contexts[0].mask(tokens), masks.any(0), plan.targets[0].uniform))
        else:
            plan = sample_multiblock(grid, BATCH, law, generator=generator)
            masks = as_masks(plan.targets, tokens).unflatten(0, (law.targets, BATCH))
            batches.append((as_masks(plan.contexts, tokens), masks.any(0), int(masks[0, 0].sum())))
    visible, hidden, sizes = zip(*batches, strict=True)
    return torch.stack(visible).numpy(), torch.stack(hidden).numpy(), np.array(sizes)


def assert_same_mean(a, b):
    """[batches, ...] from both: means over batches within 4.5 standard errors."""
    error = np.sqrt((a.var(0, ddof=1) + b.var(0, ddof=1)) / len(a))
    assert (abs(a.mean(0) - b.mean(0)) <= 4.5 * error + 1e-12).all()


@pytest.mark.parametrize("name", LAWS)
def test_tokens_are_seen_and_hidden_as_often(name):
    """Compares the frequency of each token."""
    for device, host in zip(draw_batches(name, "device")[:2], draw_batches(name, "host")[:2], strict=True):
        assert_same_mean(device.mean(1), host.mean(1))


@pytest.mark.parametrize("name", LAWS)
def test_lengths_are_distributed_alike(name):
    """One sample of each batch, since those of one batch share their blocks' sizes."""
    device, host = (draw_batches(name, how)[0].sum(-1) for how in ("device", "host"))
    assert_same_mean(device.mean(1), host.mean(1))
    assert_same_mean(device.std(1), host.std(1))
    for a, b in (
        (device[:, 0], host[:, 0]),
        (draw_batches(name, "device")[2], draw_batches(name, "host")[2]),
    ):
        edges = np.unique(np.quantile(np.concatenate([a, b]), np.linspace(0, 1, 7)))
        counts = np.stack([np.histogram(x, edges)[0] for x in (a, b)])
        if counts.shape[1] > 1:
            assert stats.chi2_contingency(counts).pvalue > 1e-4


def test_the_crowded_laws_do_redraw_and_do_drop():
    """Otherwise the comparisons above would not cover retrying."""
    for name, law in (("many redrawn", "redraw"), ("many dropped", "drop")):
        visible, hidden, _ = draw_batches(name, "device")
        assert (visible.sum(-1) > LAWS[name][1].min_keep).all()
        overlap = (visible & hidden).any(-1).mean()
        assert (overlap > 0.02) == (law == "drop"), "only a dropped target stays visible"


@pytest.mark.parametrize("correlated", [False, True])
@pytest.mark.parametrize("last_row", [False, True])
@pytest.mark.parametrize("rounding", ["area", "sides"])
@pytest.mark.parametrize("grid", [(14, 14), (16, 16), (4, 7), (1, 9)])
def test_sizes_are_the_maskers_own_for_the_same_numbers(grid, rounding, last_row, correlated):
    law = Multiblock(rounding=rounding, last_row=last_row, correlated=correlated)
    uniform = torch.rand(2000, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    padded = np.column_stack([uniform.numpy(), np.zeros(2000)])
    masker = host(law)
    for ranges, host_law in (
        ((law.target_scale, law.target_aspect), masker.target_law),
        ((law.context_scale, (1.0, 1.0)), masker.context_law),
    ):
        own = law if host_law is masker.target_law else replace(law, correlated=False)
        assert block_sides(grid, uniform, *ranges, own).tolist() == host_law.sizes(grid, padded).tolist()


@pytest.mark.parametrize("name", ["exact", "official"])
def test_sets_are_ascending_and_of_the_grid(name):
    grid, law = LAWS[name]
    plan = sample_multiblock(grid, 16, law, generator=torch.Generator().manual_seed(3))
    for packed in (plan.contexts, plan.targets):
        assert int(packed.offsets[0]) == 0
        for index in sequences(packed):
            assert torch.equal(index, index.unique())
            assert 0 <= int(index.min()) <= int(index.max()) < 196
        assert bool((packed.index[int(packed.offsets[-1]) :] == -1).all())


def test_targets_are_where_starts_and_sizes_say():
    plan = sample_multiblock((5, 8), 4, generator=torch.Generator().manual_seed(0))
    masks = as_masks(plan.targets, 40).view(4, 4, 5, 8)
    high, wide = plan.sizes[0].tolist()
    for sample in range(4):
        for target in range(4):
            top, left = plan.starts[sample, target].tolist()
            expected = torch.zeros(5, 8, dtype=torch.bool)
            expected[top : top + high, left : left + wide] = True
            assert torch.equal(masks[target, sample], expected)


def test_the_same_generator_gives_the_same_masks():
    first, second = (
        sample_multiblock((14, 14), 8, generator=torch.Generator().manual_seed(7)) for _ in range(2)
    )
    assert torch.equal(first.contexts.index, second.contexts.index)
    assert torch.equal(first.targets.offsets, second.targets.offsets)


class NoHostRead(TorchDispatchMode):
    """Fails on every operation whose Python value, or shape of the result, depends on data."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.name()
        assert not any(word in name for word in ("_local_scalar_dense", "nonzero", "masked_select")), name
        if name.startswith("aten::index."):
            assert not any(at.dtype == torch.bool for at in args[1] if at is not None)
        else:
            assert torch.Tag.dynamic_output_shape not in func.tags, name
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("name", LAWS)
def test_nothing_is_read_to_the_host_and_shapes_are_fixed(name):
    grid, law = LAWS[name]
    with NoHostRead():
        plan = sample_multiblock(grid, 8, law, generator=torch.Generator().manual_seed(0))
    tokens = grid[0] * grid[1]
    assert plan.contexts.index.shape == (8 * tokens,)
    assert plan.targets.index.shape == (law.targets * 8 * tokens,)


def test_a_capacity_that_does_not_suffice_cuts_the_last_sequences():
    mask = torch.tensor([[1, 0, 1], [0, 1, 1], [1, 1, 1]], dtype=torch.bool)
    packed = pack(mask, 5)
    assert packed.index.tolist() == [0, 2, 1, 2, 0]
    assert packed.offsets.tolist() == [0, 2, 4, 5]
    roomy = pack(mask, 9)
    assert roomy.index.tolist() == [0, 2, 1, 2, 0, 1, 2, -1, -1]
    assert roomy.offsets.tolist() == [0, 2, 4, 7]


@pytest.mark.parametrize(
    ("grid", "batch", "law", "message"),
    [
        ((3, 4, 5), 2, EXACT, r"a grid is \(H, W\), each side at least 1; got \(3, 4, 5\)"),
        ((3, 0), 2, EXACT, r"a grid is \(H, W\), each side at least 1; got \(3, 0\)"),
        ((3, 3), 0, EXACT, "at least one sample is wanted; got batch=0"),
        ((3, 3), 1, Multiblock(targets=31), "1 to 30 targets are possible; got 31"),
    ],
)
def test_what_is_refused(grid, batch, law, message):
    with pytest.raises(ValueError, match=message):
        sample_multiblock(grid, batch, law, generator=torch.Generator())
