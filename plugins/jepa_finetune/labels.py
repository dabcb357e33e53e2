"""How many labels: `1%`, `all`, or a number of each class, as `--labels` takes them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from jepa_core.errors import UserError


@dataclass(frozen=True)
class Labels:
    """Labels of training samples that are used."""

    per_class: int | None = None
    share: float | None = None
    """Of those of each class."""

    @property
    def are_all(self) -> bool:
        """Whether no label is left out."""
        return self.per_class is None and self.share is None

    @property
    def slug(self) -> str:
        """For the name of a folder: `12`, `1pct`, `all`."""
        if self.share is not None:
            return f"{100 * self.share:g}pct"
        return "all" if self.per_class is None else str(self.per_class)

    @property
    def words(self) -> str:
        """`12 labels a class`, `1 % of the labels`, `all labels`."""
        if self.share is not None:
            return f"{100 * self.share:g} % of the labels"
        return "all labels" if self.per_class is None else f"{self.per_class:,} labels a class"

    def settings(self) -> dict[str, Any]:
        """Of the source `labelled`."""
        if self.share is not None:
            return {"share": self.share}
        return {} if self.per_class is None else {"per_class": self.per_class}


def parse_labels(text: str) -> Labels:
    """What a word of the command line says. Raises UserError for anything else, and for none or too many."""
    word = text.strip().lower()
    if word in ("all", "100%"):
        return Labels()
    number, percent = word.removesuffix("%").strip(), word.endswith("%")
    try:
        value = float(number) if percent else int(number)
    except ValueError:
        value = 0
    if percent and 0 < value < 100:
        return Labels(share=value / 100)
    if not percent and value >= 1:
        return Labels(per_class=int(value))
    raise UserError(
        f"--labels is {text!r}; expected a share above 0% and up to 100%, a number of labels a class from 1 "
        "on, or all"
    )
