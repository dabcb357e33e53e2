"""Draws are nested and by class; folds are stratified; the few-label classifiers on hand-made cases."""

from __future__ import annotations

import pytest
import torch
from torch import Generator

from jepa_core.evaluate.frozen import few_labels
from jepa_core.evaluate.frozen.draws import draw_orders, first_of_each, stratified_folds
from jepa_core.evaluate.logistic import Logistic

LABELS = torch.tensor([2, 0, 1, 0, 2, 2, 0, 1, 1, 0, 2])


def seeded(seed: int = 0) -> Generator:
    return Generator().manual_seed(seed)


def test_draws_are_of_each_class_without_repeats_and_smaller_ones_are_parts_of_larger_ones() -> None:
    orders = draw_orders(LABELS, 3, seeded())
    for count in (1, 2, 3):
        drawn = first_of_each(orders, [count] * 3)
        assert LABELS[drawn].tolist() == [0] * count + [1] * count + [2] * count
        assert len(set(drawn.tolist())) == 3 * count
        assert set(first_of_each(orders, [1] * 3).tolist()) <= set(drawn.tolist())
    assert first_of_each(orders, [4, 1, 2]).shape == (7,)


def test_draws_follow_from_the_seed_alone() -> None:
    first, again, other = (draw_orders(LABELS, 3, seeded(s)) for s in (0, 0, 1))
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(first, other, strict=True))


@pytest.mark.parametrize("k", [2, 3, 5])
def test_folds_spread_every_class_evenly(k: int) -> None:
    labels = torch.arange(4).repeat_interleave(torch.tensor([5, 10, 7, 5]))
    folds = stratified_folds(labels, k, seeded())
    for number in range(4):
        counts = torch.bincount(folds[labels == number], minlength=k)
        assert counts.max() - counts.min() <= 1
        assert counts.sum() == (labels == number).sum()
    assert not torch.equal(folds, stratified_folds(labels, k, seeded(1))), "who is in a fold is drawn"


def test_the_nearest_mean_by_hand_and_absent_classes() -> None:
    features = torch.tensor([[0.0, 0.0], [0.0, 2.0], [5.0, 0.0]])
    labels = torch.tensor([0, 0, 2])
    queries = torch.tensor([[0.0, 1.0], [4.0, 0.0], [2.4, 0.5], [2.6, 0.5]])
    guesses = few_labels.class_means((features, labels), queries, 4)
    assert guesses.tolist() == [0, 2, 0, 2], "classes 1 and 3, whose sums are 0, are never guessed"


def test_writing_samples_in_a_basis_of_their_span_changes_no_guess() -> None:
    draw = seeded()
    labels = torch.arange(12) % 3
    samples = torch.randn(12, 40, generator=draw) + labels[:, None]
    queries = torch.randn(50, 40, generator=draw) + (torch.arange(50) % 3)[:, None]
    less, seen = few_labels.restrict_to_span(samples, queries)
    assert less.shape == (12, 12)
    assert few_labels.restrict_to_span(samples[:, :5], queries[:, :5])[0].shape == (12, 5)
    for guess in (
        lambda x, q: few_labels.class_means((x, labels), q, 3),
        lambda x, q: few_labels.neighbours((x, labels), q, 3, 2),
        lambda x, q: few_labels.logistic((x, labels), q, 3, (0.1,), seeded())[0],
    ):
        alike = guess(samples, queries).eq(guess(less, seen))
        assert alike.sum() >= 49, "one query on a boundary may fall on either side of a rounding"
    subset = torch.tensor([0, 1, 2, 5])
    part, whole = (
        few_labels.class_means((x[subset], labels[subset]), q, 3)
        for x, q in ((less, seen), (samples, queries))
    )
    assert torch.equal(part, whole), "of a part of the samples too"


def test_one_label_a_class_takes_the_fixed_strength_and_more_are_chosen_by_folds() -> None:
    features, labels = torch.eye(3), torch.arange(3)
    assert (
        few_labels.logistic((features, labels), features, 3, (1e-3, 10.0), seeded())[1] == few_labels.FIXED_L2
    )
    draw = seeded()
    labels = torch.arange(60) % 2
    signal = torch.cat(
        [3 * labels[:, None] + 0.5 * torch.randn(60, 1, generator=draw), torch.randn(60, 30, generator=draw)],
        1,
    )
    strength = few_labels.logistic((signal, labels), signal, 2, (1e-6, 0.1), seeded())[1]
    assert strength in (1e-6, 0.1)


def test_the_choice_of_the_strength_looks_at_the_labelled_samples_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[int] = []
    fit = Logistic.fit

    def watched(self: Logistic, *arguments: object, **more: object) -> object:
        asked.append(len(self.y))
        return fit(self, *arguments, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(Logistic, "fit", watched)
    labels = torch.arange(20) % 4
    samples = torch.randn(20, 6, generator=seeded()) + labels[:, None]
    one, two = torch.zeros(3, 6), torch.full((9, 6), 1e6)
    first = few_labels.logistic((samples, labels), one, 4, (0.01, 1.0), seeded())[1]
    assert asked == [16] * 10 + [20], "five folds of four samples, two strengths each; then all"
    assert few_labels.logistic((samples, labels), two, 4, (0.01, 1.0), seeded())[1] == first
