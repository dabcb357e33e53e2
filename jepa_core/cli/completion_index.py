"""What completion offers: recipes, components and settings of the installed plugins, kept in a file.

To list a component's settings one must import it, and torch with it: seconds. So another process does that
once and writes a JSON file to the user's cache, which a completion reads. When a plugin has changed, the file
is made anew in the background, and the old content serves until then.

    python -m jepa_core.cli.completion_index       # writes the file
"""

from __future__ import annotations

import hashlib
import inspect
import json
import os
import subprocess
import sys
from importlib.metadata import EntryPoint
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypedDict

from jepa_core.errors import UserError
from jepa_core.runtime.atomic_write import atomic_write
from jepa_core.runtime.entry_points import distribution_of, entry_points

ENGINE = "engine"
"""The kind under which the engine's own sections stand, each as a component of its section's name."""


class Offer(TypedDict):
    """One setting: values worth offering, as typed, and what it means."""

    values: list[str]
    means: str


class Known(TypedDict):
    """Everything that completion offers."""

    plugins: list[str]
    recipes: dict[str, dict[str, Any]]
    """By name: `what` it is, and `components`, the name that each section has (`masker`, `terms.spread`)."""
    components: dict[str, dict[str, dict[str, Offer]]]
    """By kind, name and setting."""
    sections: dict[str, str]
    """The kind of component of each section."""
    tables: dict[str, str]
    """The same for sections that hold several components: terms, probes."""
    defaults: dict[str, str]
    """The component of a section that a recipe leaves out."""
    evaluations: list[str]
    """Those that see the model."""
    commands: dict[str, str]
    """What plugins add to `jepa`, with the first line of the help."""


def load_known() -> Known | None:
    """What the installed plugins offer; None where that cannot be found out."""
    file = _file()
    if file is None:
        return None
    index = _read(file)
    if index is None:
        subprocess.run(_command(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False)
        index = _read(file)
    elif index["state"] != _state():
        _write(file, index["known"])  # with the new state, so that no further process is started meanwhile
        subprocess.Popen(
            _command(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
        )
    return index["known"] if index else None


def write() -> None:
    """Finds out what the installed plugins offer and writes it to the file."""
    file = _file()
    if file is not None:
        try:
            _write(file, _collect())
        except UserError:  # plugins at odds, say: asking again would take seconds and give as little
            _write(file, None)


def _write(file: Path, offers: Known | None) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    atomic_write(file, json.dumps({"state": _state(), "known": offers}))


def _collect() -> Known:
    from jepa_core import plugins
    from jepa_core.plugins import KINDS
    from jepa_core.recipes.annotate import read_head
    from jepa_core.recipes.files import names
    from jepa_core.recipes.load import read, with_overrides
    from jepa_core.settings.recipe import COMPONENT_SECTIONS, COMPONENT_TABLES, DEFAULTS, ENGINE_SECTIONS

    registry, tables = plugins.registry(), tuple(COMPONENT_TABLES)
    components = {
        kind: {name: _offers(of.Config) for name, of in registry.catalogue(kind).classes.items()}
        for kind in KINDS
    }
    components[ENGINE] = {section: _offers(model) for section, model in ENGINE_SECTIONS.items()}
    recipes = {}
    for name, path in names().items():
        try:
            chosen = named_components(with_overrides(read(name), ()), tables)
        except UserError:  # one recipe that cannot be read takes no other from the list
            chosen = {}
        recipes[name] = {"what": read_head(path).what, "components": chosen}
    return {
        "plugins": [plugin.name for plugin in registry.statuses],
        "recipes": recipes,
        "components": components,
        "sections": {name: name for name in COMPONENT_SECTIONS} | dict.fromkeys(ENGINE_SECTIONS, ENGINE),
        "tables": dict(COMPONENT_TABLES),
        "defaults": named_components(DEFAULTS, tables) | {section: section for section in ENGINE_SECTIONS},
        "commands": _commands(registry),
        "evaluations": sorted(registry.functions("evaluation")[0]),
    }


def _commands(registry: Any) -> dict[str, str]:
    """The commands of plugins, each with the first line of its help."""
    offered, _ = registry.functions("command")
    texts = {name: command.__doc__ for name, command in offered.items() if inspect.isfunction(command)}
    return {name: (texts.get(name) or "").strip().partition("\n")[0] for name in offered}


def named_components(table: dict[str, Any], tables: tuple[str, ...]) -> dict[str, str]:
    """The component that each section of a recipe's table names: `{"masker": "union", "terms.a": "l1"}`."""
    entries = {section: entry for section, entry in table.items() if section not in (*tables, "name")}
    for section in tables:
        inside = table.get(section)
        if isinstance(inside, dict):
            entries |= {f"{section}.{name}": entry for name, entry in inside.items()}
    names = {path: entry.get("name") if isinstance(entry, dict) else entry for path, entry in entries.items()}
    return {path: name for path, name in names.items() if isinstance(name, str)}


def _offers(config: type[Any]) -> dict[str, Offer]:
    from jepa_core.settings.describe import describe, toml

    offers = {}
    for setting in describe(config):
        default = setting.default if isinstance(setting.default, str) else toml(setting.default)
        values = list(setting.choices) or ([] if setting.default in (None, "") else [default])
        offers[setting.name] = Offer(
            values=[value.replace(", ", ",") for value in values], means=setting.means
        )
    return offers


def _command() -> list[str]:
    return [sys.executable, "-m", __name__]


def _file() -> Path | None:
    """One for each environment and each choice of plugins; None for a user without a home folder."""
    cache = os.path.expanduser(os.environ.get("XDG_CACHE_HOME") or "~/.cache")
    if cache.startswith("~"):
        return None
    key = f"{sys.prefix}|{os.environ.get('JEPA_DISABLE_PLUGINS', '')}"
    name = f"completion-{hashlib.sha256(key.encode(errors='surrogateescape')).hexdigest()[:12]}.json"
    return Path(cache) / "jepa-core" / name


def _read(file: Path) -> dict[str, Any] | None:
    try:
        index = json.loads(file.read_bytes()) if file.is_file() else None
    except (OSError, ValueError, RecursionError):
        return None
    if not isinstance(index, dict) or not index.keys() >= {"state", "known"}:
        return None
    offers = index["known"]
    complete = isinstance(offers, dict) and offers.keys() >= Known.__annotations__.keys()
    return index if complete or offers is None else None


def _state() -> list[list[str]]:
    """The installed plugins with their versions and the newest change in their files; imports none."""
    points = sorted(entry_points(group="jepa"), key=lambda point: point.name)
    return [[point.name, point.value, distribution_of(point)[1], _file_state(point)] for point in points]


def _file_state(point: EntryPoint) -> str:
    """How many files the plugin's top package has, and the newest of their times."""
    try:
        spec = find_spec(point.value.partition(":")[0].partition(".")[0])
    except (ImportError, ValueError):  # it names no module
        return ""
    if spec is None or spec.origin is None:
        return ""
    origin = Path(spec.origin)
    inside = [path for suffix in ("py", "toml") for path in origin.parent.rglob(f"*.{suffix}")]
    files = inside if spec.submodule_search_locations else [origin]
    return f"{len(files)} {max((file.stat().st_mtime_ns for file in files), default=0)}"


if __name__ == "__main__":
    write()
