"""What the probes guessed for each held-out sample, kept so that two runs can be compared sample by sample.

What is unusual: two runs that differ by half a point of accuracy may differ significantly, since they see the
same samples. The exact McNemar test looks only at the samples that one of the two gets right.

Axes: n held-out samples.
"""

from __future__ import annotations

import json
import math
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from jepa_core.errors import UserError, unknown
from jepa_core.runtime.atomic_write import atomic_path

PREDICTIONS = "predictions.npz"


@dataclass(frozen=True, eq=False)
class Predictions:
    """The guesses of one task's probes."""

    names: Sequence[str]
    """n names of the samples, such as paths relative to their folder."""
    labels: Tensor
    """int64 [n]."""
    guesses: Mapping[tuple[str, str], Tensor]
    """By (row, probe), int64 [n]."""
    data_hash: str = ""
    """Of the samples, as in the table."""
    task: str | None = None

    def of(self, row: str, probe: str) -> Tensor:
        """The guesses of a probe on a row's features. Raises UserError where there are none."""
        if (row, probe) not in self.guesses:
            raise unknown("predictions", f"{row}, {probe}", [", ".join(key) for key in self.guesses])
        return self.guesses[row, probe]


def save_predictions(file: Path, parts: Sequence[Predictions]) -> None:
    """Writes the guesses of all tasks, whole or not at all. Raises OSError."""
    arrays: dict[str, np.ndarray[Any, Any]] = {}
    index = []
    for number, part in enumerate(parts):
        names = "\0".join(part.names).encode("utf-8", errors="surrogateescape")
        arrays[f"names_{number}"] = np.frombuffer(names, dtype=np.uint8)
        arrays[f"labels_{number}"] = part.labels.numpy().astype(np.int32)
        keys = list(part.guesses)
        for column, key in enumerate(keys):
            arrays[f"guesses_{number}_{column}"] = part.guesses[key].cpu().numpy().astype(np.int32)
        index.append({"task": part.task, "data_hash": part.data_hash, "columns": keys})
    arrays["index"] = np.frombuffer(json.dumps(index).encode(), dtype=np.uint8)
    with atomic_path(file) as partial, partial.open("wb") as stream:
        np.savez_compressed(stream, **arrays)  # type: ignore[arg-type]


def read_predictions(file: Path) -> list[Predictions]:
    """The guesses of all tasks. Raises UserError for a file that is missing or not one of these."""
    if not file.is_file():
        raise UserError(f"{str(file)!r} is not there; `jepa eval` writes it")
    try:
        with np.load(file, allow_pickle=False) as arrays:
            index = json.loads(arrays["index"].tobytes())
            return [_part(arrays, number, facts) for number, facts in enumerate(index)]
    except (OSError, ValueError, KeyError, TypeError, AttributeError, EOFError) as error:
        raise _unreadable_error(file, error) from None
    except (zipfile.BadZipFile, zlib.error, RecursionError, RuntimeError, MemoryError) as error:
        raise _unreadable_error(file, error) from None


def _part(arrays: Any, number: int, facts: Mapping[str, Any]) -> Predictions:
    text = arrays[f"names_{number}"].tobytes().decode("utf-8", errors="surrogateescape")
    labels = torch.from_numpy(arrays[f"labels_{number}"].astype(np.int64))
    guesses = {}
    for column, (row, probe) in enumerate(facts["columns"]):
        values = torch.from_numpy(arrays[f"guesses_{number}_{column}"].astype(np.int64))
        guesses[str(row), str(probe)] = values
    names = text.split("\0")
    if any(values.shape != (len(names),) for values in (labels, *guesses.values())):
        raise ValueError("arrays of different lengths")
    return Predictions(names, labels, guesses, str(facts["data_hash"]), facts["task"])


