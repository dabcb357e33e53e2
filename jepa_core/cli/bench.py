"""`jepa bench`: how fast the kernels are beside their peers, and where a training step's time goes."""

from __future__ import annotations

import json
import time
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape

from jepa_core.cli import completion as complete
from jepa_core.cli.console import AsJson, Overrides, RecipeName, out, print_json, rows, title
from jepa_core.errors import UserError
from jepa_core.runtime.atomic_write import atomic_write

if TYPE_CHECKING:
    import torch

    from jepa_core.bench.step import Report
    from jepa_kernels.bench.ceilings import Ceilings
    from jepa_kernels.bench.rows import Row

app = typer.Typer(no_args_is_help=True)

Device = Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:<number>")]
Out = Annotated[
    Path | None, typer.Option("--out", metavar="FILE", help="Also write the results to this file, as JSON")
]
Quick = Annotated[bool, typer.Option("--quick", help="A tenth of the time, few samples: to see that it runs")]


@app.callback()
def bench() -> None:
    """Measure kernels beside their peers, or one training step by stages."""


@app.command("compare")
def compare(
    before: Annotated[Path, typer.Argument(help="Results of `jepa bench kernels --out`")],
    after: Annotated[Path, typer.Argument(help="Later results, of the same kind of machine")],
    tolerance: Annotated[float, typer.Option(help="Change of a ratio that counts as none")] = 0.05,
    as_json: AsJson = False,
) -> None:
    """Fail with exit code 1 where one of ours became slower beside its peers.

    Only ratios to peers of the same run are compared, never times of two runs.
    """
    from jepa_kernels.bench.compare import compare_files

    try:
        lines, fine = compare_files(before, after, tolerance)
    except ValueError as error:
        raise UserError(str(error)) from None
    if as_json:
        print_json({"passes": fine, "lines": list(lines)})
    else:
        out.print("\n".join(lines), markup=False, highlight=False, soft_wrap=True)
    raise typer.Exit(0 if fine else 1)


@app.command("kernels")
def kernels(
    op: Annotated[
        list[str] | None,
        typer.Option(
            help="ema, loss, masks or attention; repeatable; else all",
            autocompletion=complete.one_of("ema", "loss", "masks", "attention"),
        ),
    ] = None,
    shape: Annotated[
        list[str] | None, typer.Option(help="Part of a case's name, such as B/16; repeatable; else all")
    ] = None,
    out_file: Out = None,
    quick: Quick = False,
    device: Device = "auto",
    as_json: AsJson = False,
) -> None:
    """Time every kernel beside every peer on the shapes of real JEPAs, as fractions of this machine's best.

    A peer that cannot run here is listed with the reason.

    jepa bench kernels --op attention --shape B/16 --out attention.json
    """
    from jepa_core.runtime.devices import pick_device
    from jepa_kernels.bench.kernels import choose_jobs, document, run
    from jepa_kernels.bench.rows import Settings

    try:
        settings = Settings(pick_device(device), quick)
        jobs = choose_jobs(op or [], shape or [])
    except ValueError as error:
        raise UserError(str(error).replace("setting 'train.device'", "--device")) from None
    ceilings, about = _ceilings(settings.device, quick, show=not as_json), _about()
    measured: list[Row] = []
    for _, case in groupby(run(jobs, settings), lambda row: (row.op, row.case)):
        new = list(case)
        measured += new
        if not as_json:
            _show([row.facts(ceilings) for row in new])
        if out_file is not None:  # after every case, so that a run that is cut short leaves what it has
            _write(out_file, document(measured, ceilings, settings, about))
    if as_json:
        print_json(document(measured, ceilings, settings, about))
    else:
        _say_written(out_file)


@app.command("step")
def step(
    recipe: RecipeName,
    overrides: Overrides = None,
    official: Annotated[
        bool, typer.Option("--official", help="Beside it, the same step the released code's way")
    ] = False,
    steps: Annotated[int, typer.Option(help="Steps to measure, after two that do not count", min=1)] = 10,
    out_file: Out = None,
    quick: Quick = False,
    as_json: AsJson = False,
) -> None:
    """Split one training step of a recipe by stages, and say how much of the machine it uses.

    On random images in the recipe's size; the batch is one micro-batch. No data set is needed.

    jepa bench step ijepa/demo

    jepa bench step ijepa/official_in1k_vith14 train.batch_size=128 --official
    """
    from jepa_core.bench.step import measure_step
    from jepa_core.recipes.load import load_recipe
    from jepa_core.runtime.devices import pick_device
    from jepa_core.runtime.malloc import keep_freed_blocks

    keep_freed_blocks()
    resolved = load_recipe(recipe, *(overrides or []))
    ceilings = _ceilings(pick_device(resolved.train.device), quick, show=not as_json)
    report = measure_step(resolved, ceilings, steps=2 if quick else steps, official=official)
    facts = {**_about(), "recipe": resolved.to_table(), **report.facts()}
    if out_file is not None:
        _write(out_file, facts)
    if as_json:
        print_json(facts)
    else:
        _show_step(report)
        _say_written(out_file)


