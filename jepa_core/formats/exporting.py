"""A run's newest checkpoint to a file of another library, written under another name and then renamed."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from jepa_core.errors import UserError, unknown
from jepa_core.formats.base import Export, Format, Preprocessing, Role
from jepa_core.formats.importing import build_format
from jepa_core.runs.load import open_model

ROLES = ("target", "context")


@dataclass(frozen=True)
class Exported:
    """What was written, and where."""

    path: Path
    format: str
    parts: Sequence[str]
    """What is in it, for people: `target encoder`."""
    step: int
    preprocessing: Preprocessing


def export_run(
    folder: Path, to: str, out: Path | None = None, *, role: str = "target", overwrite: bool = False
) -> Exported:
    """Writes a run's encoder in the format `to`, by default under the run's `exports/`.

    `role` is `target` or `context`. Raises UserError for an unknown format or role, a folder that is no
    run, a model that the format cannot hold, and a path that is there already (unless `overwrite`).
    """
    if role not in ROLES:
        raise unknown("role", role, ROLES)
    form = build_format(to)
    path = out or folder / "exports" / _name(to, form.suffix, role)
    if path.exists() and not overwrite:
        raise UserError(f"{str(path)!r} is there already; --overwrite it, or name another with --out")
    recipe, model, step = open_model(folder)
    export = Export(recipe, model.cpu(), step, cast(Role, role))
    parts = _put(form, export, path)
    return Exported(path, to, parts, step, export.preprocessing)


def _name(to: str, suffix: str, role: str) -> str:
    """`timm`, `timm-context`, `encoder.safetensors`, `official.pth.tar`."""
    stem = "encoder" if suffix == f".{to}" else to
    return f"{stem}{'' if role == 'target' else f'-{role}'}{suffix}"


def _put(form: Format, export: Export, path: Path) -> Sequence[str]:
    """Nothing half-written ever stands at `path`."""
    partial = path.with_name(f"{path.name}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove(partial)
        parts = form.write(export, partial)
        _remove(path)
        os.replace(partial, path)
    except OSError as error:
        raise UserError(f"{str(path)!r} cannot be written: {error.strerror or error}") from None
    finally:
        _remove(partial)
    return parts


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    elif path.exists():
        path.unlink()
