"""Runs that start with weights of elsewhere: what is loaded, kept, frozen, refused; two stages."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from jepa_core import JEPA, Run, UserError, build_model, hookimpl, load_recipe, train
from jepa_core.evaluate.run import evaluate_run
from jepa_core.formats.exporting import export_run
from jepa_core.report.summary import read
from jepa_core.report.text import facts
from jepa_core.runs import checkpoints
from jepa_core.runs.events_file import read_events
from jepa_core.runs.initial_weights import load_initial_weights, read_initial_weights
from jepa_core.runs.load import open_initial_model, open_model
from jepa_core.runs.metrics_file import read_metrics
from tests.core.runs.test_run import Watcher
from tests.made_runs import make_run


@pytest.fixture
def source(tmp_path: Path, tiny_recipe: Path) -> Path:
    """A run whose context and target encoder differ."""
    make_run(tmp_path / "source", tiny_recipe)
    return tmp_path / "source"


def start(tiny_recipe: Path, *overrides: str) -> JEPA:
    """The recipe's model as a run begins with it."""
    recipe = load_recipe(tiny_recipe, *overrides)
    model = build_model(recipe)
    load_initial_weights(model, read_initial_weights(recipe), recipe.to_table()["transform"])
    return model


def same(one: torch.nn.Module, other: torch.nn.Module) -> bool:
    first, second = one.state_dict(), other.state_dict()
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("role", ["target", "context"])
def test_an_encoder_and_its_teacher_start_with_the_encoder_of_a_run(tiny_recipe, source, role) -> None:
    _, other, _ = open_model(source)
    model = start(tiny_recipe, f"init.encoder.run={source}", f"init.encoder.role={role}")
    wanted = other.target_encoder if role == "target" else other.encoder
    assert same(model.encoder, wanted)
    assert same(model.target_encoder, wanted)
    assert not same(model.predictor, other.predictor)


def test_a_teacher_may_have_weights_of_its_own(tiny_recipe, source) -> None:
    _, other, _ = open_model(source)
    tables = (f"init.encoder.run={source}", "init.encoder.role=context", f"init.target_encoder.run={source}")
    model = start(tiny_recipe, *tables)
    assert same(model.encoder, other.encoder)
    assert same(model.target_encoder, other.target_encoder)


def test_the_whole_model_is_loaded_and_a_part_goes_before_it(tiny_recipe, source) -> None:
    _, other, _ = open_model(source)
    assert same(start(tiny_recipe, f"init.model.run={source}"), other)
    mixed = start(
        tiny_recipe,
        f"init.target_encoder.run={source}",
        "init.target_encoder.role=context",
        f"init.model.run={source}",
    )
    assert same(mixed.target_encoder, other.encoder)


def test_a_file_of_weights_is_read_by_the_formats(tiny_recipe, source) -> None:
    file = export_run(source, "safetensors").path
    _, other, _ = open_model(source)
    assert same(start(tiny_recipe, f"init.encoder.file={file}").encoder, other.target_encoder)


def test_the_random_twin_stays_random(tiny_recipe, source) -> None:
    recipe = load_recipe(tiny_recipe, f"init.encoder.run={source}")
    assert same(build_model(recipe), build_model(load_recipe(tiny_recipe)))


@pytest.fixture
def finished(tmp_path: Path, tiny_recipe: Path, source: Path) -> Run:
    """A run that started with the source's encoder; the source is gone afterwards."""
    recipe = load_recipe(
        tiny_recipe, f"init.encoder.run={source}", "train.keep=1", "train.checkpoint_every=2"
    )
    run = train(recipe, tmp_path / "run", watch=[])
    shutil.copytree(source, tmp_path / "elsewhere")
    shutil.rmtree(source)
    return run


def test_a_runs_folder_is_enough_when_the_source_is_gone(tmp_path: Path, finished: Run) -> None:
    steps = [checkpoints.step_of(path) for path in checkpoints.list_checkpoints(finished.folder)]
    assert steps == [0, 6]
    recipe, _, step = open_model(finished.folder)
    assert step == 6
    initial = open_initial_model(finished.folder, recipe)
    assert initial is not None
    assert same(initial.encoder, open_model(tmp_path / "elsewhere")[1].target_encoder)
    export_run(finished.folder, "safetensors")
    shutil.rmtree(finished.folder / "checkpoints" / "step-00000006")
    with pytest.raises(UserError, match="tells of one of step 6"):
        train(recipe, finished.folder, resume=True, watch=[])


