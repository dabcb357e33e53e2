"""Films with all futures of their beginnings, as a model sees them.

Axes: n films, K futures of a beginning, T frames, S windows seen, P cells, D width, H horizons.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from jepa_core import Batch, Sample, UserError
from jepa_core.data.field_transforms.single_frames import transform_frames
from jepa_core.evaluate.context import EvaluationContext
from jepa_core.evaluate.regression import Ridge, fit_ridge
from jepa_stacked.films import TellsFutures
from jepa_stacked.variant import Stacked

FITTED_ON = 2000
"""Training films that a ridge is fitted on."""


@dataclass(frozen=True)
class Beginnings:
    """n films: frames that are `still` in each, places [n, T, 2] of what moves, and the true samples, for
    their prompts."""

    still: int
    places: Tensor
    samples: list[Sample]


@dataclass(frozen=True)
class Seen:
    """Features of each level: of what is seen [n, S, P, D], and of each future at the horizons, the true one
    first, a tensor [K, H, P D] for each film."""

    context: list[Tensor]
    futures: list[list[Tensor]]


def see(
    models: Mapping[str, Stacked],
    samples: TellsFutures,
    index: Sequence[int],
    future: int,
    horizons: Sequence[int],
) -> tuple[Beginnings, dict[str, Seen]]:
    """These films with `future` frames after their still ones, and what each model makes of them.

    Raises UserError for a model that needs more frames than stand still.
    """
    true, places = [], []
    parts: dict[str, list[list[tuple[Tensor, Tensor]]]] = {row: [] for row in models}
    for number in index:
        siblings, tracks = samples.siblings(number, future)
        films = torch.stack([next(iter(sample.views.values())).frames for sample in siblings])
        for row, model in models.items():
            parts[row].append(see_film(model, row, films, films.shape[1] - future, horizons))
        true.append(siblings[0])
        places.append(tracks[0])
    seen = {}
    for row, rows in parts.items():
        levels = list(zip(*rows, strict=True))
        contexts = [torch.stack([context for context, _ in level]) for level in levels]
        seen[row] = Seen(contexts, [[futures for _, futures in level] for level in levels])
    return Beginnings(places[0].shape[0] - future, torch.stack(places), true), seen


def see_film(
    model: Stacked, row: str, films: Tensor, still: int, horizons: Sequence[int]
) -> list[tuple[Tensor, Tensor]]:
    """Of each level what is seen [S, P, D] and the futures [K, H, P D] of films [K, T, 3, h, w]."""
    if model.context > still:
        raise UserError(
            f"the model of the row {row!r} sees {model.context} frames before it predicts; the films stand "
            f"still for {still}"
        )
    frames = films[:, still - model.context :]
    flat = transform_frames(model.transforms, frames.flatten(0, 1)).to(next(model.parameters()).device)
    view = flat.unflatten(0, frames.shape[:2]).transpose(1, 2)
    levels = []
    for number, z in enumerate(model.features_of_levels(view, "target")):
        start = model.level(number).start
        levels.append((z[0, :start], at_horizons(model, number, z[:, start:], horizons)))
    return levels


def at_horizons(model: Stacked, number: int, ahead: Tensor, horizons: Sequence[int]) -> Tensor:
    """[N, H, P D]: of a level's windows [N, L, P, D] after what was seen, those that the horizons lie in."""
    frames = model.level(number).frames
    return ahead[:, [(horizon - 1) // frames for horizon in horizons]].flatten(2)


def read_prompts(model: Stacked, samples: Sequence[Sample]) -> Batch:
    """A batch without films: what the samples' prompts are, by the run's transforms."""
    transforms = model.transforms
    wanted = {f"views.{name}" for name in model.config.prompts} | {
        f"condition.{n}" for n in model.config.beside
    }
    values: dict[str, list[Any]] = {
        place: [sample.values()[place] for sample in samples]
        for place in transforms.fields
        if place in wanted
    }
    parts = transforms.transform_values(values) if values else {"views": {}, "condition": {}}
    return Batch(parts["views"], parts["condition"]).to(next(model.parameters()).device)


@dataclass(frozen=True)
class PlaceProbe:
    """Reads the place of what moves from where tokens have changed.

    Looks differ from thing to thing, so that no linear map of tokens says where one has come or gone; how far
    the token of each cell has moved, and how much further it is from `centre` [D], the mean token, does.
    """

    centre: Tensor
    ridge: Ridge

    def __call__(self, before: Tensor, after: Tensor) -> Tensor:
        """Places float64 [n, 2] of windows [n, P, D] seen last and later."""
        return self.ridge(cell_changes(before, after, self.centre))


def cell_changes(before: Tensor, after: Tensor, centre: Tensor) -> Tensor:
    """float64 [n, 2 P]: for each cell by how much its token has moved, and moved away from the centre [D]."""
    before, after = (part.double().cpu() - centre for part in (before, after))
    return torch.cat([(after - before).norm(dim=-1), after.norm(dim=-1) - before.norm(dim=-1)], dim=1)


def fit_places(context: EvaluationContext, model: Stacked) -> list[PlaceProbe]:
    """A probe for each level, fitted on the last windows of training films."""
    windows: list[list[tuple[Tensor, Tensor]]] = [[] for _ in model.names]
    places: list[Tensor] = []
    for batch in context.batches("train"):
        film = next(iter(batch.views.values()))
        for number, z in enumerate(model.features_of_levels(film, "target")):
            windows[number].append((z[:, model.level(number).start - 1].cpu(), z[:, -1].cpu()))
        places.append(batch.targets["place"].double().cpu())
        if sum(map(len, places)) >= FITTED_ON:
            break
    probes = []
    for of_level in windows:
        before, after = (torch.cat(part) for part in zip(*of_level, strict=True))
        centre = before.double().mean((0, 1))
        probes.append(PlaceProbe(centre, fit_ridge(cell_changes(before, after, centre), torch.cat(places))))
    return probes
