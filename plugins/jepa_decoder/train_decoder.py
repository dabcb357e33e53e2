"""A decoder in a run's folder, started or resumed and trained to its last step.

    RUN/decoder/checkpoints/step-…   weights, their average, the optimizer (`jepa_core.runs.checkpoints`)
    RUN/decoder/metrics.jsonl        the loss, and the error of each kind

What a decoder belongs to (the run's weights, its own settings) stands in its checkpoints; one that belongs to
something else is refused and stays as it is.
"""

from __future__ import annotations

import logging
import math
import shutil
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain, islice
from pathlib import Path
from typing import Any

import torch

from jepa_core.errors import UserError
from jepa_core.jepa import JEPA
from jepa_core.protocols import Samples
from jepa_core.runs import checkpoints
from jepa_core.runs.checkpoint_writer import CheckpointWriter
from jepa_core.runs.metrics_file import METRICS, keep_until, to_line
from jepa_core.runtime.progress import Progress
from jepa_core.runtime.stop_signals import Stopped, StopSignals
from jepa_core.settings.recipe import Recipe
from jepa_decoder.hidden import HiddenSets
from jepa_decoder.settings import Config, training_settings
from jepa_decoder.training import Training, training_sets

log = logging.getLogger("jepa")

FOLDER = "decoder"
KEEP = 2
"""Checkpoints that are kept."""
LOG_EVERY = 50
"""Steps between two lines of metrics.jsonl."""
ANEW = "--overwrite begins anew"


def train_decoder(
    folder: Path,
    recipe: Recipe,
    model: JEPA,
    samples: Samples,
    config: Config,
    weights: str,
    progress: Progress,
) -> Training:
    """The decoder in `folder`, `RUN/decoder`, which must be locked, after its last step.

    `weights` names those of the run, by their hash. Raises UserError for a decoder there of other weights or
    settings, or with damaged checkpoints alone, and for a loss that is not finite; `Stopped`, with a
    checkpoint saved, when a signal asks to stop.
    """
    belongs = {"weights": weights, "settings": training_settings(config)}
    checkpoint, state = newest_state(folder)
    if state is not None:
        check_belonging(folder, state, belongs)
    start = 0 if state is None else state["step"]
    sets = training_sets(recipe, model, samples, config, min(start, config.steps - 1))
    first = list(islice(sets, 1))
    training = make_training(config, first[0])
    if checkpoint is not None and state is not None:
        checkpoints.load_weights(checkpoint, training.model)
        training.load_state_dict(state)
        keep_until(folder / METRICS, start)
    if start < config.steps:
        going_on = f", going on after step {start:,}" if start else ""
        progress.begin(f"training the decoder{going_on}", (config.steps - start) * config.batch_size)
        take_steps(training, chain(first, sets), folder, belongs, progress)
    return training


def make_training(config: Config, like: HiddenSets) -> Training:
    """A fresh decoder for hidden sets like these."""
    pixels, features = like.pixels.shape[1], like.target.shape[1]
    return Training(config, pixels, features, like.grid, like.pixels.device)


def newest_state(folder: Path) -> tuple[Path | None, dict[str, Any] | None]:
    """The newest whole checkpoint of a decoder and its state; two None where there is none.

    Newer damaged ones are set aside with a warning. Raises UserError where all are damaged, or hold no state.
    """
    try:
        checkpoint, damages = checkpoints.newest_good(folder)
    except UserError as error:
        raise UserError(f"{error}; {ANEW}") from None
    if checkpoint is None:
        return None, None
    for damage in damages:
        log.warning("damaged checkpoint passed over: %s", damage)
    state = checkpoints.load_state(checkpoint)
    if damages:
        checkpoints.set_aside(folder, checkpoints.step_of(checkpoint))
    return checkpoint, state


def check_belonging(folder: Path, state: Mapping[str, Any], belongs: Mapping[str, Any]) -> None:
    """Raises UserError for the state of what is no decoder, of other weights, or of other settings."""
    if not isinstance(state.get("settings"), dict) or "optimizer" not in state or "weights" not in state:
        raise UserError(f"the checkpoints in {str(folder)!r} are not a decoder's; {ANEW}")
    if state["weights"] != belongs["weights"]:
        raise UserError(
            f"the decoder in {str(folder)!r} was trained on other weights of the run than its newest "
            f"checkpoint has; {ANEW}"
        )
    other = difference(state["settings"], belongs["settings"])
    if other:
        raise UserError(f"the decoder in {str(folder)!r} was begun with {other}; give the same, or {ANEW}")


def difference(saved: Mapping[str, Any], own: Mapping[str, Any]) -> str:
    """The first setting that two decoders have otherwise, as `width=128, not 192`; "" for none."""
    for key in (*own, *(key for key in saved if key not in own)):
        if saved.get(key) != own.get(key):
            return f"{key}={saved.get(key)}, not {own.get(key)}"
    return ""


def remove_decoder(folder: Path) -> None:
    """Removes what is in `RUN/decoder`, but for the lock."""
    for path in folder.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        elif not path.match("lock-*"):
            path.unlink()


def take_steps(
    training: Training,
    sets: Iterable[HiddenSets],
    folder: Path,
    belongs: Mapping[str, Any],
    progress: Progress,
) -> None:
    """All steps still to do, logged and saved. Raises as `train_decoder` does."""
    config, recent = training.config, list[dict[str, float]]()
    with StopSignals() as signals, CheckpointWriter(folder, KEEP) as writer:
        for batch in sets:
            recent.append(training.step(batch))
            if not math.isfinite(recent[-1]["loss"]):
                raise UserError(f"step {training.done:,}: the decoder's loss is not finite; lower lr")
            last = training.done == config.steps
            if last or training.done % LOG_EVERY == 0:
                append_metrics(folder, training.done, recent)
                recent = []
            if last or signals.asked or training.done % config.checkpoint_every == 0:
                writer.save(training.done, training.model.state_dict(), {**training.state_dict(), **belongs})
            progress.advance(config.batch_size)
            if signals.asked and not last:
                writer.wait()
                raise Stopped(signals.asked)
        writer.wait()


def append_metrics(folder: Path, step: int, recent: Sequence[Mapping[str, float]]) -> None:
    """One line of metrics.jsonl: the means of the steps since the last one; kinds that did not occur are
    left out."""
    means = {key: torch.tensor([line[key] for line in recent]).nanmean().item() for key in recent[0]}
    with (folder / METRICS).open("a", encoding="utf-8") as file:
        file.write(to_line(step, {key: value for key, value in means.items() if math.isfinite(value)}))
