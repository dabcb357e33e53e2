"""Files of weights and their config.json in every wrong shape; exports to where nothing can be written."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file

from jepa_core import UserError
from jepa_core.formats import exporting
from jepa_core.formats.exporting import export_run
from jepa_core.formats.importing import import_run
from jepa_core.formats.weight_file import Source, as_fp32, separate_tensors
from jepa_core.nn.timm_model import FEATURES
from jepa_core.runs.events_file import read_events
from jepa_core.runs.load import open_model
from tests.core.formats.test_formats import file, run
from tests.made_runs import images

__all__ = ["file", "run"]

SMALL = {"embed_dim": 32, "depth": 2, "num_heads": 2, "img_size": 28}
MODEL = "vit_small_patch14_reg4_dinov2"


def message(*words: Any, **options: Any) -> str:
    with pytest.raises(UserError) as error:
        import_run(*words, **options)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A small timm model in a folder, as timm writes it."""
    (tmp_path / "vit").mkdir()
    vit = timm.create_model("vit_tiny_patch16_224", **{**SMALL, "img_size": 32}, **FEATURES)
    save_file(vit.state_dict(), tmp_path / "vit/model.safetensors")
    config = {"architecture": "vit_tiny_patch16_224", "model_args": {**SMALL, "img_size": 32}}
    (tmp_path / "vit/config.json").write_text(json.dumps(config))
    return tmp_path / "vit"


CONFIGS = [
    "[]",
    "null",
    "3",
    '"text"',
    "{",
    "",
    "[" * 100_000,
    '{"a":' * 50_000,
    "\xff",
    '{"architecture": 3}',
    '{"architecture": ["a"]}',
    '{"architecture": "no_such_model"}',
    '{"architecture": "vit_tiny_patch16_224", "model_args": []}',
    '{"architecture": "vit_tiny_patch16_224", "model_args": 3}',
    '{"architecture": "vit_tiny_patch16_224", "model_args": {"depth": "two"}}',
    '{"architecture": "vit_tiny_patch16_224", "model_args": {"depth": 1000000000}}',
    '{"architecture": "vit_tiny_patch16_224", "model_args": {"depth": -1}}',
    '{"architecture": "vit_tiny_patch16_224", "model_args": {"embed_dim": 1e400}}',
    '{"architecture": "vit_tiny_patch16_224", "model_args": {"num_heads": 0}}',
    '{"architecture": "vit_tiny_patch16_224", "model_args": {"act_layer": {"a": 1}}}',
    '{"architecture": "vit_tiny_patch16_224", "pretrained_cfg": [1]}',
    '{"architecture": "resnet18"}',
]
GOOD = '{"architecture": "vit_tiny_patch16_224", "model_args": %s, "pretrained_cfg": %s}'
IMAGES = [
    {"mean": 3, "std": 3},
    {"mean": [1, 2], "std": [1, 2, 3]},
    {"mean": ["a", "b", "c"], "std": [1, 1, 1]},
    {"mean": [1, 1, 1], "std": [0, 0, 0]},
    {"mean": [1, 1, 1], "std": [1, 1, 1], "crop_pct": "a"},
    {"mean": [1, 1, 1], "std": [1, 1, 1], "crop_pct": -1},
]
CONFIGS += [GOOD % (json.dumps({**SMALL, "img_size": 32}), json.dumps(about)) for about in IMAGES]


@pytest.mark.parametrize("text", CONFIGS, ids=range(len(CONFIGS)))
def test_a_config_of_another_shape_is_one_line(folder: Path, tmp_path: Path, text: str) -> None:
    (folder / "config.json").write_bytes(text.encode("latin-1"))
    message(str(folder), tmp_path / "made")
    assert not (tmp_path / "made").exists()


def test_a_config_that_is_large_is_not_read(folder: Path, tmp_path: Path) -> None:
    with (folder / "config.json").open("wb") as stream:
        stream.truncate(10**9)
    assert "expected a JSON object of at most 16,000,000" in message(str(folder), tmp_path / "made")


ENTRIES = ["", "[]", "3", "{", "[" * 50_000, "{}", '{"encoder": []}', '{"encoder": {}, "transform": {}}']


@pytest.mark.parametrize("entry", ENTRIES, ids=range(len(ENTRIES)))
def test_a_header_of_another_shape_is_one_line(file: Path, tmp_path: Path, entry: str) -> None:
    save_file(load_file(file), tmp_path / "a.safetensors", {"jepa_core": entry})
    assert "the entry 'jepa_core' of its header is no" in message(str(tmp_path / "a.safetensors"))


