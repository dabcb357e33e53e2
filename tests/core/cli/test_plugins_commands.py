"""`jepa plugins` and `show`, for people and as JSON."""

from __future__ import annotations

import json

import pytest

from jepa_core import plugins
from jepa_core.plugins import PluginStatus


@pytest.mark.parametrize("words", [["plugins"], ["plugins", "list"]])
def test_plugins_and_their_components_are_listed(jepa, words: list[str]) -> None:
    listed = json.loads(jepa(*words, "--json").out)
    state = {plugin["name"]: plugin["state"] for plugin in listed["plugins"]}
    assert (state["core"], state["ijepa"]) == ("loaded", "loaded")
    assert listed["components"]["masker"]["multiblock"] == "ijepa"
    assert listed["components"]["objective"]["smooth_l1"] == "core"
    shown = jepa(*words).out
    assert all(name in shown for name in ("core", "ijepa", "multiblock", "vit_*", "smooth_l1"))


def test_a_plugin_that_is_set_aside_is_listed_with_its_error(jepa, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = PluginStatus(
        "broken", "broken (broken 0.1)", "set aside", "ImportError: no module named 'nothing'"
    )
    monkeypatch.setattr(plugins.registry(), "statuses", [*plugins.registry().statuses, broken])
    assert "\nbroken is set aside: ImportError: no module named 'nothing'\n" in jepa("plugins").out


def test_a_component_is_shown_with_its_settings(jepa) -> None:
    shown = jepa("plugins", "show", "multiblock").out
    assert shown.startswith("masker multiblock  of plugin ijepa: ")
    rows = {line.split()[0]: line for line in shown.splitlines()[2:]}
    assert "[0.15, 0.2]" in rows["target_scale"], "a default is shown as it is typed"
    assert "name" not in rows, "the name is what one asked for"
    assert rows["targets"].endswith("Target blocks of a sample (paper: 4). (a whole number from 1 to 32)")


def test_a_name_that_a_pattern_stands_for_is_shown(jepa) -> None:
    shown = jepa("plugins", "show", "vit_tiny_patch16_224").out
    assert shown.startswith("encoder vit_tiny_patch16_224  of plugin ijepa: ")
    assert "patch_size" in shown


def test_a_plugin_is_shown_with_a_row_for_each_class(jepa) -> None:
    shown = jepa("plugins", "show", "ijepa").out
    assert shown.startswith("plugin ijepa  loaded, from jepa_ijepa (jepa-core ")
    rows = [line.split() for line in shown.splitlines()]
    assert ["masker", "multiblock"] in [row[:2] for row in rows]
    assert ["predictor", "vit_predictor"] in [row[:2] for row in rows]
    assert sum(row[0] == "encoder" for row in rows) == 1, "one row a class, not one a name"
    assert "target_scale" not in shown


def test_what_is_shown_is_also_json(jepa) -> None:
    shown = json.loads(jepa("plugins", "show", "multiblock", "--json").out)
    (component,) = shown["components"]
    assert (component["kind"], component["plugin"], shown["plugins"]) == ("masker", "ijepa", [])
    settings = {setting["name"]: setting for setting in component["settings"]}
    assert settings["truncate"]["choices"] == ["none", "first", "random"]
    assert settings["target_scale"]["default"] == [0.15, 0.2]
    (plugin,) = json.loads(jepa("plugins", "show", "ijepa", "--json").out)["plugins"]
    assert {"kind": "masker", "names": ["random"]}.items() <= next(
        offer for offer in plugin["offers"] if offer["names"] == ["random"]
    ).items()
