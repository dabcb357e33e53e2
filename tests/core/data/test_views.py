"""Groups of crops: their shapes and areas, reproducible, by the batch and one by one; one view as before."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from jepa_core import UserError, build_model, load_recipe
from jepa_core.assembly import random_batch
from jepa_core.data import ArraySamples, BaseSamples, StepBatch, TransformSettings, eval_loader, make_loader
from jepa_core.data.batched_transforms import augment
from jepa_core.data.samples import Selection
from jepa_core.recipes import with_overrides
from jepa_core.recipes.annotate import Head, to_commented_toml
from jepa_core.recipes.resolve import resolve
from jepa_core.runtime.seeding import step_generator
from jepa_core.settings import parse

VIEWS = {
    "global": {"count": 2, "crop_scale": [1.0, 1.0]},
    "local": {"count": 3, "size": [8, 4], "crop_scale": [0.05, 0.1]},
}


def settings(views: Mapping[str, Any] = VIEWS, **more: Any) -> TransformSettings:
    plain = {"crop_ratio": [1.0, 1.0], "mean": [0, 0, 0], "std": [1, 1, 1], **more}
    return parse(TransformSettings, {**plain, "views": views}, "transform")


def ramps(count: int = 12) -> ArraySamples:
    """Image i is red as i and green from left to right: a crop shows whose it is, and how wide."""
    images = torch.zeros(count, 3, 16, 16, dtype=torch.uint8)
    images[:, 0] = (20 * torch.arange(count, dtype=torch.uint8))[:, None, None]
    images[:, 1] = (16 * torch.arange(16, dtype=torch.uint8))[None, :]
    return ArraySamples(images, torch.arange(count), [str(i) for i in range(count)], "")


def one_by_one() -> Selection:
    """The same images, not as arrays."""
    return Selection(ramps(), np.arange(12), "")


def load(
    transform: TransformSettings, steps: range = range(3), samples: BaseSamples | None = None, **more: Any
) -> list[StepBatch]:
    read = samples or ramps()
    return list(make_loader(read, transform, (3, 16, 16), 4, steps=steps, seed=1, **more))


@pytest.mark.parametrize("samples", [ramps(), one_by_one()], ids=["by the batch", "one by one"])
def test_every_image_has_the_crops_of_each_group(samples: BaseSamples) -> None:
    (loaded, *_) = load(settings(), samples=samples)
    views = loaded.batch.views
    assert list(views) == ["global", "local"], "in the recipe's order"
    assert views["global"].shape == (4, 2, 3, 16, 16)
    assert views["local"].shape == (4, 3, 3, 8, 4)
    assert loaded.batch.batch_size == 4
    labels = loaded.batch.labels
    assert labels is not None
    for group in views.values():
        red = (group[:, :, 0] * 255 / 20).round()
        assert (red == labels[:, None, None, None]).all(), "the views of a sample are of one image"
    width = {name: spread(group[:, :, 1]) for name, group in views.items()}
    assert (width["global"] > 0.9).all(), "the whole image"
    assert (width["local"] < 0.35).all(), "a tenth of its area at most"
    starts = views["local"][:, :, 1].amin((2, 3))
    assert len(starts.unique()) > 4, "each crop has a place of its own"


def spread(green: Tensor) -> Tensor:
    """Share of the image's columns that a crop spans, about."""
    return (green.amax((2, 3)) - green.amin((2, 3))) * 255 / 240


@pytest.mark.parametrize("samples", [ramps(), one_by_one()], ids=["by the batch", "one by one"])
def test_crops_draw_their_own_flips_and_colours(samples: BaseSamples) -> None:
    """Views of the whole image, which differ in nothing else: those of a sample, and those of two groups."""
    whole = {"count": 4, "crop_scale": [1.0, 1.0]}
    flipped = load(settings({"a": whole, "b": whole}, flip=0.5), samples=samples)
    colours = load(settings({"a": whole, "b": whole}, colour_jitter=0.5), samples=samples)
    for different, loads in ((2, flipped), (4, colours)):
        views = [torch.cat([*loaded.batch.views.values()], 1).flatten(2) for loaded in loads]
        kinds = [len(sample.unique(dim=0)) for step in views for sample in step]
        assert max(kinds) >= different
        assert all(not torch.equal(step[:, :4], step[:, 4:]) for step in views)


@pytest.mark.parametrize("samples", [ramps(), one_by_one()], ids=["by the batch", "one by one"])
def test_crops_follow_from_the_step_alone(samples: BaseSamples) -> None:
    transform = settings(colour_jitter=0.5, blur=0.5)
    once, again = load(transform, samples=samples), load(transform, range(1, 3), samples, workers=1)
    for one, other in zip(once[1:], again, strict=True):
        assert one.batch.step == one.step == other.step
        for name, view in one.batch.views.items():
            assert torch.equal(view, other.batch.views[name])
    assert not torch.equal(once[0].batch.views["local"], once[1].batch.views["local"])


