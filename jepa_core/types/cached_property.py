"""A property that is computed at its first use and kept: `functools.cached_property` without its lock.

Python 3.11's takes a lock, which torch.compile cannot trace. While compiling nothing is cached: the value
belongs to the graph.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, TypeVar, overload

import torch

T = TypeVar("T")


class cached_property(Generic[T]):  # reads as a decorator
    """Decorates a method without arguments; works on frozen dataclasses."""

    def __init__(self, compute: Callable[[Any], T]) -> None:
        self.compute = compute
        self.__doc__ = compute.__doc__

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    @overload
    def __get__(self, instance: None, owner: type) -> cached_property[T]: ...
    @overload
    def __get__(self, instance: object, owner: type) -> T: ...
    def __get__(self, instance: Any, owner: type) -> Any:
        if instance is None:
            return self
        value = self.compute(instance)
        if not torch.compiler.is_compiling():
            instance.__dict__[self.name] = value  # attribute lookup finds it there before this descriptor
        return value
