"""In and out: what is read, what is refused and in which words, what a run of imported weights is."""

from __future__ import annotations

import json
import os
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from jepa_core import UserError, plugins
from jepa_core.formats.base import Format, Preprocessing
from jepa_core.formats.exporting import export_run
from jepa_core.formats.importing import import_run
from jepa_core.formats.weight_file import Source
from jepa_core.maskers.none import NoMasks
from jepa_core.nn.identity import NoPredictor
from jepa_core.runs import checkpoints
from jepa_core.runs.events_file import read_events
from jepa_core.runs.load import open_model
from jepa_core.types import IndexSet, MaskPlan, Tokens
from tests.made_runs import error_of, images, make_run


@pytest.fixture
def run(tmp_path: Path, tiny_recipe: Path) -> Path:
    make_run(tmp_path / "run", tiny_recipe, "transform.mean=[0.1, 0.2, 0.3]", "transform.eval_crop=0.875")
    return tmp_path / "run"


@pytest.fixture
def file(run: Path) -> Path:
    """The run's target encoder as `safetensors`."""
    return export_run(run, "safetensors").path


def test_every_format_keeps_the_protocol():
    classes = plugins.registry().catalogue("format").classes
    assert {"timm", "safetensors", "onnx", "official", "huggingface"} <= classes.keys()
    for name, offered in classes.items():
        form = offered(offered.Config(name=name))
        assert isinstance(form, Format)
        assert form.suffix == "" or form.suffix.startswith(".")


@pytest.mark.parametrize("role", ["target", "context"])
def test_safetensors_there_and_back(tmp_path, run, role):
    _, before, _ = open_model(run)
    written = export_run(run, "safetensors", role=role)
    assert written.path.name == ("encoder.safetensors" if role == "target" else "encoder-context.safetensors")
    assert list(written.parts) == [f"{role} encoder"]
    assert written.step == 7
    made = import_run(str(written.path), tmp_path / "back")
    recipe, after, step = open_model(tmp_path / "back")
    x = images(16, 16)
    assert error_of(after.features(x), before.features(x, role=role)) == 0
    assert step == 0
    assert made.format == "safetensors"
    assert (recipe.transform.mean, recipe.transform.eval_crop) == ((0.1, 0.2, 0.3), 0.875)
    assert recipe.encoder == open_model(run)[0].encoder


def test_the_header_says_what_the_images_were(file):
    about = json.loads(Source(str(file)).metadata["jepa_core"])
    assert about["transform"]["mean"] == [0.1, 0.2, 0.3]
    assert about["image_size"] == [16, 16]
    assert about["encoder"]["width"] == 32
    assert (about["role"], about["step"]) == ("target", 7)


def test_an_encoder_alone_is_a_run_of_nothing_else(tmp_path, file):
    made = import_run(str(file), tmp_path / "back")
    _, model, _ = open_model(tmp_path / "back")
    assert {name.split(".")[0] for name in model.state_dict()} == {"encoder"}
    assert made.recipe.masker.name == made.recipe.predictor.name == made.recipe.target_update.name == "none"
    assert "data: cifar10, as none was named (data.name=folder data.path=…)" in made.notes
    event = read_events(tmp_path / "back", "imported")[0]
    assert (event["format"], event["step"], event["parts"]) == ("safetensors", 0, ["encoder"])
    assert event["sha256"] == checkpoints.sha256(file)
    assert event["file"] == str(file)


def test_with_a_recipe_the_predictor_is_fresh_and_that_is_said(tmp_path, file, tiny_recipe):
    made = import_run(str(file), tmp_path / "back", recipe=str(tiny_recipe))
    _, model, _ = open_model(tmp_path / "back")
    stored = load_file(file)
    for encoder in (model.encoder, model.target_encoder):
        assert all(torch.equal(value, stored[name]) for name, value in encoder.state_dict().items())
    assert made.notes[1:] == (
        "the file's one encoder is both context and target encoder",
        "the predictor is fresh, drawn from seed 3: the file has none",
    )
    assert made.recipe.transform.mean == (0.1, 0.2, 0.3)
    assert made.recipe.masker.name == "multiblock"


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float16])
def test_half_precision_is_read_as_fp32_and_that_is_said(tmp_path, file, kind):
    source = Source(str(file))
    halves = {name: value.to(kind) for name, value in source.content.items()}
    save_file(halves, tmp_path / "half.safetensors", dict(source.metadata))
    made = import_run(str(tmp_path / "half.safetensors"), tmp_path / "back")
    _, model, _ = open_model(tmp_path / "back")
    assert f"stored as {str(kind)[6:]}, read as float32" in made.notes
    for name, value in model.encoder.state_dict().items():
        assert value.dtype == torch.float32
        assert torch.equal(value, halves[name].float())


