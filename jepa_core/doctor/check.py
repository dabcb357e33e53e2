"""`Check`: one line of `jepa doctor`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

State = Literal["ok", "warning", "problem"]


@dataclass(frozen=True)
class Check:
    """The result of one check, and what to do where it is not ok."""

    topic: str
    name: str
    state: State
    said: str
    advice: str = ""
    details: Mapping[str, Any] = field(default_factory=dict)
    """The same facts as plain values, for `--json`."""

    def facts(self) -> dict[str, Any]:
        """As plain values for JSON."""
        return asdict(self)
