"""What completion knows: recipes, components and settings of the installed plugins, kept in a file.

To name a component's settings one must import it, and torch with it: seconds. So another process does that
once and writes a JSON file to the user's cache; from then on a completion reads that. When a plugin has
changed, the file is made anew in the background and the old one serves until then.

    python -m jepa_core.cli.completion_index       # writes the file
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from importlib.metadata import EntryPoint, entry_points
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypedDict

from jepa_core.errors import UserError

BUILD_SECONDS = 60
"""After so long an unfinished file is taken for abandoned."""


class Setting(TypedDict):
    """One setting: values worth offering, as typed, and what it means."""

    values: list[str]
    means: str


class KnownRecipe(TypedDict):
    """One recipe: what it is, and the component of each section (`masker`, `terms.spread`)."""

    what: str
    components: dict[str, str]


class Known(TypedDict):
    """Everything that completion offers."""

    plugins: list[str]
    recipes: dict[str, KnownRecipe]
    components: dict[str, dict[str, dict[str, Setting]]]
    """By kind, name and setting."""
    sections: dict[str, str]
    """The kind of component of each section."""
    many: dict[str, str]
    """The same for sections that hold several: terms, probes."""
    engine: dict[str, dict[str, Setting]]
    defaults: dict[str, str]
    """The component of a section that a recipe leaves out."""


def known() -> Known | None:
    """What the installed plugins offer; None where that cannot be found out."""
    file, state = _file(), _state()
    kept = _read(file)
    if kept is None:
        subprocess.run(_command(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False)
        kept = _read(file)
    elif kept["state"] != state and not _under_way(file):
        _partial(file).touch()
        subprocess.Popen(
            _command(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
        )
    return kept["known"] if kept else None


def write() -> Path:
    """Finds out what the installed plugins offer and keeps it; returns the file."""
    file, state = _file(), _state()
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = _partial(file)
    partial.write_text(json.dumps({"state": state, "known": _collected()}), encoding="utf-8")
    partial.replace(file)
    return file


def _collected() -> Known | None:
    """None where two plugins claim a name, say: asking again would take seconds and give as little."""
    try:
        return _collect()
    except UserError:
        return None


def _collect() -> Known:
    from jepa_core import plugins
    from jepa_core.plugins import KINDS
    from jepa_core.recipes.files import names
    from jepa_core.settings.recipe import COMPONENT_SECTIONS, COMPONENT_TABLES, DEFAULTS, ENGINE_SECTIONS

    found = plugins.registry()
    return {
        "components": {
            kind: {name: _settings(of.Config) for name, of in found.catalogue(kind).classes.items()}
            for kind in KINDS
        },
        "plugins": [plugin.name for plugin in found.statuses],
        "recipes": {name: _recipe(name, path) for name, path in names().items()},
        "sections": {section: section for section in COMPONENT_SECTIONS},
        "many": dict(COMPONENT_TABLES),
        "engine": {section: _settings(model) for section, model in ENGINE_SECTIONS.items()},
        "defaults": named_components(DEFAULTS, tuple(COMPONENT_TABLES)),
    }


def _recipe(name: str, path: Path) -> KnownRecipe:
    from jepa_core.recipes.annotate import read_head
    from jepa_core.recipes.load import read, with_overrides
    from jepa_core.settings.recipe import COMPONENT_TABLES

    table = with_overrides(read(name), ())
    return {"what": read_head(path).what, "components": named_components(table, tuple(COMPONENT_TABLES))}


def named_components(table: dict[str, Any], many: tuple[str, ...]) -> dict[str, str]:
    """The component that each section of a recipe's table names: `{"masker": "union", "terms.a": "l1"}`."""
    found = {}
    entries = {section: entry for section, entry in table.items() if section not in many}
    for section in many:
        entries |= {f"{section}.{name}": entry for name, entry in dict(table.get(section, {})).items()}
    for path, entry in entries.items():
        name = entry.get("name") if isinstance(entry, dict) else entry
        if isinstance(name, str) and path != "name":
            found[path] = name
    return found


def _settings(config: type[Any]) -> dict[str, Setting]:
    from jepa_core.settings.describe import describe, toml

    offered = {}
    for setting in describe(config):
        default = setting.default if isinstance(setting.default, str) else toml(setting.default)
        values = list(setting.choices) or ([] if setting.default in (None, "") else [default])
        offered[setting.name] = Setting(
            values=[value.replace(", ", ",") for value in values], means=setting.means
        )
    return offered


def _command() -> list[str]:
    return [sys.executable, "-m", __name__]


def _file() -> Path:
    """One for each environment and each choice of plugins; not in `jepa`, where data are kept."""
    mine = f"{sys.prefix}|{os.environ.get('JEPA_DISABLE_PLUGINS', '')}"
    cache = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
    return cache / "jepa-core" / f"completion-{hashlib.sha256(mine.encode()).hexdigest()[:12]}.json"


def _partial(file: Path) -> Path:
    return file.with_suffix(".partial")


def _under_way(file: Path) -> bool:
    partial = _partial(file)
    return partial.exists() and time.time() - partial.stat().st_mtime < BUILD_SECONDS


def _read(file: Path) -> dict[str, Any] | None:
    try:
        kept = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, json.JSONDecodeError):
        return None
    return kept if isinstance(kept, dict) and kept.keys() >= {"state", "known"} else None


def _state() -> list[list[str]]:
    """The installed plugins with their versions and the newest change in their files; imports none."""
    points = sorted(entry_points(group="jepa"), key=lambda point: point.name)
    return [[point.name, point.value, _version(point), _changed(point)] for point in points]


def _version(point: EntryPoint) -> str:
    return point.dist.version if point.dist else ""


def _changed(point: EntryPoint) -> str:
    """How many files the plugin's top package has, and the newest of their times."""
    spec = find_spec(point.module.partition(".")[0])
    if spec is None or spec.origin is None:
        return ""
    origin = Path(spec.origin)
    files = list(_files(origin.parent)) if spec.submodule_search_locations else [origin]
    return f"{len(files)} {max((file.stat().st_mtime_ns for file in files), default=0)}"


def _files(folder: Path) -> Iterator[Path]:
    for suffix in ("py", "toml"):
        yield from folder.rglob(f"*.{suffix}")


if __name__ == "__main__":
    write()
