"""Plans of several views: drawn each from its own stream, moved with the main one, joined set by set."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from jepa_core import JEPA, IndexSet, MaskPlan, UserError, build_model, plugins, sample_masks
from jepa_core.assembly import random_batch
from jepa_core.maskers.multi_mask import MultiMask, side_names
from jepa_core.maskers.none import NoMasks
from jepa_core.maskers.step_masks import StepMasks, ViewMasks
from jepa_core.recipes.load import read
from jepa_core.recipes.resolve import resolve
from jepa_core.testing import check_masker
from jepa_core.testing.small_parts import SmallMasker
from tests.made_pairs import HideTheHot, pairs_installed

SMALL = SmallMasker(SmallMasker.Config(name="small"))
HOT = HideTheHot(HideTheHot.Config(name="hide_the_hot"))


def flat(plan: MaskPlan) -> list[list[int]]:
    return [one.index.tolist() for one in (*plan.contexts, *plan.targets)]


def test_a_further_view_changes_no_draw_of_the_first_and_has_its_own() -> None:
    alone = StepMasks(SMALL, (4, 4), 10, seed=3)
    views = {"video": ViewMasks(SMALL, (4, 4)), "text": ViewMasks(SMALL, (4, 4))}
    both = replace(alone, others=views)
    plan = both(5, 1, 6)
    assert flat(alone(5, 1, 6)) == flat(plan)
    assert list(plan.others) == ["video", "text"]
    assert flat(plan.of("video")) not in (flat(plan), flat(plan.of("text")))
    assert flat(both(5, 1, 6).of("video")) == flat(plan.of("video")), "of (seed, rank, step) alone"
    for other in (both(6, 1, 6), both(5, 0, 6), replace(both, seed=4)(5, 1, 6)):
        assert flat(other.of("video")) != flat(plan.of("video"))
    only_text = replace(alone, others={"text": views["text"]})(5, 1, 6)
    assert flat(only_text.of("text")) == flat(plan.of("text")), "whatever other views there are"


def test_a_view_of_several_crops_has_a_plan_for_each() -> None:
    masks = StepMasks(SMALL, (4, 4), 10, seed=3, others={"small": ViewMasks(SMALL, (2, 2), crops=3)})
    plan = masks(0, 0, 5)
    assert (plan.batch_size, plan.of("small").batch_size) == (5, 15)
    plan.check_batch(5)
    with pytest.raises(ValueError, match="the plan of the view 'small' masks 15 samples; the batch has 4"):
        replace(plan, contexts=(), targets=(), pairs=()).check_batch(4)


def test_a_view_without_a_plan_is_named() -> None:
    plan = MaskPlan(others={"video": MaskPlan()})
    with pytest.raises(UserError, match=r"unknown plan of the view 'vidoe'; known: video\. Did you"):
        plan.of("vidoe")


def test_other_plans_are_mapped_and_moved_with_the_first() -> None:
    own, other = IndexSet.from_lists([[0], [1]]), IndexSet.from_lists([[2], [3]])
    plan = MaskPlan((own,), others={"text": MaskPlan((), (other,))})
    moved = plan.to("meta")
    assert moved.contexts[0].index.device == moved.of("text").targets[0].index.device == torch.device("meta")
    doubled = plan.map(lambda one: replace(one, index=2 * one.index))
    assert flat(doubled) + flat(doubled.of("text")) == [[0, 2], [4, 6]]


def test_sets_of_other_views_are_joined_view_by_view() -> None:
    class Both:
        Config: Any = SmallMasker.Config

        def check(self, grid: Any) -> None: ...

        def __call__(self, grid: Any, size: int, generator: torch.Generator, progress: float = 0) -> MaskPlan:
            plan = SMALL(grid, size, generator)
            return replace(plan, others={"sound": SMALL((3,), size, generator)})

    plan = MultiMask(Both(), 2)((4, 4), 5, torch.Generator().manual_seed(0))
    assert (len(plan.contexts), plan.pairs) == (2, ((0, 0), (1, 1)))
    assert (len(plan.of("sound").contexts), plan.of("sound").pairs) == (2, ((0, 0), (1, 1)))


def test_a_masker_gets_the_side_values_that_it_asks_for_and_no_others() -> None:
    seen: list[Any] = []

    class Spying(HideTheHot):
        def __call__(self, *arguments: Any, side: Any) -> MaskPlan:
            seen.append(side)
            return super().__call__(*arguments, side=side)

    spy = Spying(HOT.config)
    side = {"heat": torch.rand(2, 16), "depth": torch.rand(2)}
    masks = StepMasks(MultiMask(spy, 2), (4, 4), 10, seed=0, others={"text": ViewMasks(SMALL, (3,))})
    assert masks.side == ("heat",)
    plan = masks(0, 0, 2, side)
    assert [list(one) for one in seen] == [["heat"], ["heat"]]
    assert flat(plan) == 2 * flat(plan)[:1] + 2 * flat(plan)[2:3]
    assert side_names(SMALL) == side_names(MultiMask(SMALL, 2)) == ()
    with pytest.raises(UserError, match=r"the masker Spying reads side\.heat, .*; its side has: depth$"):
        masks(0, 0, 2, {"depth": side["depth"]})


def test_a_masker_that_follows_the_samples_keeps_the_contract() -> None:
    check_masker(HideTheHot)


@pytest.fixture
def _installed() -> Iterator[None]:
    with pairs_installed():
        yield


@pytest.mark.usefixtures("_installed")
def test_groups_of_crops_of_other_sizes_have_plans_of_their_own(tiny_recipe: Path) -> None:
    """Place 2 of docs/variants.md: shapes differ, each group has masks on the grid it gives."""

    class TwoSizes(JEPA):
        class Config(JEPA.Config):
            several_views = True
            plans_of_views = True

        def run_stages(self, batch: Any, plan: MaskPlan) -> Any:
            large, small = (view.flatten(0, 1) for view in batch.views.values())
            self.seen = [
                self.encoder(view, own.contexts[0]).at.total
                for view, own in ((large, plan), (small, plan.of("small")))
            ]
            return super().run_stages(replace(batch, views={"image": large}), plan)

    table = read(tiny_recipe)
    table |= {
        "variant": {"name": "pairs"},
        "maskers": {"small": {"name": "random"}},
        "transform": {"views": {"large": {"count": 1}, "small": {"count": 2, "size": 8}}},
    }
    plugins.registry().catalogue("variant").classes["pairs"] = TwoSizes
    recipe = resolve(table)
    model = build_model(recipe)
    assert model.maskers["small"].grid == (2, 2)
    batch, plan = random_batch(recipe, model, 4), sample_masks(model, 4)
    assert (plan.batch_size, plan.of("small").batch_size) == (4, 8)
    model(batch, plan).loss.backward()
    assert model.seen == [plan.contexts[0].total, plan.of("small").contexts[0].total]


def test_no_masks_beside_masks() -> None:
    none = NoMasks(NoMasks.Config(name="none"))
    plan = StepMasks(none, (4, 4), 10, seed=0, others={"text": ViewMasks(SMALL, (6,))})(0, 0, 3)
    assert plan.empty
    assert plan.of("text").batch_size == 3
