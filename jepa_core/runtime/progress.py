"""The interface of a progress bar for long work."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """The interface of a progress bar; how it looks is up to the caller that passes it in."""

    def begin(self, what: str, total: int | None) -> None:
        """A new piece of work starts: its name, and how many images it has where that is known."""
        ...

    def advance(self, n: int) -> None:
        """`n` more images are done."""
        ...


class NoProgress:
    """A progress bar that shows nothing."""

    def begin(self, what: str, total: int | None) -> None:
        """Shows nothing."""

    def advance(self, n: int) -> None:
        """Shows nothing."""
