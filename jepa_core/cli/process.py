"""What `jepa` sets for its whole process before it does anything: threads, streams, the terminal's size.

The library does none of this when another program imports it.
"""

from __future__ import annotations

import os
import sys

from jepa_core.errors import UserError

SPIN_COUNT = "1000"
"""Turns that an idle OpenMP thread spins before it sleeps. By default it spins for as long as it can, and
beside another busy process two spinning threads slow each other down up to tenfold."""


def prepare_process() -> None:
    """Sets up threads, streams and environment. To be called before torch is imported."""
    limit_spinning()
    open_missing_streams()
    tolerate_encoding()
    ignore_useless_width()


def limit_spinning() -> None:
    """Lets idle OpenMP threads sleep soon, unless the user chose `OMP_WAIT_POLICY` or a count."""
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", SPIN_COUNT)


def open_missing_streams() -> None:
    """Opens /dev/null in place of standard streams that the caller has closed.

    A file opened later would otherwise get the number of a standard stream, and what libraries print
    would go into it.
    """
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
    if sys.stdout is None:
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115 - for the whole process
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115 - for the whole process


def tolerate_encoding() -> None:
    """Prints what an encoding lacks (`PYTHONIOENCODING=ascii`, names that are not UTF-8) as escapes."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # a stream that a test or a notebook put there may not have it
            stream.reconfigure(errors="backslashreplace")


def ignore_useless_width() -> None:
    """Forgets a `COLUMNS` that is no width, so that everything that prints measures the terminal itself."""
    columns = os.environ.get("COLUMNS")
    if columns is not None and not (columns.isdecimal() and int(columns[:9]) > 0):
        del os.environ["COLUMNS"]


MAY_BE_EMPTY = ("--note", "--name", "--tag", "--probe", "--probes", "--evaluations")
"""Options behind which an empty word is read as it is."""


def check_words(words: list[str]) -> None:
    """Raises UserError for a word of the command that is empty, no text in UTF-8, or holds a NUL.

    Names and overrides go into recipes and into JSON, which hold no other texts. An empty word is most often
    a shell variable that is not set, and would name the current folder.
    """
    for before, word in zip(["", *words], words, strict=False):
        if "\0" in word or any("\ud800" <= char <= "\udfff" for char in word):
            raise UserError(f"{word!r} is not text in UTF-8 without NUL; names and overrides must be")
        if not word and before not in MAY_BE_EMPTY:
            place = f"behind {before!r}" if before else "at the start"
            raise UserError(f"the word {place} is empty; is a variable of the shell not set?")
