"""Finding plugins and naming their components.

What is unusual: a plugin that fails to import is set aside with its error and the others load (the
stock entry-point loader dies at the first); a misspelt hook, and a name that two plugins offer, are
errors; components are chosen by name from a catalogue, never by pluggy's call order.

`JEPA_DISABLE_PLUGINS=a,b` leaves plugins out; `JEPA_TRACE_PLUGINS=1` prints every hook call.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from functools import cache, partial
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any, TypeVar

import pluggy

from jepa_core import hookspecs
from jepa_core.errors import UserError, unknown
from jepa_core.settings.base import ComponentSettings, ObjectiveSettings, SourceSettings

GROUP = "jepa"

T = TypeVar("T")

log = logging.getLogger("jepa")

KINDS: Mapping[str, str] = {
    "encoder": "jepa_encoders",
    "predictor": "jepa_predictors",
    "masker": "jepa_maskers",
    "target_update": "jepa_target_updates",
    "objective": "jepa_objectives",
    "data": "jepa_data",
    "probe": "jepa_probes",
    "variant": "jepa_variants",
    "format": "jepa_formats",
}
"""Every kind of component and the hook that supplies it."""

SETTINGS: Mapping[str, type[ComponentSettings]] = {
    **dict.fromkeys(KINDS, ComponentSettings),
    "objective": ObjectiveSettings,
    "data": SourceSettings,
}
"""What the `Config` of each kind derives from: what the engine itself reads stands there."""


@dataclass
class PluginStatus:
    """One plugin: where it comes from and what became of it."""

    name: str
    origin: str
    state: str
    """`loaded`, `set aside` or `disabled`."""
    error: str = ""


@dataclass
class Plugins:
    """The loaded plugins. `registry()` gives the one of this process; tests make their own."""

    manager: pluggy.PluginManager
    statuses: list[PluginStatus] = field(default_factory=list)
    _catalogues: dict[str, Catalogue] = field(default_factory=dict)

    def register(self, plugin: object, name: str) -> None:
        """Adds a module or object with hook implementations, wholly or not at all.

        Raises UserError for a misspelt hook or argument, and for a wrapper around a hook.
        """
        known = [hook for hook in vars(hookspecs) if hook.startswith("jepa_")]
        for attribute in dir(plugin):
            options = self.manager.parse_hookimpl_opts(plugin, attribute)
            if options is not None and attribute not in known:
                raise UserError(f"plugin {name!r}: {unknown('hook', attribute, known)}")
            if options is not None and (options["wrapper"] or options["hookwrapper"]):
                raise UserError(f"plugin {name!r}: {attribute} is a wrapper; expected a plain function")
        try:
            self.manager.register(plugin, name)
        except pluggy.PluginValidationError as error:
            if self.manager.is_registered(plugin):
                self.manager.unregister(plugin)
            raise UserError(f"plugin {name!r}: {' '.join(str(error).split())}") from error
        self._catalogues.clear()

    def catalogue(self, kind: str) -> Catalogue:
        """All components of a kind (a key of `protocols.KINDS`)."""
        if kind not in self._catalogues:
            hook = KINDS.get(kind)
            if hook is None:
                raise unknown("kind of component", kind, KINDS)
            offers = self._ask(hook, partial(_classes, kind))
            self._catalogues[kind] = Catalogue.collect(kind, offers, self.statuses)
        return self._catalogues[kind]

    def _ask(self, hook: str, check: Callable[[Any], T]) -> list[tuple[str, T]]:
        """(plugin, what it offers) from each that implements the hook; one that fails is set aside."""
        offers = []
        for impl in sorted(getattr(self.manager.hook, hook).get_hookimpls(), key=lambda i: i.plugin_name):
            self.manager.trace.root.get("hook")(hook, impl.plugin_name)
            try:
                offers.append((impl.plugin_name, check(impl.function())))
            except Exception as error:  # a plugin may fail in any way; the others must go on
                self._set_aside(impl.plugin_name, f"{hook}: {type(error).__name__}: {error}")
        return offers

    def _set_aside(self, name: str, error: str) -> None:
        self.manager.unregister(name=name)
        self._catalogues.clear()
        for plugin in self.statuses:
            if plugin.name == name:
                plugin.state, plugin.error = "set aside", error
                return
        self.statuses.append(PluginStatus(name, "registered by hand", "set aside", error))

    def peers(self) -> dict[str, Callable[..., Any]]:
        """Training steps written another way, by name (`hookspecs.jepa_peers`)."""
        return self._functions("jepa_peers")

    def sections(self) -> dict[str, Callable[..., Any]]:
        """Sections of a report, by name (`hookspecs.jepa_sections`)."""
        return self._functions("jepa_sections")

    def _functions(self, hook: str) -> dict[str, Callable[..., Any]]:
        return {name: make for _, offered in self._ask(hook, dict) for name, make in offered.items()}

    def recipe_folders(self) -> dict[str, Path]:
        """Folders of recipes by plugin name."""
        return dict(self._ask("jepa_recipes", Path))


@dataclass(frozen=True)
class Catalogue:
    """Classes of one kind by name, with the plugin that offers each."""

    kind: str
    classes: Mapping[str, Any]
    owners: Mapping[str, str]
    statuses: Sequence[PluginStatus] = ()
    """The plugins, for the error that an unknown name gives: the one that has it may be set aside."""

    @classmethod
    def collect(
        cls,
        kind: str,
        offers: Iterable[tuple[str, Mapping[str, type]]],
        statuses: Sequence[PluginStatus] = (),
    ) -> Catalogue:
        """From (plugin, classes by name). Raises UserError where two offer one name."""
        classes: dict[str, Any] = {}
        owners: dict[str, str] = {}
        for plugin, offered in offers:
            for name, component in offered.items():
                if name in classes and classes[name] is not component:
                    raise UserError(
                        f"two plugins offer the {kind} {name!r}: {owners[name]} ({_where(classes[name])}) "
                        f"and {plugin} ({_where(component)}); disable one with JEPA_DISABLE_PLUGINS"
                    )
                classes[name], owners[name] = component, plugin
        return cls(kind, classes, owners, statuses)

    def find(self, name: str) -> Any:
        """The class for `name`: a plain name first, then a pattern.

        Raises UserError when there is none, and where the patterns of two classes match.
        """
        if name in self.classes:
            return self.classes[name]
        matching = [pattern for pattern in self.classes if fnmatchcase(name, pattern)]
        if len({self.classes[pattern] for pattern in matching}) > 1:
            offers = " and ".join(f"{pattern!r} of {self.owners[pattern]}" for pattern in matching)
            raise UserError(f"{self.kind} {name!r} matches {offers}; disable one with JEPA_DISABLE_PLUGINS")
        if matching:
            return self.classes[matching[0]]
        raise UserError(f"{unknown(self.kind, name, self.classes)}{left_out(self.statuses)}")


def _classes(kind: str, offered: Mapping[str, type]) -> dict[str, type]:
    """What a hook returned, checked: for each name a class whose nested settings are of the kind's sort."""
    base = SETTINGS[kind]
    for name, component in offered.items():
        config = getattr(component, "Config", None)
        if not isinstance(config, type):
            raise TypeError(f"the {kind} {name!r} ({component!r}) is not a class with a nested Config")
        if not issubclass(config, base):
            raise TypeError(f"{_where(config)} of the {kind} {name!r} must derive from {_where(base)}")
    return dict(offered)


