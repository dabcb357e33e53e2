"""Plugins: finding and loading them, and the components they offer by name.

What is unusual: a plugin that fails in any way, at import or when a hook asks it, is set aside with its
error and a warning, and the others load (the stock entry-point loader stops at the first). A misspelt hook
is an error. Components are chosen by name from a catalogue, never by pluggy's call order. Where two plugins
offer one name, the first in the order of `discover` keeps it and the other's component is set aside with a
warning.

`JEPA_DISABLE_PLUGINS=a,b` leaves plugins out; `JEPA_TRACE_PLUGINS=1` prints every hook call.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import cache, partial
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any, TypeVar

import pluggy

from jepa_core import hookspecs
from jepa_core.errors import UserError, printable, unknown
from jepa_core.runtime.entry_points import distribution_of, entry_points, load
from jepa_core.runtime.plugin_answers import (
    describe_clash,
    read_classes,
    read_evaluations,
    read_folder,
    read_functions,
)
from jepa_core.runtime.plugin_calls import PluginError, call_plugin, process_state_kept, warn_if_slow
from jepa_core.runtime.plugin_catalogue import Catalogue, PluginStatus
from jepa_core.settings.base import (
    ComponentSettings,
    EvaluationSettings,
    ObjectiveSettings,
    SourceSettings,
    ValueSettings,
)
from jepa_core.settings.evaluations import unwrap
from jepa_core.settings.optimizer import OptimizerSettings

GROUP = "jepa"
DISTRIBUTION, BUILTIN = "jepa-core", "jepa_core.builtin"
"""This distribution, whose plugins come first, and the module of core's own plugin."""

T = TypeVar("T")

log = logging.getLogger("jepa")

KINDS: Mapping[str, str] = {
    "encoder": "jepa_encoders",
    "predictor": "jepa_predictors",
    "masker": "jepa_maskers",
    "target_update": "jepa_target_updates",
    "objective": "jepa_objectives",
    "optimizer": "jepa_optimizers",
    "data": "jepa_data",
    "transform": "jepa_transforms",
    "probe": "jepa_probes",
    "variant": "jepa_variants",
    "format": "jepa_formats",
}
"""Every kind of component and the hook that supplies it."""

FUNCTIONS: Mapping[str, str] = {
    "peer": "jepa_peers",
    "section": "jepa_sections",
    "evaluation": "jepa_evaluations",
    "command": "jepa_commands",
}
"""What plugins offer besides components, functions by name, and the hook that supplies it."""

SETTINGS: Mapping[str, type[ComponentSettings]] = {
    **dict.fromkeys(KINDS, ComponentSettings),
    "objective": ObjectiveSettings,
    "optimizer": OptimizerSettings,
    "data": SourceSettings,
    "transform": ValueSettings,
}
"""The base class of each kind's `Config`: it holds the settings that the engine itself reads."""


