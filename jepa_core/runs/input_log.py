"""Inputs that a run skipped as corrupt, or used though unusual (odd): counts by kind, and a list of files.

corrupt_files.tsv in the run's folder has one line a file: kind, path, reason. The counts are metrics, and
are kept in checkpoints, so that a resumed run goes on counting.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path

from jepa_core.data.images import Skipped
from jepa_core.errors import UserError
from jepa_core.runtime.json_lines import is_count, read_text_file

CORRUPT_FILES = "corrupt_files.tsv"


class InputCounts:
    """Counts of one run: corrupt and odd inputs that were drawn, and the corrupt files listed so far."""

    def __init__(self, folder: Path) -> None:
        self.file = folder / CORRUPT_FILES
        self.corrupt: Counter[str] = Counter()
        self.odd: Counter[str] = Counter()
        self._listed: set[str] | None = None

    def add(self, skipped: Iterable[Skipped], odd: Iterable[str]) -> None:
        """Counts the corrupt and the odd inputs of one batch, and lists each corrupt file once."""
        self.odd.update(odd)
        for sample in skipped:
            self.corrupt[sample.kind] += 1
            self._list(sample)

    def _list(self, sample: Skipped) -> None:
        if self._listed is None:
            lines = read_text_file(self.file).split("\n")
            self._listed = {line.split("\t")[1] for line in lines if line.count("\t") == 2}
        path, reason = (" ".join(text.split()) for text in (sample.path, sample.reason))
        if path not in self._listed:
            self._listed.add(path)
            with self.file.open("a", encoding="utf-8", errors="backslashreplace") as file:
                file.write(f"{sample.kind}\t{path}\t{reason}\n")

    def metrics(self) -> dict[str, int]:
        """`corrupt_images`, and `corrupt_images/KIND` and `odd_images/KIND` of the kinds that occurred."""
        values = {"corrupt_images": self.corrupt.total()}
        values |= {f"corrupt_images/{kind}": count for kind, count in sorted(self.corrupt.items())}
        return values | {f"odd_images/{kind}": count for kind, count in sorted(self.odd.items())}

    def state_dict(self) -> dict[str, dict[str, int]]:
        """The counts, for a checkpoint."""
        return {"corrupt": dict(self.corrupt), "odd": dict(self.odd)}

    def load_state_dict(self, state: Mapping[str, Mapping[str, int]]) -> None:
        """Takes over what `state_dict` gave. Raises UserError for anything else."""
        try:
            corrupt, odd = dict(state["corrupt"]), dict(state["odd"])
        except (TypeError, KeyError, ValueError):
            raise UserError("the state of the inputs has no counts of corrupt and odd ones") from None
        for kind, count in (*corrupt.items(), *odd.items()):
            if not isinstance(kind, str) or not is_count(count):
                raise UserError(f"the state of the inputs counts {count!r:.30} of kind {kind!r:.30}")
        self.corrupt, self.odd = Counter(corrupt), Counter(odd)