@pytest.mark.parametrize(
    "change",
    [
        {"encoder": {}},
        {"encoder": {"name": 3}},
        {"encoder": {"name": "official_tiny", "depth": 10**9}},
        {"step": "a"},
        {"step": True},
        {"transform": {"mean": 3}},
        {"recipe": None},
        {"role": []},
    ],
    ids=str,
)
def test_a_header_with_a_wrong_value_is_one_line(file: Path, tmp_path: Path, change: dict[str, Any]) -> None:
    about = {**json.loads(Source(str(file)).metadata["jepa_core"]), **change}
    save_file(load_file(file), tmp_path / "a.safetensors", {"jepa_core": json.dumps(about)})
    message(str(tmp_path / "a.safetensors"), tmp_path / "made")


STATES = [
    [],
    {},
    3,
    None,
    "text",
    torch.zeros(3),
    {3: torch.zeros(3)},
    {"patch_embed.proj.weight": 3},
    {"patch_embed.proj.weight": torch.zeros(())},
    {"patch_embed.proj.weight": torch.zeros(3), "pos_embed": torch.zeros(0, 4, 4)},
    {"patch_embed.proj.weight": torch.zeros(192, 3, 16, 16, dtype=torch.complex64)},
    {"patch_embed.proj.weight": torch.zeros(192, 3, 16, 16).to_sparse()},
    {"patch_embed.proj.weight": torch.zeros(1).expand(10**9, 10**6)},
    {"state_dict": {"state_dict": {"model": {}}}},
    {"encoder": 3, "predictor": 3, "target_encoder": 3},
    {"encoder": {}, "predictor": {}, "target_encoder": {}},
    {part: {"blocks.999999999.a": torch.zeros(1)} for part in ("encoder", "predictor", "target_encoder")},
    {part: {"pos_embed": torch.zeros(1)} for part in ("encoder", "predictor", "target_encoder")}
    | {"jepa_core": [3]},
]


@pytest.mark.parametrize("state", STATES, ids=range(len(STATES)))
@pytest.mark.parametrize("form", [None, "timm", "official", "huggingface", "safetensors", "onnx"])
def test_a_pickle_of_another_shape_is_one_line(tmp_path: Path, state: Any, form: str | None) -> None:
    torch.save(state, tmp_path / "a.pth")
    message(
        str(tmp_path / "a.pth"),
        tmp_path / "made",
        format=form,
        overrides=["encoder.model=vit_tiny_patch16_224"],
    )
    assert not (tmp_path / "made").exists()


def test_values_that_are_no_plain_tensors_are_named() -> None:
    with pytest.raises(UserError, match=r"tensor 'a' is of shape \[1000000000\], with fewer values"):
        as_fp32({"a": torch.zeros(1, dtype=torch.float16).expand(10**9)})
    with pytest.raises(UserError, match=r"format 'x' holds plain tensors; 'a' of this encoder is a dict"):
        separate_tensors({"a": {}}, "x")
    tied = torch.zeros(3)
    separate = separate_tensors({"a": tied, "b": tied}, "x")
    assert separate["a"].data_ptr() != separate["b"].data_ptr()


@pytest.mark.parametrize("name", ["pipe", "nul\0", "x" * 300, "", "/dev/zero"])
def test_a_name_that_is_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    os.mkfifo(tmp_path / "pipe")
    monkeypatch.chdir(tmp_path)
    message(name, tmp_path / "made", format="timm", overrides=["encoder.model=vit_tiny_patch16_224"])
    message(name, tmp_path / "made")


def as_dinov2(vit: torch.nn.Module) -> dict[str, torch.Tensor]:
    """timm's tensors under DINOv2's own names, as Meta's files have them."""
    state = dict(vit.state_dict())
    if "reg_token" in state:
        state["register_tokens"] = state.pop("reg_token")
        own = torch.full_like(state["cls_token"], 0.25)
        state["pos_embed"] = torch.cat([own, state["pos_embed"]], dim=1)
        state["cls_token"] = state["cls_token"] - own
    return {**state, "mask_token": torch.zeros(1, 32)}


