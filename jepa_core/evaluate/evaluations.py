"""The probe tables of a run: written, kept side by side, and read back.

    eval.json                 the newest table on the run's own data
    evaluations/NAME.json     every table, one for each split, role, step, probes and data
    evaluations/NAME.npz      its guesses, sample by sample (see predictions.py)
    predictions.npz           those of the newest table

A table that is made again under the same conditions replaces its earlier one; all others stay. One on other
data than the run's (transfer) stands in `evaluations/` alone.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

from jepa_core.errors import UserError
from jepa_core.evaluate.predictions import PREDICTIONS, Predictions, save_predictions
from jepa_core.evaluate.table import EvalResult
from jepa_core.runtime.atomic_write import atomic_write

EVAL = "eval.json"
EVALUATIONS = "evaluations"
LARGEST_FILE = 1 << 28
"""Bytes of a table that is read; tables have thousands."""

log = logging.getLogger("jepa.evaluate")


def check_writable(file: Path) -> None:
    """Raises UserError where a file of this name cannot be written; called before any work is done."""
    try:
        if file.is_dir():
            raise IsADirectoryError(None, "Is a directory")
        file.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=file.parent):
            pass
    except OSError as error:
        raise UserError(f"{str(file)!r} cannot be written: {error.strerror or error}") from None


def check_run_writable(folder: Path) -> None:
    """Raises UserError where an evaluation cannot be written to this run; called before any work is done."""
    for file in (folder / EVAL, folder / PREDICTIONS, folder / EVALUATIONS / EVAL):
        if os.path.lexists(file) and not (file.is_file() or file.is_dir()):
            raise UserError(f"{str(file)!r} cannot be written: it is no regular file")
        check_writable(file)


def write_evaluation(folder: Path, result: EvalResult, predictions: Sequence[Predictions]) -> None:
    """Writes a run's newest table and guesses, and keeps both beside those of other conditions.

    Evaluations that were made earlier under the same conditions stay in the table.

    A table of transfer is not a run's own, and is only kept.

    Raises UserError where the disk is full or the folder cannot be written.
    """
    archive = folder / EVALUATIONS
    try:
        archive.mkdir(exist_ok=True)
        _keep_earlier_table(folder, archive)
        name = _name(result)
        result = with_earlier_evaluations(result, archive / f"{name}.json")
        save_table(archive / f"{name}.json", result)
        save_predictions(archive / f"{name}.npz", predictions)
        if result.transfer is None:
            save_predictions(folder / PREDICTIONS, predictions)
            save_table(folder / EVAL, result)
    except OSError as error:
        raise UserError(
            f"the evaluation of {str(folder)!r} cannot be written: {error.strerror or error}"
        ) from error


def with_earlier_evaluations(result: EvalResult, file: Path) -> EvalResult:
    """The result with those evaluations that were made earlier under the same conditions and not anew.

    So what was made on request stays in the run's table when others are asked for.
    """
    try:
        earlier = read_table(file).evaluations
    except UserError:
        return result
    names = {table.name for table in result.evaluations}
    stay = tuple(table for table in earlier if table.rows and table.name not in names)
    return result.model_copy(update={"evaluations": (*result.evaluations, *stay)})


def table_files(folders: Sequence[Path], out: Path | None) -> list[Path]:
    """The file that each run's table goes to. Raises UserError for two runs with one name in `out`."""
    if out is None:
        return [folder / EVAL for folder in folders]
    if len(folders) == 1:
        return [out]
    files = [out / f"{folder.resolve().name}.json" for folder in folders]
    if len(set(files)) < len(files):
        raise UserError(f"two of the runs have one name, and {str(out)!r} takes one file for each name")
    return files


def write_to(folder: Path, file: Path | None, result: EvalResult, predictions: Sequence[Predictions]) -> None:
    """Writes a table and its guesses to the run's folder, or to this file instead.

    Raises UserError where that cannot be.
    """
    if file is None:
        write_evaluation(folder, result, predictions)
        return
    try:
        save_predictions(file.with_name(f"{file.stem}.predictions.npz"), predictions)
        save_table(file, result)
    except OSError as error:
        raise UserError(f"{str(file)!r} cannot be written: {error.strerror or error}") from error


