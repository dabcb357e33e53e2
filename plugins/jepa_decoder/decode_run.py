"""Everything that `jepa decode` does with a run: open it, train or resume its decoder, measure, write."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from jepa_core.assembly import build
from jepa_core.data.splits import check_split
from jepa_core.evaluate import EvaluationContext, EvaluationTable
from jepa_core.runs import checkpoints
from jepa_core.runs.load import open_model
from jepa_core.runs.lock import RunLock
from jepa_core.runtime.progress import Progress
from jepa_decoder.hidden import check_decodable
from jepa_decoder.measure import GROUP, measure
from jepa_decoder.results import make_section, make_tables, save_results, to_record
from jepa_decoder.settings import Config
from jepa_decoder.sheet import draw_sheet
from jepa_decoder.train_decoder import FOLDER, remove_decoder, train_decoder


def decode_run(
    folder: Path, config: Config, split: str, progress: Progress, overwrite: bool = False
) -> tuple[dict[str, Any], list[EvaluationTable]]:
    """The record that decode.json has, and the tables of the measures.

    Raises UserError for a folder that is no run, a run that cannot be decoded (no predictor, no masks, no
    images on a grid of patches), a split that is missing, and as `train_decoder` does.
    """
    check_split(split)
    recipe, model, step = open_model(folder)
    check_decodable(str(folder), model)
    source = build("data", recipe.data)
    context = EvaluationContext(
        recipe,
        model,
        None,
        source,
        split,
        images=config.images,
        batch_size=GROUP,
        device=next(model.parameters()).device,
        progress=progress,
    )
    context.samples()
    place = folder / FOLDER
    with RunLock(place):
        if overwrite:
            remove_decoder(place)
        weights = checkpoints.sha256(folder / "checkpoints" / f"step-{step:08d}" / checkpoints.WEIGHTS)
        training = train_decoder(place, recipe, model, context.samples("train"), config, weights, progress)
        measured = measure(model, training.model.average, context.batches(), config)
        tables = make_tables(measured, config, split)
        parameters = sum(p.numel() for p in training.model.network.parameters())
        facts = {"step": step, "split": split, "images": measured.images, "parameters": parameters}
        record = to_record(measured, tables, config, facts)
        colours = recipe.transform.mean, recipe.transform.std
        section = make_section(measured, tables, record, lambda: draw_sheet(measured.first, *colours))
        save_results(folder, record, section)
    return record, tables