@dataclass
class Plugins:
    """The loaded plugins. `registry()` gives the one of this process; tests make their own."""

    manager: pluggy.PluginManager
    statuses: list[PluginStatus] = field(default_factory=list)
    """Installed plugins, in the order that decides between two components of one name."""
    _catalogues: dict[str, Catalogue] = field(default_factory=dict)
    _noted: set[str] = field(default_factory=set)

    def register(self, plugin: object, name: str) -> None:
        """Adds a module or object with hook implementations, wholly or not at all.

        Raises UserError for a misspelt hook or argument, a wrapper around a hook, a name that is taken, and a
        plugin that is registered already.
        """
        if plugin is None:
            raise UserError(f"plugin {name!r} is None; expected a module or an object with hooks")
        known = [hook for hook in vars(hookspecs) if hook.startswith("jepa_")]
        for attribute in dir(plugin):
            options = self.manager.parse_hookimpl_opts(plugin, attribute)
            if options is not None and attribute not in known:
                raise UserError(f"plugin {name!r}: {unknown('hook', attribute, known)}")
            if options is not None and (options["wrapper"] or options["hookwrapper"]):
                raise UserError(f"plugin {name!r}: {attribute} is a wrapper; expected a plain function")
        if self.manager.get_plugin(name) is not None:
            raise UserError(f"another plugin is called {name!r} and comes first")
        if (first := self.manager.get_name(plugin)) is not None:
            raise UserError(f"plugin {name!r} is registered already, as {first!r}")
        try:
            self.manager.register(plugin, name)
        except pluggy.PluginValidationError as error:
            if self.manager.is_registered(plugin):
                self.manager.unregister(plugin)
            raise UserError(f"plugin {name!r}: {' '.join(str(error).split())}") from error
        self._catalogues.clear()

    def catalogue(self, kind: str) -> Catalogue:
        """All components of a kind (a key of `KINDS`). Raises UserError for an unknown kind."""
        if kind not in self._catalogues:
            hook = KINDS.get(kind)
            if hook is None:
                raise unknown("kind of component", kind, KINDS)
            offers = self._ask(hook, partial(read_classes, kind=kind, base=SETTINGS[kind]))
            classes, owners = self._merge(kind, offers)
            self._catalogues[kind] = Catalogue(kind, classes, owners, self.statuses)
        return self._catalogues[kind]

    def functions(self, kind: str) -> tuple[dict[str, Callable[..., Any]], dict[str, str]]:
        """(functions by name, the plugin of each) of a key of `FUNCTIONS`; each may raise anything.

        Raises UserError for an unknown kind.
        """
        if kind not in FUNCTIONS:
            raise unknown("kind of function", kind, FUNCTIONS)
        read = partial(read_evaluations, base=EvaluationSettings, unwrap=unwrap)
        return self._merge(kind, self._ask(FUNCTIONS[kind], read if kind == "evaluation" else read_functions))

    def peers(self) -> dict[str, Callable[..., Any]]:
        """Training steps written another way, by name (`hookspecs.jepa_peers`)."""
        return self.functions("peer")[0]

    def sections(self) -> dict[str, Callable[..., Any]]:
        """Sections of a report, by name (`hookspecs.jepa_sections`)."""
        return self.functions("section")[0]

    def recipe_folders(self) -> dict[str, Path]:
        """Folders of recipes by plugin name."""
        return dict(self._ask("jepa_recipes", read_folder))

    def status(self, name: str) -> PluginStatus | None:
        """The installed plugin of this name, the loaded one where two have it; None for one added by hand."""
        named = [status for status in self.statuses if status.name == name]
        return next((status for status in named if status.state == "loaded"), next(iter(named), None))

    def _ask(self, hook: str, read: Callable[[Any], T]) -> list[tuple[str, T]]:
        """(plugin, what `read` makes of its answer) of each with this hook; one that fails is set aside."""
        answers = []
        for impl in sorted(getattr(self.manager.hook, hook).get_hookimpls(), key=self._precedence):
            name = impl.plugin_name
            self.manager.trace.root.get("hook")(hook, name)
            status = self.status(name)
            distribution = status.distribution if status else DISTRIBUTION
            try:
                with _watch_plugin(name, distribution, f"asking plugin {name!r} for {hook}"):
                    answers.append((name, call_plugin(lambda function: read(function()), impl.function)))
            except PluginError as error:
                self._set_aside(name, f"{hook}: {error}")
        return answers

    def _precedence(self, impl: pluggy.HookImpl) -> tuple[int, str]:
        """Installed plugins in the order of `statuses`, then those added by hand, by name."""
        names = [status.name for status in self.statuses]
        name = impl.plugin_name
        return (names.index(name) if name in names else len(names)), name

    def _set_aside(self, name: str, error: str) -> None:
        self.manager.unregister(name=name)
        self._catalogues.clear()
        for plugin in self.statuses:
            plugin.notes.clear()  # a name that it had taken may be free now
        status = self.status(name)
        if status is None:
            status = PluginStatus(name, "registered by hand", "set aside")
            self.statuses.append(status)
        status.state, status.error = "set aside", error
        log.warning("plugin %r is set aside: %s", name, error)

    def _merge(
        self, kind: str, offers: Iterable[tuple[str, Mapping[str, T]]]
    ) -> tuple[dict[str, T], dict[str, str]]:
        """(what is offered by name, the plugin of each name); of two that share a name the first stays."""
        merged: dict[str, T] = {}
        owners: dict[str, str] = {}
        for plugin, offered in offers:
            for name, component in offered.items():
                owner, first = owners.setdefault(name, plugin), merged.setdefault(name, component)
                if first is not component:
                    what = f"{kind} {name!r}"
                    self.note(plugin, describe_clash(what, (plugin, component), (owner, first)))
        return merged, owners

    def note(self, plugin: str, text: str) -> None:
        """Keeps it with the plugin's status and logs it, once: catalogues are made anew now and then."""
        status = self.status(plugin)
        if status is not None and text not in status.notes:
            status.notes.append(text)
        if text not in self._noted:
            self._noted.add(text)
            log.warning("%s", text)


def discover() -> Plugins:
    """Every installed plugin of the entry-point group `jepa`: this distribution's first, the others by name.

    By the name of their distribution, then their own: the first keeps a component's name that two offer.
    """
    manager = pluggy.PluginManager("jepa")
    manager.add_hookspecs(hookspecs)
    plugins = Plugins(manager)
    if os.environ.get("JEPA_TRACE_PLUGINS"):
        manager.trace.root.setwriter(lambda text: sys.stderr.write(printable(text, keep="\n")))
        manager.enable_tracing()
    disabled = set(filter(None, map(str.strip, os.environ.get("JEPA_DISABLE_PLUGINS", "").split(","))))
    points = sorted(entry_points(group=GROUP), key=_order)
    for name in sorted(disabled - {point.name for point in points}):
        known = ", ".join(sorted(point.name for point in points))
        log.warning("JEPA_DISABLE_PLUGINS names %r, which is not installed; known: %s", name, known)
    for point in points:
        plugins.statuses.append(_load(plugins, point, point.name in disabled))
    return plugins


def _order(point: EntryPoint) -> tuple[bool, str, str]:
    distribution = distribution_of(point)[0]
    return distribution != DISTRIBUTION and point.value != BUILTIN, distribution, point.name


def _load(plugins: Plugins, point: EntryPoint, disabled: bool) -> PluginStatus:
    distribution, version = distribution_of(point)
    origin = printable(point.value + (f" ({distribution} {version})" if distribution else ""))
    status = PluginStatus(printable(point.name), origin, "loaded", distribution=distribution)
    if disabled:
        status.state = "disabled"
        return status
    try:
        with _watch_plugin(point.name, distribution, f"importing plugin {point.name!r} from {origin}"):
            call_plugin(lambda: plugins.register(load(point), point.name))
    except PluginError as error:
        status.state, status.error = "set aside", str(error)
        log.warning("plugin %r is set aside: %s", status.name, status.error)
    return status


@contextmanager
def _watch_plugin(name: str, distribution: str, doing: str) -> Iterator[None]:
    """While a plugin's code runs: it cannot change what is the program's, and a slow one is named.

    Those of this distribution are not: the first of them imports torch, which may take long.
    """
    slow = nullcontext() if distribution == DISTRIBUTION else warn_if_slow(doing)
    with process_state_kept(f"plugin {name!r}"), slow:
        yield


@cache
def registry() -> Plugins:
    """The plugins of this process, found at the first call."""
    return discover()
