"""What plugins offer of one kind by name, and the state of each plugin."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any

from jepa_core.errors import BuildError, UserError, describe_error, unknown


@dataclass
class PluginStatus:
    """One installed plugin: where it comes from and whether it is in use."""

    name: str
    origin: str
    """`module (distribution version)`."""
    state: str
    """`loaded`, `set aside` or `disabled`."""
    error: str = ""
    notes: list[str] = field(default_factory=list)
    """What of a loaded plugin is not in use, a sentence each: a component whose name another one has."""
    distribution: str = ""
    """Normalised name of what installed it; empty where that is not known."""


@dataclass(frozen=True)
class Catalogue:
    """Classes of one kind by name, with the plugin that offers each."""

    kind: str
    classes: Mapping[str, Any]
    owners: Mapping[str, str]
    statuses: Sequence[PluginStatus] = ()
    """All plugins: the error for an unknown name lists those that are not loaded."""

    def find(self, name: str) -> Any:
        """The class for `name`: a plain name first, then a pattern.

        Raises UserError when there is none, and where the patterns of two classes match.
        """
        return self.classes[self._offered_as(name)]

    def construct(self, name: str, *arguments: Any, **named: Any) -> Any:
        """A new component: the class for `name`, called with these arguments.

        Raises UserError as `find` does and as the constructor does, and BuildError, a line that names plugin
        and component, for any other exception of it.
        """
        offered = self._offered_as(name)
        try:
            return self.classes[offered](*arguments, **named)
        except UserError:
            raise
        except Exception as error:  # a constructor is foreign code; what it raises is its plugin's fault
            raise BuildError(
                f"plugin {self.owners[offered]!r}: {self.kind.replace('_', ' ')} {name!r} cannot be built: "
                f"{describe_error(error)}"
            ) from error

    def _offered_as(self, name: str) -> str:
        """The name or pattern that a component of this name is offered as. Raises UserError as `find`."""
        if name in self.classes:
            return name
        matching = [pattern for pattern in self.classes if fnmatchcase(name, pattern)]
        if len({self.classes[pattern] for pattern in matching}) > 1:
            offers = " and ".join(f"{pattern!r} of {self.owners[pattern]}" for pattern in matching)
            raise UserError(f"{self.kind} {name!r} matches {offers}; disable one with JEPA_DISABLE_PLUGINS")
        if matching:
            return matching[0]
        raise UserError(f"{unknown(self.kind, name, self.classes)}{left_out(self.statuses)}")


def left_out(statuses: Iterable[PluginStatus]) -> str:
    """A sentence for each plugin that is not loaded: the name that a user looks for may be one of its."""
    absent = [plugin for plugin in statuses if plugin.state != "loaded"]
    return "".join(f" Plugin {p.name!r} is {p.state}{': ' if p.error else ''}{p.error}." for p in absent)
