"""Settings: strict, frozen, and one line that says what came and what is allowed."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import Field, ValidationError

from jepa_core import ComponentSettings, UserError
from jepa_core.protocols import settings_of
from jepa_core.settings import Settings, TrainSettings, parse


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
        ({"count": "4"}, "setting 'masker.count' is '4'; expected a valid integer"),
        ({"count": True}, "setting 'masker.count' is True; expected a valid integer"),
        ({"count": 4.0}, "setting 'masker.count' is 4.0; expected a valid integer"),
        ({"count": 0}, "setting 'masker.count' is 0; expected greater than or equal to 1"),
        ({"scale": 0.1}, "setting 'masker.scale' is 0.1; expected a list of values"),
        ({"scale": [0.1]}, "setting 'masker.scale' is [0.1]; expected at least 2 values"),
        ({"scale": [0.1, 0.2, 0.3]}, "setting 'masker.scale' is [0.1, 0.2, 0.3]; expected at most 2 values"),
        ({"scale": [0.1, "b"]}, "setting 'masker.scale.1' is 'b'; expected a valid number"),
        ({"size": "big"}, "setting 'masker.size' is 'big'; expected a valid integer or a list of values"),
        ({"inner": {"share": 2}}, "setting 'masker.inner.share' is 2; expected less than or equal to 1"),
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


def test_a_validators_own_words_are_the_expectation() -> None:
    from jepa_core.settings import OptimizerSettings

    with pytest.raises(UserError) as error:
        parse(OptimizerSettings, {"betas": [0.9, 1.0]}, "optimizer")
    assert "expected betas from 0 up to but not 1; got [0.9, 1.0]" in str(error.value)


def test_settings_do_not_change() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        TrainSettings().steps = 3  # type: ignore[misc]


def test_the_text_under_a_field_is_shown_to_users() -> None:
    shown = {name: (default, said) for name, default, said in settings_of(Example)}
    assert shown["count"] == ("4", "How many.")
    assert shown["path"] == ("required", "Where it lies.")


def test_every_setting_of_every_component_and_of_the_engine_says_what_it_means() -> None:
    from jepa_core import plugins
    from jepa_core.protocols import KINDS
    from jepa_core.recipes import ENGINE

    offered = [cls.Config for kind in KINDS for cls in plugins.get().catalogue(kind).classes.values()]
    silent = [
        f"{model.__qualname__}.{name}"
        for model in {*offered, *ENGINE.values()}
        for name, field in model.model_fields.items()
        if not field.description and name != "name"
    ]
    assert silent == []
