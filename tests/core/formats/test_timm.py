"""timm's ViTs: our encoder around them against timm itself, and files of theirs in and out."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file
from timm.layers import resample_abs_pos_embed

from jepa_core import IndexSet, UserError
from jepa_core.formats.exporting import export_run
from jepa_core.formats.importing import import_run
from jepa_core.nn.sincos import scale_of, sincos
from jepa_core.nn.timm_vit import TimmVit, with_prefix
from jepa_core.recipes import with_overrides
from jepa_core.runs.load import open_model
from jepa_core.training.plan_buckets import SetBuckets
from tests.made_runs import error_of, images, make_run

SIZES = {"img_size": [32, 48], "patch_size": 8, "embed_dim": 24, "depth": 2, "num_heads": 2}
PIXELS = (32, 48)


def theirs(seed: int = 0, **arguments):
    """A small timm model with random weights, positions and prefix tokens among them."""
    torch.manual_seed(seed)
    given = {key: tuple(value) if isinstance(value, list) else value for key, value in SIZES.items()}
    vit = timm.create_model("vit_tiny_patch16_224", **{**given, **arguments})
    with torch.no_grad():
        for parameter in vit.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return vit.eval()


def ours(vit, **arguments) -> TimmVit:
    config = TimmVit.Config(name="timm_vit", model="vit_tiny_patch16_224", arguments={**SIZES, **arguments})
    encoder = TimmVit(config)
    encoder.load_state_dict({k: v for k, v in vit.state_dict().items() if not k.startswith("head.")})
    return encoder.eval()


KINDS = [
    {},
    {"reg_tokens": 3},
    {"reg_tokens": 2, "no_embed_class": True},
    {"class_token": False, "global_pool": "avg", "fc_norm": False},
    {"init_values": 0.1, "qk_norm": True, "pre_norm": True},
]


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_the_encoder_is_timms_model(kind):
    vit = theirs(**kind)
    encoder = ours(vit, **{k: v for k, v in kind.items() if k not in ("global_pool", "fc_norm")})
    x = images(*PIXELS)
    tokens = encoder(x, layers=(1, 2))
    expected = vit.forward_features(x)[:, vit.num_prefix_tokens :]
    assert tokens.grid == (4, 6)
    assert error_of(tokens.dense(), expected) <= 1e-5
    first = vit.forward_intermediates(x, indices=[0], output_fmt="NLC", intermediates_only=True)[0]
    assert error_of(tokens.layers[0].view_as(first), first) <= 1e-5


@torch.no_grad()
def test_masked_patches_are_seen_by_nobody():
    """Ragged sets against timm's blocks on each image alone, prefix and kept patches only."""
    vit = theirs(reg_tokens=2)
    encoder, x = ours(vit, reg_tokens=2), images(*PIXELS)
    keep = IndexSet.from_lists([[0, 5, 23], [7], [1, 2, 3, 4, 22]])
    got = encoder(x, keep).values.split(keep.lengths.tolist())
    embedded = vit._pos_embed(vit.patch_embed(x))
    for image, (patches, values) in enumerate(zip(keep.split(), got, strict=True)):
        rows = torch.cat([torch.arange(3), patches + 3])
        assert error_of(vit.norm(vit.blocks(embedded[image : image + 1, rows]))[0, 3:], values) <= 1e-5


def test_prefix_rows_by_hand():
    at, patches = with_prefix(IndexSet.from_lists([[4, 9], [], [0]]), 2)
    assert [row.tolist() for row in at.split()] == [[0, 1, 6, 11], [0, 1], [0, 1, 2]]
    assert patches.tolist() == [2, 3, 8]
    assert at.max_length == 4
    same, rows = with_prefix(IndexSet.full(2, 3), 0)
    assert same.index.tolist() == [0, 1, 2, 0, 1, 2]
    assert (same.uniform, rows.tolist()) == (3, [0, 1, 2, 3, 4, 5])


