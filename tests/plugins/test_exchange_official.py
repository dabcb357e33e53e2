"""Official checkpoints as runs: sizes read off the tensors, positions checked, there and back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from jepa_core import UserError
from jepa_core.formats.exporting import export_run
from jepa_core.formats.importing import import_run
from jepa_core.runs.load import open_model
from jepa_ijepa import official_format
from tests.made_runs import error_of, images, make_run
from tests.plugins import reference_ijepa as reference
from tests.plugins.test_official import make, released

HEADS = "encoder.heads=2"


def file(tmp_path: Path, change: Any = lambda checkpoint: None, **options: Any) -> str:
    model = options.pop("model", None) or make(seed=1)
    checkpoint = released(model, **options)
    change(checkpoint)
    torch.save(checkpoint, tmp_path / "IN1K-vit.h.14-300e.pth.tar")
    return str(tmp_path / "IN1K-vit.h.14-300e.pth.tar")


def by_formulas(path: str, x: torch.Tensor, patch: int = 8) -> torch.Tensor:
    """[B, N, D] float64: the file's target encoder, written out."""
    stored = torch.load(path, weights_only=True)["target_encoder"]
    state = {key.removeprefix("module."): value.double() for key, value in stored.items()}
    return torch.stack([reference.encoder(state, image, None, patch, 2) for image in x.double()])


def imported(tmp_path: Path, path: str, *overrides: str, **options: Any) -> Any:
    made = import_run(path, tmp_path / "run", overrides=list(overrides), **options)
    return made, open_model(tmp_path / "run")[1]


@pytest.mark.parametrize("prefix", ["module.", ""])
@torch.no_grad()
def test_a_released_file_becomes_a_run(tmp_path, prefix):
    made, model = imported(tmp_path, file(tmp_path, prefix=prefix), HEADS)
    expected = make(seed=1)
    x = images(32, 32)
    for part in ("encoder", "target_encoder"):
        assert error_of(getattr(model, part)(x).values, getattr(expected, part)(x).values) == 0
    assert all(
        torch.equal(v, expected.predictor.state_dict()[k]) for k, v in model.predictor.state_dict().items()
    )
    assert (model.encoder.depth, model.encoder.heads, model.encoder.width) == (4, 2, 24)
    assert model.encoder.view_shape() == (3, 32, 32)
    assert (model.predictor.width, model.predictor.heads) == (16, 2)
    assert made.recipe.name == "import-IN1K-vit.h.14-300e"
    assert (made.recipe.transform.eval_crop, made.recipe.transform.mean[0]) == (0.875, 0.485)
    assert made.notes[0] == "preprocessing: ImageNet's, as the released files do not say it"


@torch.no_grad()
def test_the_formulas_of_the_paper_give_its_features(tmp_path):
    """Against the float64 reference that shares no code with ours."""
    path = file(tmp_path)
    _, model = imported(tmp_path, path, HEADS)
    x = images(32, 32)
    assert error_of(model.features(x, pool=None).double(), by_formulas(path, x)) <= 1e-5


@pytest.mark.parametrize("name", ["tiny", "small", "base", "large", "huge", "giant"])
def test_released_sizes_are_known_by_their_tensors(name):
    from jepa_ijepa.encoder import VisionTransformer

    with torch.device("meta"):
        config = VisionTransformer.Config(name=f"official_{name}", patch_size=14, init="timm")
        tensors = dict(VisionTransformer(config).state_dict())
        tensors["pos_embed"] = torch.empty(1, 256, len(tensors["norm.weight"]))
    settings = official_format.encoder_settings("it", tensors, {})
    assert settings == {"name": f"official_{name}", "image_size": 224, "patch_size": 14}


def drop(part: str, name: str) -> Any:
    return lambda checkpoint: checkpoint[part].pop(f"module.{name}")


def swap(checkpoint: Any) -> None:
    table = checkpoint["predictor"]["module.predictor_pos_embed"]
    checkpoint["predictor"]["module.predictor_pos_embed"] = table.roll(8, -1)


