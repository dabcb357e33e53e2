"""The Triton loss, run by Triton's interpreter, against float64."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.library import opcheck

from jepa_kernels import jepa_loss
from jepa_kernels.triton_loss import ROWS, loss_and_gradient
from tests.kernels.loss_cases import KINDS, case, truth


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(6)


def check(z, h, rows, beta=1.0, eps=1e-5, kind="smooth_l1", normalize=True):
    leaf = z.clone().requires_grad_()
    options = {"beta": beta, "eps": eps, "kind": kind, "normalize": normalize}
    loss = jepa_loss(leaf, h, rows, **options, impl="triton")
    expected, gradient = truth(z, h, rows, **options)
    (dz,) = torch.autograd.grad(3 * loss, leaf)
    assert dz.dtype == z.dtype
    torch.testing.assert_close(loss.double(), expected, rtol=2e-6, atol=1e-12)
    # the interpreter truncates where a GPU rounds: two units in the last place, and one for the scale
    tolerance = {"rtol": 4 * torch.finfo(z.dtype).eps, "atol": float(gradient.abs().max()) * 4e-6}
    torch.testing.assert_close(dz.double() / 3, gradient, **tolerance)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_equals_float64(dtype, normalize, kind):
    check(*case(dtype=dtype), beta=0.5, kind=kind, normalize=normalize)


@settings(max_examples=25, deadline=None, derandomize=True)
@given(
    predictions=st.sampled_from([1, ROWS - 1, ROWS, ROWS + 1, 3 * ROWS + 2]),
    width=st.sampled_from([1, 2, 24, 31, 32, 33, 192]),
    narrow=st.booleans(),
)
def test_any_size_and_mixed_types(predictions, width, narrow):
    """Under autocast predictions are bf16 and features float32."""
    torch.manual_seed(0)
    dtype = torch.bfloat16 if narrow else torch.float32
    check(*case(predictions, 5, width, dtype, torch.float32), eps=1e-2)


def test_strided_features_and_narrow_rows():
    z, h, rows = case(width=16)
    wide = torch.randn(len(h), 40)
    wide[:, 8:24] = h
    check(z, wide[:, 8:24], rows.int())
    check(z, h.T.contiguous().T, rows)


def test_two_runs_are_bitwise_equal():
    z, h, rows = case(40, 9, 48)
    first, second = (jepa_loss(z, h, rows, impl="triton") for _ in range(2))
    assert torch.equal(first, second)


def test_a_nan_is_not_hidden():
    z, h, rows = case()
    z[2, 3] = float("nan")
    for kind in KINDS:
        leaf = z.clone().requires_grad_()
        loss = jepa_loss(leaf, h, rows, kind=kind, impl="triton")
        loss.backward()
        assert bool(loss.isnan())
        assert bool(leaf.grad[2, 3].isnan())
        assert int(leaf.grad.isnan().sum()) == 1


def test_no_memory_is_read_that_was_not_written():
    torch.use_deterministic_algorithms(True)
    try:
        check(*case(ROWS + 3, 9, 20))
    finally:
        torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize("kind", range(3))
def test_as_an_operation_of_torch(kind):
    z, h, rows = case()
    opcheck(loss_and_gradient, (z.requires_grad_(), h, rows, 1.0, 1e-5, kind, True))


def test_compiled_code_stays_one_graph():
    z, h, rows = case()
    expected = jepa_loss(z, h, rows)
    compiled = torch.compile(
        lambda x: jepa_loss(x, h, rows, impl="triton"), fullgraph=True, backend="aot_eager"
    )
    torch.testing.assert_close(compiled(z.requires_grad_()), expected)


def test_a_row_that_is_too_wide_is_refused():
    with pytest.raises(ValueError, match="needs a width up to 8192, got 8200"):
        jepa_loss(torch.zeros(1, 8200), torch.zeros(1, 8200), torch.zeros(1).long(), impl="triton")
