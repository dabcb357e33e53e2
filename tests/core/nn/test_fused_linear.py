"""`FusedLinear` against torch's own layer, and where it stands back."""

import copy

import pytest
import torch
from torch import nn

import jepa_core
from jepa_core.nn import fused_linear
from jepa_core.nn.fused_linear import FusedLinear, fuse_linears

needs_bf16 = pytest.mark.skipif(not fused_linear._has_product(), reason="oneDNN has no bf16 on this CPU")


@pytest.fixture
def used(monkeypatch) -> list[torch.Size]:
    """The shapes that oneDNN's product was asked for."""
    shapes: list[torch.Size] = []
    product = fused_linear._product

    def count(x, weight, bias):
        shapes.append(x.shape)
        return product(x, weight, bias)

    monkeypatch.setattr(fused_linear, "_product", count)
    return shapes


def pair(width: int, out: int) -> tuple[nn.Linear, nn.Linear]:
    torch.manual_seed(0)
    plain = nn.Linear(width, out)
    ours = copy.deepcopy(plain)
    fuse_linears(ours)
    assert type(ours) is FusedLinear
    return plain, ours


@needs_bf16
@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize("shape", [(7, 24), (3, 5, 24), (1, 24), (640, 24)], ids=str)
def test_values_are_torchs_up_to_bf16(shape, mode, used):
    plain, ours = pair(24, 40)
    x = torch.randn(*shape)
    with mode(), torch.autocast("cpu", torch.bfloat16):
        got, expected = ours(x), plain(x)
    assert used == [torch.Size(shape)]
    assert (got.dtype, got.shape, got.grad_fn) == (expected.dtype, expected.shape, None)
    torch.testing.assert_close(got, expected, rtol=2**-7, atol=2**-7 * float(expected.abs().max()))


@needs_bf16
def test_rows_of_a_wider_tensor_are_read_where_they_lie(used):
    plain, ours = pair(24, 40)
    x = torch.randn(50, 72)[::2, 24:48].bfloat16()
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(ours(x), plain(x), rtol=2**-7, atol=2**-7)
    assert len(used) == 1


def test_with_a_gradient_it_is_torchs_own(used):
    plain, ours = pair(16, 8)
    x = torch.randn(5, 16)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(ours(x), plain(x))
    assert used == []


@torch.no_grad()
def test_it_is_torchs_own_elsewhere(used):
    """Without autocast, in fp16, in fp64, for no rows, for a vector and in compiled graphs."""
    plain, ours = pair(16, 8)
    x = torch.randn(5, 16)
    assert torch.equal(ours(x), plain(x))
    with torch.autocast("cpu", torch.float16):
        assert torch.equal(ours(x), plain(x))
    compiled = torch.compile(ours, backend="eager", fullgraph=True)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(ours(x[:0]), plain(x[:0]))
        assert torch.equal(ours(x[0]), plain(x[0]))
        assert torch.equal(compiled(x), plain(x))
    assert torch.equal(ours.double()(x.double()), plain.double()(x.double()))
    assert used == []


@torch.no_grad()
def test_without_a_bias_it_is_torchs_own(used):
    layer = nn.Linear(8, 8, bias=False)
    fuse_linears(layer)
    with torch.autocast("cpu", torch.bfloat16):
        layer(torch.randn(2, 8))
    assert used == []


def test_other_classes_stay():
    class Mine(nn.Linear):
        """Somebody's own."""

    parts = nn.Sequential(Mine(4, 4), nn.Linear(4, 4), nn.LayerNorm(4))
    seen = []
    parts[1].register_forward_hook(lambda *_: seen.append(True))
    before = dict(parts.named_parameters())
    fuse_linears(parts)
    assert [type(part) for part in parts] == [Mine, FusedLinear, nn.LayerNorm]
    assert all(value is before[name] for name, value in parts.named_parameters())
    parts(torch.randn(2, 4))
    assert seen == [True]


@needs_bf16
@pytest.mark.parametrize("name", ["ijepa/demo", "vjepa/demo"])
def test_the_target_encoder_uses_it(name, used):
    recipe = jepa_core.load_recipe(name, "train.precision=bf16", "train.steps=2")
    model = jepa_core.build_model(recipe)
    images = torch.randn(4, *model.encoder.view_shape())
    with torch.autocast("cpu", torch.bfloat16):
        model(images, jepa_core.sample_masks(model, 4, 0, 0))
    assert len(used) >= 4 * recipe.encoder.depth, "the target encoder's"
