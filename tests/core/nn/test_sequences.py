"""Sequences in every form, and elements taken from them."""

from __future__ import annotations

import pytest
import torch

from jepa_core import IndexSet, Packed, Tokens, UserError
from jepa_core.nn.sequences import IDS, VECTORS, check_ids, take_elements, to_packed
from jepa_core.testing.small_parts import with_padding

IDS_OF_TWO = [torch.tensor([3, 1, 4]), torch.tensor([1, 5])]


def test_every_form_of_ids_becomes_packed() -> None:
    packed = Packed.of(IDS_OF_TWO)
    assert to_packed(packed, IDS, "x") is packed
    dense = to_packed(torch.tensor([[3, 1], [4, 1]]), IDS, "x")
    assert (dense.values.tolist(), dense.at.index.tolist()) == ([3, 1, 4, 1], [0, 1, 0, 1])
    assert (dense.at.uniform, dense.batch_size) == (2, 2)
    single = to_packed(torch.tensor([3, 1]), IDS, "x")
    assert (single.values.tolist(), single.at.uniform) == ([3, 1], 1)


def test_every_form_of_vectors_becomes_packed() -> None:
    vectors = torch.randn(6, 4)
    at = IndexSet.from_lists([[0, 1], [0, 1, 2, 3]])
    for form in (Packed(vectors, at), Tokens(vectors, at, (4,))):
        packed = to_packed(form, VECTORS, "x")
        assert packed.values is vectors
        assert packed.at is at
    assert to_packed(vectors.view(2, 3, 4), VECTORS, "x").at.lengths.tolist() == [3, 3]
    assert to_packed(vectors, VECTORS, "x").at.lengths.tolist() == [1] * 6


@pytest.mark.parametrize(
    ("value", "axes", "message"),
    [
        (torch.zeros(2, 3), IDS, r"x takes ids: a Packed int64 .*; got Tensor of torch.float32 \[2, 3\]"),
        (torch.zeros(2, 3, 4).long(), IDS, r"got Tensor of torch.int64 \[2, 3, 4\]"),
        (torch.zeros(2, 3).long(), VECTORS, r"x takes vectors: a Packed \[S, D\], .*torch.int64 \[2, 3\]"),
        (torch.zeros(3), VECTORS, r"got Tensor of torch.float32 \[3\]"),
        (["a cat"], IDS, "got list$"),
        (Packed.of(IDS_OF_TWO), VECTORS, r"got Packed of torch.int64 \[5\]"),
    ],
)
def test_any_other_form_is_an_error_in_a_line(value: object, axes: int, message: str) -> None:
    with pytest.raises(UserError, match=message):
        to_packed(value, axes, "x")


def test_elements_are_taken_at_their_places() -> None:
    packed = Packed.of(IDS_OF_TWO)
    keep = IndexSet.from_lists([[0, 2], [1]])
    taken = take_elements(packed, keep, "x")
    assert (taken.values.tolist(), taken.at) == ([3, 4, 5], keep)
    assert take_elements(packed, None, "x") is packed


def test_padding_may_stand_beyond_the_last_sequence() -> None:
    keep = with_padding(IndexSet.from_lists([[0, 2], [1]]), 3)
    taken = take_elements(Packed.of(IDS_OF_TWO), keep, "x")
    assert taken.values[:3].tolist() == [3, 4, 5]
    assert len(taken.values) == keep.total == 6


def test_places_and_samples_that_are_not_there_are_errors() -> None:
    packed = Packed.of(IDS_OF_TWO)
    with pytest.raises(UserError, match="x: sample 1 keeps place 2 of a sequence of 2; places count from 0"):
        take_elements(packed, IndexSet.from_lists([[0], [1, 2]]), "x")
    with pytest.raises(UserError, match="x: 1 index sets for 2 sequences; expected one each"):
        take_elements(packed, IndexSet.from_lists([[0]]), "x")


@pytest.mark.parametrize("wrong", [-1, 10])
def test_ids_outside_the_vocabulary_are_errors(wrong: int) -> None:
    check_ids(torch.tensor([0, 9]), 10, "x")
    check_ids(torch.tensor([], dtype=torch.long), 10, "x")
    with pytest.raises(UserError, match="x knows ids from 0 to 9; got"):
        check_ids(torch.tensor([0, wrong]), 10, "x")
