"""`jepa_loss` against its formula in float64, and what it refuses."""

import pytest
import torch

from jepa_kernels import LOSS_IMPLS, explain_loss, jepa_loss
from tests.kernels.loss_cases import KINDS, case, truth


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(4)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize(("beta", "eps"), [(1.0, 1e-5), (0.3, 1e-2)])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
def test_equals_the_formulas_in_float64(dtype, beta, eps, normalize, kind):
    z, h, rows = case(dtype=dtype)
    z.requires_grad_()
    loss = jepa_loss(z, h, rows, beta=beta, eps=eps, kind=kind, normalize=normalize)
    expected, gradient = truth(z.detach(), h, rows, beta, eps, kind, normalize)
    (dz,) = torch.autograd.grad(loss, z)
    assert loss.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    torch.testing.assert_close(loss.double(), expected, rtol=1e-6, atol=0)
    tolerance = {"rtol": 2 * torch.finfo(dtype).eps, "atol": float(gradient.abs().max()) * 1e-6}
    torch.testing.assert_close(dz.double(), gradient, **tolerance)


def test_the_gradient_is_that_of_the_loss():
    z, h, rows = case(dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda x: jepa_loss(x, h, rows), z.requires_grad_())


def test_targets_get_no_gradient():
    z, h, rows = case()
    h.requires_grad_()
    jepa_loss(z.requires_grad_(), h, rows).backward()
    assert h.grad is None
    assert bool(z.grad.abs().sum() > 0)


def test_no_prediction_gives_zero():
    z = torch.zeros(0, 8, requires_grad=True)
    loss = jepa_loss(z, torch.zeros(3, 8), torch.zeros(0, dtype=torch.int64))
    loss.backward()
    assert float(loss.detach()) == 0
    assert z.grad.shape == (0, 8)


def test_the_engines_own_objective_is_the_same():
    """The loss that I-JEPA trains with: layer norm of the target, gather, smooth L1."""
    z, h, rows = case()
    normed = torch.nn.functional.layer_norm(h, h.shape[-1:])[rows]
    expected = torch.nn.functional.smooth_l1_loss(z, normed)
    torch.testing.assert_close(jepa_loss(z, h, rows), expected)


def test_explain_says_what_auto_takes():
    reference, triton = explain_loss(*case()[:2])
    assert reference.chosen
    assert reference.usable
    assert not triton.usable
    assert triton.reason.startswith("needs CUDA tensors, got cpu")
    assert (reference.impl, triton.impl) == LOSS_IMPLS


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"z": torch.zeros(3, 5)}, r"z is \[M, D\] and h \[R, D\]; got \[3, 5\] and \[4, 6\]"),
        ({"z": torch.zeros(3, 6).long()}, "z and h are floating point; got torch.int64 and torch.float32"),
        (
            {"rows": torch.zeros(2, dtype=torch.int64)},
            r"rows is int32 or int64 \[M\] with M = 3; got \[2\] of torch.int64",
        ),
        ({"rows": torch.zeros(3)}, r"got \[3\] of torch.float32"),
        ({"rows": torch.zeros(3, dtype=torch.int64, device="meta")}, "expected one device"),
        ({"kind": "huber"}, "unknown kind 'huber' of jepa_loss; known: smooth_l1, l1, mse"),
        ({"beta": 0.0}, "beta is above 0; got 0.0"),
        (
            {"impl": "tritn"},
            r"unknown impl 'tritn' for jepa_loss; known: auto, reference, triton. Did you mean 'triton'\?",
        ),
        ({"impl": "triton"}, "impl 'triton' of jepa_loss cannot run here: it needs CUDA tensors, got cpu"),
    ],
)
def test_what_is_refused(change, message):
    arguments = {"z": torch.zeros(3, 6), "h": torch.zeros(4, 6), "rows": torch.zeros(3, dtype=torch.int64)}
    with pytest.raises(ValueError, match=message):
        jepa_loss(**{**arguments, **change})
