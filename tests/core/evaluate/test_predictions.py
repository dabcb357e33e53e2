"""Guesses kept sample by sample: read back, compared by McNemar's exact test, refused if they do not fit."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from scipy.stats import binomtest

from jepa_core.errors import UserError
from jepa_core.evaluate.predictions import (
    Predictions,
    compare_guesses,
    mcnemar_p,
    read_predictions,
    save_predictions,
)


def made(right: list[int], data_hash: str = "x", names: list[str] | None = None) -> Predictions:
    """Eight samples of class 1; those in `right` are guessed so."""
    guesses = torch.zeros(8, dtype=torch.int64)
    guesses[right] = 1
    own = names or [f"b\udcff/{index}.png" for index in range(8)]
    return Predictions(own, torch.ones(8, dtype=torch.int64), {("trained", "knn"): guesses}, data_hash)


@pytest.mark.parametrize(("first", "second"), [(0, 0), (3, 3), (0, 5), (10, 2), (431, 380), (20000, 19000)])
def test_the_p_value_is_that_of_the_exact_binomial_test(first: int, second: int) -> None:
    expected = binomtest(first, first + second).pvalue if first + second else 1.0
    assert mcnemar_p(first, second) == pytest.approx(expected, rel=1e-6)


def test_two_sets_of_guesses_are_compared_sample_by_sample() -> None:
    found = compare_guesses(made([0, 1, 2, 3]), made([3, 4]), "knn")
    assert (found.samples, found.both, found.neither) == (8, 1, 3)
    assert [name[-5:] for name in found.first_only] == ["0.png", "1.png", "2.png"]
    assert found.second_only == ("b\udcff/4.png",)
    assert found.difference == pytest.approx(-25)
    assert found.p == pytest.approx(binomtest(1, 4).pvalue)
    assert found.sentence("a", "b") == (
        "of 8 samples both are right on 1, a alone on 3, b alone on 1, neither on 3; exact McNemar p = 0.62"
    )


def test_samples_that_both_have_are_matched_by_name() -> None:
    first, second = made([0, 1]), made([1, 2])
    part = Predictions(
        second.names[4:0:-1],
        second.labels[:4],
        {("trained", "knn"): second.of("trained", "knn")[[4, 3, 2, 1]]},
    )
    found = compare_guesses(first, part, "knn")
    assert (found.samples, found.both, len(found.first_only), len(found.second_only)) == (4, 1, 0, 1)


def test_other_samples_are_refused() -> None:
    bare = [str(index) for index in range(8)]
    for other in (made([0], "y", names=bare), made([0], names=[f"{i}.jpg" for i in range(8)])):
        with pytest.raises(UserError, match="scored on other samples"):
            compare_guesses(made([0], names=bare), other, "knn")
    relabelled = Predictions(made([0]).names, torch.zeros(8, dtype=torch.int64), made([0]).guesses)
    with pytest.raises(UserError, match="samples with other labels"):
        compare_guesses(made([0]), relabelled, "knn")
    with pytest.raises(UserError, match="unknown predictions 'trained, linear'; known: trained, knn"):
        compare_guesses(made([0]), made([0]), "linear")


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    file = tmp_path / "predictions.npz"
    save_predictions(file, [made([0, 2]), made([1])])
    parts = read_predictions(file)
    assert [list(part.names) for part in parts] == [list(made([]).names)] * 2
    assert torch.equal(parts[0].of("trained", "knn"), made([0, 2]).of("trained", "knn"))
    assert parts[1].data_hash == "x"
    save_predictions(file, [Predictions([], torch.zeros(0, dtype=torch.int64), {})])


@pytest.mark.parametrize("damage", ["cut", "empty", "text", "pickle", "array", "gone", "folder", "lengths"])
def test_a_file_of_another_kind_is_a_line(tmp_path: Path, damage: str) -> None:
    import numpy as np

    file = tmp_path / "predictions.npz"
    save_predictions(file, [made([0])])
    content = file.read_bytes()
    file.unlink()
    if damage == "folder":
        file.mkdir()
    elif damage == "pickle":
        np.savez(file, index=np.array([{"a": 1}], dtype=object))
    elif damage == "array":
        np.savez(file, index=np.frombuffer(b'[{"columns": 3}]', dtype=np.uint8))
    elif damage == "lengths":
        whole = made([0])
        save_predictions(file, [Predictions(whole.names[:4], whole.labels, whole.guesses)])
    elif damage != "gone":
        file.write_bytes({"cut": content[: len(content) // 2], "empty": b"", "text": b"no"}[damage])
    with pytest.raises(UserError, match=r"predictions.npz' (holds no predictions|is not there)"):
        read_predictions(file)
