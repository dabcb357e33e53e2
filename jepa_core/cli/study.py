"""`jepa study`: arms compared on the same seeds at an equal budget, from one file."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from jepa_core.cli.console import AsJson, err, rows
from jepa_core.cli.study_texts import plan_costs, say, say_on_error, show_states, status_row

if TYPE_CHECKING:
    from jepa_core.study.plan import Study

app = typer.Typer(no_args_is_help=True)

StudyFile = Annotated[Path, typer.Argument(help="A STUDY.toml", metavar="STUDY.toml")]
Folder = Annotated[
    Path | None,
    typer.Option(
        metavar="DIR", help="The study's folder; by default the file's name without suffix, beside it"
    ),
]
Yes = Annotated[bool, typer.Option("--yes", help="Go on where the study has more than 10,000 cells")]
Retry = Annotated[bool, typer.Option("--retry", help="Try cells and arms again that failed")]


@app.callback()
def study() -> None:
    """Compare arms on the same seeds, at an equal budget, with error bars."""


@app.command("run")
def run(
    file: StudyFile,
    workers: Annotated[int, typer.Option(min=1, max=1024, help="Processes on this machine")] = 1,
    folder: Folder = None,
    retry: Retry = False,
    report: Annotated[bool, typer.Option(help="Write the report at the end")] = True,
    yes: Yes = False,
    as_json: AsJson = False,
) -> None:
    """Do every cell of a study that is not done yet, then write the report.

    A study that was stopped goes on where it was. Exit code 0: every cell has a result; 1: some failed; 75:
    stopped by a signal, start it again.

    jepa study run masks.toml --workers 2
    """
    from jepa_core.study.launch import exit_code, run_workers
    from jepa_core.study.plan import load_study
    from jepa_core.study.worker import forget_failures, prepare, read_study, set_threads, work

    loaded = load_study(file, folder, yes=yes)
    tell = say if not as_json else say_on_error
    with _stops():
        if workers == 1:
            statuses = work(loaded, say=tell, observers=_observers, retry=retry)
        else:
            threads = set_threads(loaded, workers)  # steps are measured as the workers will do them
            resolved, cells, ledger = prepare(loaded)
            if retry:
                forget_failures(resolved, cells, ledger)
            run_workers(loaded, _words(file, loaded, yes), workers, threads, tell)
            statuses = read_study(loaded)[1]
    _write_report(loaded, report, tell)
    show_states(statuses, as_json)
    raise typer.Exit(exit_code(statuses))


@app.command("work")
def work_command(
    file: StudyFile,
    folder: Folder = None,
    wait: Annotated[bool, typer.Option(help="Stay until the cells of other workers are done too")] = True,
    retry: Retry = False,
    yes: Yes = False,
    as_json: AsJson = False,
) -> None:
    """Be a worker of a study: do cells until nothing is left. Start as many as you wish, anywhere.

    Exit code 0: nothing is left to do; 1: some cells failed; 75: stopped by a signal.
    """
    from jepa_core.study.launch import end_with_parent, exit_code
    from jepa_core.study.plan import load_study
    from jepa_core.study.worker import work

    end_with_parent()
    loaded = load_study(file, folder, yes=yes)
    with _stops():
        statuses = work(loaded, say=say if not as_json else say_on_error, wait=wait, retry=retry)
    show_states(statuses, as_json)
    raise typer.Exit(int(exit_code(statuses) == 1))  # what others still do is no reason to come again


@app.command("status")
def status(file: StudyFile, folder: Folder = None, yes: Yes = False, as_json: AsJson = False) -> None:
    """Say how far a study is; only reads."""
    from jepa_core.study.worker import read_study

    loaded, statuses = read_study(_load(file, folder, yes))
    if not as_json:
        head = ("cell", "state", loaded.settings.metric, "seconds", "")
        rows(head, [status_row(status, loaded) for status in statuses])
    show_states(statuses, as_json)


@contextmanager
def _stops() -> Iterator[None]:
    """A signal ends the command with exit code 75: what was begun is gone on with by the same command."""
    from jepa_core.runtime.stop_signals import REQUEUE, Stopped

    try:
        yield
    except Stopped as stopped:
        err.print(f"stopped by {stopped}; the same command goes on", highlight=False, markup=False)
        raise typer.Exit(REQUEUE) from None


def _observers() -> list[object]:
    """Core's observers, the progress on the terminal among them."""
    from jepa_core.observers.standard import standard

    return standard()


def _words(file: Path, study: Study, yes: bool) -> list[str]:
    """The words of `jepa study work` for the workers of this command."""
    return [str(file), "--folder", str(study.folder), *(["--yes"] if yes else [])]


def _write_report(study: Study, report: bool, tell: Callable[[str], None]) -> None:
    from jepa_core.study.results import summarise, write_results
    from jepa_core.study.worker import read_study

    if not report:
        write_results(summarise(*read_study(study)))
        return
    from jepa_core.study.write import write_study_report

    tell(f"the report is {write_study_report(study)}")


