"""The released checkpoint format: its keys, a round trip, and every way a file may not fit."""

from collections import OrderedDict
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from jepa_core.errors import UserError
from jepa_ijepa import official
from jepa_ijepa.encoder import VisionTransformer
from jepa_ijepa.predictor import VitPredictor
from tests.plugins import reference_ijepa as reference

BLOCK = [
    *(f"norm{n}.{end}" for n in (1, 2) for end in ("weight", "bias")),
    *(
        f"{layer}.{end}"
        for layer in ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2")
        for end in ("weight", "bias")
    ),
]
ENCODER = [
    "pos_embed",
    "patch_embed.proj.weight",
    "patch_embed.proj.bias",
    "norm.weight",
    "norm.bias",
    *(f"blocks.{i}.{key}" for i in range(4) for key in BLOCK),
]
PREDICTOR = [
    "mask_token",
    "predictor_pos_embed",
    *(f"predictor_{layer}.{end}" for layer in ("embed", "norm", "proj") for end in ("weight", "bias")),
    *(f"predictor_blocks.{i}.{key}" for i in range(2) for key in BLOCK),
]


def make(seed=0, image_size=32, position_scale=1.0, width=24, patch_size=8):
    """What the loader needs of a model: three parts by name."""
    torch.manual_seed(seed)
    config = VisionTransformer.Config(
        name="official_tiny",
        image_size=image_size,
        patch_size=patch_size,
        width=width,
        depth=4,
        heads=2,
        position_scale=position_scale,
    )
    encoder, target = VisionTransformer(config), VisionTransformer(config)
    predictor = VitPredictor(VitPredictor.Config(name="vit_predictor", width=16, depth=2), encoder, width)
    return SimpleNamespace(encoder=encoder, predictor=predictor, target_encoder=target)


def tensors(model):
    parts = vars(model).items()
    return {
        f"{name}.{key}": value.clone() for name, part in parts for key, value in part.state_dict().items()
    }


