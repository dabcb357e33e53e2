"""From folders of runs to a page and its pictures: gathers what there is, and writes it down."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from jepa_core.errors import UserError, unknown
from jepa_core.evaluate.run import evaluate_run
from jepa_core.plots.curves import draw_curves, known_panels
from jepa_core.protocols import ROLES
from jepa_core.report.defaults import IMAGES
from jepa_core.report.figures import RunFigures, shown
from jepa_core.report.page import Part, render
from jepa_core.report.summary import RunSummary, names, read
from jepa_core.runtime.progress import NoProgress, Progress


def write_report(
    runs: Sequence[Path],
    out: Path | None = None,
    *,
    role: str = "target",
    images: int = IMAGES,
    probes: bool = True,
    progress: Progress | None = None,
) -> Path:
    """Writes the page of one or several runs and returns its path: `report.html` in the first run's folder.

    Its pictures lie as PNG files in a folder of the page's name without suffix, a folder a run where there
    are several. What the other arguments do stands at `gather`.
    Raises UserError as `gather` does, and for a page that cannot be written.
    """
    page = out or runs[0] / "report.html"
    if page.suffix != ".html" or page.is_dir():
        raise UserError(f"setting '--out' is {str(page)!r}; expected the name of a file that ends with .html")
    parts = gather(runs, role=role, images=images, probes=probes, progress=progress)
    try:
        _write(page, parts, role)
    except OSError as error:
        raise UserError(f"the report {str(page)!r} cannot be written: {error.strerror}") from None
    return page


def gather(
    runs: Sequence[Path],
    *,
    role: str = "target",
    images: int = IMAGES,
    probes: bool = True,
    progress: Progress | None = None,
) -> list[Part]:
    """What there is to say of each run, and to see.

    `role` is the encoder that is looked at, `images` how many of each split. A run without eval.json is
    probed first, as `jepa eval` does it, unless `probes` is false.
    Raises UserError for a folder that is no run and an unknown role.
    """
    if role not in ROLES:
        raise unknown("role", role, ROLES)
    if images < 1:
        raise UserError(f"setting '--images' is {images}; expected a whole number from 1")
    progress, parts = progress or NoProgress(), []
    for story in [read(folder, name) for folder, name in zip(runs, names(runs), strict=True)]:
        whole, note = _probed(story, role, progress) if probes else (story, "")
        seen = shown(whole, role, images, progress)
        seen.notes += [note] * bool(note) + _caveats(whole, seen, role)
        parts.append((whole, seen))
    return parts


def _probed(story: RunSummary, role: str, progress: Progress) -> tuple[RunSummary, str]:
    """The story with a probe table, or why there is none."""
    if story.evaluation is not None:
        return story, ""
    try:
        return replace(story, evaluation=evaluate_run(story.folder, [], "test", role, progress)), ""
    except UserError as error:
        return story, f"There is no probe table: {error}."


def _caveats(story: RunSummary, seen: RunFigures, role: str) -> list[str]:
    """Where the probe table speaks of other weights than the pictures do."""
    table = story.evaluation
    if table is None:
        return []
    said = []
    if table.step is not None and seen.step is not None and table.step != seen.step:
        newer = f"the newest checkpoint is of step {seen.step:,}"
        said.append(f"The probe table was made at step {table.step:,}; {newer}. `jepa eval` makes it anew.")
    if not table.rows[0].description.startswith(role):
        said.append(f"The pictures are of the {role} encoder; the probe table is not, as it says.")
    return said


def _write(page: Path, parts: Sequence[Part], role: str) -> None:
    pictures, several = page.with_suffix(""), len(parts) > 1
    for story, seen in parts:
        own = pictures / story.name.replace("/", "-") if several else pictures
        seen.save(own)
        if known_panels([story.metrics]):
            draw_curves({story.name: story.metrics}, own / "curves.png")
    logs = {story.name: story.metrics for story, _ in parts}
    if several and known_panels(list(logs.values())):
        draw_curves(logs, pictures / "curves.png")
    page.write_text(render(parts, role), encoding="utf-8")