@app.command("plan")
def plan(file: StudyFile, folder: Folder = None, yes: Yes = False, as_json: AsJson = False) -> None:
    """Resolve every cell, measure a step of each arm, and predict the hours."""
    from jepa_core.study.predict import plan_study
    from jepa_core.study.worker import prepare, set_threads
    from jepa_core.study.worker_states import read_status

    loaded = _load(file, folder, yes)
    set_threads(loaded)
    with _stops():
        resolved, cells, ledger = prepare(loaded)
        planned = plan_study(resolved, read_status(resolved, cells, ledger), ledger)
    facts = planned.facts()
    if as_json:
        print(json.dumps(facts, indent=2, ensure_ascii=False))
        return
    head = ("arm", "steps", "ms a step", "cells to do", "hours", "what differs")
    names = ("/".join(filter(None, (p.arm.name, p.dataset))) for p in planned.arms)
    rows(
        head,
        [
            (name, *plan_costs(p), " ".join(p.arm.overrides))
            for name, p in zip(names, planned.arms, strict=True)
        ],
    )
    shows = facts["detectable_sd"]
    say(f"{len(cells)} cells, {planned.hours:.2g} hours of training on one worker, evaluation on top")
    from_ = (
        f"from {shows:.2g} standard deviations of the paired differences on" if shows else "with two seeds"
    )
    say(f"{facts['seeds']} seeds: the smallest p is {facts['smallest_p']:.2g}; a difference shows {from_}")


@app.command("submit")
def submit_command(
    file: StudyFile,
    tasks: Annotated[int, typer.Option(min=1, help="Workers: tasks of the array")],
    folder: Folder = None,
    time: Annotated[str, typer.Option(help="Time limit of a task, such as 4:00:00")] = "",
    partition: Annotated[str, typer.Option(help="The partition")] = "",
    gpus: Annotated[int, typer.Option(min=0, help="GPUs of a task")] = 0,
    cpus: Annotated[int, typer.Option(min=0, help="CPUs of a task")] = 0,
    memory: Annotated[str, typer.Option(help="Memory of a task, such as 32G")] = "",
    option: Annotated[
        list[str] | None,
        typer.Option(help="A further option of sbatch, such as --account=vision; repeatable"),
    ] = None,
    now: Annotated[bool, typer.Option("--now", help="Submit it too, through submitit")] = False,
    cluster: Annotated[str, typer.Option(help="Where submitit submits: slurm, or local")] = "slurm",
    yes: Yes = False,
    as_json: AsJson = False,
) -> None:
    """Write a SLURM array script whose tasks are workers of the study; --now submits them.

    A task that a signal stops (exit code 75) goes back into the queue.

    jepa study submit masks.toml --tasks 8 --gpus 1 --time 4:00:00
    """
    from jepa_core.study.slurm import SlurmOptions, submit, write_script
    from jepa_core.study.store import check_study

    loaded = _load(file, folder, yes)
    check_study(loaded)
    options = SlurmOptions(tasks, time, partition, gpus, cpus, memory, option or ())
    script = write_script(loaded, options)
    jobs = [job.job_id for job in submit(loaded, options, cluster)] if now else []
    if as_json:
        print(json.dumps({"script": str(script), "jobs": jobs}))
    elif jobs:
        say(f"submitted {', '.join(jobs)}; the script is {script} as well")
    else:
        say(f"the script is {script}; submit it with: sbatch {script}")


@app.command("compare")
def compare(
    first: Annotated[Path, typer.Argument(help="An arm's folder, such as STUDY/cells/ARM", metavar="A")],
    second: Annotated[Path, typer.Argument(help="The folder of the arm to compare it with", metavar="B")],
    metric: Annotated[str, typer.Option(help="A score of eval.json")] = "knn.top1",
    as_json: AsJson = False,
) -> None:
    """Compare two arms seed by seed, of one study or of two; unpaired ones are refused.

    jepa study compare masks/cells/random masks/cells/union
    """
    from jepa_core.study.pairs import compare_folders
    from jepa_core.study.words import comparison_text

    paired = compare_folders(first, second, metric)
    if as_json:
        print(json.dumps(paired.facts(), indent=2))
    else:
        say(f"{metric}: {comparison_text(paired.comparison, str(second), paired.percent)}")


@app.command("report")
def report_command(
    file: StudyFile,
    folder: Folder = None,
    page: Annotated[
        Path | None, typer.Option("--out", help="The page; by default report.html in the study's folder")
    ] = None,
    yes: Yes = False,
    as_json: AsJson = False,
) -> None:
    """Write the report of a study as it is now: a page, its pictures, tables, cells.csv, study.json."""
    from jepa_core.study.write import write_study_report

    loaded = _load(file, folder, yes)
    written = write_study_report(loaded, page)
    if as_json:
        print((loaded.folder / "study.json").read_text(encoding="utf-8"), end="")
    else:
        say(f"the report is {written}, its pictures and tables are in {written.with_suffix('')}")


def _load(file: Path, folder: Path | None, yes: bool) -> Study:
    from jepa_core.study.plan import load_study

    return load_study(file, folder, yes=yes)