def _unreadable_error(file: Path, error: BaseException) -> UserError:
    why = " ".join(str(error).split())[:120] or type(error).__name__
    return UserError(f"{str(file)!r} holds no predictions ({why}); `jepa eval` writes them anew")


@dataclass(frozen=True)
class PairedComparison:
    """Two sets of guesses for the same samples."""

    samples: int
    both: int
    """Samples that both guess right."""
    first_only: tuple[str, ...]
    """Names of the samples that only the first guesses right."""
    second_only: tuple[str, ...]
    neither: int
    p: float
    """Of McNemar's exact test, two-sided: the chance of so unequal numbers if both were as good."""

    @property
    def difference(self) -> float:
        """How much more of the samples the second guesses right, in percentage points."""
        return 100 * (len(self.second_only) - len(self.first_only)) / self.samples

    def sentence(self, first: str, second: str) -> str:
        """The comparison in one line, with names for the two."""
        return (
            f"of {self.samples:,} samples both are right on {self.both:,}, {first} alone on "
            f"{len(self.first_only):,}, {second} alone on {len(self.second_only):,}, neither on "
            f"{self.neither:,}; exact McNemar p = {self.p:.2g}"
        )


def compare_guesses(
    first: Predictions, second: Predictions, probe: str, row: str = "trained", second_row: str | None = None
) -> PairedComparison:
    """Compares the guesses of a probe on two rows, of one run or of two, on the samples that both have.

    Raises UserError where the samples are others or have other labels.
    """
    guesses, others = first.of(row, probe), second.of(second_row or row, probe)
    place = {name: index for index, name in enumerate(second.names)}
    pairs = [(index, place[name]) for index, name in enumerate(first.names) if name in place]
    numbered_only = all(name.isdigit() for name in first.names)
    if not pairs or (first.data_hash != second.data_hash and numbered_only):
        raise UserError("the two were scored on other samples, so there is nothing to compare one by one")
    rows, other_rows = torch.tensor(pairs).unbind(1)
    labels = first.labels[rows]
    if not torch.equal(labels, second.labels[other_rows]):
        raise UserError("the two were scored on samples with other labels")
    first_right, second_right = guesses[rows].eq(labels), others[other_rows].eq(labels)

    def names(chosen: Tensor) -> tuple[str, ...]:
        return tuple(first.names[index] for index in rows[chosen].tolist())

    first_only, second_only = names(first_right & ~second_right), names(second_right & ~first_right)
    p = mcnemar_p(len(first_only), len(second_only))
    both, neither = int((first_right & second_right).sum()), int((~first_right & ~second_right).sum())
    return PairedComparison(len(pairs), both, first_only, second_only, neither, p)


def compare_runs(first: Path, second: Path) -> dict[tuple[str | None, str], PairedComparison]:
    """The newest guesses on the trained encoders of two runs, by (task, probe), for those that both have.

    Raises UserError where a run has no guesses, or the samples are others.
    """
    first_parts, second_parts = (
        {part.task: part for part in read_predictions(folder / PREDICTIONS)} for folder in (first, second)
    )
    return {
        (task, probe): compare_guesses(first_parts[task], second_parts[task], probe)
        for task in first_parts
        if task in second_parts
        for row, probe in first_parts[task].guesses
        if row == "trained" and (row, probe) in second_parts[task].guesses
    }


def mcnemar_p(first_only: int, second_only: int) -> float:
    """The exact two-sided p of McNemar's test: a fair coin for each sample that one alone gets right.

    McNemar 1947, Psychometrika 12; the exact form is the binomial test of the smaller count.
    """
    total, least = first_only + second_only, min(first_only, second_only)
    if total == 0:
        return 1.0
    logs = [
        math.lgamma(total + 1) - math.lgamma(k + 1) - math.lgamma(total - k + 1) - total * math.log(2)
        for k in range(least + 1)
    ]
    top = max(logs)
    return min(1.0, 2 * math.exp(top) * math.fsum(math.exp(value - top) for value in logs))
