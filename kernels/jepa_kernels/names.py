"""For operations with several implementations: a line of `explain`, and the error for an unknown name."""

from collections.abc import Iterable
from difflib import get_close_matches
from typing import NamedTuple


class Choice(NamedTuple):
    """One line of `explain`: an implementation, whether it can run here, why, and whether auto takes it."""

    impl: str
    usable: bool
    reason: str
    chosen: bool


def unknown_impl(impl: str, operation: str, known: Iterable[str]) -> ValueError:
    """The error to raise for `impl`: names it, all known names, and the nearest of them."""
    names = ["auto", *known]
    nearest = get_close_matches(impl, names, n=1)
    hint = f". Did you mean {nearest[0]!r}?" if nearest else ""
    return ValueError(f"unknown impl {impl!r} for {operation}; known: {', '.join(names)}{hint}")
