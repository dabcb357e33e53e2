"""Settings in words: what they may be, their default as TOML, their meaning."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from pydantic import Field, PositiveInt

from jepa_core import ComponentSettings
from jepa_core.plugins import KINDS
from jepa_core.settings import Settings
from jepa_core.settings.describe import bounds, describe, summary, toml

Share = Annotated[float, Field(gt=0, le=1)]


class Blur(Settings):
    """A nested table."""

    sigma: float = Field(1.0, ge=0.5, lt=4)
    """Standard
    deviation."""


class Example(ComponentSettings):
    """One setting of each sort."""

    count: PositiveInt = 3
    sides: PositiveInt | tuple[PositiveInt, PositiveInt] = 224
    shares: tuple[Share, Share] = (0.5, 1.0)
    mixed: tuple[int, str] = (1, "a")
    many: list[float] = Field([0.1])
    shape: Literal["linear", "cosine"] = "linear"
    power: Literal[1, 2] | None = None
    last: bool = True
    where: Path | None = None
    blur: Blur = Blur()
    extra: dict[str, int] = Field({})


ALLOWED = {
    "name": "text",
    "count": "a whole number above 0",
    "sides": "a whole number above 0 or a list of 2 whole numbers above 0",
    "shares": "a list of 2 numbers above 0 and up to 1",
    "mixed": "a list of 2 values",
    "many": "a list of numbers",
    "shape": "linear or cosine",
    "power": "1 or 2",
    "last": "true or false",
    "where": "a path",
    "extra": "a table",
    "blur.sigma": "a number from 0.5 and below 4",
}


def test_what_a_setting_may_be_is_said_in_words() -> None:
    assert {setting.name: setting.allowed for setting in describe(Example)} == ALLOWED


def test_defaults_choices_and_meaning() -> None:
    by_name = {setting.name: setting for setting in describe(Example)}
    assert by_name["name"].required
    assert not by_name["count"].required
    assert by_name["shares"].default == [0.5, 1.0]
    assert by_name["power"].choices == ("1", "2")
    assert by_name["last"].choices == ("true", "false")
    assert by_name["sides"].choices == ()
    assert by_name["blur.sigma"].means == "Standard deviation."


@pytest.mark.parametrize(
    ("value", "typed"),
    [
        (None, "not set"),
        (True, "true"),
        ("batch", '"batch"'),
        ([0.15, 0.2], "[0.15, 0.2]"),
        (1e-8, "1e-08"),
        ({"a": 1, "b": None}, "{a = 1}"),
    ],
)
def test_values_are_shown_as_they_are_typed(value: Any, typed: str) -> None:
    assert toml(value) == typed


@pytest.mark.parametrize(
    ("allowed", "means", "shown", "said"),
    [
        ("a number above 0", "Width.", 1.0, " (a number above 0)"),
        ("a number above 0", "Width.", None, " (a number above 0)"),
        ("a number", "Width.", 1.0, ""),
        ("a number", "Width.", None, " (a number)"),
        ("true or false", "Whether.", False, ""),
        ("area or sides", "How.", "area", " (area or sides)"),
        ("area or sides", "`area`: the one; `sides`: the other.", "area", ""),
        ("text", "Name.", None, ""),
    ],
)
def test_bounds_are_said_where_nothing_else_says_them(
    allowed: str, means: str, shown: Any, said: str
) -> None:
    assert bounds(allowed, means, shown) == said


def test_a_type_without_a_schema_is_listed_without_its_bounds() -> None:
    class Odd(ComponentSettings):
        steps: Callable[[], int] | None = None
        count: int = Field(2, ge=1)

    assert [(s.name, s.default, s.allowed) for s in describe(Odd)] == [
        ("name", None, ""),
        ("steps", None, ""),
        ("count", 2, ""),
    ]


def test_every_registered_component_can_be_described() -> None:
    from jepa_core import plugins

    for kind in KINDS:
        for name, component in plugins.registry().catalogue(kind).classes.items():
            assert summary(component), f"{kind} {name} says what it is"
            for setting in describe(component.Config):
                assert setting.means, f"{kind} {name}: {setting.name} says what it means"
                assert toml(setting.default)
