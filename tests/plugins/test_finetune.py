"""The classifier: head, mixing, drop path, labels; the recipe made of a run's; accuracy and guesses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import jepa_core
from jepa_core import UserError, load_recipe
from jepa_core.assembly import build, sample_masks
from jepa_core.evaluate.context import EvaluationContext
from jepa_core.testing import check_evaluation
from jepa_core.training.parameter_groups import group_parameters
from jepa_core.types import Batch
from jepa_finetune.accuracy import accuracy, top_scores
from jepa_finetune.confusion import confusion, count_guesses
from jepa_finetune.drop_path import SampleDropPath, add_drop_path
from jepa_finetune.labels import Labels, parse_labels
from jepa_finetune.mixing import make_mixing
from jepa_finetune.recipe import Request, finetune_recipe, from_scratch
from jepa_finetune.variant import Classifier
from tests.made_runs import images, make_run


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, tiny_recipe: Path) -> Path:
    """A run whose target encoder differs from its context encoder."""
    folder = tmp_path_factory.mktemp("runs") / "first"
    make_run(folder, tiny_recipe)
    return folder


def recipe_of(run: Path, *overrides: str, labels: str = "4", **named: Any) -> jepa_core.Recipe:
    return finetune_recipe(Request(run, parse_labels(labels), overrides=overrides, **named))


def model_of(recipe: jepa_core.Recipe) -> Classifier:
    model = jepa_core.build_model(recipe)
    assert isinstance(model, Classifier)
    return model


def batch(count: int = 4) -> Batch:
    return Batch({"image": images(16, 16, batch=count)}, labels=torch.arange(count) % 2)


def test_logits_are_a_linear_map_of_the_normed_mean(run: Path) -> None:
    model = model_of(recipe_of(run, "variant.head_std=0.5")).eval()
    view = images(16, 16)
    mean = model.features(view)
    normed = (mean - mean.mean(1, keepdim=True)) / (mean.var(1, unbiased=False, keepdim=True) + 1e-6).sqrt()
    torch.testing.assert_close(model.logits(view), normed @ model.head.weight.T, atol=1e-5, rtol=1e-4)


def test_the_loss_is_the_smoothed_cross_entropy_of_the_labels(run: Path) -> None:
    model = model_of(recipe_of(run, "variant.head_std=0.5")).eval()
    output = model(batch(), sample_masks(model, 4))
    logits = model.logits(batch().views["image"])
    expected = nn.functional.cross_entropy(logits, torch.arange(4) % 2, label_smoothing=0.1)
    torch.testing.assert_close(output.loss, expected)
    hits = (logits.argmax(-1) == torch.arange(4) % 2).float().mean()
    assert output.metrics["train_accuracy"] == hits
    assert output.step.target_tokens is None, "no collapse scores of labels"


def test_a_step_of_training_moves_encoder_and_head(run: Path) -> None:
    recipe = recipe_of(run, "optimizer.warmup_share=0", steps=5)
    model = model_of(recipe)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    jepa_core.training_step(model, recipe)(batch(), sample_masks(model, 4))
    same = [name for name, p in model.named_parameters() if torch.equal(p, before[name])]
    assert len(same) < len(before) / 2, same
    assert not torch.equal(model.head.weight, before["head.weight"])


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        (None, "the classifier trains on labels, and a sample has none; see data.name=labelled"),
        (torch.tensor([0, -1, 1, 0]), "a sample has none"),
        (torch.tensor([0, 5, 1, 0]), "a sample has the label 5; variant.classes is 2"),
    ],
)
def test_labels_that_are_no_classes_are_refused(run: Path, labels: Tensor | None, said: str) -> None:
    model = model_of(recipe_of(run))
    with pytest.raises(UserError, match=said):
        model(Batch(batch().views, labels=labels), sample_masks(model, 4))


def test_maskers_and_predictors_are_refused(run: Path) -> None:
    with pytest.raises(UserError, match="variant 'classifier' has no masker; got 'multiblock', expected"):
        model_of(recipe_of(run, "masker=multiblock"))
    with pytest.raises(UserError, match="has no predictor; got 'vit_predictor'"):
        model_of(recipe_of(run, "predictor=vit_predictor"))


@pytest.mark.parametrize(("mixup", "cutmix"), [(0.8, 0.0), (0.0, 1.0), (0.8, 1.0)])
def test_mixed_images_have_mixed_labels(mixup: float, cutmix: float) -> None:
    """Image k is k everywhere, so that its mean tells what was mixed in, with which share."""
    mix = make_mixing(mixup, cutmix, 4)
    assert mix is not None
    view = torch.arange(4.0)[:, None, None, None].expand(4, 3, 8, 8)
    kinds = set()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        for _ in range(12):
            mixed, shares = mix(view, torch.arange(4))
            torch.testing.assert_close(shares.sum(1), torch.ones(4))
            torch.testing.assert_close(mixed.mean((1, 2, 3)), shares @ torch.arange(4.0), atol=1e-5, rtol=0)
            kinds.add("cutmix" if torch.equal(mixed, mixed.round()) else "mixup")
    assert kinds == {name for name, alpha in (("mixup", mixup), ("cutmix", cutmix)) if alpha}


def test_clips_are_mixed_as_images_are() -> None:
    mix = make_mixing(0.0, 1.0, 4)
    assert mix is not None
    view = torch.arange(4.0)[:, None, None, None, None].expand(4, 3, 2, 8, 8)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        mixed, shares = mix(view, torch.arange(4))
    torch.testing.assert_close(mixed.mean((1, 2, 3, 4)), shares @ torch.arange(4.0), atol=1e-5, rtol=0)
    assert torch.equal(mixed[:, :, 0], mixed[:, :, 1]), "the same rectangle of every frame"


def test_evaluation_mixes_nothing(run: Path) -> None:
    model = model_of(recipe_of(run, "variant.mixup=0.8", "variant.head_std=0.5")).eval()
    losses = [model(batch(), sample_masks(model, 4)).loss.item() for _ in range(2)]
    assert losses[0] == losses[1]


def test_drop_path_drops_whole_samples_and_keeps_the_mean() -> None:
    drop = SampleDropPath(0.25)
    drop.samples = 4000
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        samples = drop(torch.ones(4000 * 3, 2)).view(4000, 6)
    assert (samples == samples[:, :1]).all()
    assert (samples[:, 0] == 0).double().mean().item() == pytest.approx(0.25, abs=0.03)
    assert samples.mean().item() == pytest.approx(1, abs=0.04)
    assert torch.equal(drop.eval()(torch.ones(6, 2)), torch.ones(6, 2))


def test_drop_path_rises_from_block_to_block(run: Path) -> None:
    model = model_of(recipe_of(run, "variant.drop_path=0.3"))
    shares = [m.share for m in model.encoder.modules() if isinstance(m, SampleDropPath)]
    assert shares == [0.0, 0.0, 0.3, 0.3]
    assert model(batch(), sample_masks(model, 4)).loss.isfinite()
    assert model.state_dict().keys() == model_of(recipe_of(run)).state_dict().keys()
    with pytest.raises(UserError, match="the blocks of Linear have no drop path"):
        add_drop_path(nn.Linear(2, 2), 0.1)


def test_layers_near_the_input_learn_slower(run: Path) -> None:
    recipe = recipe_of(run, "optimizer.layer_decay=0.5")
    scales = {
        name: group.lr_scale
        for group in group_parameters(model_of(recipe), recipe.optimizer)
        for name in group.parameters
    }
    assert scales["encoder.patch_embed.proj.weight"] == 0.5**3
    assert scales["encoder.blocks.0.attn.qkv.weight"] == 0.5**2
    assert scales["encoder.blocks.1.attn.qkv.weight"] == 0.5
    assert scales["encoder.norm.weight"] == scales["head.weight"] == scales["norm.weight"] == 1


def test_the_recipe_has_the_runs_data_sizes_and_encoder(run: Path, tiny_recipe: Path) -> None:
    recipe, base = recipe_of(run), load_recipe(tiny_recipe)
    assert recipe.encoder == base.encoder
    assert recipe.data.model_dump()["source"]["path"] == str(base.data.model_dump()["path"])
    assert recipe.data.model_dump()["per_class"] == 4
    assert recipe.variant.model_dump()["classes"] == 2
    assert recipe.transform.crop_scale == base.transform.crop_scale
    assert (recipe.transform.rand_augment, recipe.transform.flip) == (2, 0.5)
    assert recipe.train.precision == "fp32"
    assert recipe.init["encoder"].run == str(run.resolve())
    assert recipe.name == "tiny finetune 4"


def test_all_labels_bring_mixing_and_drop_path(run: Path) -> None:
    few, every = (recipe_of(run, labels=labels).variant.model_dump() for labels in ("50%", "all"))
    assert (few["mixup"], few["cutmix"], few["drop_path"]) == (0, 0, 0)
    assert (every["mixup"], every["cutmix"], every["drop_path"]) == (0.8, 1.0, 0.1)


def test_from_scratch_all_is_equal_but_the_initial_weights(run: Path) -> None:
    recipe = recipe_of(run, "optimizer.lr=2e-3", steps=5)
    own, other = recipe.to_table(), from_scratch(recipe).to_table()
    assert own.pop("init")
    assert own.pop("name") + ", from scratch" == other.pop("name")
    assert own == other


def test_the_encoder_may_be_fine_tuned_again(run: Path, tmp_path: Path) -> None:
    """The draw of labels is then that of the new request, not one inside the other."""
    again = tmp_path / "again"
    recipe = recipe_of(run, labels="4")
    model = model_of(recipe)
    jepa_core.runs.checkpoints.save(again, 3, model.state_dict(), None, keep=1)
    (again / "recipe.toml").write_text(recipe.to_toml(), encoding="utf-8")
    data = recipe_of(again, labels="9").data.model_dump()
    assert (data["per_class"], data["source"]["name"]) == (9, "npz")


@pytest.mark.parametrize(
    ("word", "expected", "slug"),
    [
        ("1%", Labels(share=0.01), "1pct"),
        ("0.5 %", Labels(share=0.005), "0.5pct"),
        ("12", Labels(per_class=12), "12"),
        ("all", Labels(), "all"),
        ("100%", Labels(), "all"),
    ],
)
def test_labels_are_read(word: str, expected: Labels, slug: str) -> None:
    assert parse_labels(word) == expected
    assert expected.slug == slug


@pytest.mark.parametrize("word", ["0%", "0", "-3", "101%", "1.5", "nan%", "inf%", "few", "%", ""])
def test_labels_that_are_none_are_refused(word: str) -> None:
    with pytest.raises(UserError, match="expected a share above 0% and up to 100%, a number of labels"):
        parse_labels(word)


def test_accuracy_counts_first_guesses(run: Path) -> None:
    recipe = recipe_of(run, "variant.head_std=0.5")
    model = model_of(recipe).eval()
    source = build("data", recipe.data)
    context = EvaluationContext(recipe, model, model_of(recipe).eval(), source, split="val")
    table = accuracy(context)
    assert table is not None
    view, labels = (torch.cat(parts) for parts in zip(*_batches(context), strict=True))
    hits = (model.logits(view).argmax(-1) == labels).double()
    assert table.own["top1"].value == pytest.approx(hits.mean().item())
    assert table.own["top1"].chance == 0.5
    assert table.count == len(labels) > 2
    assert (
        accuracy(EvaluationContext(recipe, jepa_core.build_model(load_recipe("ijepa/demo")), None, source))
        is None
    )


def _batches(context: EvaluationContext) -> list[tuple[Tensor, Tensor]]:
    return [(batch.views["image"], batch.labels) for batch in context.batches() if batch.labels is not None]


def test_top5_is_given_of_many_classes() -> None:
    logits = torch.eye(12)[torch.arange(12).roll(1)] * 2 + torch.eye(12)
    scores = top_scores(logits, torch.arange(12))
    assert {name: score.value for name, score in scores.items()} == {"top1": 0.0, "top5": 1.0}
    assert scores["top5"].chance == pytest.approx(5 / 12)


def test_data_of_other_classes_have_no_accuracy(run: Path, tmp_path: Path) -> None:
    recipe = recipe_of(run)
    rows = np.zeros((60, 16, 16, 3), dtype=np.uint8)
    np.savez(tmp_path / "three.npz", images=rows, labels=np.arange(60) % 3)
    other = load_recipe("ijepa/demo", "data.name=npz", f"data.path={tmp_path / 'three.npz'}")
    context = EvaluationContext(recipe, model_of(recipe), model_of(recipe), build("data", other.data))
    assert accuracy(context) is None


def test_guesses_are_counted_by_class(run: Path) -> None:
    recipe = recipe_of(run, "variant.head_std=0.5")
    model, source = model_of(recipe).eval(), build("data", recipe.data)
    samples = source.split("val")
    with torch.no_grad():
        counts = count_guesses(model, samples, recipe)
        section = confusion(recipe, model, source)
    labels = torch.tensor([label for _, label in samples])
    assert counts.sum(1).tolist() == torch.bincount(labels, minlength=2).tolist()
    assert section is not None
    assert f"{len(labels)} samples of the val split" in section.says
    assert section.figure().axes
    assert confusion(recipe, jepa_core.build_model(load_recipe("ijepa/demo")), source) is None


def test_the_evaluation_keeps_its_contract(run: Path, tmp_path: Path) -> None:
    """With three classes, as many as the checks' random samples have."""
    (tmp_path / "three.toml").write_text('extends = "finetune/selftest"\n[variant]\nclasses = 3\n')
    check_evaluation("accuracy", str(tmp_path / "three.toml"))
