"""docs/plugins.md lists the properties that are asked, and each says what it is."""

from __future__ import annotations

import re
from pathlib import Path

from jepa_core.testing import recipes, suites
from jepa_core.testing import subject as common

PAGE = (Path(__file__).parents[3] / "docs" / "plugins.md").read_text(encoding="utf-8")


def test_the_table_names_every_property_in_order() -> None:
    rows = dict(re.findall(r"^\| ([a-z ]+) \| (.+) \|$", PAGE, re.M))
    asked = {kind.replace("_", " "): checks for kind, (_, checks) in suites.SUITES.items()}
    for kind, checks in {"every": common.CHECKS, **asked}.items():
        assert rows[kind] == ", ".join(prop.__name__.replace("_", " ") for prop in checks)
    told = ", ".join(prop.__name__ for prop in recipes.CHECKS)
    assert rows["recipe"].startswith(f"{told};")


def test_every_property_says_what_it_is() -> None:
    every = [*common.CHECKS, *recipes.CHECKS, *(p for _, checks in suites.SUITES.values() for p in checks)]
    assert all(prop.__doc__ and prop.__doc__.strip().endswith(".") for prop in every)
