"""The benchmarks on the command line, by torch alone (and triton on a GPU), without an installed project.

python -m jepa_kernels.bench [--op OP] [--shape WORDS] [--out FOLDER] [--quick] [--device cuda]
python -m jepa_kernels.bench shapes                     # cases, and their share on the short path
python -m jepa_kernels.bench compare BEFORE AFTER       # exit status 1 where one of ours became slower
"""

import argparse
import json
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import Any


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; the exit status is 2 for invalid arguments."""
    words = _parser().parse_args(arguments)
    try:
        return int(words.run(words))
    except (ValueError, OSError) as error:
        print(f"error: {error}")
        return 2


def _parser() -> argparse.ArgumentParser:
    words = argparse.ArgumentParser(
        prog="python -m jepa_kernels.bench", description=(__doc__ or "").split("\n")[0]
    )
    words.add_argument("--op", action="append", default=[], help="ema, loss, masks or attention; else all")
    words.add_argument("--shape", action="append", default=[], help="part of a case's name; else all")
    words.add_argument("--out", type=Path, help="folder of results: a file for this device, torch and triton")
    words.add_argument("--quick", action="store_true", help="few samples, a tenth of the time")
    words.add_argument("--device", help="cpu, cuda or cuda:<number>; else a GPU where there is one")
    words.set_defaults(run=_run)
    commands = words.add_subparsers(metavar="COMMAND")
    shapes = commands.add_parser("shapes", help="list the cases and their share on the short path")
    shapes.set_defaults(run=_shapes)
    comparison = commands.add_parser("compare", help="ours beside peers, in two files of results")
    comparison.add_argument("before", type=Path)
    comparison.add_argument("after", type=Path)
    comparison.add_argument("--tolerance", type=float, default=0.05, help="rise of a ratio that is let pass")
    comparison.set_defaults(run=_compare)
    return words


def _run(words: argparse.Namespace) -> int:
    import torch

    from jepa_kernels.bench.ceilings import measure_ceilings
    from jepa_kernels.bench.kernels import choose_jobs, document, run
    from jepa_kernels.bench.machine import about, results_path
    from jepa_kernels.bench.rows import Row, Settings
    from jepa_kernels.bench.text import lines

    device = torch.device(words.device or ("cuda" if torch.cuda.is_available() else "cpu"))
    settings, jobs = Settings(device, words.quick), choose_jobs(words.op, words.shape)
    ceilings, start = measure_ceilings(device, 0.1 if words.quick else 0.5, words.quick), about()
    print(f"{device}: copies {ceilings.copy / 1e9:,.0f} GB/s, bf16 {ceilings.matmul / 1e12:,.1f} TFLOP/s")
    all_rows: list[Row] = []
    for (op, case), measured in groupby(run(jobs, settings), lambda row: (row.op, row.case)):
        all_rows += (rows := list(measured))
        print(f"\n{op}: {case}{_share(op, case)}")
        print("\n".join(lines([row.facts(ceilings) for row in rows])), flush=True)
        if words.out is not None:  # after every case, so that a run that is cut short leaves what it has
            write(results_path, words.out, document(all_rows, ceilings, settings, start))
    return 0


def write(name_file: Any, folder: Path, document: dict[str, Any]) -> Path:
    """Writes a document into `folder`, under the name that `named(folder, document)` gives."""
    path: Path = name_file(folder, document)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    return path


def _share(op: str, name: str) -> str:
    from jepa_kernels.bench.shapes import load
    from jepa_kernels.bench.waste import short_share

    return (
        f", {100 * short_share(load(name)):.0f} % of sequences on the short path" if op == "attention" else ""
    )


def _shapes(words: argparse.Namespace) -> int:
    from jepa_kernels.bench.shapes import VERSION, load, names
    from jepa_kernels.bench.waste import short_share

    print(f"version {VERSION}; sequences, shortest to longest, heads x width, share on the short path")
    for case in map(load, names()):
        spread = f"{min(case.lengths)} to {max(case.lengths)}"
        line = f"{len(case.lengths):5} x {spread:12} {case.heads:3} x {case.width:3}"
        print(f"{case.name:24} {line}  {100 * short_share(case):4.0f} %")
    return 0


def _compare(words: argparse.Namespace) -> int:
    from jepa_kernels.bench.compare import compare_files

    lines, fine = compare_files(words.before, words.after, words.tolerance)
    print("\n".join(lines))
    return 0 if fine else 1


if __name__ == "__main__":
    raise SystemExit(main())