def test_a_resumed_run_is_the_run_that_never_stopped(tmp_path, tiny_recipe, source) -> None:
    recipe = load_recipe(tiny_recipe, f"init.encoder.run={source}", "train.checkpoint_every=2")
    whole = Watcher()
    train(recipe, tmp_path / "whole", watch=[whole])
    with pytest.raises(KeyboardInterrupt):
        train(recipe, tmp_path / "cut", watch=[Watcher(stops=1)])  # before its first own checkpoint
    shutil.rmtree(source)
    rest = Watcher()
    train(recipe, tmp_path / "cut", resume=True, watch=[rest])
    assert [line["loss"] for line in rest.metrics] == [line["loss"] for line in whole.metrics]


def test_the_hash_and_the_path_stand_in_an_event_the_notes_and_the_report(
    finished: Run, source: Path
) -> None:
    (event,) = read_events(finished.folder, "initial_weights")
    assert event["part"] == "encoder"
    assert event["loaded_into"] == ["encoder", "target_encoder"]
    assert event["file"] == str(source / "checkpoints/step-00000007/model.safetensors")
    assert len(event["sha256"]) == 64
    assert finished.notes["initial_weights"][0]["sha256"] == event["sha256"]
    text = dict(facts(read(finished.folder, "run"), None))["Started from"]
    assert text.startswith(f"encoder, target_encoder: target_encoder of run {source} (tiny, step 7); SHA-256")


def test_an_evaluation_has_before_and_after_in_one_table(finished: Run) -> None:
    table = evaluate_run(finished.folder, [], split="val", cache=False)
    assert [row.name for row in table.rows] == ["trained", "initial weights", "random twin", "raw pixels"]
    before, twin = table.row("initial weights"), table.row("random twin")
    assert before.rankme != twin.rankme
    assert before.rankme != table.rows[0].rankme


def test_a_run_from_random_weights_has_no_such_row(tmp_path: Path, tiny_recipe: Path) -> None:
    run = train(load_recipe(tiny_recipe), tmp_path / "run", watch=[])
    assert [path.name for path in checkpoints.list_checkpoints(run.folder)] == ["step-00000006"]
    assert open_initial_model(run.folder, run.recipe) is None


def test_a_frozen_encoder_stays_is_its_own_teacher_and_is_not_optimised(
    tmp_path, tiny_recipe, source
) -> None:
    recipe = load_recipe(tiny_recipe, f"init.encoder.run={source}", "init.encoder.frozen=true")

    class Modes:
        @hookimpl
        def jepa_step_ended(self, run: Run, step: int) -> None:
            assert run.model.training
            assert run.model.predictor.training
            assert not any(part.training for part in run.model.encoder.modules())

    run = train(recipe, tmp_path / "run", watch=[Modes()])
    model = run.model
    assert model.target_encoder is None
    assert same(model.encoder, open_model(source)[1].target_encoder)
    optimised = sum(p.numel() for group in run.training.optimizer.param_groups for p in group["params"])
    assert optimised == sum(p.numel() for p in model.predictor.parameters())
    assert open_model(run.folder)[1].target_encoder is None
    twin = build_model(recipe)
    assert not same(twin.encoder, model.encoder)


def test_a_frozen_encoder_may_keep_another_teacher(tiny_recipe: Path) -> None:
    tables = ("init.encoder.run=a", "init.encoder.frozen=true", "init.target_encoder.run=b")
    assert build_model(load_recipe(tiny_recipe, *tables)).target_encoder is not None


def test_two_stages_are_two_recipes_the_second_at_another_image_size(
    tmp_path: Path, tiny_recipe: Path
) -> None:
    """A cooldown: the whole model of a first run goes on at 24 instead of 16 pixels."""
    first = train(load_recipe(tiny_recipe), tmp_path / "first", watch=[])
    second = tmp_path / "cooldown.toml"
    second.write_text(
        f'extends = "{tiny_recipe}"\n[encoder]\nimage_size = 24\n[optimizer]\nlr = 1e-4\nwarmup_steps = 0\n'
        f'[train]\nsteps = 3\n[init.model]\nrun = "{first.folder}"\n'
    )
    run = train(load_recipe(second), tmp_path / "second")
    initial = open_initial_model(run.folder, run.recipe)
    assert initial is not None
    assert same(initial, first.model)
    assert initial.grid() == (6, 6)
    assert [line["step"] for line in read_metrics(run.folder / "metrics.jsonl")] == [1, 2, 3]
    (event,) = read_events(run.folder, "initial_weights")
    assert event["loaded_into"] == ["model"]


