"""Which constructors take an argument that came after the first plugins were written."""

from __future__ import annotations

from typing import Any

import pytest

from jepa_core.runtime.constructors import requires_argument, takes_argument


class Base:
    def __init__(self, config: Any, *, encoders: Any = None) -> None: ...


class Inherits(Base):
    pass


class Forwards(Base):
    def __init__(self, config: Any, **parts: Any) -> None:
        super().__init__(config, **parts)


class OfToday(Base):
    def __init__(self, config: Any, *, encoder: Any = None) -> None:
        super().__init__(config)


class ForwardsToOneOfToday(OfToday):
    def __init__(self, *arguments: Any, **parts: Any) -> None:
        super().__init__(*arguments, **parts)


class Needs:
    def __init__(self, config: Any, field: Any) -> None: ...


@pytest.mark.parametrize(
    ("component", "expected"),
    [(Base, True), (Inherits, True), (Forwards, True), (OfToday, False), (ForwardsToOneOfToday, False)],
)
def test_an_argument_is_taken_where_it_arrives(component: type, expected: bool) -> None:
    assert takes_argument(component, "encoders") is expected
    assert not takes_argument(component, "fields")


def test_a_required_argument_has_no_default() -> None:
    assert requires_argument(Needs, "field")
    assert not requires_argument(Base, "encoders")
    assert not requires_argument(Forwards, "encoders")
    assert not requires_argument(object, "field")
