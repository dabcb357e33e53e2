"""Errors: what came, what is known, and the nearest name."""

from __future__ import annotations

import unicodedata
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jepa_core.errors import UNPRINTABLE, UserError, describe_error, printable, suggest_name, unknown


def test_unknown_names_what_came_what_is_known_and_what_was_meant() -> None:
    error = unknown("masker", "multiblok", ["random", "multiblock", "block"])
    assert isinstance(error, UserError)
    assert isinstance(error, ValueError)
    assert str(error) == (
        "unknown masker 'multiblok'; known: block, multiblock, random. Did you mean 'multiblock'?"
    )


def test_nothing_is_suggested_where_nothing_is_near() -> None:
    assert str(unknown("probe", "zzz", ["knn"])) == "unknown probe 'zzz'; known: knn."


def test_nothing_known_is_said_too() -> None:
    assert str(unknown("encoder", "vit", [])) == "unknown encoder 'vit'; known: none."


def test_nearest_takes_the_closest() -> None:
    assert suggest_name("randon", ["rasterised", "random"]) == " Did you mean 'random'?"


@pytest.mark.parametrize(
    ("raw", "shown"),
    [
        ("a plain name", "a plain name"),
        ("Bild für Ümit, 图像, 🖼, 1\u00a0000, \ue0b0", "Bild für Ümit, 图像, 🖼, 1\u00a0000, \ue0b0"),
        ("\x1b[31mred\x1b[0m", r"\x1b[31mred\x1b[0m"),
        ("\x1b]0;title\x07", r"\x1b]0;title\x07"),
        ("\x9b2J", r"\x9b2J"),
        ("two\nlines\r\tand\x7f", r"two\nlines\r\tand\x7f"),
        ("gpj.\u202eexe", r"gpj.\u202eexe"),
        ("a\u2028b", r"a\u2028b"),
        ("caf\udce9", r"caf\udce9"),
        (Path("a\x1bb"), r"a\x1bb"),
        ("", ""),
    ],
)
def test_control_characters_are_written_as_escapes(raw: object, shown: str) -> None:
    assert printable(raw) == shown


def test_line_ends_stay_where_they_are_asked_for() -> None:
    assert printable("one\ntwo\x1b", keep="\n") == "one\ntwo\\x1b"


@given(st.text())
def test_no_text_reaches_a_terminal_with_an_escape(text: str) -> None:
    shown = printable(text)
    assert not any(unicodedata.category(char) in UNPRINTABLE for char in shown)
    shown.encode("utf-8")
    assert printable(shown) == shown


class Mute(Exception):
    """An exception whose message cannot be had."""

    def __init__(self, failure: BaseException | None) -> None:
        self.failure = failure

    def __str__(self) -> str:
        if self.failure is not None:
            raise self.failure
        return None  # type: ignore[return-value]


@pytest.mark.parametrize(
    ("error", "described"),
    [
        (ValueError("no weights"), "ValueError: no weights"),
        (KeyError("tea"), "KeyError: 'tea'"),
        (SystemExit(0), "SystemExit: 0"),
        (KeyboardInterrupt(), "KeyboardInterrupt"),
        (ValueError("two\nlines \x1b[2J"), r"ValueError: two lines \x1b[2J"),
        (Mute(RuntimeError("x")), "Mute (its message cannot be shown: RuntimeError)"),
        (Mute(SystemExit(0)), "Mute (its message cannot be shown: SystemExit)"),
        (Mute(None), "Mute (its message cannot be shown: TypeError)"),
    ],
)
def test_any_exception_is_described_in_one_line(error: BaseException, described: str) -> None:
    assert describe_error(error) == described
