"""The image–text plugin on a few made drawings: groups, losses, data, evaluations, sections, bad input."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from jepa_core import Recipe, Sample, UserError, build_model, load_recipe, sample_masks, train
from jepa_core.assembly import build, random_batch
from jepa_core.evaluate.run import evaluate_run
from jepa_core.report.sections import Section
from jepa_imagetext import pictures
from jepa_imagetext.variant import ImageText, mlp
from jepa_imagetext.words import colour_histogram

WORDS = [f"{colour} {shape}" for colour in ("red", "blue", "green", "black") for shape in "abcdefg"]
DRAWINGS = 20
"""Of each word."""

SMALL = (
    "train.batch_size=32",
    "train.log_every=5",
    "train.device=cpu",
    "train.precision=fp32",
    "optimizer.warmup_steps=2",
    "probes.linear=false",
)


def made_drawings() -> dict[str, Any]:
    """A pattern for each word, with noise."""
    draw = np.random.default_rng(0)
    patterns = draw.integers(0, 2, (len(WORDS), 7, 7)).repeat(4, 1).repeat(4, 2) * 200
    noise = draw.integers(0, 55, (len(WORDS), DRAWINGS, 28, 28))
    images = (patterns[:, None] + noise).reshape(-1, 28, 28).astype(np.uint8)
    return {"images": images, "words": np.array(WORDS)}


def made_emoji() -> dict[str, Any]:
    """Thirty pictures, of which two have one base."""
    images = np.random.default_rng(0).integers(0, 255, (30, 3, 64, 64)).astype(np.uint8)
    bases = [str(number // 2) for number in range(30)]
    return {"images": images, "names": np.array([f"name {n}" for n in range(30)]), "bases": np.array(bases)}


@pytest.fixture(autouse=True)
def _made_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JEPA_DATA", str(tmp_path / "data"))
    monkeypatch.setattr(pictures, "fetch_drawings", made_drawings)
    monkeypatch.setattr(pictures, "fetch_emoji", made_emoji)


def small(name: str = "imagetext/selftest", *overrides: str) -> Recipe:
    return load_recipe(name, *SMALL, *overrides)


def model_and_step(recipe: Recipe) -> tuple[ImageText, Any]:
    model = build_model(recipe)
    assert isinstance(model, ImageText)
    torch.manual_seed(0)
    batch = random_batch(recipe, model, 16)
    return model, model(batch, sample_masks(model, 16)).step


def test_the_groups_are_both_directions_and_both_sides() -> None:
    model, step = model_and_step(small())
    assert set(step.groups) == {"image_to_text", "text_to_image", "image", "text"}
    image, text = (step.groups[name].predictions[0].values for name in ("image", "text"))
    torch.testing.assert_close(step.targets[0].values, text.detach())
    torch.testing.assert_close(step.groups["text_to_image"].targets[0].values, image.detach())
    torch.testing.assert_close(
        step.predictions[0].values, model.predictors["image"](image), rtol=1e-4, atol=1e-4
    )
    assert not step.targets[0].values.requires_grad
    assert text.requires_grad


def test_the_demo_s_loss_is_levljepa_s() -> None:
    """(1 - λv - λt) · ½ (‖sg(t) - P(v)‖² + ‖sg(v) - P(t)‖²) + λv SIGReg(v) + λt SIGReg(t), λ = .02 each."""
    recipe = small()
    model = build_model(recipe)
    torch.manual_seed(0)
    batch = random_batch(recipe, model, 16)
    output = model(batch, sample_masks(model, 16))
    step = output.step
    forth = (step.predictions[0].values - step.targets[0].values).square().mean()
    group = step.groups["text_to_image"]
    back = (group.predictions[0].values - group.targets[0].values).square().mean()
    sides = 0.02 * (output.terms["spread_image"] + output.terms["spread_text"])
    torch.testing.assert_close(output.loss, 0.96 * (forth + back) / 2 + sides)


def test_contrasts_have_gradients_on_both_sides() -> None:
    recipe = small("imagetext/contrastive", "encoder.width=64", "encoder.depth=1", "encoder.heads=2")
    model, step = model_and_step(recipe)
    assert step.targets[0].values.requires_grad
    assert list(model.objectives) == ["prediction"]


@pytest.mark.parametrize("masks", ["none", "random"])
def test_visible_tokens_predict_the_caption(masks: str) -> None:
    recipe = small("imagetext/selftest", f"masker.name={masks}")
    _, step = model_and_step(recipe)
    contexts = len(step.plan.contexts) or 1
    assert len(step.predictions) == len(step.targets) == contexts
    if masks == "random":
        assert step.contexts[0].at.total < 16 * 16


def test_embeddings_have_unit_length_and_do_not_depend_on_the_batch() -> None:
    recipe = small()
    model = build_model(recipe).eval()
    assert isinstance(model, ImageText)
    batch = random_batch(recipe, model, 6)
    whole = model.embed(batch.views)
    torch.testing.assert_close(whole["image"].norm(dim=-1), torch.ones(6))
    alone = model.embed({"image": batch.views["image"][:2]})
    torch.testing.assert_close(alone["image"], whole["image"][:2], rtol=1e-4, atol=1e-5)
    short = model.embed({"caption": batch.views["caption"].take([3])})
    torch.testing.assert_close(short["caption"][0], whole["caption"][3], rtol=1e-4, atol=1e-5)


def test_words_are_held_out_whole_and_drawings_in_part() -> None:
    source = build("data", small().data)
    parts = {name: source.split(name) for name in ("train", "val", "test")}
    seen = {int(label) for label in parts["train"].labels}
    for name in ("val", "test"):
        part = parts[name]
        assert [int(label) not in seen for label in part.labels] == part.unseen.tolist()
        assert part.unseen.any()
        pixels = {image.numpy().tobytes() for image in parts["train"].images}
        assert not any(image.numpy().tobytes() in pixels for image in part.images)
    assert isinstance(parts["train"][3], Sample)
    train = parts["train"]
    captions = zip(train.captions[:8], train.labels[:8], strict=True)
    templates = {caption.removesuffix(WORDS[int(label)]) for caption, label in captions}
    assert templates == {"a drawing of ", "a sketch of ", "", "a quick drawing of "}


def test_emoji_of_one_base_are_together() -> None:
    recipe = small("imagetext/selftest", "data.name=emoji", "encoder.image_size=64", "encoder.patch_size=16")
    source = build("data", recipe.data)
    numbers = [set(source.split(name).captions) for name in ("train", "val", "test")]
    assert [len(part) for part in numbers] == [26, 2, 2]
    for part in numbers:
        bases = {int(name.removeprefix("name ")) // 2 for name in part}
        assert part == {f"name {2 * base + k}" for base in bases for k in range(2)}


def test_shuffled_captions_are_those_of_other_pictures() -> None:
    plain, mixed = (
        build("data", small("imagetext/selftest", f"data.shuffle_captions={value}").data).split("train")
        for value in ("false", "true")
    )
    assert sorted(plain.captions) == sorted(mixed.captions)
    assert sum(one == other for one, other in zip(plain.captions, mixed.captions, strict=True)) < 100
    assert torch.equal(plain.images, mixed.images)


@pytest.mark.slow
def test_a_run_learns_words_and_says_so(tmp_path: Path, jepa: Callable[..., Any]) -> None:
    recipe = small("imagetext/selftest", "train.steps=120", "optimizer.warmup_steps=10", "optimizer.lr=3e-3")
    folder = train(recipe, tmp_path / "run").folder
    result = evaluate_run(folder, (), split="test", cache=False)
    tables = {table.title: table for table in result.evaluations}
    assert {"retrieval", "zero_shot", "words: seen words", "words: unseen words, among all"} <= tables.keys()
    words = {row.name: row.scores["top1"] for row in tables["words: seen words"].rows}
    assert list(words) == ["trained", "random twin", "pixels, ridge", "colours, ridge", "shuffled words"]
    assert words["trained"].value > 0.5
    assert words["trained"].value > words["random twin"].value + 0.2
    assert words["shuffled words"].value < 0.25
    assert words["trained"].chance == pytest.approx(1 / len(WORDS))
    retrieval = {row.name: row.scores["r1"].value for row in tables["retrieval"].rows}
    assert retrieval["trained"] > 3 * retrieval["shuffled pairs"]
    table = json.loads((folder / "eval.json").read_text(encoding="utf-8"))["evaluations"]
    assert all({"name", "task", "split", "count", "rows"} <= set(entry) for entry in table)
    said = jepa("report", folder)
    assert said.code == 0, said.err
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert "Nearest captions" in page
    assert "its own: " in page


def test_the_section_marks_right_and_wrong(tmp_path: Path) -> None:
    from jepa_core.runs.load import open_model
    from jepa_imagetext.nearest_captions import nearest_captions

    folder = train(small(), tmp_path / "run").folder
    recipe, model, _ = open_model(folder)
    section = nearest_captions(recipe, model, build("data", recipe.data))
    assert isinstance(section, Section)
    for picture in section.pictures:
        *guesses, own = (str(line.text) for line in picture.lines)  # type: ignore[union-attr]
        word = own.removeprefix("its own: ").removeprefix("a drawing of ")
        assert len({guess[-len(word) :] for guess in guesses}) == len(guesses), "one caption a word"
        for line in picture.lines[:-1]:
            assert line.right == line.text.endswith(word.split("of ")[-1])  # type: ignore[union-attr]


def test_captioned_ijepa_reads_the_caption_in_its_predictor() -> None:
    recipe = small("imagetext/captioned", "encoder.width=64", "encoder.depth=1", "encoder.heads=2",
                   "variant.target_layers=1", "predictor.width=48", "predictor.depth=1")  # fmt: skip
    model = build_model(recipe)
    torch.manual_seed(0)
    batch = random_batch(recipe, model, 8)
    assert list(batch.views) == ["image"]
    assert list(batch.condition) == ["caption"]
    plan = sample_masks(model, 8)
    loss = model(batch, plan).loss
    loss.backward()
    moved = [name for name, p in model.predictor.named_parameters() if p.grad is not None and p.grad.any()]
    assert any("condition" in name for name in moved)


@pytest.mark.parametrize(
    ("overrides", "what"),
    [
        (("predictor.name=vit_predictor",), "has predictors of its own (variant.heads.depth); got predictor"),
        (("data.name=cifar10",), "caption"),
        (("encoders.caption.length=4",), "takes sequences of up to 4; got one of "),
    ],
)
def test_what_does_not_fit_is_one_line(overrides: tuple[str, ...], what: str, tmp_path: Path) -> None:
    with pytest.raises(UserError) as error:
        train(small("imagetext/selftest", *overrides), tmp_path / "run")
    assert "\n" not in str(error.value)
    assert what in str(error.value)


def test_parts_have_the_sizes_that_are_asked_for() -> None:
    assert [layer.out_features for layer in mlp(8, 16, 4, 2) if hasattr(layer, "out_features")] == [16, 16, 4]
    histogram = colour_histogram(torch.rand(5, 3, 8, 8))
    torch.testing.assert_close(histogram.sum(1), torch.ones(5, dtype=torch.float64))
