"""Plain values to settings; a misspelt key, a wrong type or a value out of range is a one-line UserError."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from pydantic_core import PydanticSerializationError, to_json

from jepa_core.errors import UserError

S = TypeVar("S", bound=BaseModel)


def parse(model: type[S], values: Mapping[str, Any], section: str) -> S:
    """Plain TOML values as a `model`. Raises UserError naming `section.key` for the first that is wrong.

    By way of JSON, because pydantic's strict rules (no 6 from "6" or from 6.0, no 1 from true) take
    lists for tuples and texts for paths only there.
    """
    try:
        plain = to_json(dict(values), inf_nan_mode="constants")
    except PydanticSerializationError as error:  # values from a file of weights: nested without end, no UTF-8
        reason = str(error).rpartition(": ")[2].strip()
        raise UserError(f"section {section!r} holds what no setting can ({reason.lower()})") from None
    try:
        return model.model_validate_json(plain, strict=True)
    except ValidationError as error:
        from jepa_core.settings.validation_errors import explain

        raise UserError(explain(error, model, values, section)) from None
