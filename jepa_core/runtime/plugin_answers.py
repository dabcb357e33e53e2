"""Checks of what a plugin's hooks return: names, classes, functions, folders.

Each function returns the answer in its plain form. It raises TypeError or ValueError, saying what came and
what was expected, for anything else.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from jepa_core.errors import printable


def read_classes(answer: Any, kind: str, base: type) -> dict[str, type]:
    """`{name: class}`; each class nests settings as `Config`, which derives from `base`."""
    for name, component in _read_names(answer, kind).items():
        config = getattr(component, "Config", None)
        if not isinstance(component, type) or not isinstance(config, type):
            raise TypeError(f"the {kind} {name!r} ({component!r}) is not a class with a nested Config")
        for documented in (component, config):
            if not isinstance(documented.__doc__, str | None):
                raise TypeError(f"the docstring of {location(documented)} is {documented.__doc__!r}")
        if not issubclass(config, base):
            public = f"jepa_core.settings.{base.__name__}"
            raise TypeError(f"{location(config)} of the {kind} {name!r} must derive from {public}")
    return dict(answer)


def read_functions(answer: Any) -> dict[str, Callable[..., Any]]:
    """`{name: function}`."""
    for name, function in _read_names(answer, "function").items():
        if not callable(function):
            raise TypeError(f"{name!r} is {function!r}; expected a function")
    return dict(answer)


def read_evaluations(answer: Any, base: type, unwrap: Callable[[Any], Any]) -> dict[str, Callable[..., Any]]:
    """`{name: function or class}`; a class nests settings as `Config`, which derives from `base`."""
    functions = read_functions(answer)
    classes = {name: unwrap(offer) for name, offer in functions.items()}
    read_classes({name: c for name, c in classes.items() if isinstance(c, type)}, "evaluation", base)
    return functions


def read_folder(answer: Any) -> Path:
    """The path of a folder that is there."""
    if not isinstance(answer, str | os.PathLike):
        raise TypeError(f"returned {answer!r}; expected the path of a folder")
    folder = Path(answer)
    if not folder.is_dir():
        raise ValueError(f"returned {str(folder)!r}, which is not a folder")
    return folder


def describe_clash(what: str, later: tuple[str, Any], first: tuple[str, Any]) -> str:
    """A sentence on two plugins that offer one name; each is (plugin, component)."""
    return (
        f"the {what} of plugin {later[0]!r} ({location(later[1])}) is set aside: plugin {first[0]!r} "
        f"({location(first[1])}), whose distribution comes first, offers one too; "
        "JEPA_DISABLE_PLUGINS leaves a plugin out"
    )


def location(component: Any) -> str:
    """`package.module.Name` of a class or function."""
    module = getattr(component, "__module__", type(component).__module__)
    return printable(f"{module}.{getattr(component, '__qualname__', type(component).__name__)}")


def _read_names(answer: Any, kind: str) -> Mapping[str, Any]:
    if not isinstance(answer, Mapping):
        raise TypeError(f"returned {answer!r}; expected a mapping {{name: {kind}}}")
    for name in answer:
        if not isinstance(name, str):
            raise TypeError(
                f"the {kind} {name!r} has a name of type {type(name).__name__}; expected a string"
            )
        if not name or printable(name) != name or any(char.isspace() for char in name):
            raise ValueError(f"the {kind} {name!r}: expected a name without blanks and control characters")
    return answer