def changed(file: Path, change: Any) -> Path:
    source = Source(str(file))
    tensors = dict(source.content)
    change(tensors)
    save_file(tensors, file.with_name("changed.safetensors"), dict(source.metadata))
    return file.with_name("changed.safetensors")


def test_what_does_not_fit_is_listed_and_nothing_is_written(tmp_path, file):
    def change(tensors: dict[str, torch.Tensor]) -> None:
        del tensors["norm.bias"]
        tensors["cls_token"] = torch.zeros(1, 1, 32)
        tensors["norm.weight"] = torch.zeros(31)

    path = changed(file, change)
    with pytest.raises(UserError) as caught:
        import_run(str(path), tmp_path / "back")
    assert str(caught.value) == (
        f"{path} does not fit this model: encoder: 1 missing (norm.bias); encoder: 1 unexpected (cls_token); "
        "encoder: 1 of another shape (norm.weight [31] for [32])"
    )
    assert not (tmp_path / "back").exists()


class Hostile:
    """Runs a command when it is unpickled."""

    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (self.command,)


def test_nothing_in_a_file_is_run(tmp_path):
    for name, dump in (("old.pth", pickle.dump), ("new.pth", torch.save)):
        trap = Hostile(f"touch {tmp_path / 'caught'}")
        with (tmp_path / name).open("wb") as stream:
            dump({"model": trap}, stream, 2) if dump is pickle.dump else dump({"model": trap}, stream)
        with pytest.raises(
            UserError, match=r"asks for posix.system, and only tensors and plain values are loaded"
        ):
            import_run(str(tmp_path / name), tmp_path / "back")
    assert not (tmp_path / "caught").exists()


def text(path: Path) -> str:
    path.write_text("hello")
    return str(path)


def cut(path: Path) -> str:
    torch.save({"a": torch.zeros(1000)}, path)
    path.write_bytes(path.read_bytes()[:2000])
    return str(path)


def cut_safetensors(path: Path) -> str:
    save_file({"a": torch.zeros(1000)}, path)
    path.write_bytes(path.read_bytes()[:2000])
    return str(path)


def folder_with(name: str, content: str) -> Any:
    def make(path: Path) -> str:
        path.mkdir()
        (path / name).write_text(content)
        return str(path)

    return make


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda p: str(p) + ".pth", r"no file or folder '.*\.pth'"),
        (
            lambda p: "vit_smal_patch16_224",
            "is no file, no folder, and no model that timm knows. Did you mean",
        ),
        (text, "is of no known format; known: .*, onnx, safetensors, timm"),
        (cut, r"is not read: it is not a whole file of torch.save \(2,000 bytes\)"),
        (cut_safetensors, "is not a whole .safetensors file: "),
        (folder_with("notes", ""), "is of no known format"),
        (folder_with("recipe.toml", ""), "is a run already: jepa eval and jepa export take it as it is"),
        (folder_with("config.json", "{"), "config.json is not valid JSON"),
        (folder_with("config.json", "[]"), "config.json is a list; expected a JSON object"),
        (
            folder_with("config.json", '{"architecture": "test_vit"}'),
            "no model.safetensors or pytorch_model.bin",
        ),
        (folder_with("model.onnx", ""), "onnx is written only; import the weights it was made of"),
    ],
)
def test_sources_that_cannot_be_used(tmp_path, make, message):
    name = "it.safetensors" if make is cut_safetensors else "it"
    with pytest.raises(UserError, match=message):
        import_run(make(tmp_path / name), tmp_path / "back")
    assert not (tmp_path / "back").exists()


def test_a_format_that_is_named_is_taken_at_its_word(tmp_path, file):
    with pytest.raises(UserError, match=r"unknown format 'tim'; known: .*Did you mean 'timm'"):
        import_run(str(file), tmp_path / "back", format="tim")
    save_file({"a": torch.zeros(1)}, tmp_path / "plain.safetensors")
    with pytest.raises(UserError, match=r"has no entry 'jepa_core' in a .safetensors header"):
        import_run(str(tmp_path / "plain.safetensors"), tmp_path / "back", format="safetensors")


def test_folders_in_use_stay_as_they_are(tmp_path, file, run):
    with pytest.raises(UserError, match=r"holds a run already; --overwrite it, or name another with --run"):
        import_run(str(file), run)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").touch()
    with pytest.raises(UserError, match="is there and is no run; name another folder with --run"):
        import_run(str(file), tmp_path / "mine", overwrite=True)
    import_run(str(file), run, overwrite=True)
    assert open_model(run)[0].name == "import-encoder"