def test_without_groups_there_is_one_view_and_its_bits_are_the_old_ones() -> None:
    transform = settings({}, crop_scale=[0.3, 1.0])
    for loaded in load(transform):
        (name, view), *others = loaded.batch.views.items()
        assert (name, view.shape, others) == ("image", (4, 3, 16, 16), [])
        chosen = ramps().tensors()[0][loaded.batch.labels].permute(0, 2, 3, 1)
        generator = step_generator(1, 0, loaded.step, "transform")
        assert torch.equal(view, augment(chosen, transform, (16, 16), generator))


def test_a_group_takes_what_it_does_not_say_from_the_transform_and_the_encoder() -> None:
    transform = settings({"all": {}}, crop_scale=[0.3, 1.0])
    (loaded,) = load(transform, range(1))
    (plain,) = load(settings({}, crop_scale=[0.3, 1.0]), range(1))
    assert torch.equal(loaded.batch.views["all"][:, 0], plain.batch.views["image"])


def test_evaluation_sees_the_whole_image_whatever_the_groups() -> None:
    images, _ = next(iter(eval_loader(ramps(), settings(), (3, 16, 16), 4)))
    assert images.shape == (4, 3, 16, 16)


def test_one_setting_of_one_group_is_overridden_and_the_rest_stays(tiny_recipe: Path) -> None:
    base = {**load_recipe(tiny_recipe).to_table(), "transform": {"views": VIEWS}}
    recipe = resolve(with_overrides(base, ["transform.views.local.count=5"]))
    local = recipe.transform.views["local"]
    assert (list(recipe.transform.views), local.count, local.size) == (["global", "local"], 5, (8, 4))
    text = to_commented_toml(recipe, Head())
    assert "\nviews = {global = {count = 2, crop_scale = [1.0, 1.0]}, local = {count = 5, " in text


def test_a_recipe_with_groups_is_written_and_read_back(tiny_recipe: Path, tmp_path: Path) -> None:
    base = {**load_recipe(tiny_recipe).to_table(), "transform": {"views": VIEWS}}
    recipe = resolve(base)
    (tmp_path / "r.toml").write_text(recipe.to_toml(), encoding="utf-8")
    (tmp_path / "c.toml").write_text(to_commented_toml(recipe, Head()), encoding="utf-8")
    for name in ("r", "c"):
        read = load_recipe(tmp_path / f"{name}.toml").transform
        assert read == recipe.transform
        assert list(read.views) == ["global", "local"]


@pytest.mark.parametrize(
    ("views", "said"),
    [
        (
            {"local": {"count": 0}},
            "setting 'transform.views.local.count' is 0; expected a whole number from 1 to 64",
        ),
        (
            {"local": {"sise": 8}},
            "unknown setting 'transform.views.local.sise'; known: count, crop_scale, size. "
            "Did you mean 'size'?",
        ),
        (
            {"local": {"crop_scale": [0.5, 0.1]}},
            "setting 'transform.views.local.crop_scale' is [0.5, 0.1]; expected two numbers, the least first",
        ),
        ({"local": 3}, "setting 'transform.views.local' is 3; expected a table of settings"),
        (3, "setting 'transform.views' is 3; expected a table"),
    ],
)
def test_a_mistake_in_a_group_is_said_with_its_name(views: Any, said: str) -> None:
    with pytest.raises(UserError) as error:
        settings(views)
    assert str(error.value) == said


def test_noise_has_the_shapes_of_a_recipes_views(tiny_recipe: Path) -> None:
    plain = load_recipe(tiny_recipe)
    model = build_model(plain)
    assert random_batch(plain, model, 5).views["image"].shape == (5, 3, 16, 16)
    table = {**plain.to_table(), "transform": {"views": VIEWS}}
    views = random_batch(resolve(table), model, 5).views
    assert {name: tuple(view.shape) for name, view in views.items()} == {
        "global": (5, 2, 3, 16, 16),
        "local": (5, 3, 3, 8, 4),
    }


def test_a_size_that_the_encoder_cannot_cut_is_found_when_the_model_is_built(tiny_recipe: Path) -> None:
    recipe = load_recipe(tiny_recipe, "transform.views.local.size=10")
    with pytest.raises(UserError) as error:
        build_model(recipe)
    assert str(error.value) == (
        "transform.views.local: an image of 10x10 pixels cannot be cut into patches of 4x4; height must "
        "divide by 4 and width by 4: set encoder.image_size or encoder.patch_size, "
        "or transform.views.local.size"
    )


def test_a_variant_for_one_view_refuses_groups_when_the_model_is_built(tiny_recipe: Path) -> None:
    """Core's own variant takes one; the installed plugins' that take several are named."""
    with pytest.raises(UserError) as error:
        build_model(load_recipe(tiny_recipe, "transform.views.a.count=2", "transform.views.b.count=1"))
    assert str(error.value) == (
        "variant 'jepa' takes one view of a sample; transform.views has a, b; "
        "for several views there is: lejepa"
    )
