"""docs/variants.md: what it says of variants that exist is what their classes do; what it names exists."""

from __future__ import annotations

import inspect
import re

import pytest

import jepa_core.jepa
from docs.write_hooks import STAGES
from jepa_core import plugins, protocols, target_updates
from jepa_core.jepa import JEPA
from jepa_core.plugins import KINDS
from jepa_core.recipes.files import names
from jepa_core.runtime import distributed
from jepa_core.settings import MaskerSettings, OptimizerSettings, TrainSettings
from jepa_core.settings.describe import describe
from jepa_core.testing.recipes import RecipeCase
from jepa_core.types import batch, index_set, mask_plan, sample, step, tokens
from tests.fresh_environment import ROOT

PAGE = (ROOT / "docs/variants.md").read_text(encoding="utf-8")
OURS = sorted(path.parent.name.removeprefix("jepa_") for path in (ROOT / "plugins").glob("*/recipes"))


def table(heading: str) -> list[list[str]]:
    """The cells of each row of the table that begins so."""
    rows = PAGE[PAGE.index(f"| {heading} |") :].partition("\n\n")[0].splitlines()[2:]
    return [[cell.strip() for cell in row.strip("|").split("|")] for row in rows]


VARIANTS = table("variant")
PLACES = table("place")
EXISTING = {row[4].strip("`"): row for row in VARIANTS if row[4].startswith("`")}


def stages_in(cell: str) -> set[str]:
    return set() if cell == "none" else set(re.findall(r"`(\w+)`", cell))


def overridden(variant: type) -> set[str]:
    """The engine's stages that a class defines anew, itself or by one between it and the engine."""
    between = [cls for cls in inspect.getmro(variant) if issubclass(cls, JEPA) and cls is not JEPA]
    return {stage for stage in STAGES for cls in between if stage in vars(cls)}


def test_every_plugin_with_recipes_has_its_row() -> None:
    assert sorted(EXISTING) == OURS


@pytest.mark.parametrize("plugin", EXISTING)
def test_the_row_of_a_plugin_names_the_stages_that_its_variants_override(plugin: str) -> None:
    """Those of the variants that its recipes train."""
    trained = {RecipeCase(name).recipe.variant.name for name in names() if name.startswith(f"{plugin}/")}
    assert trained
    catalogue = plugins.registry().catalogue("variant")
    found = set().union(*(overridden(catalogue.find(name)) for name in trained))
    assert found == stages_in(EXISTING[plugin][2])


@pytest.mark.parametrize("plugin", EXISTING)
def test_the_row_of_a_plugin_names_the_parts_that_it_supplies(plugin: str) -> None:
    supplied = {kind for kind in KINDS if plugin in plugins.registry().catalogue(kind).owners.values()}
    assert supplied == {part.replace(" ", "_") for part in EXISTING[plugin][3].split(", ")}


def test_what_counts_as_overridden_is_seen() -> None:
    class Between(JEPA):
        def views(self, batch):
            return super().views(batch)

    class Variant(Between):
        def make_targets(self, tokens, plan):
            return super().make_targets(tokens, plan)

    assert overridden(Variant) == {"views", "make_targets"}
    assert overridden(JEPA) == set()


def test_the_row_of_the_tutorial_names_what_the_tutorial_writes() -> None:
    (row,) = [row for row in VARIANTS if "tutorial.md" in row[4]]
    page = (ROOT / "docs/tutorial.md").read_text(encoding="utf-8")
    assert row[3] == re.findall(r"jepa plugins new \w+ --kind (\w+)", page)[0]
    assert stages_in(row[2]) == set()
    assert "(JEPA)" not in page


@pytest.mark.parametrize("row", VARIANTS, ids=lambda row: row[0].split(" (")[0])
def test_every_row_speaks_of_stages_and_parts_that_there_are(row: list[str]) -> None:
    assert stages_in(row[2]) <= set(STAGES)
    assert row[2] == "none" or stages_in(row[2])
    assert {part.replace(" ", "_") for part in row[3].split(", ")} <= set(KINDS)
    if stages_in(row[2]):
        assert "variant" in row[3].split(", "), "who overrides a stage brings a variant"


SETTINGS = {
    "variant": JEPA.Config,
    "masker": MaskerSettings,
    "train": TrainSettings,
    "optimizer": OptimizerSettings,
}
MODULES = (batch, index_set, mask_plan, sample, step, tokens, protocols, jepa_core.jepa, target_updates)


def test_what_is_said_to_carry_the_fifteen_places_exists() -> None:
    assert [int(row[0].partition(".")[0]) for row in PLACES] == list(range(1, 16))
    for name in re.findall(r"`([\w.]+)`", " ".join(cell for row in PLACES for cell in row[1:])):
        owner, _, attribute = name.partition(".")
        if owner in SETTINGS:
            assert attribute in {setting.name for setting in describe(SETTINGS[owner])}, name
        elif owner == "runtime":
            assert hasattr(distributed, attribute.rpartition(".")[2]), name
        elif owner[0].isupper():
            assert exists(owner, attribute), name
        else:
            assert name == "none" or name in STAGES, name


def exists(owner: str, attribute: str) -> bool:
    (module,) = [module for module in MODULES if vars(module).get(owner) and _defines(module, owner)]
    found = getattr(module, owner)
    return not attribute or hasattr(found, attribute) or attribute in vars(found).get("__annotations__", {})


def _defines(module: object, owner: str) -> bool:
    source = inspect.getsource(module)  # type: ignore[arg-type]
    return re.search(rf"class {owner}\b", source) is not None or f"\n{owner} = " in source


def test_a_footnote_leads_to_a_place() -> None:
    digits = str.maketrans("¹²³⁴⁵⁶⁷⁸⁹⁰", "1234567890")
    notes = {int(n.translate(digits)) for row in VARIANTS for n in re.findall(r"[¹²³⁴⁵⁶⁷⁸⁹⁰]+", row[1])}
    assert notes == set(range(1, 16)), "and each place is met by somebody"
