"""Rows of probe tables that do not depend on the trained weights, kept from one evaluation to the next.

The random twin and the raw pixels are the same for all runs of a study: they follow from the data, the
transform, the encoder's settings and seed, the split, the probes and the limits. Each row is a JSON file
`evaluations/HASH.json` in the data folder (see `data.cache`), written whole or not at all, with a checksum.

What is unusual: an entry is found by what is known before the data are read (settings, number of samples,
initial weights, versions, source code of the encoder and the probes), and used only if the pixels and labels
that were then read have the hash that it was made from. Data that changed under the same name make it anew.
"""

from __future__ import annotations

import hashlib
import inspect
import json
import logging
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from jepa_core.data.cache import cache_folder
from jepa_core.errors import UserError
from jepa_core.evaluate.features import Features
from jepa_core.evaluate.scoring import ScoredRow
from jepa_core.evaluate.table import Row
from jepa_core.runtime.atomic_write import atomic_write
from jepa_core.runtime.environment import versions

FORMAT = 2
FOLDER = "evaluations"

log = logging.getLogger("jepa.evaluate")

Key = Mapping[str, Any]
"""What a row depends on and is known before the data are read; plain values for JSON."""


class RowCache:
    """Rows by key, in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @classmethod
    def standard(cls) -> RowCache | None:
        """The one in the data folder; None where that folder cannot be used."""
        try:
            folder = cache_folder() / FOLDER
            folder.mkdir(exist_ok=True)
        except (UserError, OSError, RuntimeError) as error:
            log.info("evaluation: rows are not kept: %s", error)
            return None
        return cls(folder)

    def read(self, key: Key) -> CachedRow | None:
        """The row of a key; None where there is none, or its file is damaged, which a line says."""
        file = self._file(key)
        try:
            if not file.is_file():
                return None
            return CachedRow(_read_entry(file.read_bytes()))
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            log.warning(
                "evaluation: %s is damaged (%s); the row is computed anew", file, type(error).__name__
            )
            return None

    def write(self, key: Key, data: str, row: ScoredRow) -> None:
        """Keeps a row that was computed on data of this hash. A full disk loses the entry only."""
        content = {
            "format": FORMAT,
            "key": key,
            "data": data,
            "row": json.loads(row.row.model_dump_json()),
            "guesses": {probe: guesses.tolist() for probe, guesses in row.guesses.items()},
        }
        text = json.dumps(content, default=str)  # unsorted: the first score of a probe is its headline
        try:
            atomic_write(self._file(key), json.dumps({"checksum": _hash(text), "content": text}))
        except OSError as error:
            log.info("evaluation: a row is not kept: %s", error)

    def _file(self, key: Key) -> Path:
        return self.folder / f"{_hash(json.dumps([FORMAT, key], sort_keys=True, default=str))}.json"


class CachedRow:
    """An entry: the row, its guesses, and the hash of the data that it was computed on."""

    def __init__(self, content: Mapping[str, Any]) -> None:
        self.data = str(content["data"])
        guesses = {
            str(probe): torch.tensor(values, dtype=torch.int64)
            for probe, values in content["guesses"].items()
        }
        self.scored = ScoredRow(Row.model_validate(content["row"]), guesses)


def _read_entry(data: bytes) -> Mapping[str, Any]:
    """The content of an entry. Raises ValueError for another checksum or format."""
    entry = json.loads(data)
    if _hash(entry["content"]) != entry["checksum"]:
        raise ValueError("another checksum")
    content: Mapping[str, Any] = json.loads(entry["content"])
    if content["format"] != FORMAT:
        raise ValueError("another format")
    return content


def weights_key(encoder: nn.Module) -> dict[str, str]:
    """What an encoder's features depend on: its weights, and the code of its modules."""
    digest = hashlib.blake2b(digest_size=16)
    for name, value in sorted(encoder.state_dict().items()):
        digest.update(f"{name} {value.dtype} {list(value.shape)}".encode())
        digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return {"weights": digest.hexdigest(), "code": code_hash({type(part) for part in encoder.modules()})}


def code_hash(classes: Iterable[type]) -> str:
    """A hash of the files that define these classes, but for torch's own, whose version is in every key."""
    files = set()
    for cls in classes:
        if cls.__module__.partition(".")[0] != "torch":
            try:
                files.add(Path(inspect.getfile(cls)))
            except (TypeError, OSError):  # defined in a shell
                continue
    return _hash(*sorted(_hash(file.read_bytes()) for file in files if file.is_file()))


def data_hash(fit: Features, judge: Features) -> str:
    """A hash of raw pixels (`features.raw_pixels`) and labels of both splits."""
    digest = hashlib.blake2b(digest_size=16)
    for part in (fit,) if fit is judge else (fit, judge):
        digest.update(part.values.contiguous().numpy().tobytes())
        digest.update(part.labels.contiguous().numpy().tobytes())
    return digest.hexdigest()


def software() -> dict[str, str | None]:
    """The versions that features and scores depend on."""
    return {name: version for name, version in versions().items() if name != "numpy"}


def _hash(*parts: str | bytes) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for part in parts:
        digest.update(part.encode("utf-8", errors="surrogateescape") if isinstance(part, str) else part)
    return digest.hexdigest()
