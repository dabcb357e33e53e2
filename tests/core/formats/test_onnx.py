"""ONNX: what onnxruntime computes, for any batch, and what stands in the file besides."""

from __future__ import annotations

import json
from pathlib import Path

import onnxruntime
import pytest
import torch

from jepa_core import UserError, load_recipe
from jepa_core.formats import onnx as onnx_format
from jepa_core.formats.base import Export
from jepa_core.formats.exporting import export_run
from tests.made_runs import error_of, images, make_run


@pytest.fixture(scope="module")
def graph(tmp_path_factory: pytest.TempPathFactory, tiny_recipe: Path):
    """(our model, the session of its context encoder)."""
    tmp_path = tmp_path_factory.mktemp("onnx")
    model = make_run(
        tmp_path / "run", tiny_recipe, "encoder.image_size=[16, 24]", "transform.eval_crop=0.875"
    )
    path = export_run(tmp_path / "run", "onnx", role="context").path
    assert path.name == "onnx-context"
    return model, onnxruntime.InferenceSession(path / "model.onnx")


@torch.no_grad()
def test_onnxruntime_sees_the_same_features(graph):
    model, session = graph
    for batch in (1, 2, 5):
        x = images(16, 24, batch=batch)
        tokens, features = (torch.from_numpy(out) for out in session.run(None, {"images": x.numpy()}))
        assert error_of(tokens, model.features(x, role="context", pool=None)) <= 1e-5
        assert error_of(features, model.features(x, role="context")) <= 1e-5


def test_the_metadata_say_how_images_are_prepared(graph):
    about = graph[1].get_modelmeta().custom_metadata_map
    assert json.loads(about["image_size"]) == [16, 24]
    assert json.loads(about["mean"]) == [0.485, 0.456, 0.406]
    assert json.loads(about["eval_crop"]) == 0.875
    assert json.loads(about["interpolation"]) == "bilinear"
    assert json.loads(about["jepa_core"])["role"] == "context"


def test_a_missing_exporter_is_named(tmp_path, tiny_recipe, monkeypatch):
    def without(*_: object, **__: object) -> None:
        raise ModuleNotFoundError("No module named 'onnxscript'", name="onnxscript")

    make_run(tmp_path / "run", tiny_recipe)
    monkeypatch.setattr(onnx_format.torch.onnx, "export", without)
    with pytest.raises(
        UserError, match=r"needs onnxscript, which is not installed: pip install 'jepa-core\[onnx\]'"
    ):
        export_run(tmp_path / "run", "onnx")
    assert list((tmp_path / "run" / "exports").iterdir()) == []


def test_an_encoder_that_timm_does_not_have_is_for_safetensors_only(tmp_path, tiny_recipe):
    model = make_run(tmp_path / "run", tiny_recipe)
    model.target_encoder = torch.nn.Identity()
    export = Export(load_recipe(tiny_recipe), model, 0)
    with pytest.raises(
        UserError, match="format 'onnx' takes encoders that are timm models; 'official_tiny' does"
    ):
        export.timm("onnx")
    assert type(Export(load_recipe(tiny_recipe), model, 0, "context").timm("onnx").build()).__name__ == (
        "VisionTransformer"
    )