def equal(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


def released(model, prefix="module.", rows=4, columns=4):
    """A checkpoint as the released code writes it, built from the facts of the format."""
    position = {width: reference.table(rows, columns, width).float()[None] for width in (16, 24)}
    encoders = {
        name: OrderedDict({**getattr(model, name).state_dict(), "pos_embed": position[24]})
        for name in ("encoder", "target_encoder")
    }
    own = model.predictor.state_dict()
    predictor = {key if key == "mask_token" else "predictor_" + key: value for key, value in own.items()}
    parts = {**encoders, "predictor": {**predictor, "predictor_pos_embed": position[16]}}
    states = {name: {prefix + key: value for key, value in part.items()} for name, part in parts.items()}
    rest = {
        "opt": {"state": {}, "param_groups": [{"lr": 1e-3}]},
        "scaler": None,
        "epoch": 300,
        "loss": 0.1,
        "lr": 1e-3,
    }
    return {**states, **rest}


@pytest.fixture
def file(tmp_path):
    """Writes a changed checkpoint: file(change) -> path."""

    def write(change=lambda checkpoint: None, **options):
        checkpoint = released(make(seed=1), **options)
        change(checkpoint)
        torch.save(checkpoint, tmp_path / "official.pth.tar")
        return tmp_path / "official.pth.tar"

    return write


@pytest.mark.parametrize("prefix", ["module.", ""])
def test_loads_what_the_released_code_writes(file, prefix):
    model = make(seed=2)
    official.load(model, file(prefix=prefix))
    assert equal(tensors(model), tensors(make(seed=1)))


def test_writes_the_official_keys(tmp_path):
    official.save(make(), tmp_path / "mine.pth.tar")
    written = torch.load(tmp_path / "mine.pth.tar", weights_only=True)
    expected = {"encoder": ENCODER, "predictor": PREDICTOR, "target_encoder": ENCODER}
    assert {name: sorted(part) for name, part in written.items()} == {
        name: sorted(f"module.{key}" for key in keys) for name, keys in expected.items()
    }
    stored = written["predictor"]["module.predictor_pos_embed"]
    assert (stored[0] - reference.table(4, 4, 16)).abs().max() < 1e-6


@pytest.mark.parametrize("settings", [{}, {"image_size": (32, 48)}, {"position_scale": 0.2}])
def test_save_then_load(tmp_path, settings):
    before, after = make(seed=1, **settings), make(seed=2, **settings)
    official.save(before, tmp_path / "mine.pth.tar")
    official.load(after, tmp_path / "mine.pth.tar")
    assert equal(tensors(before), tensors(after))


def test_weights_of_one_image_size_load_into_another(file):
    model = make(seed=2, image_size=(64, 32))
    official.load(model, file())
    assert equal(tensors(model), tensors(make(seed=1)))


def test_all_misfits_come_in_one_error_and_nothing_is_loaded(file):
    def change(checkpoint):
        encoder, predictor = checkpoint["encoder"], checkpoint["predictor"]
        for i in (0, 1, 2, 3):
            del encoder[f"module.blocks.{i}.norm1.weight"]
        encoder["module.cls_token"] = torch.zeros(1, 1, 24)
        predictor["module.predictor_proj.bias"] = torch.zeros(7)

    model = make(seed=2)
    with pytest.raises(UserError) as caught:
        official.load(model, file(change))
    assert str(caught.value).split("does not fit this model: ")[1] == (
        "encoder: 4 missing (blocks.0.norm1.weight, blocks.1.norm1.weight, blocks.2.norm1.weight, …); "
        "encoder: 1 unexpected (cls_token); "
        "predictor: 1 of another shape (predictor_proj.bias [7] for [24])"
    )
    assert equal(tensors(model), tensors(make(seed=2)))


def drop(part, key=None):
    def change(checkpoint):
        del (checkpoint[part] if key else checkpoint)[key or part]

    return change


def swap_axes(checkpoint):
    checkpoint["encoder"]["module.pos_embed"] = checkpoint["encoder"]["module.pos_embed"].roll(12, -1)


def cut_table(checkpoint):
    checkpoint["encoder"]["module.pos_embed"] = checkpoint["encoder"]["module.pos_embed"][:, :15]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            drop("predictor"),
            "no official checkpoint: expected tensors in encoder, predictor, target_encoder; got encoder, ",
        ),
        (drop("encoder", "module.pos_embed"), r"encoder.pos_embed in .* is missing"),
        (swap_axes, r"encoder.pos_embed in .* differs by up to .* grid \(4, 4\) with position_scale=1.0"),
        (cut_table, r"encoder.pos_embed in .* is \[1, 15, 24\]; expected \[1, tokens of a square grid, 24\]"),
    ],
)
def test_files_that_do_not_fit(file, change, message):
    with pytest.raises(UserError, match=message):
        official.load(make(), file(change))


def test_files_that_are_no_checkpoints(tmp_path):
    with pytest.raises(UserError, match=r"no file or folder '.*nowhere'"):
        official.load(make(), tmp_path / "nowhere")
    (tmp_path / "text").write_text("hello")
    with pytest.raises(
        UserError, match=r"text is not read: it is not a whole file of torch.save \(5 bytes\)"
    ):
        official.load(make(), tmp_path / "text")
    torch.save(Path(), tmp_path / "object")
    with pytest.raises(
        UserError, match=r"object is not read: it asks for pathlib.PosixPath, and only tensors"
    ):
        official.load(make(), tmp_path / "object")
    torch.save([1, 2], tmp_path / "list")
    with pytest.raises(UserError, match=r"is no official checkpoint: .* got list"):
        official.load(make(), tmp_path / "list")


def test_models_of_other_parts_are_refused(tmp_path):
    model = make()
    model.target_encoder = None
    with pytest.raises(
        UserError, match="hold a target_encoder of class VisionTransformer; this model's is NoneType"
    ):
        official.save(model, tmp_path / "mine.pth.tar")