def left_out(statuses: Iterable[PluginStatus]) -> str:
    """A sentence for each plugin that is not loaded: what a user looks for may be theirs."""
    absent = [plugin for plugin in statuses if plugin.state != "loaded"]
    return "".join(f" Plugin {p.name!r} is {p.state}{': ' if p.error else ''}{p.error}." for p in absent)


def _where(offered: type) -> str:
    return f"{offered.__module__}.{offered.__qualname__}"


def discover() -> Plugins:
    """A fresh manager with every installed plugin of the entry-point group `jepa`."""
    manager = pluggy.PluginManager("jepa")
    manager.add_hookspecs(hookspecs)
    plugins = Plugins(manager)
    if os.environ.get("JEPA_TRACE_PLUGINS"):
        manager.trace.root.setwriter(sys.stderr.write)
        manager.enable_tracing()
    disabled = {
        name.strip() for name in os.environ.get("JEPA_DISABLE_PLUGINS", "").split(",") if name.strip()
    }
    points = sorted(entry_points(group=GROUP), key=lambda p: p.name)
    for name in sorted(disabled - {point.name for point in points}):
        known = ", ".join(point.name for point in points)
        log.warning("JEPA_DISABLE_PLUGINS names %r, which is not installed; known: %s", name, known)
    for point in points:
        plugins.statuses.append(_load(plugins, point, point.name in disabled))
    return plugins


def _load(plugins: Plugins, point: EntryPoint, disabled: bool) -> PluginStatus:
    origin = point.value + (f" ({point.dist.name} {point.dist.version})" if point.dist else "")
    if disabled:
        return PluginStatus(point.name, origin, "disabled")
    try:
        plugins.register(point.load(), point.name)
    except Exception as error:  # a plugin may fail in any way; the others must load
        return PluginStatus(point.name, origin, "set aside", f"{type(error).__name__}: {error}")
    return PluginStatus(point.name, origin, "loaded")


@cache
def registry() -> Plugins:
    """The plugins of this process, found at the first call."""
    return discover()
