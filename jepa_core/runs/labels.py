"""run.json: what people call a run: a name, tags and a note. Nothing that is computed depends on them."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from jepa_core.errors import UserError, printable
from jepa_core.runtime.atomic_write import atomic_write

LABELS = "run.json"


@dataclass(frozen=True)
class RunLabels:
    """A run's name, tags and note; empty where there are none."""

    name: str = ""
    tags: tuple[str, ...] = ()
    note: str = ""

    def __bool__(self) -> bool:
        return bool(self.name or self.tags or self.note)


def make_labels(name: str = "", tags: Iterable[str] = (), note: str = "") -> RunLabels:
    """Labels as typed; each tag once. Raises UserError for an empty tag and for control characters."""
    for what, text in (("--name", name), *(("--tag", tag) for tag in tags)):
        if printable(text) != text:
            raise UserError(f"{what} is {text!r}; expected a text without control characters")
    if not all(tag.strip() for tag in tags):
        raise UserError("--tag is empty; expected a word")
    return RunLabels(name.strip(), tuple(dict.fromkeys(tag.strip() for tag in tags)), note.strip())


def read_labels(folder: Path) -> RunLabels:
    """A run's labels; none where there is no such file, or where it holds something else."""
    path = folder / LABELS
    try:
        facts = json.loads(path.read_bytes()) if path.is_file() else {}
    except (OSError, ValueError, RecursionError):
        return RunLabels()
    if not isinstance(facts, dict):
        return RunLabels()
    tags = facts.get("tags")
    return RunLabels(
        _text(facts.get("name")),
        tuple(tag for tag in tags if isinstance(tag, str)) if isinstance(tags, list) else (),
        _text(facts.get("note")),
    )


def add_labels(folder: Path, labels: RunLabels) -> RunLabels:
    """Writes labels into a run's folder: tags beside those it has, a name or note in place of the old one."""
    old = read_labels(folder)
    tags = tuple(dict.fromkeys((*old.tags, *labels.tags)))
    merged = RunLabels(labels.name or old.name, tags, labels.note or old.note)
    atomic_write(folder / LABELS, json.dumps(asdict(merged), indent=1) + "\n")
    return merged


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""
