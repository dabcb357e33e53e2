"""Rows of all processes with gradient: two processes with parts of a batch, beside one with the whole."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from jepa_core.runtime.distributed import Ranks, all_gather_rows
from jepa_core.testing.process_pair import on_both


def rows(seed: int = 0) -> Tensor:
    return torch.randn(7, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def loss_of(values: Tensor) -> Tensor:
    """Each row meets every other one, so that gradients cross the processes."""
    return (values @ values.T).pow(3).triu(1).sum()


def gather_and_differentiate(ranks: Ranks, own: Tensor) -> tuple[Tensor, Tensor]:
    """The gathered rows and the gradient of this process's own."""
    own = own.requires_grad_()
    everyone = all_gather_rows(own)
    (gradient,) = torch.autograd.grad(loss_of(everyone), own)
    return everyone.detach(), gradient


@pytest.mark.parametrize("first", [3, 0, 7])
def test_rows_of_both_in_order_with_the_sum_of_both_gradients(first: int) -> None:
    whole = rows().requires_grad_()
    (expected,) = torch.autograd.grad(loss_of(whole), whole)
    parts = [whole.detach()[:first], whole.detach()[first:]]
    answers = on_both(gather_and_differentiate, parts)
    for everyone, _ in answers:
        assert torch.equal(everyone, whole.detach())
    torch.testing.assert_close(torch.cat([gradient for _, gradient in answers]) / 2, expected)


def test_alone_the_rows_are_the_own_ones() -> None:
    own = rows()
    assert all_gather_rows(own) is own
