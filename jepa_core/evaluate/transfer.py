"""Whether a run is judged on other data than it was trained on, and which those were."""

from __future__ import annotations

from pathlib import Path

from jepa_core.runs.events_file import read_events
from jepa_core.settings.base import SourceSettings


def transfer_origin(
    folder: Path, trained_on: SourceSettings, judged_on: SourceSettings, note: str
) -> str | None:
    """The data that the run in `folder` was trained on, in words, where it is judged on others.

    None where they are the same by their settings (but for those of reading, such as `workers`) or, of one
    source, by `note`, what the training split says of itself; and where the run was not trained here.
    """
    starts = read_events(folder, "started")
    if not starts or _facts(trained_on) == _facts(judged_on):
        return None
    before = str(starts[-1].get("data", ""))
    if trained_on.name == judged_on.name and before == note:
        return None
    return ": ".join(filter(None, (trained_on.name, before.partition(";")[0])))


def _facts(settings: SourceSettings) -> dict[str, object]:
    return settings.model_dump(mode="json", exclude=set(SourceSettings.carried))
