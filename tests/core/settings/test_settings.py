"""Settings: strict, frozen, and one line that says what came and what is allowed."""

from __future__ import annotations

import math
from datetime import date
from pathlib import Path

import pytest
from pydantic import Field, ValidationError, field_validator, model_validator

from jepa_core import ComponentSettings, UserError
from jepa_core.settings import Settings, TrainSettings, parse
from jepa_core.settings.describe import describe


class Inner(Settings):
    """Settings inside settings."""

    share: float = Field(0.5, ge=0, le=1)
    """How much."""


class Example(ComponentSettings):
    """One setting of each sort."""

    count: int = Field(4, ge=1)
    """How many."""
    scale: tuple[float, float] = (0.1, 0.2)
    """From, to."""
    size: int | tuple[int, int] = 8
    """Side, or both sides."""
    path: Path
    """Where it lies."""
    inner: Inner = Inner()
    """More."""


def given(**values: object) -> Example:
    return parse(Example, {"name": "x", "path": "/data", **values}, "masker")


def test_plain_values_become_the_settings_types() -> None:
    mine = given(scale=[0.3, 1], size=[2, 3], inner={"share": 1})
    assert (mine.scale, mine.size, mine.path, mine.inner.share) == ((0.3, 1.0), (2, 3), Path("/data"), 1.0)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"count": "4"}, "setting 'masker.count' is '4'; expected a whole number from 1"),
        ({"count": True}, "setting 'masker.count' is true; expected a whole number from 1"),
        ({"count": 4.0}, "setting 'masker.count' is 4.0; expected a whole number from 1"),
        ({"count": 0}, "setting 'masker.count' is 0; expected a whole number from 1"),
        ({"scale": 0.1}, "setting 'masker.scale' is 0.1; expected a list of 2 numbers"),
        ({"scale": [0.1]}, "setting 'masker.scale' is [0.1]; expected a list of 2 numbers"),
        ({"scale": [1, 2, 3]}, "setting 'masker.scale' is [1, 2, 3]; expected a list of 2 numbers"),
        (
            {"scale": [1, math.nan]},
            "setting 'masker.scale' is [1, nan]; expected a list of 2 numbers, and finite",
        ),
        (
            {"scale": [0.0] * 40},
            f"setting 'masker.scale' is [{'0.0, ' * 15}0.0…; expected a list of 2 numbers",
        ),
        ({"scale": [0.1, "b"]}, "setting 'masker.scale' is [0.1, 'b']; expected a list of 2 numbers"),
        (
            {"size": "big"},
            "setting 'masker.size' is 'big'; expected a whole number or a list of 2 whole numbers",
        ),
        (
            {"size": date(2026, 5, 1)},
            "setting 'masker.size' is 2026-05-01; expected a whole number or a list of 2 whole numbers",
        ),
        ({"path": 3}, "setting 'masker.path' is 3; expected a path"),
        ({"inner": 3}, "setting 'masker.inner' is 3; expected a table of settings"),
        ({"inner": {"share": 2}}, "setting 'masker.inner.share' is 2; expected a number from 0 to 1"),
        ({"inner": {"shar": 2}}, "unknown setting 'masker.inner.shar'; known: share. Did you mean 'share'?"),
        (
            {"cuont": 2},
            "unknown setting 'masker.cuont'; known: count, inner, name, path, scale, size. "
            "Did you mean 'count'?",
        ),
        ({"zzz": 2}, "unknown setting 'masker.zzz'; known: count, inner, name, path, scale, size."),
    ],
)
def test_what_is_wrong_is_one_exact_line(values: dict[str, object], said: str) -> None:
    with pytest.raises(UserError) as error:
        given(**values)
    assert str(error.value) == said


def test_a_required_setting_says_what_it_is_for() -> None:
    with pytest.raises(UserError) as error:
        parse(Example, {"name": "x"}, "data")
    assert str(error.value) == "setting 'data.path' is required: Where it lies."


class Judged(Settings):
    """Settings whose validators speak."""

    low: int = 0
    """The lower one."""
    high: int = 9
    """The higher one."""
    inner: Inner = Inner()
    """More."""

    @field_validator("low")
    @classmethod
    def _even(cls, low: int) -> int:
        if low == 13:
            raise UserError("13 brings bad luck")
        if low % 2:
            raise ValueError("an even number")
        return low

    @model_validator(mode="after")
    def _ordered(self) -> Judged:
        if self.low > self.high:
            raise ValueError(f"low up to high; they are {self.low} and {self.high}")
        return self


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"low": 3}, "setting 'x.low' is 3; expected an even number"),
        ({"low": 10}, "section [x]: expected low up to high; they are 10 and 9"),
        ({"low": 13}, "13 brings bad luck"),
        ({"high": 1.5}, "setting 'x.high' is 1.5; expected a whole number"),
    ],
)
def test_a_validators_own_words_go_before(values: dict[str, object], said: str) -> None:
    with pytest.raises(UserError) as error:
        parse(Judged, values, "x")
    assert str(error.value) == said


def test_values_that_no_file_of_settings_holds_are_a_line() -> None:
    """Settings also come from files of weights, whose JSON may nest without end or hold half a character."""
    nested: dict[str, object] = {}
    for _ in range(500):
        nested = {"deeper": nested}
    with pytest.raises(UserError, match=r"^section 'train' holds what no setting can .maximum serialization"):
        parse(TrainSettings, {"steps": nested}, "train")
    with pytest.raises(UserError, match=r"^section 'train' holds what no setting can .surrogates"):
        parse(TrainSettings, {"device": "\udc80"}, "train")


def test_settings_do_not_change() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        TrainSettings().steps = 3  # type: ignore[misc]


def test_the_text_under_a_field_is_shown_to_users() -> None:
    shown = {setting.name: (setting.default, setting.means) for setting in describe(Example)}
    assert shown["count"] == (4, "How many.")
    assert shown["path"] == (None, "Where it lies.")


def test_every_setting_of_every_component_and_of_the_engine_says_what_it_means() -> None:
    from jepa_core import plugins
    from jepa_core.plugins import KINDS
    from jepa_core.settings.recipe import ENGINE_SECTIONS

    offered = [cls.Config for kind in KINDS for cls in plugins.registry().catalogue(kind).classes.values()]
    silent = [
        f"{model.__qualname__}.{name}"
        for model in {*offered, *ENGINE_SECTIONS.values()}
        for name, field in model.model_fields.items()
        if not field.description and name != "name"
    ]
    assert silent == []
