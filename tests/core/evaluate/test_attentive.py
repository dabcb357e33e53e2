"""The probe `attentive`: one token among many, noise, any shape, what is wrong."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from jepa_core.errors import UserError
from jepa_core.evaluate import LinearProbe
from jepa_core.evaluate.attentive import AttentiveProbe
from jepa_core.protocols import TokenProbe


def attentive(**settings: object) -> AttentiveProbe:
    return AttentiveProbe(AttentiveProbe.Config(name="attentive", **settings))


def needle(count: int, seed: int, mark: float) -> tuple[Tensor, Tensor]:
    """[n, 16, 8] noise; one token, at a random place, says the class, and its opposite stands elsewhere, so
    that the mean over tokens says nothing; a flag shows which of the two is meant."""
    random = torch.Generator().manual_seed(seed)
    tokens = 0.3 * torch.randn(count, 16, 8, generator=random)
    labels = torch.arange(count) % 2
    for row in range(count):
        said, other = torch.randperm(16, generator=random)[:2].tolist()
        sign = 2.0 * labels[row] - 1
        tokens[row, said, 0], tokens[row, other, 0] = mark * sign, -mark * sign
        tokens[row, said, 1] = mark
    return tokens, labels


def test_it_finds_the_token_that_the_mean_drowns() -> None:
    train, test = needle(400, 0, 3.0), needle(200, 1, 3.0)
    means = [(tokens.mean(1), labels) for tokens, labels in (train, test)]
    mean = LinearProbe(LinearProbe.Config(name="linear"))(*means, 2)
    assert abs(mean["top1"] - 0.5) < 0.1
    probe = attentive(steps=200)
    assert isinstance(probe, TokenProbe)
    scores = probe.on_tokens(train, test, 2)
    assert scores["top1"] > 0.95
    assert scores["top1_se"] == pytest.approx((scores["top1"] * (1 - scores["top1"]) / 200) ** 0.5)


def test_it_is_at_chance_on_noise_and_repeats_itself() -> None:
    train, test = needle(300, 0, 0.0), needle(400, 1, 0.0)
    before = torch.random.get_rng_state()
    first, again = (attentive(steps=60).on_tokens(train, test, 2) for _ in range(2))
    assert first == again
    assert torch.equal(torch.random.get_rng_state(), before)
    assert abs(first["top1"] - 0.5) < 0.1


def test_it_takes_any_number_of_tokens_and_any_width() -> None:
    train, test = needle(40, 0, 3.0), needle(20, 1, 3.0)
    for width, heads in ((8, 4), (5, 4), (192, 3)):
        one = ((train[0][:, :1], train[1]), (test[0][:, :1], test[1]))
        assert 0 <= attentive(steps=2, width=width, heads=heads).on_tokens(*one, 2)["top1"] <= 1


@pytest.mark.parametrize(
    ("tokens", "labels", "reason"),
    [
        (
            torch.zeros(4, 8),
            torch.zeros(4).long(),
            r"training features of every token \[n, N, D\].*got \[4, 8\]",
        ),
        (
            torch.zeros(4, 2, 8),
            torch.full((4,), -1),
            r"a label 0 … 1 for every sample; the training part has -1",
        ),
        (torch.full((4, 2, 8), torch.nan), torch.zeros(4).long(), "the training features are not finite"),
    ],
)
def test_it_says_what_is_wrong(tokens: Tensor, labels: Tensor, reason: str) -> None:
    with pytest.raises(UserError, match=reason):
        attentive(steps=1).on_tokens((tokens, labels), (tokens, labels), 2)


def test_it_counts_its_parameters_and_the_table_says_so() -> None:
    train, test = needle(40, 0, 3.0), needle(20, 1, 3.0)
    scores = attentive(steps=1, width=8, heads=4).on_tokens(train, test, 2)
    width = train[0].shape[2]
    query, key_and_value, norm, head = 8, 2 * (width * 8 + 8), 2 * 8, 8 * 2 + 2
    assert scores["parameters"] == query + key_and_value + norm + head
