"""How a check speaks: properties are functions, and what became of each is an `Outcome`.

A property is a function of one case whose name and docstring say what holds. It returns where it does,
raises `Failed` where it does not, and `NotAsked` where it makes no sense for this component. Whatever else
a component raises has failed the property as well.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import numpy as np
import torch
from torch import Tensor

from jepa_core.runtime.plugin_calls import PluginError, call_plugin

Case = TypeVar("Case")


class Failed(AssertionError):
    """A property that a component should have, and has not."""


class NotAsked(Exception):
    """A property that makes no sense for this component; the message says why."""


@dataclass(frozen=True)
class Outcome:
    """What became of one property of one component."""

    kind: str
    """`masker`, `encoder`, …, or `recipe`."""
    name: str
    property: str
    state: Literal["holds", "fails", "not asked"]
    said: str
    """What the property is where it holds, what broke, or why it was not asked."""


def outcomes(
    kind: str, name: str, properties: Iterable[Callable[[Case], None]], case: Case
) -> Iterator[Outcome]:
    """Every property of a case, with the global random states as they were before."""
    for prop in properties:
        title = prop.__name__.replace("_", " ")
        said = " ".join((prop.__doc__ or "").partition("\n\n")[0].split())
        try:
            with own_randomness():
                call_plugin(prop, case)
        except PluginError as error:
            if isinstance(error.raised, NotAsked):
                yield Outcome(kind, name, title, "not asked", error.message)
            else:
                text = error.message if isinstance(error.raised, Failed) else str(error)
                yield Outcome(kind, name, title, "fails", text)
        else:
            yield Outcome(kind, name, title, "holds", said)


def demand(found: Iterable[Outcome]) -> None:
    """Raises Failed with a line for each property that does not hold."""
    broken = [o for o in found if o.state == "fails"]
    if broken:
        raise Failed("\n".join(f"{o.kind} {o.name}: {o.property}: {o.said}" for o in broken))


def require(held: bool, said: str) -> None:
    """Raises Failed with `said` unless the property held."""
    if not held:
        raise Failed(said)


def require_equal(found: Tensor, expected: Tensor, said: str, within: float = 0.0) -> None:
    """Raises Failed unless shapes agree and values differ by no more than `within` of the largest."""
    require(
        found.shape == expected.shape, f"{said}: the shape is {list(found.shape)}, not {list(expected.shape)}"
    )
    if not found.numel():
        return
    found, expected = found.detach().double(), expected.detach().double()
    difference = float((found - expected).abs().max())
    allowed = within * max(1.0, float(expected.abs().max()))
    require(difference <= allowed, f"{said}: values differ by up to {difference:.1e}")


def require_same(found: Sequence[Tensor], expected: Sequence[Tensor], said: str) -> None:
    """Raises Failed unless both are the same tensors, bit for bit."""
    require(len(found) == len(expected), f"{said}: {len(found)} tensors, not {len(expected)}")
    for one, other in zip(found, expected, strict=True):
        require(torch.equal(one, other), said)


@contextmanager
def own_randomness() -> Iterator[None]:
    """Torch's global randomness starts at a seed; what is drawn or seeded inside is undone, NumPy's and
    Python's too."""
    numpy, python = np.random.get_state(), random.getstate()
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            yield
    finally:
        np.random.set_state(numpy)
        random.setstate(python)


@contextmanager
def untouched_randomness() -> Iterator[None]:
    """Raises Failed where what is done inside draws from a global random state of torch, NumPy or Python."""
    before = _states()
    yield
    drawn = [name for name, state in _states().items() if state != before[name]]
    require(not drawn, f"draws from the global randomness of {' and '.join(drawn)}")


def _states() -> dict[str, Any]:
    numpy = np.random.get_state()
    return {
        "torch": torch.get_rng_state().numpy().tobytes(),
        "NumPy": (numpy[1].tobytes(), numpy[2]),  # type: ignore[index]
        "Python": random.getstate(),
    }
