"""All kernel benchmarks of one machine, as one document: the machine, its ceilings, and a row a measurement.

for row in run(choose_jobs(ops, shapes), settings): ...
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from functools import partial
from typing import Any

from jepa_kernels.bench import attention, ema, loss, sampling
from jepa_kernels.bench.ceilings import Ceilings
from jepa_kernels.bench.rows import Row, Settings
from jepa_kernels.bench.shapes import MODELS, STAGES, case

OPERATIONS = ("ema", "loss", "masks", "attention")
CPU_SAMPLES = 8
"""Samples of a batch on a CPU: enough for ratios, and done in seconds."""


@dataclass(frozen=True)
class Job:
    """One case of one operation."""

    op: str
    name: str
    rows: Callable[[Settings], Iterable[Row]]


def jobs() -> list[Job]:
    """All jobs, the most important first."""
    listed = [
        Job("attention", f"{model} {stage}", partial(_attention_rows, model, stage))
        for model in MODELS
        for stage in STAGES
    ]
    listed += [Job("ema", model, partial(ema.rows, model)) for model in ema.ENCODERS]
    listed += [Job("loss", model, partial(loss.rows, model)) for model in loss.SIZES]
    return listed + [Job("masks", name, partial(sampling.rows, name)) for name in sampling.LAWS]


def _attention_rows(model: str, stage: str, settings: Settings) -> Iterator[Row]:
    return attention.rows(case(model, stage, settings.samples), settings)


def choose_jobs(ops: Sequence[str] = (), shapes: Sequence[str] = ()) -> list[Job]:
    """The jobs of these operations whose name contains one of `shapes`; an empty list selects all.

    Raises ValueError for an unknown operation, and for a word that no case contains.
    """
    everything = jobs()
    for op in ops:
        if op not in OPERATIONS:
            raise _unknown_name("operation", op, OPERATIONS)
    candidates = [job for job in everything if not ops or job.op in ops]
    for shape in shapes:
        if not any(shape.lower() in job.name.lower() for job in candidates):
            raise _unknown_name("shape", shape, dict.fromkeys((*MODELS, *STAGES, *sampling.LAWS)))
    return [job for job in candidates if not shapes or any(s.lower() in job.name.lower() for s in shapes)]


def _unknown_name(what: str, name: str, known: Iterable[str]) -> ValueError:
    names = list(known)
    nearest = get_close_matches(name, names, n=1)
    hint = f". Did you mean {nearest[0]!r}?" if nearest else ""
    return ValueError(f"unknown {what} {name!r}; known: {', '.join(names)}{hint}")


def limit_samples(settings: Settings) -> Settings:
    """`settings` with the number of samples reduced for a CPU or a quick run."""
    if settings.samples is not None or (settings.device.type == "cuda" and not settings.quick):
        return settings
    return replace(settings, samples=2 if settings.quick else CPU_SAMPLES)


def run(selection: Iterable[Job], settings: Settings) -> Iterator[Row]:
    """Every row of these jobs, as it is measured."""
    settings = limit_samples(settings)
    for job in selection:
        yield from job.rows(settings)


def document(
    rows: Iterable[Row], ceilings: Ceilings, settings: Settings, about: dict[str, Any]
) -> dict[str, Any]:
    """For JSON: `about` (date, machine, versions, commit), ceilings in units a second, and the rows."""
    settings = limit_samples(settings)
    return {
        **about,
        "device": str(settings.device),
        "quick": settings.quick,
        "samples": settings.samples,
        "ceilings": {"copy_bytes": ceilings.copy, "matmul_operations": ceilings.matmul},
        "rows": [row.facts(ceilings) for row in rows],
    }
