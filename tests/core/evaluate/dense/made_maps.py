"""A small source of pictures with a depth and a class for each pixel: squares in front of a slope."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch

from jepa_core import Field, Sample
from jepa_core.data import BaseSamples
from jepa_core.settings.base import SourceSettings
from jepa_core.types.sample import Fields

SIDE = 16
CLASSES = ("ground", "bright", "dark")
FIELDS: Fields = {
    "views.image": Field("image"),
    "targets.depth": Field("map", (SIDE, SIDE), units="m"),
    "targets.kind": Field("map", (SIDE, SIDE), vocabulary=3, names=CLASSES),
}

Change = Callable[[dict[str, Any]], Mapping[str, Any]]
"""Of the values of a sample, by their names."""


class Squares(BaseSamples):
    """A square, bright or dark, stands somewhere before a slope that comes nearer below."""

    note = "squares"
    classes = None

    def __init__(self, count: int, seed: int, change: Change | None = None) -> None:
        self.count, self.seed, self.change = count, seed, change

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Sample:
        draw = torch.Generator().manual_seed(1000 * self.seed + index)
        x, y = torch.randint(0, SIDE - 6, (2,), generator=draw).tolist()
        kind = int(torch.randint(1, 3, (), generator=draw))
        depth = torch.linspace(8, 4, SIDE)[:, None].repeat(1, SIDE)
        kinds = torch.zeros(SIDE, SIDE, dtype=torch.int64)
        image = torch.full((3, SIDE, SIDE), 120) + torch.randint(-9, 9, (3, SIDE, SIDE), generator=draw)
        place = slice(y, y + 6), slice(x, x + 6)
        depth[place], kinds[place] = 2.0 + kind, kind
        image[:, *place] = (230, 20)[kind - 1]
        values = {"image": image.to(torch.uint8), "depth": depth, "kind": kinds}
        values |= self.change(values) if self.change else {}
        return Sample({"image": values.pop("image")}, targets=values, key=f"{index}")


class SquaresInMemory(Squares):
    """The same, by columns."""

    def columns(self) -> Mapping[str, Any]:
        rows = [self[index].values() for index in range(len(self))]
        return {place: torch.stack([row[place] for row in rows]) for place in rows[0]}


class SquaresSource:
    """The source of these samples; `change` of the values of each split's, `fields` of what it describes."""

    class Config(SourceSettings):
        train: int = 48
        in_memory: bool = False

    def __init__(
        self,
        config: Config | None = None,
        change: Mapping[str, Change] | None = None,
        fields: Fields = FIELDS,
    ) -> None:
        self.config = config or self.Config(name="squares")
        self.change, self.described = change or {}, fields

    def fields(self) -> Fields:
        return self.described

    def split(self, name: str) -> Squares:
        kind = SquaresInMemory if self.config.in_memory else Squares
        counts = {"train": self.config.train, "val": 8, "test": 20}
        return kind(counts[name], len(name), self.change.get(name))
