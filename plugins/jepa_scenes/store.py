"""What the data folder holds of a look; what is missing is rendered before it is read.

Axes: n scenes of a split.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from jepa_core.errors import UserError
from jepa_core.observers.progress_bar import Terminal
from jepa_core.runtime.environment import cores
from jepa_scenes.pool import render_all
from jepa_scenes.samples import Maps
from jepa_scenes.shards import Look, Shard, read_shards, shards_of


@dataclass(frozen=True)
class Store:
    """The first `total` scenes of a split."""

    folder: Path
    look: Look
    split: str
    total: int
    processes: int
    """That render; 0: one for each core."""

    def read(self, *names: str) -> list[np.ndarray[Any, Any]]:
        """These arrays, n rows each.

        Raises UserError where what is missing cannot be written, or what was written cannot be read.
        """
        shards = shards_of(self.folder, self.look, self.split, self.total)
        parts = list(read_shards(shards, self.look, names))
        if missing := [part for part in parts if isinstance(part, Shard)]:
            with Terminal() as progress:
                render_all(self.look, missing, self.processes or cores(), progress)
            parts = list(read_shards(shards, self.look, names))
        held = [part for part in parts if not isinstance(part, Shard)]
        if len(held) < len(shards):
            raise UserError(f"scenes were rendered and cannot be read again: {self.folder / self.look.key}")
        return [np.concatenate([part[name] for part in held]) for name in names]

    def maps(self) -> Maps:
        """Depth, objects and shapes of every pixel."""
        return dict(zip(("depth", "ids", "shape"), self.tensors("depth", "ids", "shapes"), strict=True))

    def tensors(self, *names: str) -> list[Tensor]:
        """These arrays as tensors."""
        return [torch.from_numpy(array) for array in self.read(*names)]
