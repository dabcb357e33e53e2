"""Multi-block masks one sample and one block at a time, straight from the rules: slow, and nothing shared
with `jepa_ijepa.maskers`. `official_batch` is the released sampler's rule, `exact_batch` the paper's.
"""

from __future__ import annotations

import math

import numpy as np

OFFICIAL = {
    "truncate": "first",
    "last_row": False,
    "correlated": True,
    "rounding": "sides",
    "retry": "drop",
    "min_keep": 10,
}
"""The settings of the masker `multiblock` that make it follow `official_batch`."""

SCALE, ASPECT, CONTEXT_SCALE, TARGETS = (0.15, 0.2), (0.75, 1.5), (0.85, 1.0), 4


def official_size(grid, u, scale, aspect):
    """Height and width when one number u sets scale and aspect; sides at most the grid's less one."""
    area = int(math.prod(grid) * (scale[0] + u * (scale[1] - scale[0])))
    ratio = aspect[0] + u * (aspect[1] - aspect[0])
    height, width = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
    while height >= grid[0]:
        height -= 1
    while width >= grid[1]:
        width -= 1
    return height, width


def exact_size(grid, u, v, scale, aspect):
    """Height and width nearest in area, then in aspect, among the four ways to round the real sides."""
    area = (scale[0] + u * (scale[1] - scale[0])) * math.prod(grid)
    ratio = aspect[0] + v * (aspect[1] - aspect[0])
    tall, wide = math.sqrt(area * ratio), math.sqrt(area / ratio)
    if tall > grid[0]:
        tall, wide = grid[0], area / grid[0]
    if wide > grid[1]:
        tall, wide = area / grid[1], grid[1]
    choices = [(h, w) for h in (int(tall), int(tall) + 1) for w in (int(wide), int(wide) + 1)]
    choices = [(h, w) for h, w in choices if 1 <= h <= grid[0] and 1 <= w <= grid[1]]

    def distance(size):
        off_area = abs(math.log(size[0] * size[1] / area))
        return round(off_area, 9), abs(math.log(size[0] / size[1] / ratio))

    return min(choices, key=distance)


def block(grid, top, left, size):
    """bool [H, W]."""
    mask = np.zeros(grid, dtype=bool)
    mask[top : top + size[0], left : left + size[1]] = True
    return mask


def official_batch(rng, grid, batch, min_keep=10):
    """Targets bool [B][4] and contexts bool [B] before any cut; exclusive bounds, 20 tries a constraint."""
    size = official_size(grid, rng.random(), SCALE, ASPECT)
    context_size = official_size(grid, rng.random(), CONTEXT_SCALE, (1.0, 1.0))

    def somewhere(shape):
        return block(grid, rng.integers(grid[0] - shape[0]), rng.integers(grid[1] - shape[1]), shape)

    targets, contexts = [], []
    for _ in range(batch):
        blocks = [somewhere(size) for _ in range(TARGETS)]
        for tries in range(20 * TARGETS + 1):
            context = somewhere(context_size)
            for taken in blocks[: TARGETS - tries // 20]:
                context &= ~taken
            if context.sum() > min_keep:
                break
        targets.append(blocks)
        contexts.append(context)
    return targets, contexts


def exact_batch(rng, grid, batch):
    """The same with independent draws, inclusive bounds, and samples without a visible token redrawn."""
    size = exact_size(grid, rng.random(), rng.random(), SCALE, ASPECT)
    context_size = exact_size(grid, rng.random(), 0.0, CONTEXT_SCALE, (1.0, 1.0))
    if grid[0] == grid[1] and rng.random() < 0.5:
        context_size = context_size[::-1]

    def somewhere(shape):
        return block(grid, rng.integers(grid[0] - shape[0] + 1), rng.integers(grid[1] - shape[1] + 1), shape)

    targets, contexts = [], []
    while len(contexts) < batch:
        blocks = [somewhere(size) for _ in range(TARGETS)]
        context = somewhere(context_size) & ~np.any(blocks, axis=0)
        if context.any():
            targets.append(blocks)
            contexts.append(context)
    return targets, contexts


def cut_first(contexts):
    """int [B, K]: the contexts' first tokens in raster order, as many as the smallest has."""
    rows = [np.flatnonzero(context) for context in contexts]
    kept = min(len(row) for row in rows)
    return np.stack([row[:kept] for row in rows])