@pytest.mark.parametrize("model", [MODEL, "vit_small_patch14_dinov2"])
@pytest.mark.parametrize("kind", ["file", "folder", "nested", "no mask token"])
def test_dinov2s_own_files_are_converted_as_timm_does_it(tmp_path: Path, model: str, kind: str) -> None:
    torch.manual_seed(0)
    vit = timm.create_model(model, **SMALL, **FEATURES).eval()
    for parameter in vit.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    state = as_dinov2(vit)
    if kind == "no mask token" and "register_tokens" in state:
        del state["mask_token"]
    source = tmp_path / ("folder" if kind == "folder" else "dinov2.pth")
    words = [f"encoder.model={model}", *(f"encoder.arguments.{k}={v}" for k, v in SMALL.items())]
    if kind == "folder":
        source.mkdir()
        save_file({name: value.contiguous() for name, value in state.items()}, source / "model.safetensors")
        config = {"architecture": f"{model}.lvd142m", "model_args": SMALL}
        (source / "config.json").write_text(json.dumps(config))
        words = []
    else:
        torch.save({"model": state} if kind == "nested" else state, source)
    made = import_run(str(source), tmp_path / "run", overrides=words)
    assert any("DINOv2's own names" in note for note in made.notes)
    _, ours, _ = open_model(tmp_path / "run")
    x = images(28, 28)
    with torch.no_grad():
        expected = vit.forward_features(x)[:, vit.num_prefix_tokens :].mean(1)
        assert torch.allclose(ours.features(x), expected, atol=1e-4)


def test_dinov2_positions_of_another_grid_are_refused_and_not_resized(tmp_path: Path) -> None:
    state = as_dinov2(timm.create_model(MODEL, **SMALL, **FEATURES))
    torch.save(state, tmp_path / "a.pth")
    sizes = [f"encoder.arguments.{key}={value}" for key, value in {**SMALL, "img_size": 56}.items()]
    assert "pos_embed is [1, 5, 32]; 'vit_small_patch14_reg4_dinov2' has 16 patches" in message(
        str(tmp_path / "a.pth"), tmp_path / "run", overrides=[f"encoder.model={MODEL}", *sizes]
    )


def test_nan_weights_are_told_at_import_and_export(
    file: Path, run: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = load_file(file)
    name = sorted(state)[0]
    state[name].view(-1)[0] = float("nan")
    save_file(state, tmp_path / "nan.safetensors", dict(Source(str(file)).metadata))
    made = import_run(str(tmp_path / "nan.safetensors"), tmp_path / "made")
    assert any(note.startswith("NaN or infinite values in 1 of ") and name in note for note in made.notes)
    (event,) = read_events(tmp_path / "made", "imported")
    assert event["notes"] == list(made.notes)
    export_run(tmp_path / "made", "safetensors")
    (line,) = (record.getMessage() for record in caplog.records)
    assert "the exported encoder has NaN or infinite values in 1 of" in line


@pytest.mark.parametrize("to", ["timm", "safetensors", "official", "huggingface"])
@pytest.mark.parametrize(
    "error",
    [OSError(28, "No space left on device"), RuntimeError("write failed"), ValueError("odd"), KeyError("a")],
    ids=lambda error: type(error).__name__,
)
def test_an_export_that_fails_in_any_way_is_one_line(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, to: str, error: Exception
) -> None:
    form = type(exporting.build_format(to))
    whole = form.write

    def fails(self: Any, export: Any, path: Path) -> Any:
        whole(self, export, path)
        raise error

    monkeypatch.setattr(form, "write", fails)
    with pytest.raises(UserError, match=r"out' cannot be written") as raised:
        export_run(run, to, tmp_path / "place" / "out")
    assert "\n" not in str(raised.value)
    assert list((tmp_path / "place").iterdir()) == []


@pytest.mark.parametrize("path", ["nul\0", "x" * 300, "file/below", "/proc/nowhere/out"])
def test_a_place_where_nothing_can_be_written(run: Path, tmp_path: Path, path: str) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        export_run(run, "safetensors", tmp_path / path)


def test_a_pipe_is_not_replaced_by_an_export(run: Path, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for overwrite in (False, True):
        with pytest.raises(UserError, match=r"pipe' is a pipe; name a file or a folder with --out"):
            export_run(run, "safetensors", tmp_path / "pipe", overwrite=overwrite)
    assert (tmp_path / "pipe").is_fifo()


def test_overwriting_replaces_exports_and_nothing_else(run: Path, tmp_path: Path) -> None:
    export_run(run, "timm", tmp_path / "out")
    export_run(run, "timm", tmp_path / "out", overwrite=True)
    assert sorted(path.name for path in tmp_path.glob("out*")) == ["out"]
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "thesis.tex").write_text("years of work")
    for to in ("timm", "safetensors"):
        with pytest.raises(UserError, match=r"home' holds 'thesis.tex', which no export wrote, so it is not"):
            export_run(run, to, tmp_path / "home", overwrite=True)
    assert (tmp_path / "home" / "thesis.tex").read_text() == "years of work"
    with pytest.raises(UserError, match=r"out' is a folder, so it is not replaced"):
        export_run(run, "safetensors", tmp_path / "out", overwrite=True)
    (tmp_path / "text").write_text("text")
    with pytest.raises(UserError, match=r"text' is a file, and this format writes a folder"):
        export_run(run, "timm", tmp_path / "text", overwrite=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["home", "out", "run", "text"]
