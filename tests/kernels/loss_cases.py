"""The loss written out in float64, and inputs: what the tests of every implementation share."""

import torch

KINDS = ("smooth_l1", "l1", "mse")


def truth(z, h, rows, beta, eps, kind, normalize):
    """(loss, gradient of z) in float64, by separate formulas."""
    d = z.double().clone().requires_grad_()
    t = h.double()[rows.long()]
    if normalize:
        centred = t - t.mean(1, keepdim=True)
        t = centred / (centred.square().mean(1, keepdim=True) + eps).sqrt()
    away = (d - t).abs()
    rho = {
        "smooth_l1": torch.where(away < beta, away**2 / (2 * beta), away - beta / 2),
        "l1": away,
        "mse": away**2,
    }[kind]
    loss = rho.sum() / d.numel()
    (gradient,) = torch.autograd.grad(loss, d)
    return loss.detach(), gradient


def case(predictions=13, features=9, width=24, dtype=torch.float32, features_dtype=None):
    """Random z, h and rows; one row index occurs several times, one never."""
    z = torch.randn(predictions, width).to(dtype)
    h = (3 * torch.randn(features, width) + 1).to(features_dtype or dtype)
    return z, h, torch.randint(features - 1, (predictions,))
