"""Checks of a recipe: it says what it is, it resolves, and its parts fit each other.

Parts are built on the meta device, so the check of a large recipe takes no longer than that of a small one.
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch

from jepa_core import plugins
from jepa_core.assembly import build_encoder, build_with, described_fields
from jepa_core.recipes.annotate import read_head
from jepa_core.recipes.files import find
from jepa_core.recipes.load import load_recipe, read, with_overrides
from jepa_core.recipes.resolve import resolve
from jepa_core.settings.describe import describe
from jepa_core.settings.recipe import Recipe
from jepa_core.testing.outcomes import require

SMALL = 5_000_000
"""Parameters up to which a recipe is also trained for a few steps."""


@dataclass(frozen=True)
class RecipeCase:
    """A recipe by name or file, with overrides."""

    name: str
    overrides: tuple[str, ...] = ()

    @cached_property
    def recipe(self) -> Recipe:
        """The resolved recipe. Data settings that it leaves to the user (a path) get a placeholder."""
        return load_recipe(self.name, *self._missing_data_settings(), *self.overrides)

    def _missing_data_settings(self) -> list[str]:
        table = with_overrides(read(self.name), self.overrides)
        data = table.get("data")
        if not isinstance(data, dict) or "name" not in data:
            return []
        source = plugins.registry().catalogue("data").find(str(data["name"]))
        missing = [s.name for s in describe(source.Config) if s.required and s.name not in data]
        return [f"data.{name}=unsaid" for name in missing]

    @cached_property
    def parameters(self) -> int:
        """Number of parameters of encoders and predictor."""
        recipe, fields = self.recipe, described_fields(self.recipe) or {}
        with torch.device("meta"):
            encoder = build_encoder("", recipe.encoder, fields)
            offered = {"fields": fields}
            predictor = build_with("predictor", recipe.predictor, encoder, encoder.width, offered=offered)
            others = [build_encoder(name, own, fields) for name, own in recipe.encoders.items()]
        return sum(p.numel() for part in (encoder, predictor, *others) for p in part.parameters())

    @property
    def path(self) -> Path:
        """The recipe's file."""
        return find(self.name)


def told(case: RecipeCase) -> None:
    """Its head comment says what it is, what it costs and what to expect (`jepa recipes`)."""
    head = read_head(case.path)
    missing = [key for key in ("what", "cost", "expected") if not vars(head)[key]]
    require(not missing, f"the head comment does not say: {', '.join(missing)}")


def resolves(case: RecipeCase) -> None:
    """Every section and setting is known, and what it resolves to is the same recipe again."""
    table = tomllib.loads(case.recipe.to_toml())
    require(resolve(table) == case.recipe, "written out and read again it is another recipe")


def fits(case: RecipeCase) -> None:
    """Encoder and predictor can be made, and the masks fit the encoder's grid."""
    require(case.parameters > 0, "encoder and predictor have no parameters")
    fields = described_fields(case.recipe) or {}
    with torch.device("meta"):
        encoder = build_encoder("", case.recipe.encoder, fields)
    masker = build_with("masker", case.recipe.masker, offered={"fields": fields})
    masker.check(encoder.grid(encoder.view_shape()))


CHECKS = (told, resolves, fits)
