"""The variant `lejepa`: its loss against the formulas, its gradients, what it refuses, and that it trains."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from jepa_core import Batch, MaskPlan, Recipe, UserError, build_model, load_recipe, sample_masks, train
from jepa_core.objectives import SIGReg
from jepa_core.recipes import with_overrides
from jepa_core.recipes.annotate import read_head
from jepa_core.recipes.resolve import resolve
from jepa_core.runs.load import open_model
from jepa_core.runs.metrics_file import read_metrics
from jepa_core.training.build import training_step

SMALL = ("encoder.width=32", "encoder.depth=2", "encoder.heads=2", "variant.projector.hidden=24",
         "variant.projector.width=8", "terms.sigreg.slices=16", "train.batch_size=8", "train.device=cpu",
         "train.precision=fp32", "train.steps=6", "optimizer.warmup_steps=1", "train.log_every=1",
         "train.eval_every=0", "train.checkpoint_every=3")  # fmt: skip


def recipe(*overrides: str) -> Recipe:
    return load_recipe("lejepa/cifar10", *SMALL, *overrides)


def on_tiny(images: Path, *overrides: str) -> Recipe:
    return recipe("data.name=npz", f"data.path={images}", *overrides)


def batch(samples: int = 4) -> Batch:
    """Two views of 32 pixels and three of 16, float64."""
    generator = torch.Generator().manual_seed(0)
    sizes = {"global": (2, 32), "local": (3, 16)}
    return Batch(
        {
            name: torch.randn(samples, views, 3, side, side, generator=generator, dtype=torch.float64)
            for name, (views, side) in sizes.items()
        },
        step=3,
    )


def projected(model: nn.Module, of: Batch) -> Tensor:
    """[V, B, P], an image at a time through the encoder, then numpy's MLP with norms over all images."""
    views = [group[:, v] for group in of.views.values() for v in range(group.shape[1])]
    features = [model.encoder(image[None]).dense()[0].mean(0) for view in views for image in view]  # type: ignore[operator]
    x = torch.stack(features).detach().numpy()
    for layer in model.projector.children():
        if isinstance(layer, nn.Linear):
            x = x @ layer.weight.detach().numpy().T + (
                0 if layer.bias is None else layer.bias.detach().numpy()
            )
        elif isinstance(layer, nn.BatchNorm1d):
            x = (x - x.mean(0)) / np.sqrt(x.var(0) + layer.eps)
        else:
            x = np.maximum(x, 0)
    return torch.from_numpy(x.reshape(len(views), -1, x.shape[-1]))


def test_loss_equals_the_formulas() -> None:
    """.9 times the mean squared distance to the mean of the two global views, and .1 times SIGReg."""
    model = build_model(recipe()).double()
    output = model(batch(), MaskPlan())
    z = projected(model, batch())
    prediction = (z - z[:2].mean(0)).square().mean()
    torch.testing.assert_close(output.terms["prediction"], prediction)
    term = model.objectives["sigreg"]
    assert isinstance(term, SIGReg)
    torch.testing.assert_close(output.terms["sigreg"], term(output.step))
    torch.testing.assert_close(output.loss, 0.9 * prediction + 0.1 * output.terms["sigreg"])
    assert output.step.number == 3, "slices follow from the batch's step"
    torch.testing.assert_close(
        torch.cat([tokens.dense() for tokens in output.step.predictions], 1), z.transpose(0, 1)
    )


@pytest.mark.parametrize("flows", [True, False])
def test_the_gradient_flows_through_the_targets_unless_told_otherwise(flows: bool) -> None:
    """In closed form: of the mean of (z - c)² over all entries, c the mean of the first two views."""
    model = build_model(recipe(f"variant.target_gradient={str(flows).lower()}")).double()
    made: list[Tensor] = []
    model.projector.register_forward_hook(lambda *call: made.append(call[-1]))
    output = model(batch(), MaskPlan())
    (found,) = torch.autograd.grad(output.terms["prediction"], made)
    z = projected(model, batch())
    distance = z - z[:2].mean(0)
    expected = 2 * distance / z.numel()
    if flows:
        expected[:2] -= distance.sum(0) / z.numel()
    groups = [expected[:2].transpose(0, 1), expected[2:].transpose(0, 1)]  # rows: sample after sample
    torch.testing.assert_close(found, torch.cat([group.reshape(-1, 8) for group in groups]))


def test_a_plain_batch_is_one_view_of_each_image() -> None:
    model = build_model(recipe())
    output = model(torch.randn(4, 3, 32, 32), MaskPlan())
    assert output.terms["prediction"] == 0
    assert output.terms["sigreg"] > 0


