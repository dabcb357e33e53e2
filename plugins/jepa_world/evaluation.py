"""The evaluation `rollouts`, and the section `imagined`: what a world model imagines, beside what came.

Axes: B windows, T frames, F frames of a history, K steps, P tokens of a frame, D width, C sequences of
actions.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from jepa_core.data import CorruptSample
from jepa_core.data.eval_batches import space_evenly
from jepa_core.errors import UserError
from jepa_core.evaluate.context import EvaluationContext
from jepa_core.evaluate.score_tables import EvaluationTable, MetricScore, share_score
from jepa_core.report.picture_grid import Picture
from jepa_core.report.sections import Section
from jepa_world.agent import Agent
from jepa_world.variant import WorldModel
from jepa_world.worlds import play_behaviour

HORIZONS = (1, 2, 4, 8, 16)
AMONG = 16
"""Sequences of actions among which the true one is to be found."""
FILMS, BANK = 8, 256
"""Films of the section, and windows whose frames imagined ones are looked up among."""


@dataclass
class Errors:
    """Of one row: errors float [n, K] of the roll-out, of copying the last frame, and whether the own actions
    fit better than others, a number a window."""

    rolled: list[Tensor] = field(default_factory=list)
    copied: list[Tensor] = field(default_factory=list)
    best: list[float] = field(default_factory=list)

    def scores(self) -> dict[str, MetricScore]:
        """Errors over those of copying at each horizon, and the share of windows whose own actions fit
        best."""
        rolled, copied = torch.cat(self.rolled), torch.cat(self.copied)
        scores = {
            f"h={h}": ratio_score(rolled[:, h - 1], copied[:, h - 1])
            for h in HORIZONS
            if h <= rolled.shape[1]
        }
        return {**scores, "own actions": share_score(self.best, chance=1 / AMONG)}


def rollouts(context: EvaluationContext) -> EvaluationTable | None:
    """Open-loop errors over those of copying the last frame seen, and how often the own actions fit best.

    Rows: the model, its twin, and the model when it is told the actions of another window. None for other
    variants, and samples without actions. Raises UserError for too few windows.
    """
    if not isinstance(context.model, WorldModel):
        return None
    rows: dict[str, Errors] = {}
    for batch in context.batches():
        if not batch.condition:
            return None
        film, actions = next(iter(batch.views.values())), batch.condition["actions"]
        if len(actions) < AMONG + 1:
            continue
        for row, model in context.models.items():
            z = encode_film(model, film)
            given = [actions.roll(shift, 0) for shift in range(AMONG + 1)]
            errors = torch.stack([roll_out_errors(model, z, own) for own in given])
            add(rows.setdefault(row, Errors()), errors[:AMONG], z, model)
            if row == "trained":
                add(rows.setdefault("another's actions", Errors()), errors[1:], z, model)
    if not rows:
        raise UserError(
            f"rollouts compares the actions of {AMONG + 1} windows or more in a batch; the split "
            f"{context.split} has fewer"
        )
    note = (
        "Squared error of the latent roll-out after h steps over that of the last frame seen: at 1 it is no "
        f"better than to expect no change. Own actions: how often the window's own, among {AMONG} sequences, "
        "give the least error at the last step."
    )
    count = len(next(iter(rows.values())).best)
    scores = {row: errors.scores() for row, errors in rows.items()}
    return context.table(scores, count=count, samples="windows", note=note)


def add(errors: Errors, by_actions: Tensor, z: Tensor, model: WorldModel) -> None:
    """Adds a batch: errors [C, B, K] by sequence of actions, the row's own first."""
    errors.rolled.append(by_actions[0])
    errors.copied.append(copy_errors(z, model.config.history))
    last = by_actions[:, :, -1]
    errors.best += (last[1:] > last[0]).all(0).double().tolist()


def encode_film(model: WorldModel, film: Tensor) -> Tensor:
    """[B, T, P, D]: the states of a film's frames [B, C, T, H, W]."""
    return model.states(film.transpose(1, 2).flatten(0, 1), "target").unflatten(0, (len(film), -1))


