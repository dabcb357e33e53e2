"""What a setting is, in words: its default, what it may be, what it means. For help, recipes and completion.

Everything is read off the settings class: types and bounds from its JSON schema, the meaning from the
docstring under the field. Values are shown as TOML, as one would type them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import tomlkit
from pydantic import BaseModel
from pydantic.errors import PydanticInvalidForJsonSchema
from pydantic_core import to_jsonable_python

Schema = Mapping[str, Any]

_TELLING = r" (from|above|below|to|or) "


@dataclass(frozen=True)
class Setting:
    """One setting of a component, or of the engine."""

    name: str
    """As it is typed in a recipe, dots between tables: `scale`, `augment.blur`."""
    default: Any
    """A plain value (of JSON); None where there is none."""
    required: bool
    allowed: str
    """What it may be, such as `a whole number from 1`; empty where nothing can be said."""
    choices: tuple[str, ...]
    """All it may be, as TOML, where that is a short list."""
    means: str
    """Its docstring, on one line."""

    def facts(self) -> dict[str, Any]:
        """As plain values for JSON."""
        return asdict(self) | {"choices": list(self.choices)}


def describe(config: type[BaseModel], prefix: str = "") -> Iterator[Setting]:
    """Every setting of a class of settings, those of nested tables after their table's own."""
    schema = _schema(config)
    inner: list[tuple[str, type[BaseModel]]] = []
    for name, field in config.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            inner.append((f"{prefix}{name}.", field.annotation))
            continue
        known = schema.get("properties", {}).get(field.alias or name, {})
        yield Setting(
            f"{prefix}{name}",
            None
            if field.is_required()
            else to_jsonable_python(field.get_default(call_default_factory=True), fallback=str),
            field.is_required(),
            allowed(known, schema.get("$defs", {})),
            tuple(dict.fromkeys(_choices(known))),
            " ".join((field.description or "").split()),
        )
    for path, nested in inner:
        yield from describe(nested, path)


def toml(value: Any) -> str:
    """A plain value as one types it in a recipe; what is None reads `not set`."""
    if value is None:
        return "not set"
    if isinstance(value, Mapping):
        table = tomlkit.inline_table()
        for key, part in value.items():
            if part is not None:
                table.append(key, tomlkit.value(toml(part)))
        return table.as_string()
    return str(tomlkit.item(value).as_string())


def bounds(allowed: str, means: str, shown: Any) -> str:
    """` (a number above 0)`, or nothing where the meaning, or the value that is shown, says as much."""
    words = set(re.findall(r"[\w.-]+", means))
    named = not allowed.startswith("a ") and words.issuperset(re.split(", | or ", allowed))
    plain = shown is not None and not re.search(_TELLING, allowed)
    evident = named or plain or isinstance(shown, bool) or allowed in ("", "text")
    return "" if evident else f" ({allowed})"


def summary(component: type) -> str:
    """The first paragraph of a class's docstring, on one line."""
    return " ".join((component.__doc__ or "").strip().partition("\n\n")[0].split())


def _schema(config: type[BaseModel]) -> Schema:
    """Empty where a plugin's type has no schema: its settings are then listed without their bounds."""
    try:
        return config.model_json_schema()
    except PydanticInvalidForJsonSchema:
        return {}


def allowed(schema: Schema, defs: Schema) -> str:
    """A JSON schema in words: `a number above 0`, `auto, fp32 or bf16`, `a list of 2 numbers`."""
    if "$ref" in schema:
        return allowed(defs.get(schema["$ref"].rpartition("/")[2], {}), defs)
    if "anyOf" in schema:
        return _either([allowed(part, defs) for part in schema["anyOf"] if part.get("type") != "null"])
    if choices := _choices(schema):
        return _either(choices)
    kind = {"integer": "a whole number", "number": "a number", "string": "text"} | {
        "array": "a list",
        "object": "a table",
    }
    said = kind.get(schema.get("type", ""), "")
    if schema.get("format") in ("path", "file-path", "directory-path"):
        said = "a path"
    return f"{said}{_items(schema, defs)}{_bounds(schema)}"


def _choices(schema: Schema) -> list[str]:
    if schema.get("type") == "boolean":
        return ["true", "false"]
    parts = [_choices(part) for part in schema.get("anyOf", ()) if part.get("type") != "null"]
    if parts:
        return [choice for part in parts for choice in part] if all(parts) else []
    values = schema.get("enum") or ([schema["const"]] if "const" in schema else [])
    return [value if isinstance(value, str) else toml(value) for value in values]


def _either(parts: list[str]) -> str:
    parts = list(dict.fromkeys(part for part in parts if part))
    return " or ".join(filter(None, (", ".join(parts[:-1]), *parts[-1:])))


def _items(schema: Schema, defs: Schema) -> str:
    """` of 2 numbers`, ` of whole numbers from 1`; the items of a tuple as many as they are."""
    fixed = schema.get("prefixItems")
    each = fixed or ([schema["items"]] if isinstance(schema.get("items"), dict) else [])
    said = list(dict.fromkeys(allowed(item, defs) for item in each))
    if len(said) != 1 or not said[0]:
        return f" of {len(fixed)} values" if fixed else ""
    many = said[0].removeprefix("a ").replace("number", "numbers", 1)
    return f" of {len(fixed)} {many}" if fixed else f" of {many}"


def _bounds(schema: Schema) -> str:
    """` from 0`, ` below 1`, ` from 0 to 1`, ` above 0 and below 1`."""
    lower = _bound(schema, minimum="from", exclusiveMinimum="above")
    upper = _bound(schema, maximum="to", exclusiveMaximum="below")
    plain = "exclusiveMinimum" not in schema and "exclusiveMaximum" not in schema
    joined = " " if plain else " and up " if "maximum" in schema else " and "
    both = joined.join(filter(None, (lower, upper)))
    return f" {both}" if both else ""


def _bound(schema: Schema, **words: str) -> str:
    return next((f"{word} {_short(schema[key])}" for key, word in words.items() if key in schema), "")


def _short(number: float) -> str:
    return f"{number:g}"
