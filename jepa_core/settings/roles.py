"""Roles: the names by which evaluations, exports and reports ask for one of a model's encoders.

`target` and `context` are the main encoder's two; of an encoder `[encoders.text]`, `text` is its target
encoder (the online one where it has none) and `text/context` the online one.
"""

from __future__ import annotations

from collections.abc import Iterable

from jepa_core.errors import unknown

Role = str
"""Which of a model's encoders: `target`, `context`, NAME or NAME/context."""

ROLES: tuple[Role, ...] = ("target", "context")
"""The roles of a model without named encoders."""

ONLINE = "/context"
"""How the role of a named encoder that is trained by gradient ends."""


def roles_of(encoders: Iterable[str]) -> tuple[Role, ...]:
    """The roles of a model with these named encoders."""
    return (*ROLES, *(role for name in encoders for role in (name, f"{name}{ONLINE}")))


def check_role(role: str, encoders: Iterable[str]) -> None:
    """Raises UserError for a role that a model with these named encoders does not have."""
    known = roles_of(encoders)
    if role not in known:
        raise unknown("role", role, known)


def encoder_name(role: Role) -> str:
    """The name of the encoder whose role this is; "" for the main one."""
    return "" if role in ROLES else role.removesuffix(ONLINE)


def is_online(role: Role) -> bool:
    """Whether it is the encoder that is trained by gradient, though there may be a target encoder."""
    return role == "context" or role.endswith(ONLINE)