def test_prefixes_of_padded_sets_leave_the_patches_as_they_are() -> None:
    sets = [IndexSet.from_lists([range(n), range(2)]) for n in (3, 9)]
    buckets = SetBuckets.measure(sets, tokens=9)
    padded = buckets.pad(sets[0], buckets.sizes[0], 9)
    at, patches = with_prefix(padded, 2)
    assert at.batch_size == 2
    assert at.lengths.tolist() == (padded.lengths + 2).tolist()
    assert at.index[patches[:5]].tolist() == (sets[0].index + 2).tolist()
    assert (at.flat(11)[patches[5:]] // 11 == 1).all()


@pytest.mark.parametrize("size", [(64, 96), (32, 32), (48, 80)])
@torch.no_grad()
def test_stored_positions_are_resized_as_timm_does(size):
    vit = theirs()
    dynamic = theirs(dynamic_img_size=True)
    dynamic.load_state_dict(vit.state_dict())
    x = images(*size)
    assert error_of(ours(vit)(x).dense(), dynamic.forward_features(x)[:, 1:]) <= 1e-5


def saved(vit, path: Path, **config) -> str:
    path.mkdir()
    save_file({k: v.contiguous() for k, v in vit.state_dict().items()}, path / "model.safetensors")
    about = {"mean": [0.5, 0.4, 0.3], "std": [0.2, 0.2, 0.2], "interpolation": "bicubic", "crop_pct": 0.9}
    whole = {"architecture": "vit_tiny_patch16_224", "model_args": SIZES, "pretrained_cfg": about, **config}
    (path / "config.json").write_text(json.dumps(whole))
    return str(path)


@torch.no_grad()
def test_a_folder_of_timms_becomes_a_run(tmp_path):
    vit = theirs()
    made = import_run(
        saved(vit, tmp_path / "vit"), tmp_path / "run", overrides=["encoder.image_size=[64, 64]"]
    )
    recipe, model, _ = open_model(tmp_path / "run")
    x = images(*PIXELS)
    assert error_of(model.features(x, pool=None), vit.forward_features(x)[:, 1:]) <= 1e-5
    assert made.notes[0] == "left out, as no part of the encoder: head.bias, head.weight"
    assert model.encoder.view_shape() == (3, 64, 64)
    transform = recipe.transform
    assert (transform.mean, transform.interpolation, transform.eval_crop) == ((0.5, 0.4, 0.3), "bicubic", 0.9)


@pytest.mark.parametrize("ending", ["pth", "bin", "safetensors"])
@torch.no_grad()
def test_bare_files_need_the_models_name(tmp_path, ending):
    vit, path = theirs(), tmp_path / f"vit.{ending}"
    if ending == "safetensors":
        save_file(vit.state_dict(), path)
    else:
        content = {"state_dict": {f"module.{k}": v for k, v in vit.state_dict().items()}}
        torch.save(content, path, _use_new_zipfile_serialization=ending == "bin")
    with pytest.raises(UserError, match=r"does not say which timm model it is of, .*name it: encoder.model="):
        import_run(str(path), tmp_path / "run")
    sizes = [f"encoder.arguments.{key}={value}" for key, value in SIZES.items()]
    import_run(str(path), tmp_path / "run", overrides=["encoder.model=vit_tiny_patch16_224", *sizes])
    x = images(*PIXELS)
    features = open_model(tmp_path / "run")[1].features(x, pool=None)
    assert error_of(features, vit.forward_features(x)[:, 1:]) <= 1e-5


@torch.no_grad()
def test_a_name_takes_timms_own_cache(tmp_path, monkeypatch):
    """The hub's cache folder, as timm fills it, with random weights of the real (tiny) architecture."""
    torch.manual_seed(0)
    vit = timm.create_model("test_vit").eval()
    snapshot = tmp_path / "models--timm--test_vit.r160_in1k" / "snapshots" / "0"
    snapshot.mkdir(parents=True)
    (snapshot.parent.parent / "refs").mkdir()
    (snapshot.parent.parent / "refs" / "main").write_text("0")
    save_file(vit.state_dict(), snapshot / "model.safetensors")
    for name in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"):
        monkeypatch.setattr(f"huggingface_hub.constants.{name}", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    made = import_run("test_vit.r160_in1k", tmp_path / "run")
    x = images(160, 160, batch=1)
    features = open_model(tmp_path / "run")[1].features(x, pool=None)
    assert error_of(features, vit.forward_features(x)[:, 1:]) <= 1e-5
    assert made.preprocessing.image_size == (160, 160)
    assert made.recipe.transform.eval_crop == 0.95
    with pytest.raises(UserError, match=r"weights of timm model 'test_vit2.r160_in1k' are not in its cache"):
        import_run("test_vit2.r160_in1k", tmp_path / "other")


def exported(tmp_path: Path, recipe: Path, *overrides: str):
    """A run's model, and timm's after the three lines of docs/exchange.md."""
    model = make_run(tmp_path / "run", recipe, *overrides)
    path = export_run(tmp_path / "run", "timm").path
    return model, timm.create_model(f"local-dir:{path}", pretrained=True).eval(), path


@pytest.mark.parametrize(
    "overrides",
    [
        (),
        ("encoder.image_size=[16, 24]", "encoder.position_scale=0.2"),
        ("encoder.name=vit_tiny_patch16_224", "encoder.width=24", "encoder.depth=2", "encoder.heads=3"),
        (
            "encoder.name=vit_little_patch16_reg1_gap_256",
            "encoder.width=24",
            "encoder.depth=2",
            "encoder.heads=3",
        ),
    ],
)
@torch.no_grad()
def test_export_to_timm_and_back(tmp_path, tiny_recipe, overrides):
    model, vit, path = exported(tmp_path, tiny_recipe, "transform.eval_crop=0.875", *overrides)
    size = model.encoder.view_shape()[1:]
    x = images(*size)
    assert error_of(vit(x), model.features(x)) <= 1e-5
    assert error_of(vit.forward_features(x), model.features(x, pool=None)) <= 1e-5
    config = timm.data.resolve_model_data_config(vit)
    assert (config["input_size"], config["crop_pct"]) == ((3, *size), 0.875)
    assert (config["mean"], config["interpolation"]) == ([0.485, 0.456, 0.406], "bilinear")

    import_run(str(path), tmp_path / "back")
    _, back, _ = open_model(tmp_path / "back")
    for shape in (size, (32, 48)):
        x = images(*shape)
        assert error_of(back.features(x), model.features(x)) <= 1e-5, "positions are computed for every size"


@torch.no_grad()
def test_a_class_token_comes_through_export_too(tmp_path):
    vit = theirs(reg_tokens=1)
    config = {"model_args": {**SIZES, "reg_tokens": 1}}
    import_run(saved(vit, tmp_path / "vit", **config), tmp_path / "run")
    written = export_run(tmp_path / "run", "timm")
    assert list(written.parts) == ["encoder (its own target)"]
    back = timm.create_model(f"local-dir:{written.path}", pretrained=True).eval()
    x = images(*PIXELS)
    assert error_of(back.forward_features(x), vit.forward_features(x)) <= 1e-5
    assert error_of(back(x), vit.forward_features(x)[:, 2:].mean(1)) <= 1e-5


@torch.no_grad()
def test_weights_of_224_pixels_see_448_and_other_sides(tmp_path, tiny_recipe):
    """In eval: the table of the new grid, which goes on counting. In timm: the stored one, stretched."""
    model, _, path = exported(tmp_path, tiny_recipe, "encoder.image_size=224", "encoder.patch_size=16")
    vit = timm.create_model(f"local-dir:{path}", pretrained=True, dynamic_img_size=True).eval()
    for size in ((448, 448), (224, 320)):
        x = images(*size, batch=1)
        grid = (size[0] // 16, size[1] // 16)
        import_run(str(path), tmp_path / "at", overrides=[f"encoder.image_size={list(size)}"], overwrite=True)
        _, at, _ = open_model(tmp_path / "at")
        assert at.grid() == grid
        assert error_of(at.features(x), model.features(x)) <= 1e-5
        resized = resample_abs_pos_embed(vit.pos_embed, list(grid), [14, 14], 0)[0]
        assert error_of(resized, sincos(grid, 32)) > 1
        assert error_of(vit(x), model.features(x)) > 1e-3


def test_scale_of_knows_the_table_and_no_other():
    assert scale_of(sincos((3, 5), 24), (3, 5)) == 1.0
    assert scale_of(sincos((3, 5), 24, 0.2), (3, 5)) == 0.2
    assert scale_of(sincos((3, 5), 24, 0.2).bfloat16(), (3, 5)) == 0.2
    assert scale_of(sincos((3, 5), 24, 0.123456), (3, 5)) == pytest.approx(0.123456, abs=1e-6)
    for table in (
        sincos((5, 3), 24),
        sincos((3, 5), 24).roll(12, 1),
        -sincos((3, 5), 24),
        torch.zeros(15, 24),
    ):
        assert scale_of(table, (3, 5)) is None
    assert scale_of(torch.ones(15, 22), (3, 5)) is None
    assert scale_of(torch.ones(14, 24), (3, 5)) is None


def test_models_and_sizes_that_cannot_be(tmp_path):
    def make(model: str = "vit_tiny_patch16_224", **settings):
        return TimmVit(TimmVit.Config(name="timm_vit", model=model, **settings))

    with pytest.raises(
        UserError, match=r"'encoder.model' is 'vit_tiny_patch16_22'; timm has no such model. Did"
    ):
        make("vit_tiny_patch16_22")
    with pytest.raises(UserError, match="'vit_tiny_r_s16_p8_224' is not a plain ViT: it has HybridEmbed"):
        make("vit_tiny_r_s16_p8_224")
    with pytest.raises(UserError, match="timm cannot make 'eva02_tiny_patch14_224' with "):
        make("eva02_tiny_patch14_224")
    with pytest.raises(UserError, match=r"timm cannot make 'vit_tiny_patch16_224' with \{'colour': 1\}: "):
        make(arguments={"colour": 1})
    with pytest.raises(UserError, match=r"has 1 prefix tokens; set encoder.arguments.class_token=false"):
        make(positions="sincos")
    with pytest.raises(UserError, match="has no stored positions"):
        make(arguments={"pos_embed": "none"})
    with pytest.raises(UserError, match="an image of 30x32 pixels cannot be cut into patches of 8x8"):
        make(arguments=SIZES, image_size=(30, 32))
    encoder = make(arguments=SIZES)
    with pytest.raises(UserError, match=r"takes images \(3, height, width\); got \(1, 32, 48\)"):
        encoder(torch.zeros(2, 1, 32, 48))
    with pytest.raises(UserError, match=r"layers count from 1 to 2, the depth; got .3."):
        encoder(images(*PIXELS), layers=(3,))
    with pytest.raises(UserError, match="2 index sets for 3 images"):
        encoder(images(*PIXELS), IndexSet.full(2, 24))


def test_a_file_that_is_no_vit_says_so(tmp_path):
    config = {"architecture": "resnet18"}
    resnet = timm.create_model("resnet18", num_classes=0)
    with pytest.raises(UserError, match="holds no state dict of a timm vision transformer"):
        import_run(saved(resnet, tmp_path / "resnet", **config), tmp_path / "run")


def test_an_override_of_one_argument_keeps_the_others():
    table = {"encoder": {"name": "timm_vit", "model": "vit_tiny_patch16_224", "arguments": SIZES}}
    changed = with_overrides(table, ["encoder.arguments.depth=3"])
    assert changed["encoder"]["arguments"] == {**SIZES, "depth": 3}


def test_trained_further_through_the_class_token():
    """Gradients reach every parameter of a masked pass."""
    encoder = ours(theirs(reg_tokens=1), reg_tokens=1).train()
    encoder(images(*PIXELS), IndexSet.from_lists([[0, 5, 23], [7], [1, 2]])).values.square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in encoder.parameters())
