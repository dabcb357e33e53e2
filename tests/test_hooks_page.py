"""docs/hooks.md is what docs/write_hooks.py writes from the code, and says what a reader looks for."""

from __future__ import annotations

import re
from importlib import import_module

import pytest

from docs.write_hooks import CONTRACTS, PAGE, page
from jepa_core import plugins

TEXT = PAGE.read_text(encoding="utf-8")


def section(hook: str) -> str:
    return TEXT.partition(f"\n## {hook}\n")[2].partition("\n## ")[0]


def test_the_page_is_current() -> None:
    assert page() == TEXT, "run `make docs`"


def test_every_hook_that_plugins_may_have_has_a_section_and_a_row() -> None:
    hooks = vars(plugins.registry().manager.hook)
    known = {hook for hook in hooks if hook.startswith("jepa_")}
    assert set(re.findall(r"^## (\w+)$", TEXT, re.M)) == known
    assert set(re.findall(r"^\| \[`(\w+)`\]", TEXT, re.M)) == known
    assert all("```py\n@hookimpl\ndef " + hook in section(hook) for hook in known), "an example of each"


@pytest.mark.parametrize("kind", [kind for kind in plugins.KINDS if kind != "variant"])
def test_what_a_component_must_do_stands_beside_its_hook(kind: str) -> None:
    """The methods that the protocol asks for, looked up at run time rather than in the source."""
    said = section(plugins.KINDS[kind])
    file, name = re.findall(rf"`({'|'.join(map(re.escape, CONTRACTS))})\.(\w+)`", said)[0]
    protocol = getattr(import_module(f"jepa_core.{file}"), name)
    methods = [name for name, value in vars(protocol).items() if callable(value) and not name.startswith("_")]
    methods += ["__call__"] * ("__call__" in vars(protocol))
    assert methods
    assert all(f"    def {method}(" in said for method in methods)


def test_the_stages_of_the_engine_stand_beside_the_variants() -> None:
    rows = re.findall(r"^\| `(\w+)\(", section("jepa_variants"), re.M)
    assert rows[:2] == ["run_stages", "views"]
    assert {"encode_context", "predict", "make_targets", "update_target"} <= set(rows)
