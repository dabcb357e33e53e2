"""What `gpu.sh` runs: parts, the most important first, each with the second by which it must end.

A part is a generator of facts; each is written as soon as it is yielded. A part that raises or exceeds its
time keeps what it has written, and the next begins. In a dry run the same parts run on a
CPU with tiny shapes: Triton interprets its kernels, and times mean nothing.
"""

import json
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch

from jepa_kernels.bench.ceilings import Ceilings, measure_ceilings
from jepa_kernels.bench.kernels import document
from jepa_kernels.bench.machine import about, results_path
from jepa_kernels.bench.rows import Row, Settings
from jepa_kernels.bench.text import lines
from jepa_kernels.bench.tune import Record
from kernels.benchmarks import gpu_checks, gpu_parts

Facts = dict[str, Any]
GRACE = 20  # seconds past its end in which a part is interrupted where it stands


class Part(NamedTuple):
    """One part: `measure` yields its facts; `end`: seconds after the start of the run."""

    name: str
    end: float
    measure: Callable[["Run"], Iterator[Facts]]


class Run:
    """State shared by the parts; writes their results to `log.jsonl` and the document of rows."""

    def __init__(self, out: Path, dry: bool) -> None:
        self.out, self.dry, self.start = out, dry, time.monotonic()
        self.device = torch.device("cpu" if dry else "cuda")
        self.settings = Settings(self.device, quick=dry)
        self.ceilings = Ceilings(1.0, 1.0)
        self.rows: list[Row] = []
        self.about: Facts = about()
        self.record: Record | None = None
        self.wrong = 0
        out.mkdir(parents=True, exist_ok=True)

    @property
    def seconds(self) -> float:
        """Since the start."""
        return time.monotonic() - self.start

    def note(self, part: str, facts: Facts) -> None:
        """Prints and logs one result; counts it if it has `wrong`."""
        self.wrong += bool(facts.get("wrong"))
        text = facts.get("say") or json.dumps(facts)
        print(f"{self.seconds:6.1f} s  {part}: {text}", flush=True)
        with open(self.out / "log.jsonl", "a", encoding="utf-8") as log:
            log.write(json.dumps({"s": round(self.seconds, 1), "part": part, **facts}) + "\n")

    def take(self, rows: list[Row]) -> Facts:
        """Adds the rows of one case, writes the document anew, and gives the case as a note."""
        self.rows += rows
        whole = document(self.rows, self.ceilings, self.settings, self.about) | {"dry_run": self.dry}
        results_path(self.out, whole).write_text(json.dumps(whole, indent=1) + "\n", encoding="utf-8")
        facts = [row.facts(self.ceilings) for row in rows]
        differ = [
            row["impl"] for row in facts if row["impl"] == "ours: triton" and not row.get("same_bits", True)
        ]
        table = "\n".join(lines(facts))
        return {"say": f"{rows[0].case}\n{table}", "case": rows[0].case, "wrong": bool(differ)}


@contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Raises TimeoutError inside the block after so many seconds."""

    def stop(*_: Any) -> None:
        raise TimeoutError(f"interrupted after {seconds:.0f} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, max(seconds, 0.01))
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def carry_out(run: Run, parts: list[Part]) -> None:
    """Runs each part until its end; an error in a part is logged as a line, and the next begins."""
    for part in parts:
        try:
            with time_limit(part.end + GRACE - run.seconds):
                for facts in part.measure(run):
                    run.note(part.name, facts)
                    if run.seconds > part.end:
                        run.note(part.name, {"say": f"its {part.end:.0f} s are over", "cut": True})
                        break
        except Exception as error:  # a part must not take the others' time with it
            problem = f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
            run.note(part.name, {"say": f"FAILED: {problem}", "wrong": True})


def plan(words: list[str]) -> list[Part]:
    """The parts that the words ask for; ends count from the start of each plan."""
    value = [
        Part("ceilings", 20, ceilings),
        Part("correctness", 60, gpu_checks.correctness),
        Part("attention", 150, gpu_parts.attention_first),
        Part("steps", 210, gpu_parts.steps),
    ]
    tune = [Part("compile", 60, gpu_parts.compile_candidates), Part("tune", 200, gpu_parts.tune)]
    tune += [Part("auto", 240, gpu_parts.bounds_of_auto)]
    rest = [Part("ceilings", 15, ceilings), Part("attention", 60, gpu_parts.attention_rest)]
    rest += [Part("ema", 75, gpu_parts.ema), Part("types", 105, gpu_checks.other_types)]
    rest += [Part("memcheck", 150, gpu_checks.memcheck)]
    if "--dry-run" in words:
        return [part._replace(end=900) for part in (*value, *tune, *rest[1:])]
    return tune if "--tune" in words else rest if "--rest" in words else value


def ceilings(run: Run) -> Iterator[Facts]:
    """The machine's ceilings, while other processes compile the first kernels."""
    pool = None if run.dry else gpu_parts.compile_in_parallel(gpu_parts.FIRST_INPUTS)
    run.ceilings = measure_ceilings(run.device, 0.1 if run.dry else 0.5, run.dry)
    copy, matmul = run.ceilings.copy, run.ceilings.matmul
    speeds = f"copies {copy / 1e9:,.0f} GB/s, multiplies {matmul / 1e12:,.1f} TFLOP/s"
    yield {"say": speeds, "copy_bytes": copy, "matmul_operations": matmul}
    if pool is not None:
        yield {"say": f"compiled {gpu_parts.wait_for(pool)} inputs beside"}


def main(words: list[str]) -> int:
    """Carries out the plan; see the head of gpu.sh."""
    unknown = set(words) - {"--dry-run", "--tune", "--rest"}
    if unknown:
        print(f"unknown: {' '.join(sorted(unknown))}; known: --dry-run, --tune, --rest")
        return 2
    torch.manual_seed(0)
    run = Run(Path(os.environ.get("OUT", "docs/benchmarks/results")), dry="--dry-run" in words)
    carry_out(run, plan(words))
    print(f"{run.seconds:6.1f} s  done; {run.wrong} found to be wrong; results are in {run.out}")
    return int(run.wrong > 0)


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
