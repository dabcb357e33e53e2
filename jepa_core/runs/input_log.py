"""What a run has passed over, or found unusual, in its inputs: counts by kind, and a list of the files.

corrupt_files.tsv in the run's folder has one line a file: kind, path, reason. The counts are metrics, and
are kept in checkpoints, so that a resumed run goes on counting.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path

from jepa_core.data.images import Skipped

CORRUPT_FILES = "corrupt_files.tsv"


class InputCounts:
    """Counts of one run: each sight of a corrupt or an odd input, and the files seen so far."""

    def __init__(self, folder: Path) -> None:
        self.file = folder / CORRUPT_FILES
        self.corrupt: Counter[str] = Counter()
        self.odd: Counter[str] = Counter()
        self._listed: set[str] | None = None

    def add(self, skipped: Iterable[Skipped], odd: Iterable[str]) -> None:
        """Counts what one batch met, and lists each corrupt file once."""
        self.odd.update(odd)
        for sample in skipped:
            self.corrupt[sample.kind] += 1
            self._list(sample)

    def _list(self, sample: Skipped) -> None:
        if self._listed is None:
            lines = self.file.read_text(encoding="utf-8").splitlines() if self.file.exists() else []
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
        """Takes over what `state_dict` gave."""
        self.corrupt, self.odd = Counter(state["corrupt"]), Counter(state["odd"])