def _ceilings(device: torch.device, quick: bool, show: bool) -> Ceilings:
    """Measures what the machine can do at best, and prints it where that is asked for."""
    from jepa_kernels.bench.ceilings import measure_ceilings

    best = measure_ceilings(device, 0.1 if quick else 0.5, quick)
    if show:
        rates = f"copies {best.copy / 1e9:,.0f} GB/s, multiplies {best.matmul / 1e12:,.1f} TFLOP/s in bf16"
        title(str(device), rates)
    return best


def _about() -> dict[str, Any]:
    from jepa_core.runtime.environment import environment

    return {"date": time.strftime("%Y-%m-%d %H:%M:%S %z"), "environment": environment()}


def _show(facts: list[dict[str, Any]]) -> None:
    """Prints one case: a table for each direction, and each peer that could not run with the reason."""
    out.print()
    title(facts[0]["op"], facts[0]["case"])
    for direction in dict.fromkeys(row["direction"] for row in facts):
        ran = [row for row in facts if row["direction"] == direction and "reason" not in row]
        if ran:
            rows(
                (direction, "time", "roofline", "in a graph", "roofline", "MiB"), [_cells(row) for row in ran]
            )
    absent = {row["impl"]: row["reason"] for row in reversed(facts) if "reason" in row}
    for name, reason in reversed(absent.items()):
        out.print(f"[dim]not run: {escape(name)}: {escape(reason)}[/]", highlight=False)


def _cells(row: dict[str, Any]) -> tuple[str, ...]:
    return (
        row["impl"],
        _seconds(row["median_s"]),
        _share(row["roofline"]),
        _seconds(row["graph_s"]),
        _share(row["graph_roofline"]),
        "" if row["peak_bytes"] is None else f"{row['peak_bytes'] / 2**20:,.0f}",
    )


def _seconds(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value * 1e3:,.2f} ms" if value >= 1e-3 else f"{value * 1e6:,.1f} µs"


def _share(value: float | None) -> str:
    return "" if value is None else f"{100 * value:.0f} %"


def _show_step(report: Report) -> None:
    """Prints the stages of our step, then the whole step of each way of writing it."""
    out.print()
    title("stages", report.what)
    whole = sum(report.stages.values())
    rows(("stage", "time", "share"), [(n, _seconds(s), _share(s / whole)) for n, s in report.stages.items()])
    out.print()
    title("step", "as training does it, nothing waited for between stages")
    head = ("way", "time", "images/s", "of the matmul ceiling", "peak MiB")
    cells = [
        (
            way.name,
            _seconds(way.seconds),
            f"{way.images / way.seconds:,.1f}",
            _share(way.utilisation),
            "" if way.peak is None else f"{way.peak / 2**20:,.0f}",
        )
        for way in report.ways
    ]
    rows(head, cells)
    for way in report.ways[1:]:
        slower = way.seconds / report.ways[0].seconds
        out.print(f"{escape(way.name)} takes {slower:.2f} times our time", highlight=False)


def _write(path: Path, document: dict[str, Any]) -> None:
    """Raises OSError, which is shown as one line, where the file cannot be written."""
    path.parent.mkdir(parents=True, exist_ok=True)
    atomic_write(path, json.dumps(document, indent=1) + "\n")


def accept_old_spelling(words: list[str]) -> list[str]:
    """The words of `jepa bench … --json FILE`, as it was once spelled, as `--out FILE`."""
    if words[:1] != ["bench"]:
        return words
    followed_by_file = [follower.endswith(".json") for follower in (*words[1:], "")]
    return [
        "--out" if word == "--json" and is_file else word
        for word, is_file in zip(words, followed_by_file, strict=True)
    ]


def _say_written(path: Path | None) -> None:
    if path is not None:
        out.print(f"\nwritten to [bold]{escape(str(path))}[/]", highlight=False)