def test_what_does_not_have_to_fit_is_counted(tiny_recipe, source) -> None:
    recipe = load_recipe(
        tiny_recipe,
        f"init.model.run={source}",
        "init.model.strict=false",
        "predictor.width=16",
        "predictor.heads=1",
    )
    model = build_model(recipe)
    (event,) = load_initial_weights(model, read_initial_weights(recipe), recipe.to_table()["transform"])
    assert same(model.encoder, open_model(source)[1].encoder)
    assert " of " in event["notes"][0]
    assert "of another shape (predictor." in event["notes"][0]


def test_settings_that_differ_though_all_tensors_fit_are_told(tiny_recipe, source) -> None:
    recipe = load_recipe(
        tiny_recipe, f"init.encoder.run={source}", "encoder.heads=4", "transform.mean=[0.1, 0.2, 0.3]"
    )
    (event,) = load_initial_weights(
        build_model(recipe), read_initial_weights(recipe), recipe.to_table()["transform"]
    )
    assert event["notes"][:2] == [
        "made with encoder.heads=2",
        "its images had transform.mean=[0.485, 0.456, 0.406]",
    ]


@pytest.mark.parametrize(
    ("overrides", "text"),
    [
        (("encoder.run=nowhere",), "init.encoder: 'nowhere' is not a run: it holds no recipe.toml"),
        (("encoder.file=gone.pt",), "init.encoder: no file or folder 'gone.pt'"),
        (("encoder.file=SOURCE/recipe.toml",), "is of no known format; known: "),
        (("encoder.file=SOURCE",), "init.encoder: SOURCE is a run already"),
        (("encoder.from=SOURCE",),
         "is a path; a run's folder is given as run=…, a file of weights as file=…"),
        (("encoder.from=timm:vit_of_nobody",), "init.encoder: the weights of timm model 'vit_of_nobody'"),
        (("encodr.run=SOURCE",), "unknown part of run SOURCE (tiny, step 7) 'encodr'; known: encoder, "
         "predictor, target_encoder. Did you mean 'encoder'?"),
        (("encoder.run=SOURCE", "encoder.frozen=true", "predictor.run=SOURCE", "predictor.frozen=true"),
         "there is nothing to train: init freezes encoder, predictor"),
    ],
)  # fmt: skip
def test_a_run_does_not_start_on_weights_that_cannot_be_had(
    tmp_path: Path, tiny_recipe: Path, source: Path, overrides: tuple[str, ...], text: str
) -> None:
    given = [f"init.{override}".replace("SOURCE", str(source)) for override in overrides]
    with pytest.raises(UserError) as error:
        train(load_recipe(tiny_recipe, *given), tmp_path / "run")
    assert text.replace("SOURCE", str(source)) in str(error.value)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "run").exists()


def test_weights_that_do_not_fit_are_refused_by_name(tiny_recipe: Path, source: Path) -> None:
    with pytest.raises(UserError) as error:
        start(tiny_recipe, f"init.encoder.run={source}", "encoder.width=48")
    text = str(error.value)
    assert text.startswith(f"init.encoder: run {source} (tiny, step 7) does not fit encoder: ")
    assert "of another shape (patch_embed.proj.weight [32, 3, 4, 4] for [48, 3, 4, 4], " in text
    assert text.endswith("It was made with encoder.width=32")


def test_a_part_that_the_model_lacks_is_an_error_that_lists_those_it_has(tiny_recipe: Path) -> None:
    with pytest.raises(
        UserError, match=r"unknown part of the model 'encoders.text'; known: encoder, model, pred"
    ):
        build_model(load_recipe(tiny_recipe, "init.encoders.text.run=a"))


def test_weights_that_are_not_finite_are_told(tmp_path: Path, tiny_recipe: Path, source: Path) -> None:
    _, model, _ = open_model(source)
    with torch.no_grad():
        model.encoder.norm.bias[0] = torch.nan
    checkpoints.save(source, 8, model.state_dict(), None, keep=1)
    recipe = load_recipe(tiny_recipe, f"init.encoder.run={source}", "init.encoder.role=context")
    (event,) = load_initial_weights(
        build_model(recipe), read_initial_weights(recipe), recipe.to_table()["transform"]
    )
    assert event["notes"] == ["NaN or infinite values in 1 of 28 tensors (norm.bias)"]
