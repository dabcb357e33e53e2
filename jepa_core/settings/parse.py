"""Plain values to settings; a misspelt key, a wrong type or a value out of range is a one-line UserError."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from pydantic_core import to_json

from jepa_core.errors import UserError

S = TypeVar("S", bound=BaseModel)


def parse(model: type[S], values: Mapping[str, Any], section: str) -> S:
    """Plain TOML values as a `model`. Raises UserError naming `section.key` for the first that is wrong.

    By way of JSON, because pydantic's strict rules (no 6 from "6" or from 6.0, no 1 from true) take
    lists for tuples and texts for paths only there.
    """
    try:
        return model.model_validate_json(to_json(dict(values), inf_nan_mode="constants"), strict=True)
    except ValidationError as error:
        from jepa_core.settings.validation_errors import explain

        raise UserError(explain(error, model, values, section)) from None
