"""The plugins: loaded, set aside with their error, or disabled; components set aside for their name."""

from __future__ import annotations

import os
from collections.abc import Iterator

from jepa_core import plugins
from jepa_core.doctor.check import Check
from jepa_core.plugins import KINDS, PluginStatus
from jepa_core.recipes.files import names


def check_plugins() -> Iterator[Check]:
    """A check for each plugin, for each component set aside, and for each unknown name that is disabled."""
    offers = _offers()
    statuses = plugins.registry().statuses
    for status in statuses:
        yield _plugin(status, offers.get(status.name, {}))
        for note in status.notes:
            yield Check("plugins", "names", "warning", note, "rename one of the two, or disable one plugin")
    known = ", ".join(status.name for status in statuses)
    for name in sorted(_disabled_names() - {status.name for status in statuses}):
        text = f"JEPA_DISABLE_PLUGINS names {name!r}, which is not installed; known: {known}"
        yield Check("plugins", "disabled", "warning", text, "correct the variable, or drop the name from it")


def _plugin(status: PluginStatus, offers: dict[str, list[str]]) -> Check:
    details = {**vars(status), "offers": offers}
    if status.state == "set aside":
        advice = f"mend or update {status.origin}, or leave it out: JEPA_DISABLE_PLUGINS={status.name}"
        return Check("plugins", status.name, "problem", f"set aside: {status.error}", advice, details)
    counts = [_count(len(offered), kind) for kind, offered in offers.items()]
    offer = f"; offers {', '.join(counts)}" if counts else ""
    return Check(
        "plugins", status.name, "ok", f"{status.state}, from {status.origin}{offer}", details=details
    )


def _offers() -> dict[str, dict[str, list[str]]]:
    """Names of components and recipes by plugin and kind."""
    offers: dict[str, dict[str, list[str]]] = {}
    for kind in KINDS:
        for name, owner in plugins.registry().catalogue(kind).owners.items():
            offers.setdefault(owner, {}).setdefault(kind, []).append(name)
    for recipe in names():
        offers.setdefault(recipe.partition("/")[0], {}).setdefault("recipe", []).append(recipe)
    return offers


def _count(number: int, kind: str) -> str:
    """`1 masker`, `4 target updates`."""
    what = {"data": "source of data"}.get(kind, kind).replace("_", " ")
    first, space, rest = what.partition(" of ")
    return f"{number} {first}{'s' * (number != 1)}{space}{rest}"


def _disabled_names() -> set[str]:
    names = os.environ.get("JEPA_DISABLE_PLUGINS", "").split(",")
    return {name.strip() for name in names if name.strip()}
