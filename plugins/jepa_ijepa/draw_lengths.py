"""Draws the sequence lengths of the attention benchmark with the real masker, and writes them to a file.

    python -m jepa_ijepa.draw_lengths        # writes kernels/jepa_kernels/bench/lengths.json of the checkout

A batch has one size of blocks, so batches differ: of 65 drawn, the one whose contexts hold the median number
of tokens is kept. jepa_kernels reads the file and so needs no plugin.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

import jepa_kernels.bench
from jepa_core.types import MaskPlan
from jepa_ijepa.maskers import Multiblock

FILE = Path(jepa_kernels.bench.__file__).with_name("lengths.json")
DRAWS = 65
VIDEO = {"targets": 8, "target_scale": 0.15, "context_scale": 1.0}
SETS: dict[str, tuple[tuple[int, ...], int, dict[str, Any]]] = {
    "14x14": ((14, 14), 128, {}),
    "16x16": ((16, 16), 128, {}),
    "8x8": ((8, 8), 512, {}),
    "8x14x14": ((8, 14, 14), 24, VIDEO),
}
"""Grid, samples, and settings of the masker where they are not its own (I-JEPA's; V-JEPA's short range)."""


def draw(grid: tuple[int, ...], batch: int, settings: dict[str, Any]) -> dict[str, Any]:
    """One batch: tokens of each context, and of each target block (the same in all samples)."""
    masker = Multiblock(Multiblock.Config(name="multiblock", **settings))
    generator = torch.Generator().manual_seed(0)
    plans = sorted((masker(grid, batch, generator) for _ in range(DRAWS)), key=lambda p: p.contexts[0].total)
    return {"grid": list(grid), "masker": {"name": "multiblock", **settings}, **_lengths(plans[DRAWS // 2])}


def _lengths(plan: MaskPlan) -> dict[str, Any]:
    return {
        "contexts": plan.contexts[0].lengths.tolist(),
        "targets": [target.uniform for target in plan.targets],
    }


if __name__ == "__main__":
    batches = {name: draw(*values) for name, values in SETS.items()}
    command = "python -m jepa_ijepa.draw_lengths"
    FILE.write_text(
        "{\n"
        + f' "command": {json.dumps(command)},\n'
        + ",\n".join(f" {json.dumps(name)}: {json.dumps(batch)}" for name, batch in batches.items())
        + "\n}\n",
        encoding="utf-8",
    )
