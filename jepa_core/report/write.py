"""From folders of runs to a page and its pictures: start reading here."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from jepa_core.errors import UserError, describe_error
from jepa_core.evaluate.run import evaluate_run
from jepa_core.plots.curves import Log, draw_curves, known_panels
from jepa_core.report.configurations import configurations
from jepa_core.report.defaults import FULL_RUNS, IMAGES
from jepa_core.report.figures import RunFigures, count_flops, run_figures
from jepa_core.report.page import Part, render
from jepa_core.report.scores import find_baseline
from jepa_core.report.sections import file_name
from jepa_core.report.summary import RunSummary, check_distinct, names, read
from jepa_core.runs.folder import RECIPE
from jepa_core.runs.status import find_runs
from jepa_core.runtime.atomic_write import atomic_path, atomic_write
from jepa_core.runtime.progress import NoProgress, Progress
from jepa_core.settings.recipe import Recipe
from jepa_core.settings.roles import check_role


@dataclass(frozen=True)
class Options:
    """What a report shows; see `write_report`."""

    role: str = "target"
    images: int = IMAGES
    probes: bool = True
    baseline: str | None = None
    comparison_only: bool | None = None

    def check(self) -> None:
        """Raises UserError for a number of images below 1."""
        if self.images < 1:
            raise UserError(f"setting '--images' is {self.images}; expected a whole number from 1")

    def is_comparison_only(self, count: int) -> bool:
        """Whether a page of `count` runs leaves out the sections of single runs."""
        if count == 1:
            return False
        return count > FULL_RUNS if self.comparison_only is None else self.comparison_only


def write_report(
    runs: Sequence[Path],
    out: Path | None = None,
    *,
    role: str = "target",
    images: int = IMAGES,
    probes: bool = True,
    baseline: str | None = None,
    comparison_only: bool | None = None,
    progress: Progress | None = None,
) -> Path:
    """Writes the page of one or several runs and returns its path.

    Without `out` it is `report.html` in the first folder. `runs` are folders of runs, or folders with runs in
    them. Pictures lie as PNG files in a folder of the page's name without suffix, those of single runs in
    sub-folders where there are several. `baseline` names what scores are compared with: a run, the runs of
    one recipe, or a row of the probe tables; by default the random twin of each run. What the other arguments
    do stands at `gather`.
    Raises UserError as `gather` does, for an unknown baseline, and for a page that cannot be written; that is
    found before any other work.
    """
    options = Options(role, images, probes, baseline, comparison_only)
    page = out or runs[0] / "report.html"
    if page.suffix != ".html" or page.is_dir():
        raise UserError(f"setting '--out' is {str(page)!r}; expected the name of a file that ends with .html")
    options.check()
    summaries, notes = read_runs(runs)
    _check_roles(summaries, options)
    check_baseline(summaries, options)
    try:
        check_writable(page)
        parts = _parts(summaries, options, progress or NoProgress())
        _write(page, parts, options, notes)
    except OSError as error:
        reason = error.strerror or describe_error(error)
        raise UserError(f"the report {str(page)!r} cannot be written: {reason}") from None
    return page


def gather(
    runs: Sequence[Path],
    *,
    role: str = "target",
    images: int = IMAGES,
    probes: bool = True,
    comparison_only: bool | None = None,
    progress: Progress | None = None,
) -> list[Part]:
    """What the files of each run tell, and its pictures.

    `role` is the encoder whose features are shown, `images` how many of each split. A run without eval.json
    is evaluated first, as `jepa eval` does it, unless `probes` is false. With `comparison_only`, by default
    for more than `FULL_RUNS` runs, no pictures of single runs are made.
    Raises UserError for a folder that is no run and an unknown role.
    """
    options = Options(role, images, probes, None, comparison_only)
    options.check()
    summaries, _ = read_runs(runs)
    _check_roles(summaries, options)
    return _parts(summaries, options, progress or NoProgress())


def _check_roles(runs: Sequence[RunSummary], options: Options) -> None:
    """Raises UserError for a role that none of the runs has; the page says which of several lack it."""
    check_role(options.role, dict.fromkeys(name for run in runs for name in run.recipe.encoders))


def read_runs(folders: Sequence[Path]) -> tuple[list[RunSummary], list[str]]:
    """The summaries of runs, and a note for each run in a folder of runs that cannot be read.

    A run that is named beside its folder is taken once. Raises UserError for a named run that cannot be read
    or is named twice, and where no run is left.
    """
    groups = [_runs_in(folder) for folder in folders]
    check_distinct([folder for folder, group in zip(folders, groups, strict=True) if group == [folder]])
    runs = list({run.resolve(): run for group in groups for run in group}.values())
    summaries, notes = [], []
    for folder, name in zip(runs, names(runs), strict=True):
        try:
            summaries.append(read(folder, name))
        except UserError as error:
            if folder in folders or len(runs) == 1:
                raise
            notes.append(f"{name} is left out: {error}.")
    if not summaries:
        raise UserError(f"none of the {len(runs)} runs can be read; the first one: {notes[0]}")
    return summaries, notes


def _runs_in(folder: Path) -> list[Path]:
    """The folder, or the runs in it. Raises UserError where it neither is a run nor holds one."""
    runs = find_runs(folder) if folder.is_dir() else []
    if not runs:
        raise UserError(f"{str(folder)!r} is not a run: it holds no {RECIPE}, and there are no runs in it")
    return runs


def check_baseline(runs: Sequence[RunSummary], options: Options) -> None:
    """Raises UserError for a baseline that is none, as far as that is known before runs are evaluated."""
    if options.baseline is None:
        return
    if len(runs) == 1:
        raise UserError(
            f"setting '--baseline' is {options.baseline!r}: what several runs are compared with; got one run"
        )
    if not options.probes or all(run.evaluation is not None for run in runs):
        find_baseline(options.baseline, runs, configurations(runs))


def check_writable(page: Path) -> None:
    """Makes the folders of a page and its pictures. Raises OSError where they cannot be written to."""
    for folder in (page.parent, page.with_suffix("")):
        if not folder.exists():
            folder.mkdir(parents=True)
        with tempfile.TemporaryFile(dir=folder):
            pass


def _parts(runs: Sequence[RunSummary], options: Options, progress: Progress) -> list[Part]:
    evaluated = [_evaluate(run, options, progress) for run in runs]
    if options.is_comparison_only(len(evaluated)):
        return _without_pictures(evaluated)
    parts = []
    for number, run in enumerate(evaluated):
        figures = run_figures(run, options.role, options.images, progress, f"run{number}")
        figures.notes += _caveats(run, figures, options.role)
        parts.append((run, figures))
    return parts


def _without_pictures(runs: Sequence[RunSummary]) -> list[Part]:
    """Runs with the FLOPs of their models alone, counted once for runs of one model."""
    flops: dict[str, float | None] = {}
    parts = []
    for run in runs:
        key = _model_key(run.recipe)
        if run.metrics and key not in flops:
            flops[key] = count_flops(run.recipe, folder=run.folder)
        parts.append((run, RunFigures(flops=flops.get(key))))
    return parts


def _model_key(recipe: Recipe) -> str:
    """The settings that the FLOPs of a step depend on, and some more: all but those of training and data."""
    table = recipe.to_table()
    unused = ("name", "seed", "data", "optimizer", "train", "probes", "kernels")
    return json.dumps({key: value for key, value in table.items() if key not in unused}, default=str)


def _evaluate(run: RunSummary, options: Options, progress: Progress) -> RunSummary:
    """The run with a probe table, or with a note that says why it has none."""
    if run.evaluation is not None or run.has_damaged_table or not options.probes:
        return run.with_role(options.role)
    try:
        return replace(run, evaluation=evaluate_run(run.folder, [], "test", options.role, progress))
    except Exception as error:  # plugins and data may fail in any way; the other parts do without scores
        reason = str(error) if isinstance(error, UserError) else describe_error(error)
        return replace(run, notes=[*run.notes, f"There is no probe table: {reason}."])


def _caveats(run: RunSummary, figures: RunFigures, role: str) -> list[str]:
    """Where the probe table is of other weights than the pictures."""
    table = run.evaluation
    if table is None:
        return []
    notes = []
    if table.step is not None and figures.step is not None and table.step != figures.step:
        newer = f"the newest checkpoint is of step {figures.step:,}"
        notes.append(f"The probe table was made at step {table.step:,}; {newer}. `jepa eval` makes it anew.")
    if not table.rows[0].description.startswith(role):
        notes.append(f"The pictures are of the {role} encoder; the probe table is not, as it says.")
    return notes


def _write(page: Path, parts: Sequence[Part], options: Options, notes: Sequence[str]) -> None:
    """Writes the pictures, and at last the page."""
    pictures, several = page.with_suffix(""), len(parts) > 1
    comparison_only = options.is_comparison_only(len(parts))
    for run, figures in [] if comparison_only else parts:
        folder = pictures / file_name(run.name.replace("/", "-")) if several else pictures
        figures.save(folder)
        _write_curves({run.name: run.metrics}, folder)
    if several:
        _write_curves({run.name: run.metrics for run, _ in parts}, pictures)
    content = render(
        parts, options.role, baseline=options.baseline, comparison_only=comparison_only, notes=notes
    )
    atomic_write(page, content)


def _write_curves(logs: Mapping[str, Log], folder: Path) -> None:
    if known_panels(list(logs.values())):
        with atomic_path(folder / "curves.png") as partial:
            draw_curves(logs, partial)
