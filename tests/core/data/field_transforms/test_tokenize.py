"""Texts to ids: a fitted BPE, a tokenizer from a file, lengths, and what is kept of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from jepa_core import Field, UserError
from jepa_core.data.field_transforms.base import InvalidValue
from jepa_core.data.field_transforms.tokenize import END, START, Tokenize

TEXTS = ["a frog on a leaf", "a frog", "the leaf of a tree", "Ein Frosch, über 3 Blätter"]


def tokenize(**settings: Any) -> Tokenize:
    return Tokenize(Tokenize.Config(name="tokenize", **settings), Field("text"))


def fitted(**settings: Any) -> Tokenize:
    transform = tokenize(**settings)
    transform.fit(TEXTS)
    return transform


@pytest.mark.parametrize("text", [*TEXTS, "never seen: Ω≈ç√ 🐸", "a"])
def test_every_text_comes_back(text: str) -> None:
    transform = fitted()
    ids = transform(text, True)
    assert transform.decode(ids).strip() == text
    assert transform.tokenizer is not None
    assert [transform.tokenizer.id_to_token(int(ids[k])) for k in (0, -1)] == [START, END]
    assert int(ids.max()) < transform.output.vocabulary  # type: ignore[operator]


def test_frequent_words_become_one_token_and_the_vocabulary_is_kept_to() -> None:
    small, large = fitted(vocabulary=258), fitted(vocabulary=400)
    assert small.tokenizer is not None
    assert small.tokenizer.get_vocab_size() == 258
    assert len(large("a frog", True)) < len(small("a frog", True))
    assert large.output == Field("ids", (None,), vocabulary=400)


def test_capitals_may_be_ignored() -> None:
    assert fitted(lower=True)("A Frog", True).tolist() == fitted(lower=True)("a frog", True).tolist()
    assert fitted()("A Frog", True).tolist() != fitted()("a frog", True).tolist()


def test_a_long_text_is_refused_or_cut() -> None:
    with pytest.raises(InvalidValue, match=r"'a frog on a leaf' of \d+ tokens; expected at most 5"):
        fitted(length=5)("a frog on a leaf", True)
    whole, short = (
        fitted()("a frog on a leaf", True),
        fitted(length=5, longer="cut")("a frog on a leaf", True),
    )
    assert short.tolist() == [*whole[:4].tolist(), int(whole[-1])]


@pytest.mark.parametrize(
    ("value", "what"), [("", "an empty text"), (" \n", "an empty text"), (3, "a int; expected a text")]
)
def test_what_is_no_text_is_refused(value: Any, what: str) -> None:
    with pytest.raises(InvalidValue, match=what):
        fitted()(value, True)


def test_what_was_learned_can_be_kept_and_loaded() -> None:
    first, second = fitted(), tokenize()
    second.load_state(json.loads(json.dumps(first.state())))
    assert second("a leaf of über", True).tolist() == first("a leaf of über", True).tolist()
    with pytest.raises(UserError, match=r"its vocabulary has .* tokens; the recipe's has 258"):
        tokenize(vocabulary=258).load_state(fitted(vocabulary=300).state())
    for state in ({}, {"model": 3}):
        with pytest.raises(UserError, match="it is no tokenizer"):
            tokenize().load_state(state)


def test_a_tokenizer_from_a_file_stays_as_it_is(tmp_path: Path) -> None:
    file = tmp_path / "tokenizer.json"
    file.write_text(json.dumps(fitted(vocabulary=300).state()), encoding="utf-8")
    given = tokenize(tokenizer=str(file))
    given.fit(["other texts"])
    assert given("a frog", True).tolist() == fitted(vocabulary=300)("a frog", True).tolist()
    assert given.output.vocabulary == fitted(vocabulary=300).tokenizer.get_vocab_size()  # type: ignore[union-attr]
    file.write_text("no tokenizer", encoding="utf-8")
    with pytest.raises(UserError, match="cannot be loaded") as error:
        tokenize(tokenizer=str(file))
    assert "\n" not in str(error.value)