def test_features_are_the_encoders_before_the_projector() -> None:
    model = build_model(recipe())
    images = torch.randn(4, 3, 32, 32)
    features = model.features(images)
    torch.testing.assert_close(features, model.encoder(images).dense().mean(1))
    with torch.no_grad():
        for parameter in model.projector.parameters():
            parameter.zero_()
    assert torch.equal(model.features(images), features)


@pytest.mark.parametrize(
    ("override", "said"),
    [
        (
            "masker=multiblock",
            "variant 'lejepa' has no masker; got 'multiblock', expected masker.name=none",
        ),
        (
            "predictor=vit_predictor",
            "variant 'lejepa' has no predictor; got 'vit_predictor', expected predictor.name=none",
        ),
    ],
)
def test_maskers_and_predictors_are_refused(override: str, said: str) -> None:
    with pytest.raises(UserError) as error:
        build_model(recipe(override, *(["predictor.width=24"] if "vit" in override else [])))
    assert str(error.value) == said


def test_other_ways_to_make_targets_are_refused() -> None:
    with pytest.raises(UserError) as error:
        recipe("variant.target_norm=layer")
    assert str(error.value) == "setting 'variant.target_norm' is 'layer'; expected none"


@pytest.mark.parametrize(
    "more", [[], ["objective=vicreg", "terms.sigreg.weight=0.0"]], ids=["sigreg", "vicreg"]
)
def test_it_trains_and_goes_on_where_it_stopped(tiny_images: Path, tmp_path: Path, more: list[str]) -> None:
    """The same losses, with slices, crops and weights of the step, after half of the run is thrown away."""
    asked = on_tiny(tiny_images, *more)
    train(asked, tmp_path / "run", watch=None)
    before = read_metrics(tmp_path / "run/metrics.jsonl")
    (tmp_path / "run/checkpoints/step-00000006").rename(tmp_path / "set_aside")
    train(asked, tmp_path / "run", resume=True)
    after = read_metrics(tmp_path / "run/metrics.jsonl")
    assert [line["loss"] for line in after] == [line["loss"] for line in before]
    assert len({line["loss/sigreg"] for line in before}) == 6
    assert {line["skipped_steps"] for line in before} == {0}
    assert all(line["rankme"] > 1 for line in before)
    _, model, step = open_model(tmp_path / "run")
    assert (step, next(model.projector.parameters()).shape[1]) == (6, 32)


def test_the_optimizer_moves_encoder_and_projector(tiny_images: Path) -> None:
    model = build_model(on_tiny(tiny_images))
    before = {name: value.clone() for name, value in model.named_parameters()}
    step = training_step(model, on_tiny(tiny_images), 64)
    given = Batch({name: view.float() for name, view in batch().views.items()})
    numbers = [step(given, MaskPlan()).step.number for _ in range(2)]
    assert numbers == [0, 1], "the first has the warm-up's learning rate, 0"
    still = [name for name, value in model.named_parameters() if torch.equal(value, before[name])]
    assert still == []


def test_its_encoder_and_budget_are_those_of_the_recipe_beside_it() -> None:
    """Half the steps: one takes about twice as long (docs/results.md)."""
    ours, theirs = load_recipe("lejepa/cifar10"), load_recipe("ijepa/cifar10_patch8")
    assert ours.encoder == theirs.encoder
    assert (2 * ours.train.steps, ours.train.batch_size) == (theirs.train.steps, theirs.train.batch_size)
    assert (ours.data, ours.transform.mean) == (theirs.data, theirs.transform.mean)


def test_the_numbers_of_its_head_are_those_of_the_results() -> None:
    root = Path(__file__).parents[2]
    results = (root / "docs/results.md").read_text(encoding="utf-8")
    table = results.partition("<!-- lejepa -->")[2].partition("<!-- end lejepa -->")[0]
    row = next(line for line in table.splitlines() if line.startswith("| 32 min | LeJEPA"))
    knn, knn_gain, linear, linear_gain = (cell.strip(" *+") for cell in row.split("|")[4:8])
    head = read_head(root / "plugins/jepa_lejepa/recipes/cifar10.toml")
    assert head.expected.startswith(
        f"kNN {knn} %, linear {linear} % top-1; {knn_gain} and {linear_gain} points"
    )


def test_terms_serve_a_method_that_masks(tiny_recipe: Path) -> None:
    for name in ("sigreg", "vicreg"):
        asked = load_recipe(tiny_recipe, f"terms.spread.name={name}", "terms.spread.on=context")
        model = build_model(asked)
        step = training_step(model, asked)
        output = step(torch.randn(8, 3, 16, 16), sample_masks(model, 8))
        assert output.terms["spread"] > 0
        assert output.terms["spread"].isfinite()


def test_merging_overrides_keeps_the_order_of_the_groups() -> None:
    table = load_recipe("lejepa/cifar10").to_table()
    changed = resolve(with_overrides(table, ["transform.views.local.count=2"]))
    assert list(changed.transform.views) == ["global", "local"]
