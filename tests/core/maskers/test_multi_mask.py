"""Several sets of masks a step: what is drawn, who belongs to whom, and what the loss makes of it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from jepa_core import IndexSet, MaskPlan, build_model, load_recipe, sample_masks
from jepa_core.maskers.multi_mask import concat_plans


def as_lists(sets: tuple[IndexSet, ...]) -> list[list[list[int]]]:
    return [[sample.tolist() for sample in one.split()] for one in sets]


def test_plans_are_joined_with_new_numbers() -> None:
    first, second = (
        MaskPlan(
            (IndexSet.from_lists([[shift]]),),
            (IndexSet.from_lists([[shift + 1]]), IndexSet.from_lists([[shift + 2]])),
        )
        for shift in (0, 3)
    )
    plan = concat_plans([first, second, MaskPlan()])
    assert as_lists(plan.contexts) == [[[0]], [[3]]]
    assert as_lists(plan.targets) == [[[1]], [[2]], [[4]], [[5]]]
    assert plan.pairs == ((0, 0), (0, 1), (1, 2), (1, 3))


@pytest.mark.parametrize("masker", ["multiblock", "block", "random", "rasterised", "union"])
def test_every_masker_of_the_reference_plugin_can_draw_several(tiny_recipe: Path, masker: str) -> None:
    one, three = (
        build_model(load_recipe(tiny_recipe, f"masker.name={masker}", f"masker.sets={sets}"))
        for sets in (1, 3)
    )
    alone, plan = sample_masks(one, 5, seed=2, step=7), sample_masks(three, 5, seed=2, step=7)
    contexts, targets = len(alone.contexts), len(alone.targets)
    assert (len(plan.contexts), len(plan.targets)) == (3 * contexts, 3 * targets)
    assert as_lists(plan.contexts[:contexts]) == as_lists(alone.contexts), (
        "the first set is the only one of one"
    )
    assert as_lists(plan.contexts[contexts:]) != as_lists(plan.contexts[:-contexts])
    assert {(i // contexts, j // targets) for i, j in plan.pairs} == {(0, 0), (1, 1), (2, 2)}


def test_the_loss_of_two_sets_is_the_mean_of_their_losses(tiny_recipe: Path) -> None:
    """Targets are uniform and of one size in a batch of random masks, so each set weighs the same."""
    model = build_model(load_recipe(tiny_recipe, "masker.name=random", "masker.sets=2"))
    images = torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    plan = sample_masks(model, 4)
    passes: list[int] = []
    assert model.target_encoder is not None
    model.target_encoder.register_forward_hook(lambda *_: passes.append(1))
    both = model(images, plan).loss.detach()
    assert passes == [1], "one pass of the target encoder serves both"
    each = [model(images, MaskPlan(plan.contexts[k : k + 1], plan.targets[k : k + 1])).loss for k in range(2)]
    assert both.item() == pytest.approx(torch.stack(each).mean().item(), rel=1e-5)
    assert each[0].item() != pytest.approx(each[1].item(), rel=1e-3)
