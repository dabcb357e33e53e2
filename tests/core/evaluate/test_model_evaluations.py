"""Evaluations that see the model: called, isolated, chosen, written; the built-in ones on tiny sources."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from jepa_core import UserError, hookimpl, load_recipe, plugins
from jepa_core.evaluate import EvaluationContext, EvaluationTable, MetricScore, OnRequest, share_score
from jepa_core.evaluate.evaluations import latest_table, read_table
from jepa_core.evaluate.model_evaluations import choose_evaluations, evaluate_with
from jepa_core.evaluate.regression import regression
from jepa_core.evaluate.retrieval import retrieval
from jepa_core.evaluate.run import evaluate_run
from jepa_core.evaluate.zero_shot import zero_shot
from jepa_core.runs.events_file import record
from jepa_core.types import Batch, Field, Sample
from tests.made_runs import make_run

WORDS = ("red", "green", "blue", "grey", "white", "black", "pink", "brown")


class Pairs:
    """Pictures of one colour, each with its name as a caption, its brightness as a target."""

    classes = WORDS
    note = "pictures of colours"

    def __init__(self, count: int, seed: int) -> None:
        draw = torch.Generator().manual_seed(seed)
        self.colours = torch.rand(count, 3, generator=draw)

    def __len__(self) -> int:
        return len(self.colours)

    def __getitem__(self, index: int) -> Sample:
        colour = self.colours[index]
        image = (colour[:, None, None] * 255).to(torch.uint8).expand(3, 16, 16)
        text = " ".join(f"{value:.2f}" for value in colour)
        return Sample(
            {"image": image, "caption": text},
            targets={"light": colour.mean(), "colour": colour, "word": "no vector"},
            label=index % len(WORDS),
        )


class PairSource:
    def split(self, name: str) -> Pairs:
        return Pairs({"train": 60, "test": 40}[name], seed=len(name))

    def fields(self) -> Mapping[str, Field]:
        return {"targets.light": Field("vector", (1,), units="cd"), "views.image": Field("image")}


class Colours(torch.nn.Module):
    """Embeds a picture by its mean colour and a caption by the numbers in it, each class name as a corner."""

    text_view = "caption"
    prompts = ("{}", "a thing that is {}")

    def __init__(self, knows: bool = True) -> None:
        super().__init__()
        self.knows = torch.nn.Parameter(torch.tensor(float(knows)))

    @property
    def encoder(self) -> Colours:
        return self

    def view_shape(self) -> tuple[int, ...]:
        return (3, 16, 16)

    def features(self, view: Tensor, role: str = "target", pool: str | None = "mean") -> Tensor:
        assert not self.training
        assert not torch.is_grad_enabled()
        return view.mean((2, 3)) * self.knows

    def embed(self, views: Mapping[str, Any]) -> dict[str, Tensor]:
        assert not self.training
        made = {}
        if "image" in views:
            made["image"] = views["image"].mean((2, 3)) * 0.2 * self.knows + 0.5
        if "caption" in views:
            rows = [self._read(text) for text in views["caption"]]
            made["caption"] = torch.tensor(rows) * self.knows
        return {name: values - 0.5 * self.knows for name, values in made.items()}

    def _read(self, text: str) -> list[float]:
        words = text.split()
        if words[-1] in WORDS:
            number = WORDS.index(words[-1])
            return [float(number >> bit & 1) for bit in range(3)]
        return [float(word) for word in words]


@pytest.fixture
def context(tiny_recipe: Path) -> EvaluationContext:
    recipe = load_recipe(tiny_recipe, "transform.mean=[0.5,0.5,0.5]", "transform.std=[0.2,0.2,0.2]")
    return EvaluationContext(recipe, Colours().train(), Colours(knows=False), PairSource())  # type: ignore[arg-type]


def values(table: EvaluationTable, metric: str) -> dict[str, float]:
    return {row.name: row.scores[metric].value for row in table.rows}


def test_retrieval_knows_pairs_and_its_controls_are_at_chance(context: EvaluationContext) -> None:
    (table,) = evaluate_with({"retrieval": retrieval}, context)
    assert (table.name, table.task, table.split, table.count, table.samples) == (
        "retrieval",
        None,
        "test",
        40,
        "pairs",
    )
    scores = values(table, "r1")
    assert list(scores) == ["trained", "random twin", "shuffled pairs"]
    assert scores["trained"] > 0.9
    assert scores["random twin"] == pytest.approx(1 / 40)
    assert scores["shuffled pairs"] < 0.15
    assert table.rows[0].scores["r1"].chance == pytest.approx(1 / 40)
    assert "Scored on 40 pairs of the test split." in table.caption()
    assert "chance 2.5 % (r1), 12.5 % (r5)" in table.caption()
    before = torch.get_rng_state()
    again = evaluate_with({"retrieval": retrieval}, context)
    assert torch.equal(torch.get_rng_state(), before)
    assert again == [table], "controls are drawn with a seed"
    assert context.model.training, "the mode is what it was"


def test_zero_shot_reads_the_names_of_classes(context: EvaluationContext) -> None:
    (table,) = evaluate_with({"zero_shot": zero_shot}, context)
    scores = values(table, "top1")
    assert list(scores) == ["trained", "random twin", "shuffled names"]
    assert scores["random twin"] == pytest.approx(1 / 8), "one embedding for all is at chance"
    expected = [
        WORDS.index(WORDS[sum(int(value > 0.5) << bit for bit, value in enumerate(colour))]) == index % 8
        for index, colour in enumerate(Pairs(40, 4).colours.tolist())
    ]
    assert scores["trained"] == pytest.approx(sum(expected) / 40)
    assert "8 classes by their names as '{}', 'a thing that is {}'" in table.note
    assert table.samples == "images"


def test_regression_tells_every_vector_in_its_unit(context: EvaluationContext) -> None:
    light, colour = evaluate_with({"regression": regression}, context)
    assert (light.task, colour.task) == ("light", "colour")
    assert [row.name for row in light.rows] == ["trained", "random twin", "raw pixels"]
    assert light.rows[0].scores["rmse"].unit == "cd"
    assert colour.rows[0].scores["rmse"].unit == ""
    assert values(light, "r2")["trained"] > 0.99
    assert values(light, "r2")["random twin"] == pytest.approx(0, abs=0.02)
    assert "Ridge fitted on 60 training images." in light.caption()
    assert "lower is better: rmse" in light.caption()
    assert light.head() == ["regression: light", "r2", "rmse, cd"]


def test_what_has_no_answer_gives_no_table(context: EvaluationContext, tiny_recipe: Path) -> None:
    from jepa_core import build_model
    from jepa_core.assembly import build

    recipe = load_recipe(tiny_recipe)
    model = build_model(recipe)
    plain = EvaluationContext(recipe, model, model, build("data", recipe.data))
    everything = choose_evaluations(recipe, None)
    assert {"retrieval", "zero_shot", "regression"} <= set(everything)
    assert evaluate_with(everything, plain) == []


def test_one_on_request_is_made_where_it_is_named(judge: None, tiny_recipe: Path) -> None:
    def chosen(*overrides: str, names: list[str] | None = None) -> set[str]:
        return {"slow", "sizes"} & set(choose_evaluations(load_recipe(tiny_recipe, *overrides), names))

    assert chosen() == {"sizes"}
    assert chosen("evaluations.slow=true", "evaluations.sizes=false") == {"slow"}
    assert chosen(names=["slow"]) == {"slow"}
    recipe = load_recipe(tiny_recipe, "evaluations.slow=true")
    assert "slow = true" in recipe.to_toml()


def row(value: float = 0.5) -> dict[str, MetricScore]:
    return {"size": MetricScore(value=value, unit="mm", better="lower")}


class Judge:
    """A plugin whose evaluations succeed and fail in every way."""

    @hookimpl
    def jepa_evaluations(self) -> dict[str, Any]:
        return {
            "sizes": lambda context: context.table({"trained": row(), "random twin": row(2)}, count=3),
            "slow": OnRequest(lambda context: context.table({"trained": row()}, count=1)),
            "draws": lambda context: context.table({"trained": row(torch.rand(()).item())}, count=1),
            "broken": self.broken,
            "leaves": lambda context: sys.exit(0),
            "odd": lambda context: 3,
            "twice": lambda context: [context.table({"trained": row()}, count=1)] * 2,
            "uneven": lambda context: context.table({"a": row(), "b": {}}, count=1),
        }

    def broken(self, context: EvaluationContext) -> EvaluationTable:
        raise UserError("no goal was given")


@pytest.fixture
def judge() -> Iterator[None]:
    registry = plugins.registry()
    registry.register(plugin := Judge(), "judge")
    yield
    registry.manager.unregister(plugin)


FAILURES = {
    "broken": "no goal was given",
    "leaves": "SystemExit: 0",
    "odd": "TypeError: it returns int; expected an EvaluationTable, a list of them, or None",
    "twice": "ValueError: two of its tables are called alike: twice, twice; give each a task",
    "uneven": "row 'b' has the scores none; expected those of the first row: size",
}


@pytest.fixture
def run(tmp_path: Path, tiny_recipe: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("JEPA_DATA", str(tmp_path / "data"))
    make_run(tmp_path / "run", tiny_recipe)
    return tmp_path / "run"


def test_one_that_fails_costs_its_own_table(run: Path, judge: None, caplog: pytest.LogCaptureFixture) -> None:
    result = evaluate_run(run, [])
    tables = {table.name: table for table in result.evaluations}
    assert set(tables) == {"sizes", "draws", *FAILURES}
    assert values(tables["sizes"], "size") == {"trained": 0.5, "random twin": 2}
    for name, said in FAILURES.items():
        assert said in tables[name].error
        assert not tables[name].rows
        (line,) = [line for line in caplog.messages if line.startswith(f"evaluation {name!r} ")]
        assert line.startswith(f"evaluation {name!r} of plugin 'judge' is left out: ")
        assert said in line
        assert tables[name].caption().startswith("Left out: ")
    written = json.loads((run / "eval.json").read_text())["evaluations"]
    table = next(entry for entry in written if entry["name"] == "sizes")
    assert table["rows"][0] == {
        "name": "trained",
        "scores": {
            "size": {"value": 0.5, "se": None, "sd": None, "unit": "mm", "chance": None, "better": "lower"}
        },
    }
    assert {"task", "split", "count", "samples"} <= table.keys()
    assert read_table(run / "eval.json") == result


def test_names_choose_and_a_recipe_leaves_out(run: Path, judge: None) -> None:
    assert [t.name for t in evaluate_run(run, [], evaluations=["sizes"]).evaluations] == ["sizes"]
    assert evaluate_run(run, [], evaluations=[]).evaluations == ()
    with pytest.raises(UserError, match=r"unknown evaluation 'size'; known: .*Did you mean 'sizes'\?"):
        evaluate_run(run, [], evaluations=["size"])
    left_out = [f"evaluations.{name}=false" for name in (*FAILURES, "draws")]
    recipe = load_recipe(run / "recipe.toml", *left_out)
    assert [name for name in choose_evaluations(recipe, None) if name in recipe.evaluations] == []
    assert "sizes" in choose_evaluations(recipe, None)
    assert list(choose_evaluations(recipe, ["broken"])) == ["broken"], "a name goes before the recipe"


def test_a_table_without_evaluations_reads_as_before(run: Path) -> None:
    evaluate_run(run, [])
    old = json.loads((run / "eval.json").read_text())
    del old["evaluations"], old["transfer"]
    (run / "eval.json").write_text(json.dumps(old))
    assert read_table(run / "eval.json").evaluations == ()


def test_the_command_prints_tables_and_chooses(jepa, run: Path, judge: None) -> None:
    said = jepa("eval", run, "--probes", "knn", "--evaluations", "sizes,draws")
    assert said.code == 0
    assert "size, mm" in said.out
    assert "Scored on 3 samples of the test split." in said.out
    told = json.loads(jepa("eval", run, "--evaluations", "sizes", "--evaluations", "draws", "--json").out)
    assert [table["name"] for table in told["evaluations"]] == ["sizes", "draws"]
    assert json.loads(jepa("eval", run, "--evaluations", "none", "--json").out)["evaluations"] == []
    wrong = jepa("eval", run, "--evaluations", "sizs")
    assert (wrong.code, wrong.err.count("\n")) == (2, 1)
    assert "unknown evaluation 'sizs'" in wrong.err


def write_folder(folder: Path, size: tuple[int, int]) -> Path:
    """A folder of three classes of pictures of another size."""
    import numpy as np
    from PIL import Image

    random = np.random.default_rng(0)
    for split, count in (("train", 8), ("test", 5)):
        for label, name in enumerate(("x", "y", "z")):
            place = folder / split / name
            place.mkdir(parents=True)
            for number in range(count):
                pixels = random.integers(0, 80, (*size, 3)) + 60 * label
                Image.fromarray(pixels.astype("uint8")).save(place / f"{number}.png")
    return folder


def test_another_data_set_is_transfer_and_stands_beside_the_runs_own(
    jepa, run: Path, judge: None, tmp_path: Path
) -> None:
    from jepa_core.report.write import write_report

    record(run, "started", 0, data="64 blobs; a note")
    own = evaluate_run(run, [], evaluations=["sizes"])
    assert (own.transfer, own.classes, own.evaluations[0].transfer) == (None, 2, None)
    photos = write_folder(tmp_path / "photos", (40, 23))
    said = jepa("eval", run, "data.name=folder", f"data.path={photos}", "--json", "--evaluations", "sizes")
    assert said.code == 0, said.err
    told = json.loads(said.out)
    assert (told["transfer"], told["classes"], told["held_out_images"]) == ("npz: 64 blobs", 3, 15)
    assert told["rows"][0]["scores"]["knn"]["top1"] > 0.6
    assert told["evaluations"][0]["transfer"] == "npz: 64 blobs"
    assert [r["name"] for r in told["rows"]] == ["trained", "random twin", "raw pixels"]
    assert read_table(run / "eval.json") == own, "the run's own table stays"
    assert latest_table(run) == own
    page = write_report([run], probes=False, images=8).read_text(encoding="utf-8")
    assert "Transfer: the run was trained on npz: 64 blobs." in page
    shown = jepa("eval", run, "data.name=folder", f"data.path={photos}", "--evaluations", "none").out
    assert "Transfer: the run was trained on npz: 64 blobs." in " ".join(shown.split())


def test_the_same_data_by_other_settings_of_reading_is_no_transfer(run: Path) -> None:
    record(run, "started", 0, data="64 blobs")
    assert evaluate_run(run, [], overrides=["data.max_corrupt=0.2"], evaluations=[]).transfer is None


def test_a_context_draws_the_same_numbers_for_a_purpose(context: EvaluationContext) -> None:
    first, again, other = (torch.randperm(50, generator=context.generator(p)) for p in ("a", "a", "b"))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_batches_keep_to_the_draw_and_hold_all_parts(context: EvaluationContext) -> None:
    from dataclasses import replace

    few = replace(context, images=7, batch_size=3)
    batches = list(few.batches("train"))
    assert [batch.batch_size for batch in batches] == [3, 3, 1]
    first: Batch = batches[0]
    assert first.views["image"].shape == (3, 3, 16, 16)
    assert isinstance(first.views["caption"][0], str)
    assert first.targets["colour"].shape == (3, 3)
    assert first.labels is not None
    total = share_score([1, 0], 0.5)
    assert few.table({"trained": {"hits": total}}, count=7).split == "test"


def test_what_a_recipe_leaves_out_is_written_and_read_again(
    tiny_recipe: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert "evaluations" not in load_recipe(tiny_recipe).to_table(), "identities of old recipes stay"
    recipe = load_recipe(tiny_recipe, "evaluations.retrieval=false", "evaluations.regression=true")
    wanted = {"retrieval": False, "regression": True}
    assert recipe.evaluations == wanted
    (tmp_path / "again.toml").write_text(recipe.to_toml(), encoding="utf-8")
    assert load_recipe(tmp_path / "again.toml").evaluations == wanted
    assert load_recipe(tmp_path / "again.toml", "evaluations.retrieval=true").evaluations["retrieval"]
    assert not caplog.records
    gone = load_recipe(tiny_recipe, "evaluations.retreival=false")
    assert gone.evaluations == {"retreival": False}, "a run opens after a plugin is gone"
    assert "leaves out an unknown evaluation 'retreival'" in caplog.text
    assert "Did you mean 'retrieval'?" in caplog.text
