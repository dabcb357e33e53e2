"""The evaluation `futures`: is what a model expects the future that came, or another of its beginning?

A film's beginning has a future for each prompt. What a model, told one, expects after h frames is compared
with what is really there in each future: retrieval, by the least squared distance. A probe that is fitted on
real features of training films reads the place of what moves from what the model expects. One table for each
kind of prompt, and for things that training has seen and others.

Axes: n films, K futures of a beginning, P cells, D width, H horizons.
"""

from __future__ import annotations

from pathlib import Path

import torch
from pydantic import Field as Setting
from pydantic import PositiveInt
from torch import Tensor

from jepa_core import UserError
from jepa_core.evaluate.context import EvaluationContext
from jepa_core.evaluate.score_tables import TRAINED, EvaluationTable, MetricScore, share_score
from jepa_core.settings import EvaluationSettings
from jepa_stacked.beginnings import Beginnings, PlaceProbe, Seen, at_horizons, fit_places, read_prompts, see
from jepa_stacked.films import TellsFutures
from jepa_stacked.levels import Level
from jepa_stacked.variant import Stacked

TRUE = "true future"
NOTE = (
    "h: how often the true future is nearest, of those of its beginning under other prompts, in the window "
    "that lies h frames ahead. R²: of the place of what moves at the end of that window."
)


class Futures:
    """Retrieval of the true future among those of the same beginning, and R² of the place of what moves."""

    class Config(EvaluationSettings):
        """Settings of the evaluation."""

        horizons: tuple[PositiveInt, ...] = Setting((1, 4, 16, 64), min_length=1)
        """Frames ahead."""
        films: int = Setting(200, ge=2)
        """Films that are scored in each table."""
        beside: tuple[Path, ...] = ()
        """Folders of further runs of the variant, a row each: one with a single level, say."""

    def __init__(self, config: Config) -> None:
        self.config = config

    def __call__(self, context: EvaluationContext) -> list[EvaluationTable] | None:
        """The tables; None for other variants and sources. Raises UserError for runs that do not compare."""
        samples, own = context.samples(), context.model
        if not isinstance(own, Stacked) or not isinstance(samples, TellsFutures):
            return None
        horizons = self.config.horizons
        models = {**context.models, **self._open_others(context)}
        span = max(model.level(-1).frames for model in models.values())
        future = -(-max(horizons) // span) * span
        probes = {row: fit_places(context, model) for row, model in models.items()}
        tables = []
        for things, wanted in {"seen things": False, "new things": True}.items():
            index = (samples.unseen == wanted).nonzero()[: self.config.films, 0].tolist()
            if not index:
                continue
            films, seen = see(models, samples, index, future, horizons)
            for kind in own.config.prompts or ("",):
                rows: dict[str, Row] = {}
                for row, model in models.items():
                    rows |= expect(model, row, seen[row], films, future, kind, horizons)
                scores = {}
                for name, (row, level, guess) in rows.items():
                    places = read_places(models[row].level(level), guess, seen[row].context[level], films,
                                         horizons, probes[row][level])  # fmt: skip
                    scores[name] = retrieve(guess, seen[row].futures[level], horizons) | places
                task = f"{kind}, {things}" if kind else things
                tables.append(context.table(scores, count=len(index), samples="films", task=task, note=NOTE))
        return tables

    def _open_others(self, context: EvaluationContext) -> dict[str, Stacked]:
        from jepa_core.runs.load import open_model

        others = {}
        for folder in self.config.beside:
            _, model, _ = open_model(folder)
            if not isinstance(model, Stacked):
                raise UserError(
                    f"evaluations.futures.beside: {folder} is a run of the variant {model.config.name!r}; "
                    "expected a run of 'stacked'"
                )
            others[folder.name] = model.to(context.device).eval()
        return others


Row = tuple[str, int, Tensor]
"""The row of the model, the number of a level, and what is expected of it at the horizons, [n, H, P D]."""


def expect(
    model: Stacked, row: str, seen: Seen, films: Beginnings, future: int, kind: str, horizons: tuple[int, ...]
) -> dict[str, Row]:
    """The rows of a model; of the run's own one for each level, its controls, and what really was there."""
    given = model.given(read_prompts(model, films.samples), kind or None)
    windows, top = future // model.level(-1).frames, len(model.names) - 1
    ahead = model.imagine(seen.context, given, windows)
    rows = {row: (top, ahead[top])}
    if row == TRAINED:
        rows |= {f"level {name}": (number, ahead[number]) for number, name in enumerate(model.names[:-1])}
        if given.prompt is not None:
            for name, other in {
                "another's prompt": given.with_others_prompt(),
                "no prompt": model.prompts.without(given),
            }.items():
                rows[name] = (top, model.imagine(seen.context, other, windows)[top])
        rows["copy of the last"] = (top, seen.context[top][:, -1:].expand_as(ahead[top]))
    guesses = {
        name: (row, level, at_horizons(model, level, windows, horizons))
        for name, (level, windows) in rows.items()
    }
    if row == TRAINED:
        guesses[TRUE] = (row, top, torch.stack([futures[0] for futures in seen.futures[top]]))
    return guesses


def retrieve(guess: Tensor, futures: list[Tensor], horizons: tuple[int, ...]) -> dict[str, MetricScore]:
    """How often the true future, the first of [K, H, P D], is nearest to what is expected, [n, H, P D]."""
    distances = [(own[None] - real).square().sum(-1) for own, real in zip(guess, futures, strict=True)]
    chance = sum(1 / len(of_film) for of_film in distances) / len(distances)
    return {
        f"h={horizon}": share_score([true_share(of_film[:, number]) for of_film in distances], chance)
        for number, horizon in enumerate(horizons)
    }


def true_share(distances: Tensor) -> float:
    """Whether the first of the distances [K] is the least: 1, 0, or its share among equals."""
    nearest = distances == distances.min()
    return float(nearest[0]) / int(nearest.sum())


def read_places(
    level: Level, guess: Tensor, seen: Tensor, films: Beginnings, horizons: tuple[int, ...], probe: PlaceProbe
) -> dict[str, MetricScore]:
    """R² of the place of what moves, which a probe reads from what is seen, [n, S, P, D], and what is
    expected, [n, H, P D]."""
    scores = {}
    for number, horizon in enumerate(horizons):
        end = films.still + -(-horizon // level.frames) * level.frames - 1
        truth = films.places[:, end].double()
        places = probe(seen[:, -1], guess[:, number].unflatten(1, seen.shape[2:]))
        spread = (truth - probe.ridge.intercept).square().sum()
        r2 = 1 - (places - truth).square().sum() / spread
        scores[f"R² h={horizon}"] = MetricScore(value=r2.item(), chance=0.0)
    return scores
