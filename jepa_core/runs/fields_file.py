"""fields.json in a run's folder: what the values of its samples are, so that it opens without its data."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from jepa_core.assembly import described_fields
from jepa_core.errors import UserError
from jepa_core.runtime.atomic_write import atomic_write
from jepa_core.settings.recipe import Recipe
from jepa_core.types.fields import fields_from_table, fields_to_table
from jepa_core.types.sample import Fields

FIELDS = "fields.json"


def write_fields(folder: Path, fields: Fields) -> None:
    """Writes the fields into a run's folder. Raises OSError where it cannot be written."""
    atomic_write(folder / FIELDS, json.dumps(fields_to_table(fields), indent=1) + "\n")


def read_fields(folder: Path) -> Fields | None:
    """The fields of a run; None for one that was written before there were any.

    Raises UserError for a file that cannot be read, or holds something else.
    """
    path = folder / FIELDS
    try:
        return fields_from_table(json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        return None
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError) as error:  # a JSON error is a ValueError
        raise UserError(f"{path} does not hold a run's fields: {error or 'nested too deeply'}") from None


def fields_to_start_with(recipe: Recipe, folder: Path | None, check: bool) -> Fields | None:
    """What the source says of its values; of the run in `folder`, which is resumed, what it said then.

    None where it says nothing. Raises UserError for a source that has become another, with `check`.
    """
    described = described_fields(recipe)
    written = None if folder is None else read_fields(folder)
    if described is None or written is None:
        return written
    if check:
        check_same_fields(written, described)
    return written


def check_same_fields(written: Fields, described: Fields) -> None:
    """Raises UserError, naming the first field that differs, where the source is not the run's any more.

    Images and clips are not compared: encoders say which they ask for, and transforms make them.
    """
    before, now = (_without_sizes(fields) for fields in (written, described))
    for place in {**before, **now}:
        if before.get(place) != now.get(place):
            old, new = (json.dumps(table[place]) if place in table else "nothing" for table in (before, now))
            raise UserError(
                f"the source's {place} is {new}, and {old} when the run began; give it the same data, or "
                "--allow-change data"
            )


def _without_sizes(fields: Fields) -> dict[str, Any]:
    """The table of all but the images and clips, which transforms make to the encoders' measure."""
    return fields_to_table({p: field for p, field in fields.items() if field.kind not in ("image", "clip")})
