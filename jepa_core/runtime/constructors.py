"""Which arguments a class's constructor takes, for arguments that came later than the first plugins."""

from __future__ import annotations

import inspect
from collections.abc import Mapping


def takes_argument(component: type, name: str) -> bool:
    """Whether the constructor has a parameter of this name, or hands it on to a base's that has one."""
    for base in component.__mro__:
        if "__init__" not in vars(base):
            continue
        parameters = _parameters(base)
        if name in parameters:
            return True
        if not any(own.kind is inspect.Parameter.VAR_KEYWORD for own in parameters.values()):
            return False
    return False


def requires_argument(component: type, name: str) -> bool:
    """Whether the constructor has a parameter of this name without a default."""
    base = next(base for base in component.__mro__ if "__init__" in vars(base))
    own = _parameters(base).get(name)
    return own is not None and own.default is inspect.Parameter.empty


def _parameters(base: type) -> Mapping[str, inspect.Parameter]:
    return inspect.signature(vars(base)["__init__"]).parameters
