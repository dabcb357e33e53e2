"""A small source of samples with several named values, for the tests: pictures, texts, actions, states."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from jepa_core import Field, Sample
from jepa_core.data import BaseSamples
from jepa_core.settings.base import SourceSettings
from jepa_core.types.sample import Fields

FIELDS: Fields = {
    "views.image": Field("image"),
    "views.caption": Field("text"),
    "condition.actions": Field("sequence", (None, 2), units="m/s"),
    "targets.state": Field("vector", (3,)),
}
WORDS = ("a red square", "a blue disc of many colours", "green", "the white line below it")


class Pairs(BaseSamples):
    """n samples that differ in every value; `changed` replaces values of some by their number."""

    note = "pairs; made for tests"
    classes = ("even", "odd")

    def __init__(self, count: int, changed: Mapping[int, Mapping[str, Any]] | None = None) -> None:
        self.count, self.changed = count, dict(changed or {})

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Any:
        values = self.values(index) | dict(self.changed.get(index, {}))
        parts: dict[str, dict[str, Any]] = {}
        for place, value in values.items():
            if value is None:
                continue
            part, _, name = place.partition(".")
            parts.setdefault(part, {})[name] = value
        return Sample(**parts, label=index % 2, key=f"pair-{index}")

    def values(self, index: int) -> dict[str, Any]:
        """All values of a sample, by place."""
        image = torch.full((3, 16, 16), index % 256, dtype=torch.uint8)
        return {
            "views.image": image,
            "views.caption": f"{WORDS[index % 4]} {index}",
            "condition.actions": torch.arange(2.0 * (1 + index % 3)).view(-1, 2) + index,
            "targets.state": torch.tensor([index, 2.0 * index, 5.0]),
        }


class PairsInMemory(Pairs):
    """The same, by columns."""

    def columns(self) -> Mapping[str, Any]:
        rows = [self.values(index) for index in range(len(self))]
        columns: dict[str, Any] = {place: [row[place] for row in rows] for place in rows[0]}
        columns["views.image"] = torch.stack(columns["views.image"])
        return {**columns, "label": torch.arange(len(self)) % 2}


class PairsSource:
    """The source of these samples."""

    class Config(SourceSettings):
        count: int = 24
        in_memory: bool = False
        seed: int = 0

    def __init__(self, config: Config) -> None:
        self.config = config

    def fields(self) -> Fields:
        return FIELDS

    def split(self, name: str) -> Pairs:
        kind = PairsInMemory if self.config.in_memory else Pairs
        return kind(self.config.count if name == "train" else 6)


def columns_of(view: Tensor) -> list[int]:
    """The number that each image [B, 3, H, W] shows, where it is drawn without a mean or a scale."""
    return (view[:, 0, 0, 0] * 255).round().int().tolist()
