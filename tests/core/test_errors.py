"""Errors: what came, what is known, and the nearest name."""

from __future__ import annotations

from jepa_core.errors import UserError, nearest, unknown


def test_unknown_names_what_came_what_is_known_and_what_was_meant() -> None:
    error = unknown("masker", "multiblok", ["random", "multiblock", "block"])
    assert isinstance(error, UserError)
    assert isinstance(error, ValueError)
    assert str(error) == (
        "unknown masker 'multiblok'; known: block, multiblock, random. Did you mean 'multiblock'?"
    )


def test_nothing_is_suggested_where_nothing_is_near() -> None:
    assert str(unknown("probe", "zzz", ["knn"])) == "unknown probe 'zzz'; known: knn."


def test_nothing_known_is_said_too() -> None:
    assert str(unknown("encoder", "vit", [])) == "unknown encoder 'vit'; known: none."


def test_nearest_takes_the_closest() -> None:
    assert nearest("randon", ["rasterised", "random"]) == " Did you mean 'random'?"
