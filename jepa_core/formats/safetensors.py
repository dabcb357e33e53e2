"""The format `safetensors`: one encoder of any kind in one file, with everything that is needed to use it.

The tensors have the names of the encoder's own state dict. The header's entry `jepa_core` is a JSON object
with the encoder's settings, its preprocessing and where it comes from.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from safetensors.torch import save_file

from jepa_core.errors import UserError
from jepa_core.formats.base import Export, Weights
from jepa_core.formats.weight_file import Source, as_fp32, separate_tensors, type_notes
from jepa_core.settings.base import ComponentSettings
from jepa_core.types.fields import fields_from_table, fields_to_table

ENTRY = "jepa_core"
KEYS = {"encoder": dict, "transform": dict, "recipe": str, "role": str, "step": int}
"""What the entry holds, and of which type."""


class Safetensors:
    """One encoder and its preprocessing in a .safetensors file; read and written."""

    class Config(ComponentSettings):
        """It has no settings."""

    suffix = ".safetensors"

    def __init__(self, config: Config) -> None:
        self.config = config

    def recognises(self, source: Source) -> bool:
        """A .safetensors file whose header has our entry."""
        return ENTRY in source.metadata

    def read(self, source: Source, settings: Mapping[str, Any]) -> Weights:
        """The encoder under the name and with the settings it was written with."""
        if not self.recognises(source):
            raise UserError(
                f"{source.name} has no entry {ENTRY!r} in a .safetensors header: it was not written by "
                "jepa export --to safetensors"
            )
        about = _entry(source)
        sections = {"encoder": about["encoder"], "transform": about["transform"]}
        try:
            fields = fields_from_table(about.get("fields", {}))
        except ValueError as error:
            raise UserError(f"{source.name}: the entry {ENTRY!r} of its header: {error}") from None
        origin = f"the {about['role']} encoder of step {about['step']:,} of {about['recipe']}"
        return Weights(
            sections, {"encoder": as_fp32(source.content)}, (origin, *type_notes(source.content)), fields
        )

    def write(self, export: Export, path: Path) -> Sequence[str]:
        """A single file."""
        images = export.images
        about: dict[str, Any] = {
            "recipe": export.recipe.name,
            "role": export.role,
            "step": export.step,
            "encoder": export.settings.model_dump(mode="json", exclude_none=True),
            "transform": {} if images is None else images.section(),
            "fields": fields_to_table(export.fields),
        }
        if images is not None:
            about["image_size"] = list(images.image_size)
        tensors = separate_tensors(export.encoder.state_dict(), self.config.name)
        save_file(tensors, path, {"format": "pt", ENTRY: json.dumps(about)})
        return [export.encoder_name]


def _entry(source: Source) -> dict[str, Any]:
    """The header's entry. Raises UserError where it is not what `write` writes."""
    try:
        about = json.loads(source.metadata[ENTRY])
    except (ValueError, RecursionError):
        raise UserError(f"{source.name}: the entry {ENTRY!r} of its header is no JSON") from None
    for key, kind in KEYS.items():
        if not isinstance(about, dict) or type(about.get(key)) is not kind:
            raise UserError(
                f"{source.name}: the entry {ENTRY!r} of its header is not what jepa export writes: expected "
                f"{key!r}, a {kind.__name__}"
            )
    return about
