"""Entry points of all installed distributions, also where one of them is damaged.

`importlib.metadata.entry_points` raises as soon as any distribution on the path has a list of entry points
that cannot be read; here that distribution is left out with a warning.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from importlib import metadata
from importlib.metadata import Distribution, EntryPoint
from typing import Any

from jepa_core.errors import UserError, describe_error, printable

log = logging.getLogger("jepa")


def entry_points(group: str) -> Sequence[EntryPoint]:
    """The entry points of a group; of two distributions of one name those of the first on the path."""
    try:
        return tuple(metadata.entry_points(group=group))
    except Exception:  # any distribution may be damaged in any way; which one is found out below
        return _of_each_distribution(group)


def load(point: EntryPoint) -> Any:
    """The object of an entry point.

    Raises UserError for a name that cannot be a plugin's and a value that names no module, and whatever the
    import raises.
    """
    if not re.fullmatch(r"[^\s/,]+", point.name) or not point.name.isprintable():
        raise UserError("expected a name without blanks, commas, slashes and control characters")
    if not re.fullmatch(r"[\w.]+(:[\w.]+)?(\s*\[.*\])?", point.value):
        raise UserError(
            f"its entry point is {point.value!r}; expected package.module or package.module:object"
        )
    return point.load()


def distribution_of(point: EntryPoint) -> tuple[str, str]:
    """(normalised name, version) of what installed it; empty where its metadata do not say."""
    if point.dist is None:
        return "", ""
    try:
        return re.sub(r"[-_.]+", "-", point.dist.name).lower(), point.dist.version
    except (TypeError, KeyError, OSError, ValueError):  # an installation that was cut off
        return "", ""


def _of_each_distribution(group: str) -> list[EntryPoint]:
    points: dict[str, list[EntryPoint]] = {}
    for distribution in metadata.distributions():
        try:
            own = [point for point in distribution.entry_points if point.group == group]
            points.setdefault(str(distribution.name).lower(), own)
        except Exception as error:  # damaged in any way; the others are still of use
            log.warning("the plugins of %s are left out: %s", _place(distribution), describe_error(error))
    return [point for own in points.values() for point in own]


def _place(distribution: Distribution) -> str:
    """The folder of its metadata."""
    return printable(getattr(distribution, "_path", "a distribution"))
