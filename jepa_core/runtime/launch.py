"""What torchrun tells a process: RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR, MASTER_PORT."""

from __future__ import annotations

import socket
from collections.abc import Mapping
from typing import NamedTuple

from jepa_core.errors import UserError


class Launch(NamedTuple):
    """One process among those that were started together."""

    rank: int
    world_size: int
    local_rank: int
    """The rank among the processes of this machine."""


def read_launch(variables: Mapping[str, str]) -> Launch | None:
    """What the environment says; None for a process alone (WORLD_SIZE 1, or neither it nor RANK).

    Raises UserError for values that are no numbers, or contradict each other, and for a host or port at
    which the processes cannot meet.
    """
    world = _number(variables, "WORLD_SIZE", 1, 2**20)
    rank = _number(variables, "RANK", 0, 2**20)
    local = _number(variables, "LOCAL_RANK", 0, 2**20)
    if world is not None and world > 1 and rank is None:
        raise UserError(
            f"WORLD_SIZE is {world}, but RANK is not set; start the processes with torchrun, or unset it"
        )
    if rank is not None and rank >= (world or 1):
        size = "WORLD_SIZE is not set" if world is None else f"WORLD_SIZE is {world}"
        raise UserError(f"RANK is {rank}, but {size}; expected a rank from 0 to {(world or 1) - 1}")
    if world is None or world == 1 or rank is None:
        return None
    local_world = _number(variables, "LOCAL_WORLD_SIZE", 1, 2**20)
    if local is not None and local >= (local_world or world):
        name = "WORLD_SIZE" if local_world is None else "LOCAL_WORLD_SIZE"
        raise UserError(f"LOCAL_RANK is {local}, but {name} is {local_world or world}")
    _check_meeting_point(variables)
    return Launch(rank, world, local or 0)


def _number(variables: Mapping[str, str], name: str, least: int, most: int) -> int | None:
    """The value of a variable, None where it is not set or empty."""
    text = variables.get(name, "").strip()
    if not text:
        return None
    value = int(text) if text.isascii() and text.isdecimal() and len(text) < 20 else -1
    if not least <= value <= most:
        raise UserError(
            f"the environment variable {name} is {text[:40]!r}; expected a whole number from {least}"
        )
    return value


def _check_meeting_point(variables: Mapping[str, str]) -> None:
    host, port = variables.get("MASTER_ADDR", "").strip(), _number(variables, "MASTER_PORT", 1, 65535)
    missing = [name for name, value in (("MASTER_ADDR", host), ("MASTER_PORT", port)) if not value]
    if missing:
        raise UserError(
            f"RANK and WORLD_SIZE are set, but {' and '.join(missing)} not; start the processes with torchrun"
        )
    try:
        socket.getaddrinfo(host, port)
    except (OSError, UnicodeError) as error:
        raise UserError(
            f"MASTER_ADDR is {host[:80]!r}, which is no host that is known here: {error}"
        ) from None
