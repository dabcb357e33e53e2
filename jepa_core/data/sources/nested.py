"""A source inside the settings of another, as `mix` and `labelled` have them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from jepa_core import plugins
from jepa_core.errors import UserError
from jepa_core.protocols import Source
from jepa_core.settings.parse import parse


def build_source(table: Mapping[str, Any], section: str) -> Source:
    """The source that a table names, as [data] does. Raises UserError for what is wrong with the table."""
    catalogue = plugins.registry().catalogue("data")
    if not isinstance(table.get("name"), str):
        known = ", ".join(sorted(catalogue.classes))
        raise UserError(f"section [{section}] has no name; known: {known}")
    offered = catalogue.find(table["name"])
    settings = parse(offered.Config, table, section)
    settings.check()
    made: Source = offered(settings)
    return made
