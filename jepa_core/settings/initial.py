"""The tables `[init.PART]` of a recipe: where the weights come from that a part of the model starts with.

    [init.encoder]                     [init.encoders.text]                [init.model]
    from = "timm:vit_small_patch16_224"   file = "text.safetensors"            run = "runs/first"
    frozen = true

PART is a module of the model by its path (`encoder`, `predictor`, `encoders.text`), or `model` for all of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import ConfigDict, Field

from jepa_core.errors import UserError
from jepa_core.settings.base import Settings

WHOLE = "model"
"""The part that is the whole model."""
ORIGINS = ("run", "file", "from")
"""Settings that say where weights come from: each part has one of them."""


class InitSettings(Settings):
    """Weights that a part starts with: of a run, a file or a library. The random twin does without them."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        allow_inf_nan=False,
        use_attribute_docstrings=True,
        serialize_by_alias=True,
    )

    run: str | None = None
    """A run's folder, whose newest checkpoint is read."""
    file: str | None = None
    """A file or folder of weights in a format that `jepa import` reads."""
    source: str | None = Field(None, alias="from")
    """The name of published weights: `timm:vit_small_patch16_224`, `huggingface:ORGANISATION/NAME`."""
    format: str | None = None
    """The format of `file` or `from`, where it is not to be detected."""
    role: Literal["target", "context"] = "target"
    """Which encoder of a run, or of a file that holds both."""
    frozen: bool = False
    """Whether the part stays as it is: no gradient, no optimizer, no dropout, statistics of norms as loaded.
    A frozen encoder is its own target encoder."""
    strict: bool = True
    """Whether every tensor must fit by name and shape; if not, those that do are taken, and counted."""

    def check(self, part: str) -> None:
        """Raises UserError unless the table names one origin, and what speaks of that origin alone."""
        named = [key for key, value in zip(ORIGINS, self.origins, strict=True) if value is not None]
        if len(named) != 1:
            given = f"has {' and '.join(named)}" if named else "names no weights"
            raise UserError(f"section 'init.{part}' {given}; expected one of {', '.join(ORIGINS)}")
        if self.format is not None and self.run is not None:
            raise UserError(f"setting 'init.{part}.format' is of a file; init.{part} takes a run")
        if self.frozen and part == WHOLE:
            raise UserError("init.model.frozen leaves nothing to train; freeze a part, such as init.encoder")

    @property
    def origins(self) -> tuple[str | None, str | None, str | None]:
        """The values of `ORIGINS`."""
        return self.run, self.file, self.source

    def words(self) -> str:
        """Where the weights come from, in words: `the target encoder of run runs/x`."""
        if self.run is not None:
            return f"run {self.run}, {self.role} encoder"
        return f"file {self.file}" if self.file is not None else f"{self.source}"


def to_init_table(entries: Mapping[str, InitSettings]) -> dict[str, Any]:
    """Plain values, nested by path, as `read_init` takes them."""
    table: dict[str, Any] = {}
    for part, settings in entries.items():
        level = table
        for name in part.split("."):
            level = level.setdefault(name, {})
        level.update(settings.model_dump(mode="json", exclude_none=True, by_alias=True))
    return table
