"""The encoder against the float64 formulas, against timm, and against itself at other sizes."""

import pytest
import timm
import torch

import jepa_core
from jepa_core import IndexSet
from jepa_core.errors import UserError
from jepa_core.protocols import Encoder
from jepa_ijepa import official
from jepa_ijepa.encoder import OFFICIAL, VisionTransformer
from jepa_ijepa.official_way import official_step
from tests.plugins import reference_ijepa as reference

RAGGED = [[0, 3, 5, 6, 15], [2], [1, 4, 7, 8, 9, 10, 11, 12]]
UNIFORM = [[0, 1, 5], [2, 8, 15], [3, 4, 14]]
TINY = {"name": "official_tiny", "image_size": 32, "patch_size": 8, "width": 24, "depth": 2, "heads": 2}


def make(**settings):
    return VisionTransformer(VisionTransformer.Config(**{**TINY, **settings}))


def randomised(module):
    """Weights large enough that attention is far from uniform and biases count."""
    generator = torch.Generator().manual_seed(1)
    for parameter in module.parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        parameter.data = (
            1 + 0.3 * noise if parameter.data.ndim == 1 and parameter.mean() == 1 else 0.3 * noise
        )
    return module


def double(module):
    return {key: value.detach().double() for key, value in module.state_dict().items()}


def relative(ours, exact):
    return ((ours.double() - exact).norm() / exact.norm()).item()


@pytest.fixture(scope="module")
def encoder():
    torch.manual_seed(0)
    return randomised(make())


