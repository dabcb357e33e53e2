"""The plugins: loaded, set aside with their error, or disabled; and names that two of them claim."""

from __future__ import annotations

import os
from collections.abc import Iterator

from jepa_core import plugins
from jepa_core.doctor.check import Check
from jepa_core.errors import UserError
from jepa_core.plugins import KINDS
from jepa_core.recipes.files import names


def installed() -> Iterator[Check]:
    """One check a plugin, one for each clash of names, one for a name that cannot be disabled."""
    offers, clashes = _offers()
    found = plugins.registry().statuses
    for plugin in found:
        details = {**vars(plugin), "offers": offers.get(plugin.name, {})}
        if plugin.state == "set aside":
            advice = f"mend or update {plugin.origin}, or leave it out: JEPA_DISABLE_PLUGINS={plugin.name}"
            yield Check("plugins", plugin.name, "problem", f"set aside: {plugin.error}", advice, details)
        else:
            counts = [_count(len(names), kind) for kind, names in offers.get(plugin.name, {}).items()]
            offer = f"; offers {', '.join(counts)}" if counts else ""
            said = f"{plugin.state}, from {plugin.origin}{offer}"
            yield Check("plugins", plugin.name, "ok", said, details=details)
    for clash in clashes:
        yield Check("plugins", "names", "problem", clash)
    for name in _disabled() - {plugin.name for plugin in found}:
        known = ", ".join(plugin.name for plugin in found)
        said = f"JEPA_DISABLE_PLUGINS names {name!r}, which is not installed; known: {known}"
        yield Check("plugins", "disabled", "warning", said, "correct the variable, or drop the name from it")


def _offers() -> tuple[dict[str, dict[str, list[str]]], list[str]]:
    """(names by plugin and kind, what is wrong with a kind's names)."""
    offers: dict[str, dict[str, list[str]]] = {}
    clashes = []
    for kind in KINDS:
        try:
            owners = plugins.registry().catalogue(kind).owners
        except UserError as error:
            clashes.append(str(error))
            continue
        for name, owner in owners.items():
            offers.setdefault(owner, {}).setdefault(kind, []).append(name)
    for recipe in names():
        offers.setdefault(recipe.partition("/")[0], {}).setdefault("recipe", []).append(recipe)
    return offers, clashes


def _count(number: int, kind: str) -> str:
    """`1 masker`, `4 target updates`."""
    what = {"data": "source of data"}.get(kind, kind).replace("_", " ")
    first, space, rest = what.partition(" of ")
    return f"{number} {first}{'s' * (number != 1)}{space}{rest}"


def _disabled() -> set[str]:
    names = os.environ.get("JEPA_DISABLE_PLUGINS", "").split(",")
    return {name.strip() for name in names if name.strip()}
