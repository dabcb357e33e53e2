"""Settings in words: value, default, what it may be, what it means. For help, recipes, reports, completion.

Everything is read off the settings class: types and bounds from its JSON schema, the meaning from the
docstring under the field. Values are shown as TOML, as one would type them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import tomlkit
from pydantic import BaseModel
from pydantic.errors import PydanticInvalidForJsonSchema
from pydantic_core import to_jsonable_python

from jepa_core.settings.base import Settings
from jepa_core.settings.recipe import COMPONENT_SECTIONS, COMPONENT_TABLES, ENGINE_SECTIONS, Recipe

Schema = Mapping[str, Any]

_WITH_BOUNDS = r" (from|above|below|to|or) "


@dataclass(frozen=True)
class Setting:
    """One setting of a component or of the engine, and its value where it is one of a recipe."""

    name: str
    """As it is typed in its section, dots between nested tables: `scale`, `augment.blur`."""
    default: Any
    """A plain value (of JSON); None where there is none."""
    required: bool
    allowed: str
    """What it may be, such as `a whole number from 1`; empty where nothing can be said."""
    choices: tuple[str, ...]
    """All it may be, as TOML, where that is a short list."""
    means: str
    """Its docstring, on one line."""
    section: str = ""
    """Its table in the recipe, `masker`; empty where no recipe is described."""
    value: Any = None
    """Its value in the recipe, a plain one; None where it is not set."""

    @property
    def path(self) -> str:
        """As an override names it, `masker.target_scale`."""
        return f"{self.section}.{self.name}"

    @property
    def key(self) -> str:
        """Its name inside its own table, without those of the tables around."""
        return self.path.rpartition(".")[2]

    @property
    def changed(self) -> bool:
        """Whether the recipe's value differs from the default."""
        return not self.required and self.value != self.default

    def facts(self) -> dict[str, Any]:
        """What holds of the setting in any recipe, as plain values for JSON."""
        names = ("name", "default", "required", "allowed", "choices", "means")
        return {name: getattr(self, name) for name in names} | {"choices": list(self.choices)}

    def facts_in_recipe(self) -> dict[str, Any]:
        """What holds of it in its recipe, as plain values for JSON."""
        names = ("path", "value", "default", "changed", "allowed", "means")
        return {name: getattr(self, name) for name in names}


def describe(
    config: type[BaseModel], section: str = "", values: BaseModel | None = None
) -> Iterator[Setting]:
    """Every setting of a class of settings, those of nested tables after their table's own.

    With `values`, the settings of a recipe's `section`, each comes with its value.
    """
    table = {} if values is None else to_jsonable_python(values, fallback=str)
    yield from _describe(config, "", section, table)


def sections_of(recipe: Recipe) -> Iterator[tuple[str, str, Settings]]:
    """(table, kind of component or name of the engine's section, settings) for each section of a recipe.

    A term or a probe is a section of its own, `terms.spread` of kind `objective`; so is each part that starts
    with weights from elsewhere, `init.encoder` of kind `init`, and each evaluation whose settings are given.
    """
    for section in (*COMPONENT_SECTIONS, *ENGINE_SECTIONS):
        yield section, section, getattr(recipe, section)
    for table, kind in COMPONENT_TABLES.items():
        for name, settings in getattr(recipe, table).items():
            yield f"{table}.{name}", kind, settings
    for part, settings in recipe.init.items():
        yield f"init.{part}", "init", settings
    for name, choice in recipe.evaluations.items():
        if not isinstance(choice, bool):
            yield f"evaluations.{name}", "evaluation", choice


def settings_of(recipe: Recipe) -> Iterator[Setting]:
    """Every setting of a resolved recipe with its value, in the order of `sections_of`."""
    for section, _, settings in sections_of(recipe):
        yield from describe(type(settings), section, settings)


def _describe(
    config: type[BaseModel], prefix: str, section: str, values: Mapping[str, Any]
) -> Iterator[Setting]:
    schema = _schema(config)
    nested: list[tuple[str, type[BaseModel]]] = []
    for name, field in config.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            nested.append((name, field.annotation))
            continue
        shape = schema.get("properties", {}).get(field.alias or name, {})
        default = None if field.is_required() else field.get_default(call_default_factory=True)
        yield Setting(
            f"{prefix}{field.alias or name}",
            to_jsonable_python(default, fallback=str),
            field.is_required(),
            describe_schema(shape, schema.get("$defs", {})),
            tuple(dict.fromkeys(_choices(shape))),
            " ".join((field.description or "").split()),
            section,
            values.get(field.alias or name, values.get(name)),
        )
    for name, model in nested:
        yield from _describe(model, f"{prefix}{name}.", section, values.get(name, {}))


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


