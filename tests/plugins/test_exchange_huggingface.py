"""Folders of transformers' IJepaModel: the same features on both sides, strictly, and the same pictures."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from jepa_core import UserError
from jepa_core.data.transforms import eval_transform
from jepa_core.formats.exporting import export_run
from jepa_core.formats.importing import import_run
from jepa_core.runs.load import open_model
from tests.made_runs import error_of, images, make_run
from tests.plugins import reference_ijepa as reference

transformers = pytest.importorskip("transformers")

SIZES: dict[str, Any] = {
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "intermediate_size": 60,
    "image_size": 32,
    "patch_size": 8,
    "layer_norm_eps": 1e-6,
}


def theirs(kind: str = "IJepaModel", table: torch.Tensor | None = None, **sizes: Any) -> Any:
    """A small model of transformers' with random weights, by default on the fixed sine-cosine table."""
    torch.manual_seed(0)
    model = getattr(transformers, kind)(transformers.IJepaConfig(**{**SIZES, **sizes})).eval()
    positions = model.base_model.embeddings.position_embeddings
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
        positions.copy_(reference.table(4, 4, 24).float()[None] if table is None else table)
    return model


def tokens_of(model: Any, x: torch.Tensor, **options: Any) -> torch.Tensor:
    return model.base_model(pixel_values=x, **options).last_hidden_state


def imported(model: Any, tmp_path: Path, *overrides: str, **options: Any) -> Any:
    """(what import said, our model of a folder that transformers wrote)."""
    model.save_pretrained(tmp_path / "hf")
    made = import_run(str(tmp_path / "hf"), tmp_path / "run", overrides=list(overrides), **options)
    return made, open_model(tmp_path / "run")[1]


@torch.no_grad()
def test_their_model_becomes_a_run(tmp_path):
    model, x = theirs(), images(32, 32)
    made, ours = imported(model, tmp_path)
    assert error_of(ours.features(x, pool=None), tokens_of(model, x)) <= 1e-5
    assert error_of(ours.features(x), tokens_of(model, x).mean(1)) <= 1e-5
    assert (ours.encoder.heads, ours.encoder.config.position_scale) == (3, 1.0)
    assert made.notes[0] == (
        "it does not say how its images were prepared: taken from the recipe (transform.mean=…)"
    )


@torch.no_grad()
def test_the_classifier_is_left_out_by_name(tmp_path):
    model, x = theirs("IJepaForImageClassification"), images(32, 32)
    made, ours = imported(model, tmp_path)
    assert made.notes[0] == "left out, as no part of the encoder: classifier.bias, classifier.weight"
    assert error_of(ours.features(x, pool=None), tokens_of(model, x)) <= 1e-5


@torch.no_grad()
def test_trained_positions_are_kept(tmp_path):
    model, x = theirs(table=torch.randn(1, 16, 24)), images(32, 32)
    made, ours = imported(model, tmp_path)
    assert made.recipe.encoder.name == "timm_vit"
    assert "its positions are trained ones: kept as stored, resized for other image sizes" in made.notes
    assert error_of(ours.features(x, pool=None), tokens_of(model, x)) <= 1e-5
    back = transformers.AutoModel.from_pretrained(export_run(tmp_path / "run", "huggingface").path)
    assert error_of(tokens_of(back, x), tokens_of(model, x)) <= 1e-5


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float16])
@torch.no_grad()
def test_half_precision_is_read_as_fp32(tmp_path, kind):
    model, x = theirs().to(kind), images(32, 32)
    made, ours = imported(model, tmp_path)
    assert ours.encoder.config.position_scale == 1.0
    assert f"stored as {str(kind)[6:]}, read as float32" in made.notes
    exact = theirs()
    exact.load_state_dict({name: value.float() for name, value in model.state_dict().items()})
    exact.embeddings.position_embeddings.copy_(theirs().embeddings.position_embeddings)
    assert error_of(ours.features(x, pool=None), tokens_of(exact, x)) <= 1e-5


@torch.no_grad()
def test_their_processor_is_read(tmp_path):
    model = theirs()
    model.save_pretrained(tmp_path / "hf")
    kind = transformers.ViTImageProcessor
    kind(image_mean=[0.1, 0.2, 0.3], image_std=[0.2, 0.2, 0.2], resample=3).save_pretrained(tmp_path / "hf")
    made, _ = imported(model, tmp_path)
    transform = made.recipe.transform
    assert (transform.mean, transform.std, transform.interpolation) == (
        (0.1, 0.2, 0.3),
        (0.2,) * 3,
        "bicubic",
    )
    kind().save_pretrained(tmp_path / "hf")
    made, _ = imported(model, tmp_path, overwrite=True)
    assert "I-JEPA's released weights were trained with ImageNet's" in made.notes[0]