def save_table(file: Path, result: EvalResult) -> None:
    """Writes a table as JSON, whole or not at all. Raises OSError."""
    atomic_write(file, result.model_dump_json(indent=2))


def read_table(file: Path) -> EvalResult:
    """A table from its JSON file. Raises UserError for what is no table, in one line."""
    try:
        if not file.is_file():
            raise ValueError("not a regular file")
        if file.stat().st_size > LARGEST_FILE:
            raise ValueError(f"{file.stat().st_size:,} bytes")
        return EvalResult.model_validate_json(file.read_bytes())
    except OSError as error:
        raise UserError(f"{str(file)!r} cannot be read: {error.strerror or error}") from None
    except (ValueError, RecursionError) as error:
        why = " ".join(str(error).split())[:200]
        raise UserError(f"{str(file)!r} is no probe table ({why})") from None


def read_evaluations(folder: Path) -> list[EvalResult]:
    """All tables of a run, oldest first. One that cannot be read is passed over with a warning."""
    tables: dict[str, EvalResult] = {}
    for file in (folder / EVAL, *sorted((folder / EVALUATIONS).glob("*.json"))):
        if not os.path.lexists(file):
            continue
        try:
            table = read_table(file)
        except UserError as error:
            log.warning("evaluation passed over: %s", error)
            continue
        tables.setdefault(table.model_dump_json(), table)
    return sorted(tables.values(), key=lambda table: table.time or "")


def latest_table(
    folder: Path, split: str | None = None, role: str | None = None, step: int | None = None
) -> EvalResult | None:
    """The newest table of a run on its own data with this split, role and step, each where it is given; None
    without one.

    Tables of earlier versions do not say their role, and stand for any.
    """
    for table in reversed(read_evaluations(folder)):
        fits = (split in (None, table.split), step in (None, table.step), table.transfer is None)
        if all(fits) and (role is None or table.role in (None, role)):
            return table
    return None


def why_incomparable(first: EvalResult, second: EvalResult) -> str | None:
    """Why scores of two tables cannot be subtracted, in a few words; None where they can.

    Of earlier versions' tables, which do not say what they were made on, only what both say is compared.
    """
    for name, value, other_value in (
        ("task", first.task or "none", second.task or "none"),
        ("split", first.split, second.split),
    ):
        if value != other_value:
            return f"another {name}: {value} and {other_value}"
    if first.held_out_images != second.held_out_images:
        return f"scored on {first.held_out_images:,} and on {second.held_out_images:,} {second.unit}"
    if first.train_images != second.train_images:
        return f"probes fitted on {first.train_images:,} and on {second.train_images:,} {second.unit}"
    for kind, first_hash, second_hash in (
        ("scored", first.data_hash, second.data_hash),
        ("probes fitted", first.train_hash, second.train_hash),
    ):
        if first_hash and second_hash and first_hash != second_hash:
            return f"{kind} on other {second.unit}: {_data(first)} and {_data(second)}"
    for probe in first.probe_settings.keys() & second.probe_settings.keys():
        if first.probe_settings[probe] != second.probe_settings[probe]:
            return f"the probe {probe} has other settings"
    return None


def _data(table: EvalResult) -> str:
    return f"{table.data or 'unknown data'} ({(table.data_hash or '')[:8]})"


def _keep_earlier_table(folder: Path, archive: Path) -> None:
    """Keeps a newest table that an earlier version wrote, which had one place only."""
    try:
        table = read_table(folder / EVAL)
    except UserError:
        return
    file = archive / f"{_name(table)}.json"
    if not file.exists():
        save_table(file, table)


def _name(table: EvalResult) -> str:
    """A file name that says the conditions; what does not fit into it goes into a hash."""
    facts = [
        (t.task, t.data_hash, t.train_hash, t.held_out_images, t.train_images, t.probe_settings)
        for t in table.tables
    ]
    text = json.dumps(facts, sort_keys=True, default=str)
    digest = hashlib.blake2b(text.encode(errors="surrogateescape"), digest_size=5).hexdigest()
    step = "weights" if table.step is None else f"step{table.step}"
    return f"{table.split}-{table.role or 'unknown'}-{step}-{digest}"
