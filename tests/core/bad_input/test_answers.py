"""Every mistake in the tables gets its answer. The tables, `*.txt` beside this file, are made to be read."""

from __future__ import annotations

import pytest

from tests.core.bad_input.conftest import Answer, agrees, table

ROWS = [
    row
    for name in ("commands.txt", "recipes.txt", "settings.txt", "data.txt", "runs.txt")
    for row in table(name)
]


@pytest.mark.parametrize(("typed", "said"), [pytest.param(*row, id=row[0]) for row in ROWS])
def test_a_mistake_is_answered(answer: Answer, typed: str, said: str) -> None:
    assert agrees(given := answer(typed), said), given


def test_the_tables_are_long_and_say_nothing_twice() -> None:
    typed = [typed for typed, _ in ROWS]
    assert len(set(typed)) == len(typed) >= 150


@pytest.mark.parametrize(
    ("said", "expected", "same"),
    [
        ("ab", "ab", True),
        ("ab", "a", False),
        ("abc", "a…c", True),
        ("abc", "a…d", False),
        ("a.c", "abc", False),
    ],
)
def test_answers_are_compared_whole(said: str, expected: str, same: bool) -> None:
    assert agrees(said, expected) is same