def imagine(model: WorldModel, z: Tensor, actions: Tensor) -> Tensor:
    """[B, K, P, D]: the frames after the first F of z [B, T, P, D], by the actions [B, T - 1, A] alone."""
    f = model.config.history
    return model.roll_out(model.start(z[:, :f], actions[:, : f - 1]), actions[:, f - 1 :])


def roll_out_errors(model: WorldModel, z: Tensor, actions: Tensor) -> Tensor:
    """[B, K]: the mean squared error of each imagined frame."""
    return (imagine(model, z, actions) - z[:, model.config.history :]).square().mean((2, 3))


def copy_errors(z: Tensor, history: int) -> Tensor:
    """[B, K]: the mean squared error where nothing is expected to change."""
    return (z[:, history - 1 : history] - z[:, history:]).square().mean((2, 3))


def open_loop(agent: Agent, episodes: int = 200) -> dict[str, float]:
    """Error over copying at each of HORIZONS steps, over episodes that the behaviour plays on held-out
    layouts: longer ones than the windows of training may be."""
    model, f = agent.model, agent.model.config.history
    states, actions = play_behaviour(agent.world, episodes, f - 1 + max(HORIZONS), "test")
    z = agent.look(states.flatten(0, 1)).unflatten(0, states.shape[:2])
    with torch.no_grad():
        ratio = roll_out_errors(model, z, agent.to_model(actions)).mean(0) / copy_errors(z, f).mean(0)
    return {f"h={h}": ratio[h - 1].item() for h in HORIZONS}


def ratio_score(errors: Tensor, copied: Tensor) -> MetricScore:
    """The ratio of two means over windows [n], with its standard error to first order."""
    ratio = errors.mean() / copied.mean().clamp(min=1e-12)
    residual = (errors - ratio * copied) / copied.mean().clamp(min=1e-12)
    return MetricScore(
        value=ratio.item(), se=(residual.std() / len(errors) ** 0.5).item(), chance=1.0, better="lower"
    )


def imagined(recipe: Any, model: Any, source: Any) -> Section | None:
    """Films that came, above the real frames nearest to what was imagined; None for other variants."""
    if not isinstance(model, WorldModel) or model.transforms is None:
        return None
    samples = source.split("val")
    films, views, actions = read_windows(model, samples, space_evenly(len(samples), BANK).tolist())
    z = encode_film(model, views)
    shown = slice(0, min(FILMS, len(films)))
    ahead = imagine(model, z[shown], actions[shown])
    bank = z.flatten(0, 1).flatten(1)
    nearest = torch.cdist(ahead.flatten(0, 1).flatten(1), bank).argmin(1).cpu()
    guesses = films.flatten(0, 1)[nearest].unflatten(0, ahead.shape[:2])
    history = model.config.history
    pictures = []
    for film, guess in zip(films[shown], guesses, strict=True):
        below = torch.cat([film[:history], guess])
        frames = torch.cat([film, film.new_full((len(film), 3, 2, film.shape[-1]), 255), below], dim=2)
        pictures.append(Picture(np.ascontiguousarray(frames.movedim(1, -1).numpy()), rate=4))
    says = (
        f"Above, held-out films (val); below, the first {history} frame(s) and then for each step of a "
        f"roll-out without sight the nearest, in latent distance, of {len(bank):,} frames of "
        "these and other films."
    )
    return Section("Imagined futures", says, pictures=pictures, columns=4)


def read_windows(model: WorldModel, samples: Any, rows: list[int]) -> tuple[Tensor, Tensor, Tensor]:
    """Middle windows of some samples: pixels uint8 [n, T, 3, h, w], views [n, C, T, H, W] and actions [n, T
    - 1, A]."""
    transforms = model.transforms
    frames = transforms.outputs[transforms.first_place].shape[1]
    windows = []
    for row in rows:
        episode = samples[row].views[transforms.first]
        try:
            starts = episode.starts(frames)
        except CorruptSample:  # too short, as training leaves it out
            continue
        windows.append(episode.window(starts[len(starts) // 2], frames))
    films = [window.views[transforms.first] for window in windows]
    values = {transforms.first_place: films, "condition.actions": [w.condition["actions"] for w in windows]}
    parts = transforms.transform_values(values)
    device = next(model.parameters()).device
    views, actions = parts["views"][transforms.first], parts["condition"]["actions"]
    return torch.stack(films), views.to(device), actions.to(device)
