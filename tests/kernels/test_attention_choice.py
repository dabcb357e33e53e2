"""Which implementation `auto` takes, the reasons why others cannot run, and the peers by name."""

import sys
import types

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from jepa_kernels import (
    ATTENTION_IMPLS,
    Layout,
    attention_choice,
    attention_peers,
    attention_torch,
    block_attention,
    explain,
)
from tests.kernels.attention_cases import draw_inputs, pack, truth

SHARED = Layout.jepa(torch.tensor([7, 20, 0]), torch.tensor([[4, 9, 1], [6, 0, 30]]), "shared")
NO_KEYS = Layout.from_segments(torch.tensor([[0, 2, 0, 0, 0, 0], [2, 9, 0, 2, 5, 6]]))


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@pytest.fixture
def _a_hopper(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    monkeypatch.setattr(attention_choice, "HAS_TRITON", True)


def on_cuda(layout, width=64, dtype=torch.bfloat16):
    """A fake tensor on CUDA for `layout`; needs no device."""
    with FakeTensorMode(allow_non_fake_inputs=True):
        return torch.empty(layout.total, 3, 2, width, dtype=dtype, device="cuda")


@pytest.mark.usefixtures("_a_hopper")
@pytest.mark.parametrize(
    ("layout", "width", "dtype", "impl", "reason"),
    [
        (pack([60, 110]), 64, torch.bfloat16, "triton", "short enough to be bound by memory"),
        (pack([60, 512]), 88, torch.float32, "triton", "short enough to be bound by memory"),
        (SHARED, 24, torch.float16, "triton", "short enough to be bound by memory"),
        (pack([60, 513]), 64, torch.bfloat16, "varlen", "no padding; too long for triton to be better"),
        (pack([60, 513]), 64, torch.float32, "sdpa", "padded: varlen needs float16 or bfloat16"),
        (Layout.dense(2, 1568), 64, torch.bfloat16, "sdpa", "need no padding; too long for triton"),
        (pack([60, 90]), 160, torch.bfloat16, "varlen", "triton needs a head width up to 128, got 160"),
    ],
)
def test_auto_on_cuda(layout, width, dtype, impl, reason):
    chosen, why = attention_choice.choose_impl(on_cuda(layout, width, dtype), layout)
    assert chosen == impl
    assert reason in why


@pytest.mark.usefixtures("_a_hopper")
def test_it_is_said_whether_the_bound_was_measured(monkeypatch):
    short, long = pack([60, 110]), pack([60, 513])
    reasons = [attention_choice.choose_impl(on_cuda(layout), layout)[1] for layout in (short, long)]
    assert all("not measured" in why for why in reasons)
    monkeypatch.setattr(attention_choice, "bound_is_measured", lambda width, dtype: True)
    reasons = [attention_choice.choose_impl(on_cuda(layout), layout)[1] for layout in (short, long)]
    assert "(measured to be the fastest)" in reasons[0]
    assert "too long for triton to be better (measured)" in reasons[1]


def test_an_old_card_is_told_so(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))
    why = attention_choice.find_problem("triton", on_cuda(SHARED))
    assert why == "needs compute capability 8.0 or more, got 7.5"


def test_triton_that_is_not_there(monkeypatch):
    monkeypatch.setattr(attention_choice, "HAS_TRITON", False)
    assert (
        attention_choice.find_problem("triton", on_cuda(SHARED))
        == "needs the package triton, which is not installed"
    )
    assert attention_choice.choose_impl(on_cuda(SHARED), SHARED)[0] == "varlen"


def test_auto_on_cpu_takes_what_was_measured_to_be_fastest():
    def auto_impl(dtype, length, grad):
        layout = Layout.dense(1, length)
        lines = explain(torch.randn(length, 3, 1, 8).to(dtype).requires_grad_(grad), layout)
        assert [line.impl for line in lines] == list(ATTENTION_IMPLS)
        return next(line.impl for line in lines if line.chosen)

    assert auto_impl(torch.bfloat16, 500, True) == "matmul"
    assert auto_impl(torch.float32, 64, True) == "matmul"
    assert auto_impl(torch.float32, 500, True) == "sdpa"
    assert auto_impl(torch.bfloat16, 64, False) == "sdpa"


def test_explain_says_why_not(monkeypatch):
    monkeypatch.setattr(attention_choice, "HAS_TRITON", True)
    monkeypatch.setattr(attention_peers, "HAS_FMHA", False)
    leaf = torch.randn(4, 3, 1, 8, requires_grad=True)
    reasons = {line.impl: line.reason for line in explain(leaf, Layout.dense(1, 4)) if not line.usable}
    assert reasons == {
        "varlen": "needs CUDA tensors, got cpu",
        "triton": "needs a CUDA tensor, got cpu; on a CPU it runs under TRITON_INTERPRET=1, for tests",
        "flex": "has no backward on a CPU",
        "xformers": "needs the package xformers (or mslk), which is not installed",
    }


