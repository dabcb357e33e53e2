"""Encoders beside the main one: built, trained, resumed, opened without data, exported; what is refused."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from jepa_core import JEPA, Batch, Field, Packed, UserError, build_model, load_recipe, sample_masks, train
from jepa_core.assembly import random_batch
from jepa_core.evaluate.run import evaluate_run
from jepa_core.formats.exporting import export_run
from jepa_core.formats.importing import import_run
from jepa_core.report.write import write_report
from jepa_core.runs import checkpoints
from jepa_core.runs.load import open_model
from jepa_core.testing import check_recipe, check_variant
from jepa_core.training.cuda_graph_step import CudaGraphStep
from jepa_core.training.step import TrainingStep
from tests.core.training.test_cuda_graph_step import Again
from tests.made_pairs import NUMBERS, Pairs, PairSource, pairs_installed, write_recipe


@pytest.fixture(autouse=True)
def _installed() -> Iterator[None]:
    with pairs_installed():
        yield


@pytest.fixture
def recipe_file(tmp_path: Path) -> Path:
    return write_recipe(tmp_path)


@pytest.fixture
def model(recipe_file: Path) -> JEPA:
    return build_model(load_recipe(recipe_file))


def refusal(recipe: Path, *overrides: str) -> str:
    with pytest.raises(UserError) as error:
        build_model(load_recipe(recipe, *overrides))
    return str(error.value)


def batch_of(model: JEPA, recipe: Path, seed: int = 0) -> Batch:
    return random_batch(load_recipe(recipe), model, 8, torch.Generator().manual_seed(seed))


def test_the_recipe_is_written_with_its_tables_and_read_again(recipe_file: Path, tiny_recipe: Path) -> None:
    recipe = load_recipe(recipe_file)
    assert (recipe.encoders["pose"].name, recipe.target_updates["pose"].name) == ("numbers", "ema")
    (recipe_file.parent / "again.toml").write_text(recipe.to_toml(), encoding="utf-8")
    assert replace(load_recipe(recipe_file.parent / "again.toml"), name=recipe.name) == recipe
    plain = load_recipe(recipe_file, "target_updates.pose=none").to_table()
    assert plain["target_updates"] == {"pose": {"name": "none"}}
    assert not {"encoders", "target_updates", "maskers"} & load_recipe(tiny_recipe).to_table().keys()


def test_an_encoder_has_no_target_unless_its_update_makes_one(model: JEPA, recipe_file: Path) -> None:
    assert model.target_encoders["pose"] is not model.encoders["pose"]
    assert model.encoder_of("pose") is model.target_encoders["pose"]
    assert model.encoder_of("pose/context") is model.encoders["pose"]
    text = recipe_file.read_text().replace("target_updates.pose = ", "# ")
    recipe_file.write_text(text)
    alone = build_model(load_recipe(recipe_file))
    assert not len(alone.target_encoders)
    assert alone.encoder_of("pose") is alone.encoder_of("pose/context") is alone.encoders["pose"]


def test_all_targets_move_after_a_step_each_by_its_own_update(model: JEPA) -> None:
    online, target = model.encoders["pose"].places, model.target_encoders["pose"].places
    before = target.clone()
    with torch.no_grad():
        online.add_(1.0)
    logged = model.update_target(0)
    assert logged["momentum"] == pytest.approx(0.996)
    assert logged["momentum/pose"] == 0.5
    torch.testing.assert_close(target, (before + online) / 2)


def test_fields_reach_the_constructors_that_take_them(model: JEPA) -> None:
    assert isinstance(model, Pairs)
    assert model.described == model.fields
    assert model.fields["views.image"] == Field("image", (3, 16, 16)), "the size that the encoder asks for"
    assert model.fields["views.pose"].width == NUMBERS == model.encoders["pose"].numbers


def test_features_of_every_role(model: JEPA, recipe_file: Path) -> None:
    batch = batch_of(model, recipe_file)
    assert model.roles() == ("target", "context", "pose", "pose/context")
    with torch.no_grad():
        model.encoders["pose"].places.add_(torch.randn(24))
    target, online = (model.features(batch.views["pose"], role) for role in ("pose", "pose/context"))
    assert target.shape == online.shape == (8, 24)
    assert not torch.allclose(target, online)
    assert model.features(batch.views["pose"], "pose", pool=None).shape == (8, NUMBERS, 24)
    with pytest.raises(UserError, match="unknown role 'pos'; known: context, pose, pose/context, target"):
        model.features(batch.views["pose"], "pos")


def test_texts_of_any_length_are_a_view_like_another(recipe_file: Path, tmp_path: Path) -> None:
    encoder = [f"encoders.pose.{setting}" for setting in ("width=24", "depth=1", "heads=2")]
    overrides = ("data.name=words", "encoders.pose.name=text_transformer", "maskers.pose=false", *encoder)
    words = ("transforms.pose.name=tokenize", "transforms.pose.vocabulary=300", "train.steps=2")
    quiet(recipe_file, tmp_path / "run", *overrides, *words)
    recipe, model, _ = open_model(tmp_path / "run")
    assert model.fields["views.pose"] == Field("ids", (None,), vocabulary=300)
    texts = random_batch(recipe, model, 4, torch.Generator().manual_seed(0)).views["pose"]
    assert isinstance(texts, Packed)
    assert model.features(texts, "pose").shape == (4, 24)
    with pytest.raises(UserError, match=r"the pose encoder's have \d+ to \d+ tokens; take their mean"):
        model.features(texts, "pose", pool=None)
    made = import_run(str(export_run(tmp_path / "run", "safetensors", role="pose").path), tmp_path / "alone")
    _, alone, _ = open_model(made.folder)
    assert torch.equal(alone.features(texts), model.features(texts, "pose"))


@pytest.mark.slow
def test_the_checks_of_whole_models_hold(recipe_file: Path) -> None:
    check_recipe(str(recipe_file))


def test_a_variant_with_named_encoders_is_checked_by_its_recipe() -> None:
    with pytest.raises(UserError, match=r"it needs \[encoders.pose\], which only a recipe says"):
        check_variant(Pairs)


def test_a_term_judges_the_group_of_the_other_view(model: JEPA, recipe_file: Path) -> None:
    batch = batch_of(model, recipe_file)
    output = model(batch, sample_masks(model, 8))
    assert set(output.terms) == {"prediction", "pose"}
    output.terms["pose"].backward()
    assert model.encoders["pose"].read.weight.grad is not None
    assert all(p.grad is None for p in model.target_encoders.parameters())


def quiet(recipe: Path, folder: Path, *overrides: str, **options: Any) -> Any:
    return train(load_recipe(recipe, *overrides), folder, watch=[], **options)


def test_a_run_resumes_bit_for_bit(recipe_file: Path, tmp_path: Path) -> None:
    overrides = ("train.checkpoint_every=3", "masker=hide_the_hot")
    whole = quiet(recipe_file, tmp_path / "whole", *overrides)
    shutil.copytree(tmp_path / "whole", tmp_path / "cut")
    shutil.rmtree(tmp_path / "cut/checkpoints/step-00000006")
    resumed = quiet(recipe_file, tmp_path / "cut", *overrides, resume=True)
    assert resumed.step == whole.step == 6
    expected = whole.model.state_dict()
    assert any(name.startswith("target_encoders.pose.") for name in expected)
    for name, value in resumed.model.state_dict().items():
        assert torch.equal(value, expected[name]), name


def test_a_run_opens_and_is_exported_without_its_data(
    recipe_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = quiet(recipe_file, tmp_path / "run")

    def gone(self: object) -> Any:
        raise UserError("the data are gone")

    monkeypatch.setattr(PairSource, "fields", gone)
    _, model, _ = open_model(tmp_path / "run")
    assert model.fields == run.model.fields
    view = torch.randn(4, NUMBERS)
    for role in ("pose", "pose/context"):
        written = export_run(tmp_path / "run", "safetensors", role=role)
        assert written.path.name == f"encoder-{role.replace('/', '-')}.safetensors"
        assert (list(written.parts), written.preprocessing) == ([f"{role} encoder"], None)
        made = import_run(str(written.path), tmp_path / role.replace("/", "-"))
        assert made.preprocessing is None
        _, alone, _ = open_model(made.folder)
        assert torch.equal(alone.features(view), model.features(view, role))
    with pytest.raises(UserError, match=r"takes encoders that are timm models; 'numbers' does not say"):
        export_run(tmp_path / "run", "timm", role="pose")
    with pytest.raises(UserError, match="unknown role 'text'; known: context, pose, pose/context, target"):
        export_run(tmp_path / "run", "safetensors", role="text")


def test_evaluations_and_reports_know_the_roles_of_a_run(recipe_file: Path, tmp_path: Path) -> None:
    quiet(recipe_file, tmp_path / "run", "train.steps=1")
    for call in (
        lambda role: evaluate_run(tmp_path / "run", [], role=role),
        lambda role: write_report([tmp_path / "run"], role=role, probes=False),
    ):
        with pytest.raises(UserError, match="unknown role 'text'; known: context, pose, pose/context"):
            call("text")
    table = evaluate_run(tmp_path / "run", [], role="pose", evaluations=())
    assert [row.name for row in table.rows] == ["trained", "random twin", "raw values"]
    assert table.rows[0].description == "pose encoder, mean over tokens"
    assert table.rows[2].width == NUMBERS
    assert "samples" in table.caption()
    page = write_report([tmp_path / "run"], role="pose", images=8, probes=False).read_text()
    assert "the pose encoder reads the view" in page


def test_the_random_twin_has_the_named_encoders_too(model: JEPA, recipe_file: Path) -> None:
    twin = build_model(load_recipe(recipe_file), model.fields)
    for name, value in twin.state_dict().items():
        assert torch.equal(value, model.state_dict()[name]), name


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (
            ["variant=jepa", "terms.pose=false", "maskers.pose=false"],
            "variant 'jepa' does not use [encoders.pose]; variants that do: pairs",
        ),
        (
            ["encoders.pose=false", "target_updates.pose=false"],
            "variant 'pairs' needs [encoders.pose]; the recipe has: none",
        ),
        (
            ["encoders.sound.name=numbers"],
            "variant 'pairs' does not use [encoders.sound]; variants that",
        ),
        (
            ["maskers.image.name=random"],
            "[maskers.image]: 'image' is the first view, whose masker is",
        ),
        (["maskers.sound.name=random"], "unknown view with a masker 'sound'; known: pose"),
        (["maskers.pose.name=tube"], "masker tube: got a token grid (6,); expected (T, H, W)"),
        (
            ["data.name=cifar10", "maskers.pose=false"],
            "the encoder 'numbers' of [encoders.pose] is made for its view, and the source describes no "
            "views.pose; its views: none",
        ),
        (["target_updates.sound=ema"], "[target_updates.sound]: there is no [encoders.sound]; known: pose"),
        (["encoders.context.name=numbers"], "[encoders.context]: this name is a role of [encoder]"),
        (["encoders.keys.name=numbers"], "[encoders.keys]: torch's modules have something of this name"),
    ],
)
def test_what_does_not_fit_is_one_line(recipe_file: Path, overrides: list[str], expected: str) -> None:
    line = refusal(recipe_file, *overrides)
    assert expected in line
    assert "\n" not in line


def test_a_masker_that_reads_what_the_source_lacks_is_refused(tiny_recipe: Path) -> None:
    assert refusal(tiny_recipe, "masker.name=hide_the_hot") == (
        "the masker 'hide_the_hot' of [masker] reads side.heat; the source's side values: none"
    )


def test_a_masker_follows_the_samples(model: JEPA, recipe_file: Path) -> None:
    followed = build_model(load_recipe(recipe_file, "masker.name=hide_the_hot"))
    side = {"heat": torch.arange(32.0).view(2, 16)}
    plan = sample_masks(followed, 2, side=side)
    assert plan.targets[0].dense().tolist() == [[12, 13, 14, 15]] * 2
    with pytest.raises(UserError, match=r"the masker HideTheHot reads side\.heat, which the batch lacks"):
        sample_masks(followed, 2)


def captured(recipe: Path, *overrides: str) -> CudaGraphStep:
    resolved = load_recipe(recipe, *overrides)
    return CudaGraphStep(build_model(resolved), resolved, 6, 2, recorder=Again())


def test_a_recorded_step_trains_named_encoders_too(recipe_file: Path) -> None:
    results = []
    for make in (captured, None):
        recipe = load_recipe(recipe_file, "maskers.pose=false")
        step = captured(recipe_file, "maskers.pose=false") if make else None
        step = step or TrainingStep(build_model(recipe), recipe, 6, 2)
        for number in range(5):
            step(batch_of(step.model, recipe_file, number), sample_masks(step.model, 8, 0, number))
        results.append(step.model.state_dict())
    for name, value in results[0].items():
        torch.testing.assert_close(value, results[1][name], rtol=1e-4, atol=1e-6)


def test_a_recorded_step_refuses_plans_of_views_and_masks_that_follow_samples(recipe_file: Path) -> None:
    with pytest.raises(UserError, match=r"the masks of one view, and the recipe has \[maskers.pose\]"):
        captured(recipe_file)
    with pytest.raises(UserError, match=r"the masker reads side\.heat; set train\.cuda_graph=false"):
        captured(recipe_file, "maskers.pose=false", "masker.name=hide_the_hot")


@pytest.mark.slow
def test_a_model_of_two_encoders_is_one_graph(model: JEPA, recipe_file: Path) -> None:
    torch._dynamo.reset()
    compiled = torch.compile(model, fullgraph=True, dynamic=True, backend="eager")
    for number in range(2):
        batch, plan = batch_of(model, recipe_file, number), sample_masks(model, 8, step=number)
        torch.testing.assert_close(compiled(batch, plan).loss, model(batch, plan).loss)
    torch._dynamo.reset()


def test_a_checkpoint_of_an_older_model_says_what_it_lacks(recipe_file: Path, tmp_path: Path) -> None:
    """A run's weights are loaded strictly: a named encoder that is not in the file is no surprise later."""
    run = quiet(recipe_file, tmp_path / "run", "train.steps=1")
    weights = {n: v for n, v in run.model.state_dict().items() if not n.startswith("encoders.")}
    checkpoints.save(tmp_path / "run", 2, weights, None, keep=1)
    with pytest.raises(UserError, match=r"encoders\.pose"):
        open_model(tmp_path / "run")