@pytest.mark.parametrize("keep", [RAGGED, UNIFORM, None])
@pytest.mark.parametrize("shape", [(32, 32), (48, 40)])
def test_equals_the_formulas(encoder, keep, shape):
    images = torch.randn(3, 3, *shape)
    tokens = encoder(images, None if keep is None else IndexSet.from_lists(keep))
    rows = [
        reference.encoder(double(encoder), image.double(), keep and keep[b], 8, 2)
        for b, image in enumerate(images)
    ]
    assert relative(tokens.values, torch.cat(rows)) < 1e-5
    assert tokens.grid == (shape[0] // 8, shape[1] // 8)
    assert tokens.at.lengths.tolist() == [len(row) for row in rows]


def test_weights_of_one_size_serve_another():
    """Patch 14 made for 56 pixels, at 112 and at a non-square size."""
    small, large = (randomised(make(image_size=size, patch_size=14)) for size in (56, 112))
    large.load_state_dict(small.state_dict())
    for shape in ((112, 112), (28, 70)):
        images = torch.randn(2, 3, *shape)
        values = small(images).values
        exact = [reference.encoder(double(small), image.double(), None, 14, 2) for image in images]
        assert relative(values, torch.cat(exact)) < 1e-5
        assert torch.equal(large(images).values, values)


def test_a_sample_does_not_notice_its_neighbours(encoder):
    images = torch.randn(3, 3, 32, 32)
    together = encoder(images, IndexSet.from_lists(RAGGED)).values.split([len(keep) for keep in RAGGED])
    for image, keep, found in zip(images, RAGGED, together, strict=True):
        alone = encoder(image[None], IndexSet.from_lists([keep])).values
        assert (alone - found).abs().max() < 1e-5


def test_layers_are_outputs_of_blocks_without_the_norm(encoder):
    images, keep = torch.randn(3, 3, 32, 32), IndexSet.from_lists(RAGGED)
    tokens = encoder(images, keep, layers=(2, 1))
    assert torch.equal(encoder.norm(tokens.layers[0]), tokens.values)
    shallow = randomised(make(depth=1))
    shallow.load_state_dict({k: v for k, v in encoder.state_dict().items() if not k.startswith("blocks.1.")})
    assert torch.equal(tokens.layers[1], shallow(images, keep, layers=(1,)).layers[0])


@pytest.mark.parametrize(
    "name",
    [
        "vit_tiny_patch16_224",
        "deit3_small_patch16_224",  # layer scale
        "vit_base_patch16_clip_224",  # norm before the blocks, no bias in the embedding
        "beit3_base_patch16_224",  # norms inside attention and MLP
        "vit_base_patch16_rpn_224",  # norms after the residual branches
        "vit_small_patch16_18x2_224",  # two parallel branches
        "vit_giant_patch14_dinov2",  # gated MLP
    ],
)
def test_equals_timm_with_its_state_dict(name):
    sizes = {"patch_size": 8, "embed_dim": 24, "depth": 2, "num_heads": 2, "img_size": (24, 32)}
    bare = {"class_token": False, "reg_tokens": 0, "pos_embed": "none", "global_pool": "", "num_classes": 0}
    theirs = randomised(timm.create_model(name, **sizes, **bare, fc_norm=False)).eval()
    ours = make(name=name, image_size=(24, 32), position_scale=0.0)
    ours.load_state_dict(theirs.state_dict())
    images = torch.randn(2, 3, 24, 32)
    assert relative(ours(images).dense(), theirs(images).double()) < 1e-5


@pytest.mark.parametrize(
    ("name", "patch", "parameters"),
    [
        ("official_tiny", None, 5_486_400),
        ("official_small", None, 21_589_632),
        ("official_base", None, 85_646_592),
        ("official_large", None, 303_098_880),
        ("official_huge", None, 630_664_960),
        ("official_huge", 14, 630_434_560),
        ("official_giant", None, 1_011_092_608),
    ],
)
def test_official_sizes(name, patch, parameters):
    with torch.device("meta"):
        encoder = VisionTransformer(VisionTransformer.Config(name=name, patch_size=patch))
    assert sum(p.numel() for p in encoder.parameters()) == parameters
    assert (encoder.width, encoder.depth, encoder.heads) == tuple(
        OFFICIAL[name][key] for key in ("embed_dim", "depth", "num_heads")
    )


def test_it_is_an_encoder_and_tells_its_shapes():
    encoder = make(image_size=(32, 48))
    assert isinstance(encoder, Encoder)
    assert encoder.view_shape() == (3, 32, 48)
    assert encoder.grid((3, 32, 48)) == (4, 6)


def test_initial_weights():
    torch.manual_seed(0)
    plain = make(width=96, heads=4)
    for name, parameter in plain.named_parameters():
        if parameter.ndim > 1:
            assert parameter.std().item() == pytest.approx(0.02, rel=0.05), name
        else:
            assert torch.equal(parameter, torch.full_like(parameter, "norm" in name and "weight" in name)), (
                name
            )


def test_depth_rescale_divides_what_blocks_add():
    models = []
    for rescale in (False, True):
        torch.manual_seed(0)
        models.append(make(depth_rescale=rescale, depth=3).state_dict())
    for key, plain in models[0].items():
        number = int(key.split(".")[1]) + 1 if key.endswith(("attn.proj.weight", "mlp.fc2.weight")) else 0.5
        torch.testing.assert_close(models[1][key], plain / (2 * number) ** 0.5)


def test_timm_init_is_timms():
    torch.manual_seed(0)
    ours = make(name="vit_tiny_patch16_224", init="timm").state_dict()
    torch.manual_seed(0)
    assert not torch.equal(
        make(name="vit_tiny_patch16_224").state_dict()["blocks.0.attn.qkv.weight"],
        ours["blocks.0.attn.qkv.weight"],
    )
    kernel = ours["patch_embed.proj.weight"]
    assert kernel.abs().max() <= (3 * 8 * 8) ** -0.5  # torch's uniform, where I-JEPA draws a normal


@pytest.mark.parametrize(
    ("residual", "dtype"), [("fp32", torch.float32), ("autocast", torch.bfloat16), ("auto", torch.bfloat16)]
)
def test_type_of_the_residual_stream_under_autocast(encoder, residual, dtype):
    model, images = make(residual=residual), torch.randn(2, 3, 32, 32)
    model.load_state_dict(encoder.state_dict())
    with torch.autocast("cpu", torch.bfloat16):
        tokens = model(images, layers=(1, 2))
    assert {layer.dtype for layer in tokens.layers} == {dtype}
    assert relative(tokens.values, encoder(images).values.double()) < 0.03
    assert model(images).values.dtype == torch.float32


def test_recomputing_activations_changes_no_gradient(encoder):
    images, keep, gradients = torch.randn(3, 3, 32, 32), IndexSet.from_lists(RAGGED), []
    for checkpoint in (False, True):
        model = make(checkpoint=checkpoint)
        model.load_state_dict(encoder.state_dict())
        gradients.append(
            torch.autograd.grad(model(images, keep).values.square().sum(), [*model.parameters()])
        )
    assert all(torch.equal(*pair) for pair in zip(*gradients, strict=True))


def convolve(patch, weight, bias):
    """A 3×3 convolution of stride 2 over [C, P, Q], each product by itself."""
    padded = torch.nn.functional.pad(patch, (1, 1, 1, 1))
    rows, columns = patch.shape[1] // 2, patch.shape[2] // 2
    cells = [
        [
            (weight * padded[:, 2 * i : 2 * i + 3, 2 * j : 2 * j + 3]).sum((1, 2, 3)) + bias
            for j in range(columns)
        ]
        for i in range(rows)
    ]
    return torch.stack([torch.stack(row, 1) for row in cells], 1)


@pytest.mark.parametrize(
    ("stem", "patch"), [((6,), 8), ((6, 10), 8), ((6, 10, 12), 8), ((5, 7), 4), ((6, 10), 16)]
)
def test_a_stem_is_convolutions_inside_each_patch(stem, patch):
    encoder = randomised(make(stem=stem, patch_size=patch, position_scale=0.0, depth=1))
    images = torch.randn(1, 3, 16, 48)
    *layers, last = (m for m in encoder.patch_embed.proj if list(m.parameters()))
    exact = []
    for row in range(16 // patch):
        for column in range(48 // patch):
            area = (
                slice(None),
                slice(row * patch, (row + 1) * patch),
                slice(column * patch, (column + 1) * patch),
            )
            x = images[0][area].double()
            for convolution, norm in zip(layers[::2], layers[1::2], strict=True):
                x = convolve(x, convolution.weight.double(), convolution.bias.double())
                x = torch.nn.functional.gelu(x)
                x = (x - x.mean()) / (x.var(correction=0) + 1e-5).sqrt()
                x = x * norm.weight.double()[:, None, None] + norm.bias.double()[:, None, None]
            exact.append(last.weight.double() @ x.flatten() + last.bias.double())
    embedded, _ = encoder._embed(images, None, encoder.grid(images.shape[1:]))
    assert relative(embedded, torch.stack(exact)) < 1e-5


def test_with_a_stem_patches_stay_independent():
    """So that masks hide what they say: a token of the embedding hears of its own patch alone."""
    encoder = randomised(make(stem=(6, 10)))
    images = torch.randn(3, 3, 32, 32, requires_grad=True)
    keep = IndexSet.from_lists(RAGGED)
    embedded, _ = encoder._embed(images, keep, (4, 4))
    assert torch.equal(embedded, encoder._embed(images, None, (4, 4))[0][keep.flat(16)])
    (gradient,) = torch.autograd.grad(embedded[1].sum(), images)  # of patch 3 of the first image
    assert gradient[0, :, :8, 24:].ne(0).all()
    assert gradient.count_nonzero() == 3 * 8 * 8


@pytest.mark.parametrize("call", ["to_timm", "save", "official_step"])
def test_an_encoder_with_a_stem_is_no_one_elses(call, tmp_path):
    recipe = jepa_core.load_recipe("ijepa/selftest", "encoder.stem=[6]")
    model = jepa_core.build_model(recipe)
    plan = jepa_core.sample_masks(model, 2, seed=0)
    calls = {
        "to_timm": lambda: model.encoder.to_timm(),
        "save": lambda: official.save(model, tmp_path / "x.pth"),
        "official_step": lambda: official_step(recipe, model, plan),
    }
    with pytest.raises(UserError, match=r"has a stem of widths \[6\]; .* embed patches by one linear map"):
        calls[call]()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"stem": (6, 6, 6, 6)},
            "a stem of 4 stages halves the patch's sides 4 times; got a patch of 8×8; set encoder.stem",
        ),
        (
            {"image_size": (32, 30)},
            "an image of 32x30 pixels cannot be cut into patches of 8x8; height must divide by 8 and width "
            "by 8: set encoder.image_size or encoder.patch_size",
        ),
        ({"heads": 5}, "encoder 'official_tiny': a width of 24 cannot be split among 5 heads"),
        (
            {"width": 26, "heads": 13},
            "sine-cosine positions of a grid of 2 axes need a width that divides by 4; got 26",
        ),
        ({"attention": "flash"}, "unknown attention implementation 'flash'; known: auto, "),
        (
            {"name": "vit_tny_patch16_224"},
            "encoder 'vit_tny_patch16_224' is not known; known: official_tiny, .*Close: vit_tiny",
        ),
        (
            {"name": "vit_relpos_base_patch16_224"},
            "encoder 'vit_relpos_base_patch16_224' is not a plain ViT; .*Close: vit_",
        ),
        (
            {"name": "vit_dwee_patch16_reg1_gap_256"},
            "is not a plain ViT: it has DiffAttention. Close: vit_wee_patch16",
        ),
        ({"name": "vit_base_patch16_xp_224"}, "is not a plain ViT: it has ParallelScalingBlock. Close: "),
        ({"name": "deit_tiny_distilled_patch16_224"}, "it has the class VisionTransformerDistilled. Close: "),
    ],
)
def test_settings_that_do_not_fit(settings, message):
    with pytest.raises(UserError, match=message):
        make(**settings)


def test_inputs_that_do_not_fit(encoder):
    with pytest.raises(
        UserError, match=r"encoder 'official_tiny' takes images \(3, height, width\); got \(1, 32, 32\)"
    ):
        encoder(torch.zeros(2, 1, 32, 32))
    with pytest.raises(UserError, match=r"normalised floats \[B, C, H, W\]; got torch.uint8"):
        encoder(torch.zeros(2, 3, 32, 32, dtype=torch.uint8))
    with pytest.raises(UserError, match=r"layers count from 1 to 2, the depth; got \[0\]"):
        encoder(torch.zeros(2, 3, 32, 32), layers=(0,))
    with pytest.raises(UserError, match="3 index sets for 2 images; expected one an image"):
        encoder(torch.zeros(2, 3, 32, 32), IndexSet.from_lists(RAGGED))
