"""Evaluations with settings: read from a recipe, written again, chosen, kept in a run's table, drawn."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from jepa_core import UserError, hookimpl, load_recipe, plugins
from jepa_core.evaluate import EvaluationContext, EvaluationTable, MetricScore, OnRequest
from jepa_core.evaluate.evaluations import read_table
from jepa_core.evaluate.model_evaluations import choose_evaluations, evaluate_with
from jepa_core.evaluate.run import evaluate_run
from jepa_core.evaluate.score_tables import make_rows
from jepa_core.recipes.annotate import Head, to_commented_toml
from jepa_core.report.low_shot_curve import draw_curves, low_shot_section, shots_of
from jepa_core.settings import EvaluationSettings
from tests.made_runs import make_run


class Measure:
    """A length that its settings say."""

    class Config(EvaluationSettings):
        """Settings of the length."""

        length: float = 1.0
        """In metres."""

    def __init__(self, config: Config) -> None:
        self.config = config

    def __call__(self, context: EvaluationContext) -> EvaluationTable:
        """One table."""
        score = MetricScore(value=self.config.length, unit="m")
        return context.table({"trained": {"length": score}, "random twin": {"length": score}}, count=1)


class Judge:
    """A plugin with a class as an evaluation, made always and on request."""

    @hookimpl
    def jepa_evaluations(self) -> dict[str, Any]:
        return {"measure": OnRequest(Measure), "always": Measure}


@pytest.fixture(autouse=True)
def _judge() -> Iterator[None]:
    registry = plugins.registry()
    registry.register(plugin := Judge(), "judge")
    yield
    registry.manager.unregister(plugin)


def lengths(recipe_file: Path, names: list[str] | None, *overrides: str) -> dict[str, float]:
    recipe = load_recipe(recipe_file, *overrides)
    chosen = {n: f for n, f in choose_evaluations(recipe, names).items() if n in ("measure", "always")}
    context: Any = EvaluationContext(recipe, *[_Nothing()] * 2, None)  # type: ignore[arg-type]
    return {table.name: table.own["length"].value for table in evaluate_with(chosen, context)}


class _Nothing:
    def modules(self) -> list[Any]:
        return []

    def eval(self) -> None:
        """Has no mode."""


def test_settings_reach_the_evaluation_and_ask_for_it(tiny_recipe: Path, tmp_path: Path) -> None:
    assert lengths(tiny_recipe, None) == {"always": 1.0}
    assert lengths(tiny_recipe, None, "evaluations.measure=true") == {"measure": 1.0, "always": 1.0}
    assert lengths(tiny_recipe, None, "evaluations.measure.length=3") == {"measure": 3.0, "always": 1.0}
    assert lengths(tiny_recipe, ["measure"], "evaluations.measure.length=3") == {"measure": 3.0}
    assert lengths(tiny_recipe, None, "evaluations.always=false") == {}
    asked = tmp_path / "asked.toml"
    asked.write_text(load_recipe(tiny_recipe, "evaluations.measure.length=3").to_toml(), encoding="utf-8")
    assert lengths(asked, None) == {"measure": 3.0, "always": 1.0}
    assert lengths(asked, None, "evaluations.measure=false") == {"always": 1.0}


def test_settings_are_written_and_read_again(tiny_recipe: Path, tmp_path: Path) -> None:
    recipe = load_recipe(tiny_recipe, "evaluations.measure.length=3", "evaluations.retrieval=false")
    for number, text in enumerate((recipe.to_toml(), to_commented_toml(recipe, Head()))):
        (file := tmp_path / f"{number}.toml").write_text(text, encoding="utf-8")
        assert load_recipe(file).evaluations == recipe.evaluations
    assert "# A length that its settings say.\n[evaluations.measure]" in to_commented_toml(recipe, Head())


@pytest.mark.parametrize(
    ("override", "reason"),
    [
        (
            "evaluations.measure.lenth=3",
            r"unknown setting 'evaluations.measure.lenth'.*Did you mean 'length'\?",
        ),
        ("evaluations.measure.length=far", "setting 'evaluations.measure.length' is 'far'"),
        ("evaluations.retrieval.k=3", "expected true or false: the evaluation has no settings"),
        ("evaluations.measure=3", "expected false, which leaves the evaluation out, or true, or a table"),
    ],
)
def test_wrong_settings_are_one_line(tiny_recipe: Path, override: str, reason: str) -> None:
    with pytest.raises(UserError, match=reason):
        load_recipe(tiny_recipe, override)


def test_a_class_without_settings_sets_its_plugin_aside(caplog: pytest.LogCaptureFixture) -> None:
    class Bare:
        @hookimpl
        def jepa_evaluations(self) -> dict[str, Any]:
            return {"bare": Bare}

    registry = plugins.registry()
    registry.register(Bare(), "bare")
    assert "bare" not in registry.functions("evaluation")[0]
    assert "is not a class with a nested Config" in caplog.text
    registry.statuses[:] = [status for status in registry.statuses if status.name != "bare"]


def test_the_command_line_shows_and_takes_settings(
    jepa: Any, tiny_recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JEPA_DATA", str(tmp_path / "data"))
    said = jepa("plugins", "show", "measure")
    assert "evaluation measure" in said.out
    assert "In metres." in said.out
    make_run(run := tmp_path / "run", tiny_recipe)
    assert jepa("eval", run, "evaluations.measure.length=4", "evaluations.always=false").code == 0
    (table,) = read_table(run / "eval.json").evaluations
    assert (table.name, table.own["length"].value) == ("measure", 4.0)
    evaluate_run(run, [], evaluations=["always"])
    assert [t.name for t in read_table(run / "eval.json").evaluations] == ["always", "measure"]
    evaluate_run(run, [], evaluations=["measure"])
    again = {t.name: t.own["length"].value for t in read_table(run / "eval.json").evaluations}
    assert again == {"measure": 1.0, "always": 1.0}, "made anew, it replaces the earlier one"


def low_shot_table(*counts: int, task: str = "logistic") -> EvaluationTable:
    scores = {
        row: {
            **{
                f"n{n}": MetricScore(value=0.1 + 0.01 * n + add, sd=0.01, unit="share", chance=0.1)
                for n in counts
            },
            "percent1": MetricScore(value=0.3, sd=0.01, unit="share", chance=0.1),
        }
        for row, add in (("trained", 0.05), ("random twin", 0.0))
    }
    return EvaluationTable(name="low_shot", task=task, split="test", count=40, rows=make_rows(scores))


def test_the_low_shot_curve_draws_every_row_of_every_table() -> None:
    table = low_shot_table(5, 1, 12)
    assert shots_of(table) == {"n1": 1, "n5": 5, "n12": 12}
    section = low_shot_section([table, low_shot_table(1, 5, task="knn"), low_shot_table(7)])
    assert section is not None
    figure = section.figure()
    drawn = [axis for axis in figure.axes if axis.get_lines()]
    assert [axis.get_title() for axis in drawn] == ["logistic", "knn"], "one point is no curve"
    line = drawn[0].get_lines()[0]
    assert list(line.get_xdata()) == [1, 5, 12]
    assert list(line.get_ydata()) == pytest.approx([16, 20, 27])
    assert drawn[0].get_xscale() == "log"
    assert low_shot_section([low_shot_table(7)]) is None
    assert len(draw_curves([table] * 4).axes) == 6
