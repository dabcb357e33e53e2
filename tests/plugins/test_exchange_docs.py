"""docs/exchange.md: its commands run, and what it shows in each library gives the run's features."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image

from jepa_core.data.transforms import eval_transform
from jepa_core.formats import timm as timm_format
from jepa_core.formats.exporting import export_run
from jepa_core.runs.load import open_model
from tests.made_runs import error_of, make_run

pytest.importorskip("transformers")

PAGE = (Path(__file__).parents[2] / "docs" / "exchange.md").read_text(encoding="utf-8")
PICTURE = Image.fromarray(np.random.default_rng(0).integers(0, 255, (16, 16, 3), dtype=np.uint8))


def fences(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE, re.M | re.S)


@pytest.fixture
def here(tmp_path, tiny_recipe, monkeypatch):
    """A folder with everything that the page names, in small."""
    monkeypatch.chdir(tmp_path)
    make_run(Path("runs/demo"), tiny_recipe)
    export_run(Path("runs/demo"), "official", Path("IN1K-vit.h.14-300e.pth.tar"))
    export_run(Path("runs/demo"), "huggingface", Path("ijepa_vith14_1k"))
    export_run(Path("runs/demo"), "safetensors", Path("encoder.safetensors"))
    vit = timm.create_model("test_vit")
    torch.save(vit.state_dict(), "pytorch_model.bin")
    known = "test_vit", {}, timm.create_model("test_vit").pretrained_cfg, vit.state_dict()
    monkeypatch.setattr(timm_format, "_load_pretrained", lambda name: known)
    return tmp_path


def test_the_commands_run(here, jepa):
    for fence in fences("sh"):
        for line in fence.splitlines():
            words = shlex.split(line.replace("vit_base_patch16_224", "test_vit"), comments=True)
            assert words[0] == "jepa"
            said = jepa(*words[1:])
            assert said.code == 0, f"{line}\n{said.err}"
    assert "imagenet" in Path("runs/import-IN1K-vit.h.14-300e/recipe.toml").read_text()
    assert sorted(path.name for path in Path("runs/demo/exports").iterdir()) == [
        "encoder-context.safetensors",
        "official.pth.tar",
        "onnx",
        "timm",
    ]


@torch.no_grad()
def test_each_library_gives_the_runs_features(here, jepa):
    for line in fences("sh")[1].splitlines():
        assert jepa(*shlex.split(line, comments=True)[1:]).code == 0
    recipe, model, _ = open_model(Path("runs/demo"))
    images = eval_transform(recipe.transform, (3, 16, 16))(PICTURE)[None]
    expected = model.features(images)
    seen = 0
    for code in fences("py"):
        names = {"picture": PICTURE, "images": images}
        exec(code, names)
        if "features" in names:
            assert error_of(torch.as_tensor(names["features"]), expected) <= 1e-5, code
            seen += 1
        elif "about" in names:
            assert (names["about"]["role"], names["about"]["step"]) == ("context", 7)
            assert names["tensors"].keys() == model.encoder.state_dict().keys()
        else:
            assert names["target"].keys() == {*model.encoder.state_dict(), "pos_embed"}
    assert seen == 3


def test_the_table_names_every_format(jepa):
    from jepa_core import plugins

    rows = set(re.findall(r"^\| `(\w+)` \|", PAGE, re.M))
    assert rows == plugins.registry().catalogue("format").classes.keys()