def bounds(allowed: str, means: str, value: Any) -> str:
    """` (a number above 0)` behind a meaning, or nothing where the meaning or the value shows as much.

    Names that the meaning has, `auto, cpu or cuda`, and types that a value shows need no repetition.
    """
    words = set(re.findall(r"[\w.-]+", means))
    names_in_meaning = not allowed.startswith("a ") and words.issuperset(re.split(", | or ", allowed))
    type_in_value = value is not None and not re.search(_WITH_BOUNDS, allowed)
    evident = names_in_meaning or type_in_value or isinstance(value, bool) or allowed in ("", "text")
    return "" if evident else f" ({allowed})"


def summary(component: object) -> str:
    """The first paragraph of the docstring of a class or function, on one line."""
    return " ".join((component.__doc__ or "").strip().partition("\n\n")[0].split())


def _schema(config: type[BaseModel]) -> Schema:
    """Empty where a plugin's type has no schema: its settings are then listed without their bounds."""
    try:
        return config.model_json_schema()
    except PydanticInvalidForJsonSchema:
        return {}


def describe_schema(schema: Schema, defs: Schema) -> str:
    """A JSON schema in words: `a number above 0`, `auto, fp32 or bf16`, `a list of 2 numbers`."""
    if "$ref" in schema:
        return describe_schema(defs.get(schema["$ref"].rpartition("/")[2], {}), defs)
    if "anyOf" in schema:
        return _join_alternatives(
            [describe_schema(part, defs) for part in schema["anyOf"] if part.get("type") != "null"]
        )
    if choices := _choices(schema):
        return _join_alternatives(choices)
    kind = {"integer": "a whole number", "number": "a number", "string": "text"} | {
        "array": "a list",
        "object": "a table",
    }
    noun = kind.get(schema.get("type", ""), "")
    if schema.get("format") in ("path", "file-path", "directory-path"):
        noun = "a path"
    return f"{noun}{_items(schema, defs)}{_bounds(schema)}"


def _choices(schema: Schema) -> list[str]:
    if schema.get("type") == "boolean":
        return ["true", "false"]
    parts = [_choices(part) for part in schema.get("anyOf", ()) if part.get("type") != "null"]
    if parts:
        return [choice for part in parts for choice in part] if all(parts) else []
    values = schema.get("enum") or ([schema["const"]] if "const" in schema else [])
    return [value if isinstance(value, str) else toml(value) for value in values]


def _join_alternatives(parts: list[str]) -> str:
    parts = list(dict.fromkeys(part for part in parts if part))
    return " or ".join(filter(None, (", ".join(parts[:-1]), *parts[-1:])))


def _items(schema: Schema, defs: Schema) -> str:
    """` of 2 numbers`, ` of whole numbers from 1`; the items of a tuple as many as they are."""
    fixed = schema.get("prefixItems")
    items = fixed or ([schema["items"]] if isinstance(schema.get("items"), dict) else [])
    kinds = list(dict.fromkeys(describe_schema(item, defs) for item in items))
    if len(kinds) != 1 or not kinds[0]:
        return f" of {len(fixed)} values" if fixed else ""
    plural = kinds[0].removeprefix("a ").replace("number", "numbers", 1)
    return f" of {len(fixed)} {plural}" if fixed else f" of {plural}"


def _bounds(schema: Schema) -> str:
    """` from 0`, ` below 1`, ` from 0 to 1`, ` above 0 and below 1`."""
    lower = _bound(schema, minimum="from", exclusiveMinimum="above")
    upper = _bound(schema, maximum="to", exclusiveMaximum="below")
    plain = "exclusiveMinimum" not in schema and "exclusiveMaximum" not in schema
    joint = " " if plain else " and up " if "maximum" in schema else " and "
    both = joint.join(filter(None, (lower, upper)))
    return f" {both}" if both else ""


def _bound(schema: Schema, **words: str) -> str:
    return next((f"{word} {_short(schema[key])}" for key, word in words.items() if key in schema), "")


def _short(number: float) -> str:
    return f"{number:g}"
