"""`jepa finetune RUN`: a run's encoder trained on labels, beside the same network from random weights.

Both are runs of their own, in folders beside RUN's: they resume, report and are listed like any other.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from jepa_core.cli import completion as complete
from jepa_core.cli.console import AsJson, Overrides, RunFolder, print_json, say, title, whole
from jepa_core.cli.train import train_in

if TYPE_CHECKING:
    from jepa_core.evaluate.score_tables import EvaluationTable
    from jepa_core.settings.recipe import Recipe


def finetune(
    run: RunFolder,
    overrides: Overrides = None,
    labels: Annotated[
        str,
        typer.Option(
            metavar="1%|N|all",
            help="Labels that are used: a share of each class's, a number of each class, or all",
        ),
    ] = "1%",
    task: Annotated[
        str | None, typer.Option(help="Which labels, of data that can be labelled in several ways")
    ] = None,
    steps: Annotated[int | None, typer.Option(help="Optimizer steps", min=1)] = None,
    epochs: Annotated[
        float | None, typer.Option(help="Passes over the labelled samples; by default 50")
    ] = None,
    folder: Annotated[
        Path | None,
        typer.Option("--run", help="The new run's folder; by default RUN-finetune-LABELS, beside RUN"),
    ] = None,
    twin: Annotated[
        bool, typer.Option(help="Train the same network from random weights too, in FOLDER-scratch")
    ] = True,
    split: Annotated[
        str,
        typer.Option(
            help="val or test: where they are scored; choose settings on val",
            autocompletion=complete.one_of("val", "test"),
        ),
    ] = "test",
    as_json: AsJson = False,
) -> None:
    """Fine-tune a run's encoder on labels, beside the same network from random weights.

    The same command again goes on where it was stopped, as `jepa train --resume FOLDER` does.

    jepa finetune runs/demo --labels 1%

    jepa finetune runs/demo --labels all --epochs 20 optimizer.lr=5e-4
    """
    from jepa_core.data.splits import check_split
    from jepa_core.runtime.distributed import is_main
    from jepa_finetune.labels import parse_labels
    from jepa_finetune.recipe import Request, finetune_recipe, from_scratch

    check_split(split)
    chosen = parse_labels(labels)
    recipe = finetune_recipe(Request(run, chosen, task, steps, epochs, tuple(overrides or ())))
    folder = folder or default_folder(run, task, chosen.slug)
    runs = {folder: recipe}
    if twin:
        runs[folder.with_name(f"{folder.name}-scratch")] = from_scratch(recipe)
    for place, own in runs.items():
        check_target(place, own)
    for place, own in runs.items():
        train_or_go_on(own, place, as_json)
    if is_main():
        report_runs(list(runs), split, chosen.words, as_json)


def default_folder(run: Path, task: str | None, labels: str) -> Path:
    """Beside RUN: `runs/demo-finetune-1pct`, with a task `runs/demo-finetune-count-1pct`."""
    resolved = run if run.name not in ("", "..") else run.resolve()
    return resolved.with_name("-".join(filter(None, (resolved.name, "finetune", task, labels))))


def check_target(folder: Path, recipe: Recipe) -> None:
    """Raises UserError for a folder that holds another run than this fine-tuning's."""
    from jepa_core.errors import UserError
    from jepa_core.runs.folder import read_run_recipe
    from jepa_core.runs.status import is_run

    if not is_run(folder):
        return
    written = read_run_recipe(folder)
    if (written.variant.name, written.init) != (recipe.variant.name, recipe.init):
        raise UserError(f"{str(folder)!r} holds another run ({written.name}); name another folder with --run")


def train_or_go_on(recipe: Recipe, folder: Path, as_json: bool) -> None:
    """Trains the run, or what is left of it. A signal ends the command, see `cli.train.train_in`."""
    from jepa_core.runs.labels import RunLabels

    train_in(recipe, folder, RunLabels(), resume="auto", as_json=as_json)


def report_runs(folders: list[Path], split: str, words: str, as_json: bool) -> None:
    """Scores the runs, leaves their table in the first one's report, prints it and says where they are."""
    from jepa_core.observers.progress_bar import Terminal
    from jepa_core.report.saved_sections import save_section
    from jepa_finetune.comparison import compare, evaluate
    from jepa_finetune.comparison_section import comparison_section

    with Terminal() as progress:
        results = [evaluate(place, split, progress, probes=place == folders[0]) for place in folders]
    table = compare(results[0], results[1] if len(results) > 1 else None, words)
    save_section(folders[0], "fine_tuning", comparison_section(table))
    if as_json:
        print_json(facts(table, folders))
        return
    whole(table.table())
    title("", table.caption())
    say(f"The run{'s are' if len(folders) > 1 else ' is'} in {' and '.join(map(str, folders))}")


def facts(table: EvaluationTable, folders: list[Path]) -> dict[str, Any]:
    """The table as plain values, with the folders of the runs."""
    rows = [
        {"name": row.name, "top1": row.scores["top1"].value, "se": row.scores["top1"].se}
        for row in table.rows
    ]
    return {
        "run": str(folders[0]),
        "scratch": str(folders[1]) if len(folders) > 1 else None,
        "split": table.split,
        "count": table.count,
        "chance": table.own["top1"].chance,
        "rows": rows,
    }
