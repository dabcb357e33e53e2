"""`jepa eval`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from jepa_core.cli import completion as complete
from jepa_core.cli.console import AsJson, Role, print_json, title, whole
from jepa_core.errors import UserError


def evaluate(
    run: Annotated[
        list[str],
        typer.Argument(
            help="Folders of runs, then overrides such as probes.knn.k=10",
            autocompletion=complete.runs_then_overrides,
        ),
    ],
    probe: Annotated[
        list[str] | None,
        typer.Option(
            "--probes",
            "--probe",
            help="Probes by name, repeatable or with commas between; by default the recipe's",
            autocompletion=complete.probes,
        ),
    ] = None,
    evaluations: Annotated[
        list[str] | None,
        typer.Option(
            "--evaluations",
            help="Evaluations that see the model, by name as probes are, or none; by default all that the "
            "recipe does not leave out",
            autocompletion=complete.evaluations,
        ),
    ] = None,
    split: Annotated[
        str,
        typer.Option(
            help="train, val or test: where the probes are scored",
            autocompletion=complete.one_of("train", "val", "test"),
        ),
    ] = "test",
    role: Role = "target",
    images: Annotated[
        int | None,
        typer.Option(help="Take so many images of each split, a seeded draw; by default all", min=2),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            help="Write the table to this file and leave the run as it is; for several runs a folder"
        ),
    ] = None,
    cache: Annotated[
        bool, typer.Option(help="Reuse the rows of twin and pixels, which no training changes")
    ] = True,
    as_json: AsJson = False,
) -> None:
    """Probe the frozen features of runs beside a random-initialised twin and raw pixels.

    jepa eval runs/one runs/two probes.knn.k=10 --images 5000

    jepa eval runs/one data.name=folder data.path=photos (judged on other data: transfer)
    """
    from jepa_core.evaluate import run as evaluation
    from jepa_core.observers.progress_bar import Terminal

    runs, overrides = split_words(run)
    named = None if evaluations is None else split_names(evaluations)
    with Terminal() as progress:
        chosen = (split_names(probe or ()), split, role, progress)
        options: Any = {"overrides": overrides, "images": images, "out": out, "cache": cache}
        options["evaluations"] = [] if named == ["none"] else named
        if len(runs) == 1:
            results = [evaluation.evaluate_run(Path(runs[0]), *chosen, **options)]
        else:
            results = evaluation.evaluate_runs([Path(folder) for folder in runs], *chosen, **options)
    tables = [json.loads(result.model_dump_json()) for result in results]
    if as_json and len(runs) == 1:
        print_json(tables[0])
    elif as_json:
        print_json([{"run": folder, **table} for folder, table in zip(runs, tables, strict=True)])
    else:
        for folder, result in zip(runs, results, strict=True):
            if len(runs) > 1:
                title("run", folder)
            for table in result.tables:
                whole(table.table())
            for measured in result.evaluations:
                if measured.rows:
                    whole(measured.table())
                title("" if measured.rows else measured.title, measured.caption())


def split_names(words: Sequence[str]) -> list[str]:
    """The names in words that have them with commas between, each once."""
    return list(dict.fromkeys(name.strip() for word in words for name in word.split(",")))


def split_words(words: list[str]) -> tuple[list[str], list[str]]:
    """(runs, overrides): a word with `=` in it is an override, unless there is a folder of that name.

    Raises UserError where no run is named, or one is named twice.
    """
    runs = [word for word in words if "=" not in word or Path(word).is_dir()]
    if not runs:
        raise UserError("which run? name its folder before the overrides")
    if len({Path(run).resolve() for run in runs}) < len(runs):
        raise UserError(f"the same run is named twice: {', '.join(runs)}")
    return runs, [word for word in words if word not in runs]
