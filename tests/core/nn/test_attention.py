"""PackedAttention against timm's own attention, sequence by sequence."""

import pytest
import torch
from timm.layers import Attention, LayerNorm
from timm.models.vision_transformer import Block

from jepa_core import build_model, load_recipe
from jepa_core.errors import UserError
from jepa_core.nn.attention import (
    PackedAttention,
    PackedBlock,
    choose_implementation,
    run_blocks,
    run_blocks_at,
)
from jepa_kernels import Layout

LENGTHS = [3, 1, 6]


def layout() -> Layout:
    return Layout.packed(torch.tensor([0, *LENGTHS]).cumsum(0))


@pytest.mark.parametrize("options", [{}, {"qk_norm": True}, {"scale_norm": True, "qkv_bias": True}])
def test_equals_timm_on_each_sequence_and_shares_its_state(options):
    torch.manual_seed(0)
    theirs = Attention(24, num_heads=3, norm_layer=LayerNorm, **options)
    ours = PackedAttention(24, num_heads=3, norm_layer=LayerNorm, **options)
    for parameter in theirs.parameters():  # so that no norm is another's twin
        torch.nn.init.normal_(parameter, std=0.3)
    ours.load_state_dict(theirs.state_dict())
    x = torch.randn(sum(LENGTHS), 24)
    expected = torch.cat([theirs(row[None])[0] for row in x.split(LENGTHS)])
    assert (ours(x, layout()) - expected).abs().max() < 1e-5


def test_query_norm_keeps_the_precision_of_autocast():
    attention = PackedAttention(24, num_heads=3, qk_norm=True, norm_layer=LayerNorm)
    with torch.autocast("cpu", torch.bfloat16):
        assert attention(torch.randn(sum(LENGTHS), 24), layout()).dtype == torch.bfloat16


def test_recomputed_block_gives_the_same_gradient_and_keeps_less():
    torch.manual_seed(0)
    block, x = Block(24, 3, attn_layer=PackedAttention), torch.randn(sum(LENGTHS), 24, requires_grad=True)
    gradients, kept = [], []
    for recompute in (False, True):
        sizes: list[int] = []
        with torch.autograd.graph.saved_tensors_hooks(
            lambda t, s=sizes: s.append(t.numel()) or t, lambda t: t
        ):
            out, _ = run_blocks([block], x, layout(), recompute=recompute)
        gradients.append(torch.autograd.grad(out.square().sum(), [x, *block.parameters()]))
        kept.append(sum(sizes))
    assert all(torch.equal(*pair) for pair in zip(*gradients, strict=True))
    assert kept[1] < kept[0] / 4


def test_what_it_does_not_compute_is_refused():
    with pytest.raises(
        UserError, match=r"packed attention has no dropout and no gate; got attn_drop=0\.1, gated=False"
    ):
        PackedAttention(24, attn_drop=0.1)
    with pytest.raises(
        UserError, match=r"takes tokens \[S, D\], a jepa_kernels.Layout .* got \[2, 3, 24\], NoneType"
    ):
        PackedAttention(24)(torch.zeros(2, 3, 24))
    with pytest.raises(UserError, match="is_causal=True"):
        PackedAttention(24)(torch.zeros(10, 24), layout(), is_causal=True)


def test_implementation_by_name():
    block = Block(24, 3, attn_layer=PackedAttention)
    choose_implementation(block, "reference")
    assert block.attn.impl == "reference"
    with pytest.raises(
        UserError, match=r"unknown attention implementation 'referense'; known: .*Did you mean 'reference'\?"
    ):
        choose_implementation(block, "referense")


def test_a_recipe_names_an_implementation_for_all_that_leave_it_open(tiny_recipe):
    overrides = ("kernels.attention=reference", "predictor.attention=sdpa")
    model = build_model(load_recipe(tiny_recipe, *overrides))
    chosen = {
        part: {m.impl for m in getattr(model, part).modules() if isinstance(m, PackedAttention)}
        for part in ("encoder", "target_encoder", "predictor")
    }
    assert chosen == {"encoder": {"reference"}, "target_encoder": {"reference"}, "predictor": {"sdpa"}}


ROWS = torch.tensor([9, 1, 4, 4])


@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("depth", [1, 3])
def test_rows_that_nobody_reads_are_not_computed_and_change_nothing(depth, recompute):
    torch.manual_seed(0)
    blocks = torch.nn.Sequential(*(PackedBlock(24, 3, qkv_bias=True, init_values=0.5) for _ in range(depth)))
    blocks.double()
    x = torch.randn(sum(LENGTHS), 24, dtype=torch.float64, requires_grad=True)
    whole, _ = run_blocks(blocks, x, layout())
    sizes: list[int] = []
    blocks[-1].mlp.register_forward_hook(lambda mlp, given, out: sizes.append(len(out)))
    pruned = run_blocks_at(blocks, x, layout(), ROWS, recompute=recompute)
    torch.testing.assert_close(pruned, whole[ROWS], rtol=1e-12, atol=1e-12)
    weights = torch.randn_like(pruned)
    expected = torch.autograd.grad((whole[ROWS] * weights).sum(), [x, *blocks.parameters()])
    given = torch.autograd.grad((pruned * weights).sum(), [x, *blocks.parameters()])
    for own, other in zip(given, expected, strict=True):
        torch.testing.assert_close(own, other, rtol=1e-12, atol=1e-12)
    assert set(sizes) == {len(ROWS)}


def test_a_last_block_of_another_kind_is_computed_whole():
    torch.manual_seed(0)
    block, x = Block(24, 3, attn_layer=PackedAttention), torch.randn(sum(LENGTHS), 24)
    assert torch.equal(run_blocks_at([block], x, layout(), ROWS), block(x, layout())[ROWS])


def test_a_packed_block_has_the_state_and_the_output_of_timms():
    torch.manual_seed(0)
    theirs = Block(24, 3, qkv_bias=True, attn_layer=PackedAttention)
    ours = PackedBlock(24, 3, qkv_bias=True)
    ours.load_state_dict(theirs.state_dict())
    x = torch.randn(sum(LENGTHS), 24)
    assert torch.equal(ours(x, layout()), theirs(x, layout()))