@pytest.mark.parametrize(
    "overrides",
    [
        (),
        ("encoder.image_size=[16, 24]", "encoder.position_scale=0.2"),
        ("encoder.name=vit_tiny_patch16_224", "encoder.width=24", "encoder.depth=2", "encoder.heads=3"),
    ],
)
@torch.no_grad()
def test_export_and_back(tmp_path, tiny_recipe, overrides):
    model = make_run(tmp_path / "made", tiny_recipe, *overrides)
    path = export_run(tmp_path / "made", "huggingface").path
    loaded, report = transformers.AutoModel.from_pretrained(path, output_loading_info=True)
    assert type(loaded).__name__ == "IJepaModel"
    assert not any(report.values())
    x = images(*model.encoder.view_shape()[1:])
    assert error_of(tokens_of(loaded, x), model.features(x, pool=None)) <= 1e-5
    loaded.save_pretrained(tmp_path / "again")
    import_run(str(tmp_path / "again"), tmp_path / "back")
    _, back, _ = open_model(tmp_path / "back")
    for size in (model.encoder.view_shape()[1:], (32, 48)):
        assert error_of(back.features(images(*size)), model.features(images(*size))) <= 1e-5


@pytest.mark.parametrize(("crop", "mode"), [(1.0, "bilinear"), (0.875, "bicubic")])
def test_their_processor_prepares_images_as_the_run_did(tmp_path, tiny_recipe, crop, mode):
    """Square pictures: within a grey level, as theirs are resized in 8 bits."""
    words = (
        f"transform.eval_crop={crop}",
        f"transform.interpolation={mode}",
        "transform.mean=[0.1, 0.2, 0.3]",
    )
    model = make_run(tmp_path / "made", tiny_recipe, *words)
    path = export_run(tmp_path / "made", "huggingface").path
    processor = transformers.AutoImageProcessor.from_pretrained(path)
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 255, (70, 70, 3), dtype=np.uint8))
    recipe, _, _ = open_model(tmp_path / "made")
    expected = eval_transform(recipe.transform, model.encoder.view_shape())(picture)
    got = processor(picture, return_tensors="pt")["pixel_values"][0]
    assert error_of(got, expected) <= 1.01 / 255 / 0.224


@torch.no_grad()
def test_other_image_sizes(tmp_path):
    """Ours computes the table of the new grid; theirs stretches the stored one."""
    model = theirs(image_size=224, table=reference.table(28, 28, 24).float()[None])
    _, ours = imported(model, tmp_path)
    for size in ((448, 448), (224, 320)):
        x = images(*size, batch=1)
        table = reference.table(size[0] // 8, size[1] // 8, 24).float()[None]
        exact = theirs(image_size=list(size), table=table)
        same = {name: value for name, value in model.state_dict().items() if "position" not in name}
        exact.load_state_dict(same, strict=False)
        assert error_of(ours.features(x, pool=None), tokens_of(exact, x)) <= 1e-5
        stretched = tokens_of(model, x, interpolate_pos_encoding=True)
        assert error_of(ours.features(x, pool=None), stretched) > 1e-2


def edited(tmp_path: Path, drop: str | None = None, **config: Any) -> str:
    theirs().save_pretrained(tmp_path / "hf")
    path = tmp_path / "hf" / "model.safetensors"
    tensors = load_file(path)
    if drop:
        tensors["extra.weight"] = tensors.pop(drop)
    save_file(tensors, path)
    about = json.loads((tmp_path / "hf" / "config.json").read_text())
    (tmp_path / "hf" / "config.json").write_text(json.dumps({**about, **config}))
    return str(tmp_path / "hf")


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (
            {"drop": "encoder.layer.1.attention.attention.key.bias"},
            r"1 missing \(encoder.layer.1.attention.attention.key.bias\); 1 unexpected \(extra.weight\)",
        ),
        (
            {"num_hidden_layers": 3},
            r"is not the IJepaModel of its config.json: 16 missing \(encoder.layer.2.",
        ),
        (
            {"hidden_act": "relu"},
            "hidden_act 'relu', layer_norm_eps 1e-06; expected 'gelu' and at most 1e-06",
        ),
        ({"layer_norm_eps": 1e-5}, "layer_norm_eps 1e-05; expected 'gelu' and at most 1e-06"),
        ({"hidden_size": 48}, r"does not fit this model: encoder: \d+ of another shape"),
        ({"patch_size": [8, 4]}, "patches of 8x4 pixels; expected square ones"),
    ],
)
def test_folders_that_do_not_fit_are_refused_whole(tmp_path, edit, message):
    with pytest.raises(UserError, match=message):
        import_run(edited(tmp_path, **edit), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_other_folders_are_not_taken_for_it(tmp_path):
    path = edited(tmp_path, model_type="vit")
    with pytest.raises(UserError, match=r"is no folder with a config.json of model_type 'ijepa'"):
        import_run(path, tmp_path / "run", format="huggingface")


def test_a_smaller_epsilon_is_said(tmp_path):
    made = import_run(edited(tmp_path, layer_norm_eps=1e-12), tmp_path / "run")
    assert "layer_norm_eps 1e-12 is read as 1e-06" in made.notes


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("vit_little_patch16_reg1_gap_256", r"IJepaModel has no place for blocks.0.ls1.gamma"),
        ("vit_base_patch16_clip_quickgelu_224", "IJepaModel has plain blocks with exact GELU"),
    ],
)
def test_encoders_that_it_cannot_be(tmp_path, tiny_recipe, name, message):
    words = (f"encoder.name={name}", "encoder.width=24", "encoder.depth=2", "encoder.heads=3")
    make_run(tmp_path / "made", tiny_recipe, *words)
    with pytest.raises(UserError, match=message):
        export_run(tmp_path / "made", "huggingface")
    assert list((tmp_path / "made" / "exports").iterdir()) == []