def extra(checkpoint: Any) -> None:
    checkpoint["target_encoder"]["module.cls_token"] = torch.zeros(1, 1, 24)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (drop("encoder", "pos_embed"), r"expected a tensor 'pos_embed' with 3 axes; got nothing"),
        (drop("target_encoder", "pos_embed"), "target_encoder.pos_embed in .* is missing"),
        (drop("encoder", "blocks.2.norm1.bias"), r"encoder: 1 missing \(blocks.2.norm1.bias\)"),
        (drop("predictor", "mask_token"), r"predictor: 1 missing \(mask_token\)"),
        (swap, r"predictor_pos_embed in .*, \[1, 16, 16\], is not the sine-cosine table of grid \(4, 4\)"),
        (extra, r"target_encoder: 1 unexpected \(cls_token\)"),
    ],
)
def test_what_does_not_fit_is_refused_whole(tmp_path, change, message):
    with pytest.raises(UserError, match=message):
        imported(tmp_path, file(tmp_path, change), HEADS)
    assert not (tmp_path / "run").exists()


def test_heads_have_to_be_said_where_they_cannot_be_seen(tmp_path):
    with pytest.raises(UserError, match=r"width 24 and depth 4 are no released size, .*; give encoder.heads"):
        imported(tmp_path, file(tmp_path))


def test_other_grids_than_squares(tmp_path):
    path = file(tmp_path, rows=2, columns=4)
    with pytest.raises(
        UserError, match=r"8 positions are no square grid; give encoder.image_size='\[H, W\]'"
    ):
        imported(tmp_path, path, HEADS)
    _, model = imported(tmp_path, path, HEADS, "encoder.image_size=[16, 32]")
    assert model.grid() == (2, 4)


def test_half_precision(tmp_path):
    def halve(checkpoint: Any) -> None:
        for part in ("encoder", "predictor", "target_encoder"):
            checkpoint[part] = {key: value.bfloat16() for key, value in checkpoint[part].items()}

    made, model = imported(tmp_path, file(tmp_path, halve), HEADS)
    assert "stored as bfloat16, read as float32" in made.notes
    assert made.recipe.encoder.position_scale == 1.0  # type: ignore[attr-defined]
    stored = make(seed=1).encoder.state_dict()
    assert all(torch.equal(v, stored[k].bfloat16().float()) for k, v in model.encoder.state_dict().items())


@pytest.mark.parametrize("overrides", [(), ("encoder.position_scale=0.2", "encoder.image_size=[16, 24]")])
@torch.no_grad()
def test_there_and_back(tmp_path, tiny_recipe, overrides):
    words = ("predictor.heads=3", "transform.std=[0.1, 0.2, 0.3]", *overrides)
    before = make_run(tmp_path / "made", tiny_recipe, *words)
    written = export_run(tmp_path / "made", "official")
    assert written.path.name == "official.pth.tar"
    assert list(written.parts) == ["context encoder", "predictor", "target encoder"]
    made, after = imported(tmp_path, str(written.path))
    assert before.state_dict().keys() == after.state_dict().keys()
    assert all(torch.equal(v, after.state_dict()[k]) for k, v in before.state_dict().items())
    x = images(*before.encoder.view_shape()[1:])
    assert error_of(before.features(x), after.features(x)) == 0
    assert made.recipe.transform.std == (0.1, 0.2, 0.3)
    assert made.recipe.predictor.heads == 3  # type: ignore[attr-defined]


def test_official_files_hold_both_encoders(tmp_path, tiny_recipe):
    make_run(tmp_path / "made", tiny_recipe)
    with pytest.raises(UserError, match="official checkpoints hold both encoders; leave out --role"):
        export_run(tmp_path / "made", "official", role="context")
    make_run(tmp_path / "one", tiny_recipe, "target_update.name=none")
    with pytest.raises(
        UserError, match="hold a target_encoder of class VisionTransformer; this model's is None"
    ):
        export_run(tmp_path / "one", "official")


def test_a_recipe_without_a_target_encoder_takes_none(tmp_path, tiny_recipe):
    with pytest.raises(
        UserError, match="holds a target_encoder, and the recipe's model has none; set target_up"
    ):
        imported(tmp_path, file(tmp_path), HEADS, "target_update.name=none")


@torch.no_grad()
def test_weights_of_224_pixels_see_448_and_other_sides(tmp_path):
    """Features on other sizes equal those of the formulas with the table of that grid."""
    path = file(tmp_path, model=make(seed=1, patch_size=16, image_size=224), rows=14, columns=14)
    for size in ((448, 448), (224, 320)):
        _, model = imported(tmp_path, path, HEADS, f"encoder.image_size={list(size)}", overwrite=True)
        x = images(*size, batch=1)
        assert model.encoder.view_shape() == (3, *size)
        assert error_of(model.features(x, pool=None).double(), by_formulas(path, x, 16)) <= 1e-5