@pytest.mark.parametrize("impl", ["varlen", "triton", "flex", "xformers"])
def test_what_is_asked_for_by_name_never_falls_back(impl, monkeypatch):
    monkeypatch.setattr(attention_peers, "HAS_FMHA", True)
    leaf = torch.randn(4, 3, 1, 8, requires_grad=True)
    with pytest.raises(ValueError, match=f"impl '{impl}' of block_attention cannot run here: it "):
        block_attention(leaf, Layout.dense(1, 4), impl=impl)


FLEX = {"ragged": pack([5, 0, 33, 17]), "shared": SHARED, "no keys": NO_KEYS, "empty": pack([])}


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
@pytest.mark.parametrize("layout", FLEX.values(), ids=FLEX)
def test_flex_agrees_with_float64(layout):
    """On a CPU flex has only a forward pass, unfused."""
    qkv, grad = draw_inputs(layout, torch.float32)
    out = block_attention(qkv, layout, impl="flex")
    torch.testing.assert_close(out.double(), truth(qkv, grad, layout)[0], rtol=1e-5, atol=1e-5)


def test_flex_raises_dynamos_limit_and_never_runs_unfused_in_silence(monkeypatch):
    seen = {}

    def fake_flex(*tensors, **more):
        config = torch._dynamo.config
        seen.update(limit=config.recompile_limit, fails=config.fail_on_recompile_limit_hit)
        return tensors[0]

    monkeypatch.setattr(attention_peers, "_flex", lambda: fake_flex)
    before = torch._dynamo.config.recompile_limit
    attention_peers._compiled_flex(torch.zeros(1))
    assert seen == {"limit": attention_peers.FLEX_VARIANTS, "fails": True}
    assert torch._dynamo.config.recompile_limit == before


def test_torchs_kernels_are_given_views_by_one_unbind():
    """The backward of `unbind` is one stack; that of three slices adds up three tensors of zeros."""
    qkv = torch.randn(14, 3, 2, 8, requires_grad=True)
    parts = attention_torch.gather_keys(qkv, pack([5, 9]))
    assert {part.grad_fn.name() for part in parts} == {"UnbindBackward0"}
    assert all(torch.equal(part, qkv[:, number]) for number, part in enumerate(parts))


class BlockDiagonalMask:
    """Stands in for xformers': keeps the lengths that it was made from."""

    @classmethod
    def from_seqlens(cls, queries, keys):
        mask = cls()
        mask.queries, mask.keys = queries, keys
        return mask


def attention_of_the_mask(q, k, v, attn_bias, scale):
    """What xformers computes: [1, T, H, D], block by block."""
    outs = []
    queries, keys = q[0].split(attn_bias.queries), attn_bias.keys
    for a, b, c in zip(queries, k[0].split(keys), v[0].split(keys), strict=True):
        probs = ((a.transpose(0, 1) @ b.permute(1, 2, 0)) * scale).softmax(-1)
        outs.append((probs @ c.transpose(0, 1)).transpose(0, 1))
    return torch.cat(outs)[None]


@pytest.mark.parametrize("package", ["mslk.attention.fmha", "xformers.ops.fmha"])
@pytest.mark.parametrize("layout", [pack([5, 2, 9]), SHARED], ids=["plain", "shared"])
def test_xformers_is_given_the_right_blocks(package, layout, monkeypatch):
    stand_in = types.ModuleType(package)
    stand_in.memory_efficient_attention = attention_of_the_mask
    stand_in.attn_bias = types.SimpleNamespace(BlockDiagonalMask=BlockDiagonalMask)
    for name in ("mslk", "mslk.attention", "xformers", "xformers.ops"):
        monkeypatch.setitem(sys.modules, name, None)
    parts = package.split(".")
    for end in (1, 2):
        monkeypatch.setitem(sys.modules, ".".join(parts[:end]), types.ModuleType(".".join(parts[:end])))
    monkeypatch.setitem(sys.modules, package, stand_in)
    attention_peers._fmha.cache_clear()
    qkv, grad = draw_inputs(layout, torch.float32)
    out = attention_peers.xformers_attention(qkv, layout, 24**-0.5)
    attention_peers._fmha.cache_clear()
    torch.testing.assert_close(out.double(), truth(qkv, grad, layout)[0], rtol=1e-5, atol=1e-5)


def test_xformers_that_does_not_load_says_so(monkeypatch):
    """Neither package is there: the error is Python's own, and nothing else runs instead."""
    monkeypatch.setitem(sys.modules, "mslk", None)
    monkeypatch.setitem(sys.modules, "xformers", None)
    attention_peers._fmha.cache_clear()
    with pytest.raises(ModuleNotFoundError, match="xformers"):
        attention_peers.xformers_attention(torch.randn(4, 3, 1, 8), pack([4]), 1.0)
