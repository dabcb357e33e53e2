"""A run's newest checkpoint to a file of another library, written under another name and then renamed."""

from __future__ import annotations

import logging
import os
import secrets
import shutil
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from jepa_core.errors import UserError
from jepa_core.formats.base import Export, Format, Preprocessing
from jepa_core.formats.importing import build_format
from jepa_core.formats.weight_file import nonfinite_notes
from jepa_core.runs.folder import read_run_recipe
from jepa_core.runs.load import open_model
from jepa_core.runtime.regular_file import irregularity
from jepa_core.settings.roles import check_role

EXPORTED = {"config.json", "model.safetensors", "model.onnx", "model.onnx.data", "preprocessor_config.json"}
"""Files of the folders that formats write: a folder of these alone may be replaced."""

log = logging.getLogger("jepa")


@dataclass(frozen=True)
class Exported:
    """What was written, and where."""

    path: Path
    format: str
    parts: Sequence[str]
    """What is in it, for people: `target encoder`."""
    step: int
    preprocessing: Preprocessing | None
    """How its images are prepared; None for an encoder of something else."""


def export_run(
    folder: Path, to: str, out: Path | None = None, *, role: str = "target", overwrite: bool = False
) -> Exported:
    """Writes a run's encoder in the format `to`, by default under the run's `exports/`.

    `role` is one of the model's, such as `target` or the name of an encoder. Raises UserError for an unknown
    format or role, a folder that is no run, a model that the format cannot hold, and a path that is there
    already (unless `overwrite`).
    """
    check_role(role, read_run_recipe(folder).encoders)
    form = build_format(to)
    path = out or folder / "exports" / _name(to, form.suffix, role)
    check_place(path)
    if os.path.lexists(path) and not overwrite:
        raise UserError(f"{str(path)!r} is there already; --overwrite it, or name another with --out")
    recipe, model, step = open_model(folder)
    export = Export(recipe, model.cpu(), step, role)
    parts = _write(form, to, export, path)
    for sentence in nonfinite_notes(export.encoder.state_dict()):
        log.warning("%s: the exported encoder has %s", path, sentence)
    return Exported(path, to, parts, step, export.images)


def check_place(path: Path) -> None:
    """Raises UserError for a pipe, a socket or a device: the export would replace it."""
    kind = irregularity(path) if os.path.exists(path) else None
    if kind not in (None, "a folder"):
        raise UserError(f"{str(path)!r} is {kind}; name a file or a folder with --out")


def _name(to: str, suffix: str, role: str) -> str:
    """`timm`, `timm-context`, `timm-text-context`, `encoder.safetensors`, `official.pth.tar`."""
    stem = "encoder" if suffix == f".{to}" else to
    which = "" if role == "target" else f"-{role.replace('/', '-')}"
    return f"{stem}{which}{suffix}"


def _write(form: Format, to: str, export: Export, path: Path) -> Sequence[str]:
    """Writes beside `path` and renames, so that `path` is whole or as it was. Raises UserError."""
    partial = path.with_name(f"{path.name[:100]}.{secrets.token_hex(4)}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        parts = form.write(export, partial)
        _replace(path, partial)
    except UserError:
        raise
    except (OSError, ValueError) as error:  # ValueError: a name that no file can have
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"{str(path)!r} cannot be written: {reason}") from None
    except Exception as error:  # safetensors and torch.save wrap a full disk; a format may not hold the model
        if isinstance(error, MemoryError):
            raise
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"{str(path)!r} cannot be written as {to}: {reason}") from error
    finally:
        with suppress(OSError, ValueError):
            _remove(partial)
    return parts


def _replace(path: Path, partial: Path) -> None:
    """Puts what was written in the place of an earlier export, and of nothing else."""
    if not path.is_dir():
        if partial.is_dir() and path.exists():
            raise UserError(
                f"{str(path)!r} is a file, and this format writes a folder; name another with --out"
            )
        os.replace(partial, path)
        return
    others = {entry.name for entry in path.iterdir()} - EXPORTED - _names(partial)
    if others or not partial.is_dir():
        reason = f"holds {min(others)!r}, which no export wrote" if others else "is a folder"
        raise UserError(f"{str(path)!r} {reason}, so it is not replaced; name another with --out")
    aside = path.with_name(f"{partial.name}.replaced")
    os.replace(path, aside)
    os.replace(partial, path)
    shutil.rmtree(aside)


def _names(folder: Path) -> set[str]:
    return {entry.name for entry in folder.iterdir()} if folder.is_dir() else set()


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    elif path.exists():
        path.unlink()