def test_exports_that_cannot_be(tmp_path, run, file):
    with pytest.raises(UserError, match="is there already; --overwrite it, or name another with --out"):
        export_run(run, "safetensors")
    with pytest.raises(UserError, match="unknown role 'contxt'; known: context, target"):
        export_run(run, "safetensors", role="contxt")
    with pytest.raises(UserError, match=r"is not a run: it holds no recipe.toml"):
        export_run(tmp_path / "nowhere", "timm")
    (tmp_path / "taken").touch()
    with pytest.raises(UserError, match=r"cannot be written: Not a directory|cannot be written: File exists"):
        export_run(run, "safetensors", tmp_path / "taken" / "it.safetensors")
    export_run(run, "safetensors", overwrite=True)


def test_a_failed_export_leaves_what_was_there(tmp_path, run, file, monkeypatch):
    before = file.read_bytes()

    def fail(tensors: Any, path: Path, metadata: Any) -> None:
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("jepa_core.formats.safetensors.save_file", fail)
    with pytest.raises(UserError, match="cannot be written: No space left on device"):
        export_run(run, "safetensors", overwrite=True)
    assert file.read_bytes() == before
    assert [path.name for path in file.parent.iterdir()] == [file.name]


def test_the_commands_say_what_they_did(tmp_path, run, jepa, tiny_images):
    said = jepa("export", run, "--to", "safetensors")
    assert said.code == 0
    assert "encoder.safetensors: target encoder of step 7\n" in said.out
    assert (
        "images: 16×16 pixels, bilinear, crop 0.875, mean 0.1, 0.2, 0.3, std 0.229, 0.224, 0.225" in said.out
    )
    made = tmp_path / "back"
    path = run / "exports" / "encoder.safetensors"
    words = ("data.name=npz", f"data.path={tiny_images}", "data.val_share=0.2", "probes.knn.k=3")
    said = jepa("import", path, "--run", made, *words)
    assert said.code == 0, said.err
    assert "read as safetensors: encoder official_tiny; 16×16 pixels" in said.out
    assert "data: " not in said.out
    said = jepa("eval", made, "--probe", "knn")
    assert said.code == 0, said.err
    assert "trained" in said.out
    said = jepa("import", "nowhere.pth")
    assert (said.code, said.err) == (2, "error: no file or folder 'nowhere.pth'\n")


def test_training_begins_from_imported_weights(tmp_path, file, tiny_recipe, jepa):
    """With a recipe; the target encoder, held still, is the imported one to the end."""
    words = ["target_update.momentum=[1.0, 1.0]", "optimizer.warmup_steps=0"]
    import_run(str(file), tmp_path / "back", recipe=str(tiny_recipe), overrides=words)
    said = jepa("train", "--resume", tmp_path / "back")
    assert said.code == 0, said.err
    _, model, step = open_model(tmp_path / "back")
    stored = load_file(file)
    assert step == 6
    assert all(torch.equal(v, stored[name]) for name, v in model.target_encoder.state_dict().items())
    moved = [error_of(v, stored[name]) for name, v in model.encoder.state_dict().items()]
    assert 0 < max(moved) < 0.01
    kinds = [event["kind"] for event in read_events(tmp_path / "back")]
    assert kinds[:2] == ["imported", "started"]


def test_an_encoder_alone_is_not_trained(tmp_path, file, jepa):
    made = import_run(str(file), tmp_path / "back")
    assert "an encoder alone, to be looked at; to train it further, import it with --recipe" in made.notes
    said = jepa("train", "--resume", tmp_path / "back")
    assert said.code == 2
    assert "the recipe does not say how long to train" in said.err


def test_preprocessing_in_words_and_settings():
    images = Preprocessing((16, 32), (0.1, 0.2, 0.3), (1.0, 1.0, 1.0), "bicubic", 0.875)
    assert images.words() == "16×32 pixels, bicubic, crop 0.875, mean 0.1, 0.2, 0.3, std 1, 1, 1"
    assert images.section()["eval_crop"] == 0.875


def test_parts_that_do_nothing():
    masks = NoMasks(NoMasks.Config(name="none"))
    masks.check((3, 3))
    assert masks((3, 3), 2, torch.Generator()).empty
    predictor = NoPredictor(NoPredictor.Config(name="none"), None, 4)  # type: ignore[arg-type]
    context = Tokens(torch.ones(6, 4), IndexSet.full(2, 3), (3,))
    assert predictor((context,), MaskPlan(), (3,)) == (context,)
    plan = MaskPlan((context.at,), (context.at, context.at))
    assert predictor((context,), plan, (3,)) == (context, context)
