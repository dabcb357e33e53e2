"""Drawing the masks of one batch on the device, for 128 samples of 14x14 tokens, by both presets.

It has no peer in torch: the alternative is a data worker's time. The least that must move is the result.
"""

from collections.abc import Iterator

import torch

from jepa_kernels.bench.rows import Row, Settings, Work, time_row
from jepa_kernels.sampling import OFFICIAL, Multiblock, sample_multiblock

GRID, BATCH = (14, 14), 128
LAWS = {"exact": Multiblock(), "official": OFFICIAL}


def rows(name: str, settings: Settings) -> Iterator[Row]:
    """One preset."""
    law, generator = LAWS[name], torch.Generator(settings.device).manual_seed(0)
    masks = sample_multiblock(GRID, BATCH, law, generator=generator)
    moved = 8 * (masks.contexts.index.numel() + masks.targets.index.numel())
    row = Row("masks", name, "draw", "ours: sample_multiblock", Work(moved))
    yield time_row(row, lambda: sample_multiblock(GRID, BATCH, law, generator=generator), settings)
