"""The measures in words: a table, a sentence, decode.json, a section of the report.

Axes: n images, T times.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

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
from jepa_decoder.sheet import draw_sheet

FILE = "decode.json"
SECTION = "decoder"
SHOWN = (0.0, 0.2, 0.4, 0.8)
"""Times in the table; decode.json has all."""
ROWS = ("predicted", "nothing", "target", "predicted, shuffled", "target, shuffled")


def make_table(measured: Measured, config: Config, split: str) -> EvaluationTable:
    """A row a condition, that of the predictions first."""
    return EvaluationTable(
        name="decoder",
        split=split,
        count=measured.images,
        samples="images",
        rows=make_rows({name: _row(measured, name, config) for name in ROWS}),
        note=(
            "E: mean-square error of the decoded patch at noise level t, in units of normalised pixels. nats: "
            "an estimate of what the condition tells of a patch, no bound. cosine: of the re-encoded composite "
            "to the target, minus the mean over images."
        ),
    )


def _row(measured: Measured, name: str, config: Config) -> dict[str, MetricScore]:
    errors, values = measured.errors[name], measured.values[name]
    nats = information(errors, measured.errors["nothing"], measured.pixels)
    chance, many = 1 / measured.group, f"of {config.samples}"
    return {
        **{f"E({t:g})": _score(errors[TIMES.index(t)], better="lower") for t in SHOWN},
        f"mean {many}": _score(values["mean"], better="lower"),
        f"best {many}": _score(values["best"], better="lower"),
        "spread": _score(values["spread"], better="lower"),
        "retrieval": _score(values["retrieval"], unit=SHARE, chance=chance),
        "layout": _score(values["layout"], unit=SHARE, chance=chance),
        "cosine": _score(values["cosine"]),
        "nats": _score(nats),
    }


def _score(values: Tensor, **more: Any) -> MetricScore:
    value, error = mean_and_error(values)
    return MetricScore(value=value, se=error, **more)


def say_share(measured: Measured) -> str:
    """How much the predictions keep, in a sentence, and whether the decoder looks at them."""
    share, error = share_kept(measured.errors)
    at = [TIMES.index(t) for t in (0.0, 0.2, 0.4)]
    shares = ", ".join(f"{100 * share[i]:.0f} ± {100 * error[i]:.0f} % at t = {TIMES[i]:g}" for i in at)
    return (
        f"Of what the targets bring the decoder beyond nothing, the predictions keep {shares} (t = 0: pure "
        f"noise, where tone counts most; later: detail). {_say_control(measured)}"
    )


def _say_control(measured: Measured) -> str:
    """Whether features of another image do harm, which they must where the decoder looks at its condition."""
    row = TIMES.index(0.2)
    worse = measured.errors["predicted, shuffled"][row] - measured.errors["nothing"][row]
    mean, error = mean_and_error(worse)
    if mean > 2 * error:
        return "Predictions for another image are worse than nothing, so the decoder reads its condition."
    return (
        "Predictions for another image are not worse than nothing (at t = 0.2), so the decoder hardly reads "
        "them: it is trained too short, or they hold next to nothing."
    )


def to_record(
    measured: Measured, table: EvaluationTable, config: Config, facts: Mapping[str, Any]
) -> dict[str, Any]:
    """What decode.json holds: plain values."""
    share, error = share_kept(measured.errors)
    ceiling = mean_and_error(measured.ceiling)
    return {
        **facts,
        "says": say_share(measured),
        "share_kept": [
            {"t": t, "value": value, "se": se}
            for t, value, se in zip(TIMES, share.tolist(), error.tolist(), strict=True)
        ],
        "errors": {
            name: {"value": own.mean(1).tolist(), "se": (own.std(1) / own.shape[1] ** 0.5).tolist()}
            for name, own in measured.errors.items()
        },
        "table": json.loads(table.model_dump_json()),
        "retrieval_of_predicted_features": {"value": ceiling[0], "se": ceiling[1]},
        "group": measured.group,
        "patches_of_a_set": measured.patches,
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
    measured: Measured, table: EvaluationTable, record: Mapping[str, Any], mean: Any, std: Any
) -> Section:
    """The section of the report: the sentence, the sheet, the table."""
    ceiling = record["retrieval_of_predicted_features"]
    says = (
        f"{record['says']} Decoded from features and positions alone, by a network of "
        f"{record['parameters'] / 1e6:.1f} M parameters that never sees the context; decoded patches are pasted "
        "into the visible context for display, what is neither seen nor hidden is grey. Samples differ by "
        "their noise: what they have in common is in the features. By the predicted features themselves "
        f"{100 * ceiling['value']:.0f} % of blocks are retrieved among {measured.group}. {table.caption()}"
    )
    head, *lines = table.cells()
    return Section(
        "What the predictions keep, decoded",
        says,
        draw=lambda: draw_sheet(measured.first, mean, std),
        table=TextTable(head, lines),
    )
