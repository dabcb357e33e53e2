"""Validation errors in one line: the setting as a recipe spells it, its value, what it may be.

What it may be is read off the settings class (`describe`), so the line is the same for every wrong value:
`2.5` and `-1` both get `expected a whole number from 1`. The message of a validator is used instead where
there is one; a `UserError` that it raises is passed on unchanged.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date, time
from typing import Any, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from jepa_core.errors import UserError, suggest_name
from jepa_core.settings.describe import describe

LONGEST_VALUE = 80
"""Characters of a value that are shown."""


def explain(error: ValidationError, model: type[BaseModel], values: Mapping[str, Any], section: str) -> str:
    """The first thing that is wrong with `values` as settings of `model`, the table `section` of a recipe."""
    first = error.errors(include_url=False)[0]
    cause = first.get("ctx", {}).get("error")
    if isinstance(cause, UserError):
        return str(cause)
    owner, names = _holder(model, first["loc"])
    path = ".".join((section, *names))
    if first["type"] == "extra_forbidden":
        key, known = str(first["loc"][-1]), _fields(owner)
        full = f"{path}.{key}"
        return f"unknown setting {full!r}; known: {', '.join(sorted(known))}.{suggest_name(key, known)}"
    if not names:
        return f"section [{section}]: expected {_own_words(first)}"
    if first["type"] == "missing" and first["loc"][-1] == names[-1]:
        meaning = " ".join((_fields(owner)[names[-1]].description or "no default").split())
        return f"setting {path!r} is required: {meaning}"
    value: Any = values
    for name in names:
        value = value[name]
    return f"setting {path!r} is {show(value)}; expected {_describe_expected(first, owner, names[-1])}"


def show(value: Any) -> str:
    """A plain value much as a recipe spells it, cut after `LONGEST_VALUE` characters."""
    if isinstance(value, bool):
        return str(value).lower()
    text = str(value) if isinstance(value, date | time) else repr(value)
    return text if len(text) <= LONGEST_VALUE else f"{text[: LONGEST_VALUE - 1]}…"


def _fields(model: type[BaseModel]) -> dict[str, FieldInfo]:
    """The fields by the keys of a recipe: an alias stands for a name that Python keeps for itself, `from`."""
    return {field.alias or name: field for name, field in model.model_fields.items()}


def _holder(model: type[BaseModel], loc: tuple[int | str, ...]) -> tuple[type[BaseModel], list[str]]:
    """The innermost settings class that the error's location leads to, and the keys on the way to it.

    Parts of the location that a recipe does not spell (positions in a list, members of a union) are left out.
    """
    names: list[str] = []
    leads_to: Any = model
    for part in loc:
        if get_origin(leads_to) is dict:
            leads_to = get_args(leads_to)[1]
        elif not (isinstance(leads_to, type) and issubclass(leads_to, BaseModel)):
            break
        elif part in _fields(leads_to):
            model, leads_to = leads_to, _fields(leads_to)[str(part)].annotation
        else:
            return leads_to, names
        names.append(str(part))
    return model, names


def _describe_expected(error: ErrorDetails, owner: type[BaseModel], name: str) -> str:
    if error["type"] == "value_error":
        return _own_words(error)
    known = {setting.name: setting.allowed for setting in describe(owner)}
    if name not in known:
        return "a table of settings"
    allowed = known[name] or _own_words(error)
    return f"{allowed}, and finite" if error["type"] == "finite_number" else allowed


def _own_words(error: ErrorDetails) -> str:
    return error["msg"].removeprefix("Value error, ").removeprefix("Input should be ")
