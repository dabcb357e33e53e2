"""Running checks: a property is a function of one case, and its result an `Outcome`.

The function's name is the property's title, its docstring says what holds. It returns where the property
holds, raises `Failed` where it does not, and `NotAsked` where it does not apply to the component. Any other
exception that the component raises has failed the property too.
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
    """A component does not have a property that its kind must have."""


class NotAsked(Exception):
    """A property does not apply to this component; the message says why."""


@dataclass(frozen=True)
class Outcome:
    """The result of checking one property of one component."""

    kind: str
    """`masker`, `encoder`, …, or `recipe`."""
    name: str
    property: str
    state: Literal["holds", "fails", "not asked"]
    said: str
    """The property in words where it holds, else what broke, or why it was not checked."""


def outcomes(
    kind: str, name: str, properties: Iterable[Callable[[Case], None]], case: Case
) -> Iterator[Outcome]:
    """The outcome of every property; the global random states are afterwards what they were before."""
    for check in properties:
        title = check.__name__.replace("_", " ")
        meaning = " ".join((check.__doc__ or "").partition("\n\n")[0].split())
        try:
            with own_randomness():
                call_plugin(check, case)
        except PluginError as error:
            if isinstance(error.raised, NotAsked):
                yield Outcome(kind, name, title, "not asked", error.message)
            else:
                text = error.message if isinstance(error.raised, Failed) else str(error)
                yield Outcome(kind, name, title, "fails", text)
        else:
            yield Outcome(kind, name, title, "holds", meaning)


def demand(outcomes: Iterable[Outcome]) -> None:
    """Raises Failed with one line for each property that does not hold."""
    failures = [o for o in outcomes if o.state == "fails"]
    if failures:
        raise Failed("\n".join(f"{o.kind} {o.name}: {o.property}: {o.said}" for o in failures))


def require(holds: bool, message: str) -> None:
    """Raises Failed with the message unless the condition holds."""
    if not holds:
        raise Failed(message)


def require_equal(actual: Tensor, expected: Tensor, message: str, within: float = 0.0) -> None:
    """Raises Failed unless shapes agree and values differ by no more than `within` of the largest."""
    require(
        actual.shape == expected.shape,
        f"{message}: the shape is {list(actual.shape)}, not {list(expected.shape)}",
    )
    if not actual.numel():
        return
    actual, expected = actual.detach().double(), expected.detach().double()
    difference = float((actual - expected).abs().max())
    allowed = within * max(1.0, float(expected.abs().max()))
    require(difference <= allowed, f"{message}: values differ by up to {difference:.1e}")


def require_same(actual: Sequence[Tensor], expected: Sequence[Tensor], message: str) -> None:
    """Raises Failed unless both are the same tensors, bit for bit."""
    require(len(actual) == len(expected), f"{message}: {len(actual)} tensors, not {len(expected)}")
    for left, right in zip(actual, expected, strict=True):
        require(torch.equal(left, right), message)


@contextmanager
def own_randomness() -> Iterator[None]:
    """Seeds torch's global generator, and restores the states of torch, NumPy and Python afterwards."""
    numpy_state, python_state = np.random.get_state(), random.getstate()
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            yield
    finally:
        np.random.set_state(numpy_state)
        random.setstate(python_state)


@contextmanager
def untouched_randomness() -> Iterator[None]:
    """Raises Failed where the code inside draws from a global generator of torch, NumPy or Python."""
    before = _states()
    yield
    changed = [name for name, state in _states().items() if state != before[name]]
    require(not changed, f"draws from the global randomness of {' and '.join(changed)}")


def _states() -> dict[str, Any]:
    numpy_state = np.random.get_state()
    return {
        "torch": torch.get_rng_state().numpy().tobytes(),
        "NumPy": (numpy_state[1].tobytes(), numpy_state[2]),  # type: ignore[index]
        "Python": random.getstate(),
    }
