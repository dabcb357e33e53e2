"""`Check`: one line of `jepa doctor`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

State = Literal["ok", "warning", "problem"]


@dataclass(frozen=True)
class Check:
    """One thing that was looked at, and what to do where it is not well."""

    topic: str
    name: str
    state: State
    said: str
    advice: str = ""
    details: Mapping[str, Any] = field(default_factory=dict)
    """More of it as plain values, for `--json`."""

    def facts(self) -> dict[str, Any]:
        """As plain values for JSON."""
        return asdict(self)
