"""The counter of operations: by hand, by torch's own counter, and as an expectation over masks."""

from pathlib import Path

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from jepa_core import JEPA, Batch, Recipe, build_model, load_recipe, sample_masks
from jepa_core.assembly import random_batch
from jepa_core.bench.step import measure_step
from jepa_core.evaluate import flops
from jepa_core.evaluate.flops import count_flops, expected_cost, step_flops
from jepa_core.nn.attention import choose_implementation
from jepa_core.report import cost
from jepa_core.types import MaskPlan
from jepa_kernels.bench.ceilings import Ceilings


def tiny(tiny_recipe: Path, *overrides: str) -> tuple[Recipe, JEPA]:
    recipe = load_recipe(tiny_recipe, "train.steps=1000", *overrides)
    return recipe, build_model(recipe)


def inputs(recipe: Recipe, model: JEPA, samples: int = 4) -> tuple[Batch, MaskPlan]:
    return random_batch(recipe, model, samples), sample_masks(model, samples, recipe.seed)


def test_a_step_of_dense_masks_is_counted_as_by_hand(tiny_recipe: Path) -> None:
    """2·m·n·k a product; once for the target, thrice where there is a gradient."""
    recipe, model = tiny(tiny_recipe, "masker.name=union", "masker.context=0.5", "masker.target=0.25")
    width, narrow, patch, seen, hidden = 32, 24, 4 * 4 * 3, 8, 4

    def block(tokens: int, d: int) -> int:
        return 2 * tokens * (4 + 2 * 4) * d * d + 2 * 2 * tokens * tokens * d

    def encoder(tokens: int) -> int:
        return 2 * tokens * patch * width + 2 * block(tokens, width)

    unread = 2 * seen * (1 + 2 * 4) * narrow * narrow  # after attention only what is guessed is computed
    blocks = block(seen + hidden, narrow) - unread
    predictor = 2 * seen * width * narrow + blocks + 2 * hidden * narrow * width
    # the gradient of the images is not needed: the first layer's backward is one product, not two
    expected = encoder(16) + 3 * (encoder(seen) + predictor) - 2 * seen * patch * width
    assert step_flops(model, *inputs(recipe, model)) == 4 * expected


@pytest.mark.parametrize("impl", ["reference", "auto"])
def test_the_number_does_not_depend_on_how_attention_is_computed(tiny_recipe: Path, impl: str) -> None:
    recipe, model = tiny(tiny_recipe)
    expected = step_flops(model, *inputs(recipe, model))
    choose_implementation(model, impl)
    assert step_flops(model, *inputs(recipe, model)) == expected


def test_counting_leaves_the_model_and_the_randomness_alone(tiny_recipe: Path) -> None:
    recipe, model = tiny(tiny_recipe)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    state = torch.get_rng_state()
    first = expected_cost(model, recipe)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert expected_cost(model, recipe) == first


class Mixed(nn.Module):
    """A convolution, a linear layer, a batched product, an in-place operation, and dense attention."""

    def __init__(self) -> None:
        super().__init__()
        self.patch, self.linear = nn.Conv2d(3, 8, 4, 4), nn.Linear(8, 8)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        tokens = self.patch(images).flatten(2).mT
        tokens = self.linear(tokens).relu_()
        return torch.einsum("bnd,bmd->bnm", tokens, tokens).sum()


def test_products_outside_attention_are_those_that_torch_counts() -> None:
    model, images = Mixed(), torch.randn(2, 3, 16, 16)
    with FlopCounterMode(display=False) as counter:
        model(images).backward()
    assert count_flops(lambda: model(images).backward()) == counter.get_total_flops()


def test_dense_attention_of_torch_is_counted_on_a_cpu() -> None:
    query = torch.randn(2, 3, 16, 8, requires_grad=True)
    forward = 2 * 2 * 2 * 3 * 16 * 16 * 8
    assert count_flops(lambda: nn.functional.scaled_dot_product_attention(query, query, query)) == forward


@pytest.mark.parametrize("recipe_name", ["ijepa/demo", "vjepa/selftest"])
def test_the_cost_of_a_recipe_is_an_expectation_over_masks(recipe_name: str) -> None:
    """Counted on the masks of one step it differs by up to a third between seeds."""
    masker = ["masker=multiblock"] if recipe_name == "ijepa/demo" else []
    single, expected = [], []
    for seed in (0, 1, 2):
        recipe = load_recipe(recipe_name, "train.steps=1000", f"seed={seed}", *masker)
        model = build_model(recipe)
        single.append(step_flops(model, *inputs(recipe, model)))
        expected.append(expected_cost(model, recipe))
    assert max(single) / min(single) > 1.01
    assert expected[0] == expected[1] == expected[2]
    assert 0 < expected[0].context_tokens < 64
    assert 0 < expected[0].target_tokens < 64


def test_the_expectation_is_that_of_other_draws_too(
    tiny_recipe: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe, model = tiny(tiny_recipe, "masker.name=multiblock", "train.batch_size=64")
    one = expected_cost(model, recipe)
    monkeypatch.setattr(flops, "SEED", 7)
    other = expected_cost(model, recipe)
    error = one.flops_std / one.draws**0.5
    assert abs(one.flops - other.flops) < 4 * 2**0.5 * error


def test_costs_from_tokens_are_those_of_counting_every_draw(
    tiny_recipe: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe, model = tiny(tiny_recipe, "train.batch_size=2", "masker.name=multiblock")
    quick = expected_cost(model, recipe, draws=16)
    monkeypatch.setattr(flops, "FIT_ERROR", -1.0)  # no fit is good enough
    counted = expected_cost(model, recipe, draws=16)
    assert quick.flops == pytest.approx(counted.flops, rel=1e-6)
    assert quick.flops_std == pytest.approx(counted.flops_std, rel=1e-3)


def test_the_report_and_the_benchmark_have_one_counter(tiny_recipe: Path) -> None:
    recipe, model = tiny(tiny_recipe, "masker.name=union", "masker.context=0.5", "masker.target=0.25")
    batch, plan = inputs(recipe, model, 8)
    assert cost.flops_per_image(model, recipe) == pytest.approx(step_flops(model, batch, plan) / 8)
    measured = measure_step(recipe, Ceilings(copy=1e9, matmul=1e10), steps=1)
    assert measured.operations == step_flops(model, batch, plan)
