"""The measures in words: a table, a sentence, decode.json, a section of the report.

Axes: n images, T times.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from torch import Tensor

from jepa_core.errors import UserError
from jepa_core.evaluate import EvaluationTable, MetricScore, make_rows
from jepa_core.evaluate.score_tables import SHARE
from jepa_core.report.picture_grid import TextTable
from jepa_core.report.saved_sections import save_section
from jepa_core.report.sections import Section
from jepa_core.runtime.atomic_write import atomic_write
from jepa_decoder.measure import Measured
from jepa_decoder.measures import TIMES, information, mean_and_error, share_kept
from jepa_decoder.settings import Config

FILE = "decode.json"
SECTION = "decoder"
TITLE = "What the predictions keep, decoded"
SHOWN = (0.0, 0.2, 0.4, 0.8)
"""Times in the table; decode.json has all."""
CONTROL = 0.2
"""The time at which conditions are compared in words."""
ROWS = ("predicted", "nothing", "target", "predicted, shuffled", "target, shuffled")


def make_tables(measured: Measured, config: Config, split: str) -> list[EvaluationTable]:
    """A table of denoising errors and one of samples; a row a condition, that of the predictions first."""
    notes = {
        "denoising": "E(t): mean-square error of the decoded patch at noise level t, in units of normalised "
        "pixels; nats: an estimate, by I-MMSE up to t = 0.8, of what the condition tells of a patch; it is "
        "no bound.",
        "samples": f"Errors are those of {config.samples} samples of each set; layout: retrieval without the "
        "mean colour; cosine: of the re-encoded composite to the target, minus the mean over images.",
    }
    rows = {
        "denoising": {name: _denoising_scores(measured, name) for name in ROWS},
        "samples": {name: _sample_scores(measured, name) for name in ROWS},
    }
    return [
        EvaluationTable(
            name="decoder",
            task=task,
            split=split,
            count=measured.images,
            samples="images",
            rows=make_rows(rows[task]),
            note=note,
        )
        for task, note in notes.items()
    ]


def _denoising_scores(measured: Measured, name: str) -> dict[str, MetricScore]:
    errors = measured.errors[name]
    nats = information(errors, measured.errors["nothing"], measured.pixels)
    scores = {f"E({t:g})": _score(errors[TIMES.index(t)], better="lower") for t in SHOWN}
    return {**scores, "nats": _score(nats)}


def _sample_scores(measured: Measured, name: str) -> dict[str, MetricScore]:
    values, share = measured.values[name], {"unit": SHARE, "chance": 1 / measured.group}
    return {
        "error of the mean": _score(values["mean"], better="lower"),
        "of the best": _score(values["best"], better="lower"),
        "spread": _score(values["spread"], better="lower"),
        "retrieval": _score(values["retrieval"], **share),
        "layout": _score(values["layout"], **share),
        "cosine": _score(values["cosine"]),
    }


def _score(values: Tensor, **more: Any) -> MetricScore:
    value, error = mean_and_error(values)
    return MetricScore(value=value, se=error, **more)


def say_share(measured: Measured, steps: int) -> str:
    """How much the predictions keep by a decoder of `steps` steps, and whether it looks at them, in words."""
    gain, error = _difference(measured, "nothing", "target")
    if gain <= 2 * error:
        return (
            "With targets the decoder does no better than with nothing: it was trained too short to say "
            "anything of the predictions."
        )
    share, errors = share_kept(measured.errors)
    at = [TIMES.index(t) for t in (0.0, 0.2, 0.4)]
    shares = ", ".join(f"{100 * share[i]:.0f} ± {100 * errors[i]:.0f} % at t = {TIMES[i]:g}" for i in at)
    return (
        f"Of what the targets bring a decoder of {steps:,} steps beyond nothing, the predictions keep "
        f"{shares} (t = 0 is pure noise, where tone counts most; later, detail). {_say_control(measured)}"
    )


def _say_control(measured: Measured) -> str:
    """Whether predictions for another image do harm, as they must where the decoder looks at them."""
    worse, error = _difference(measured, "predicted, shuffled", "nothing")
    if worse > 2 * error:
        return "Predictions for another image are worse than nothing: the decoder reads them."
    return (
        f"Predictions for another image are no worse than nothing at t = {CONTROL:g}: the decoder hardly "
        "reads them, so it was trained too short, or they hold next to nothing."
    )


def _difference(measured: Measured, first: str, second: str) -> tuple[float, float]:
    """How much larger the first condition's denoising error is, image by image, and the standard error."""
    row = TIMES.index(CONTROL)
    return mean_and_error(measured.errors[first][row] - measured.errors[second][row])


def to_record(
    measured: Measured, tables: Sequence[EvaluationTable], config: Config, facts: Mapping[str, Any]
) -> dict[str, Any]:
    """What decode.json holds: plain values."""
    share, error = share_kept(measured.errors)
    ceiling = mean_and_error(measured.ceiling)
    return {
        **facts,
        "says": say_share(measured, config.steps),
        "share_kept": [
            {"t": t, "value": value, "se": se}
            for t, value, se in zip(TIMES, share.tolist(), error.tolist(), strict=True)
        ],
        "errors": {
            name: {"value": own.mean(1).tolist(), "se": (own.std(1) / own.shape[1] ** 0.5).tolist()}
            for name, own in measured.errors.items()
        },
        "tables": [json.loads(table.model_dump_json()) for table in tables],
        "retrieval_of_predicted_features": {"value": ceiling[0], "se": ceiling[1]},
        "group": measured.group,
        "patches_of_a_set": measured.patches.mean().item(),
        "settings": config.model_dump(mode="json"),
    }


def save_results(folder: Path, record: Mapping[str, Any], section: Section) -> None:
    """Writes decode.json, and the section of the report with its picture, into the run's folder."""
    try:
        atomic_write(folder / FILE, json.dumps(record, indent=1) + "\n")
    except OSError as error:
        raise UserError(f"{str(folder / FILE)!r} cannot be written: {error.strerror or error}") from None
    save_section(folder, SECTION, section)


def make_section(
    measured: Measured,
    tables: Sequence[EvaluationTable],
    record: Mapping[str, Any],
    draw: Callable[[], Figure],
) -> Section:
    """The section of the report: the sentence, the sheet, the tables side by side."""
    ceiling = record["retrieval_of_predicted_features"]["value"]
    says = (
        f"{record['says']} Decoded from features and positions alone, by a network of "
        f"{record['parameters'] / 1e6:.1f} M parameters that never sees the context. For display decoded "
        "patches are pasted into the visible context; what is neither seen nor hidden is grey. Samples of a "
        "condition differ by their noise: what they have in common is in the features. The predicted "
        f"features themselves retrieve {100 * ceiling:.0f} % of the blocks among {measured.group}. "
        + " ".join(table.caption() for table in tables)
    )
    together = zip(*(table.cells() for table in tables), strict=True)
    head, *lines = ([own[0][0], *(cell for row in own for cell in row[1:])] for own in together)
    return Section(TITLE, says, draw=draw, table=TextTable(["condition", *head[1:]], lines))
