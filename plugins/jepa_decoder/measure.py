"""All measures of a decoder on held-out images, group by group.

Every condition has the same images, masks, noise and seeds. Images come in groups of 64, among which blocks
are retrieved, and as an evaluation sees them: resized and cropped at the centre.

Axes: n images, B images of a group, N tokens of the grid, T times.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from jepa_core.jepa import JEPA
from jepa_core.types import Batch, IndexSet, MaskPlan, grid_size
from jepa_decoder.conditions import Decoded, decode, make_conditions
from jepa_decoder.hidden import HiddenSets, cut_patches, draw_masks, hidden_sets, image_view
from jepa_decoder.measures import (
    TIMES,
    composite_cosine,
    image_means,
    retrieval,
    sample_scores,
    target_features,
)
from jepa_decoder.settings import Config

GROUP = 64
"""Images among which a block is looked for."""


@dataclass(frozen=True, eq=False)
class Group:
    """Held-out images, what is hidden of them, and what was decoded of it."""

    views: Tensor
    """float [B, C, h, w]."""
    plan: MaskPlan
    sets: HiddenSets
    decoded: Mapping[str, Decoded]
    """By condition."""

    @property
    def seen(self) -> Tensor:
        """bool [B, N]: patches of any context."""
        return _any_of(self.plan.contexts, grid_size(self.sets.grid))

    @property
    def hidden(self) -> Tensor:
        """bool [B, N]: patches of any target."""
        return _any_of(self.plan.targets, grid_size(self.sets.grid))


def _any_of(sets: Sequence[IndexSet], tokens: int) -> Tensor:
    return torch.stack([own.mask(tokens) for own in sets]).any(0)


@dataclass(frozen=True, eq=False)
class Scores:
    """What was measured, one value an image."""

    errors: Mapping[str, Tensor]
    """By condition, float [T, n]: the denoising error at `measures.TIMES`."""
    values: Mapping[str, Mapping[str, Tensor]]
    """By condition and measure, float [n]."""
    ceiling: Tensor
    """float [n]: retrieval by the predicted features themselves."""
    patches: Tensor
    """float [n]: hidden patches of a set, on average over an image's sets."""


@dataclass(frozen=True, eq=False)
class Measured(Scores):
    """The scores of all groups, and the first of these for pictures."""

    first: Group

    @property
    def images(self) -> int:
        """n."""
        return len(self.ceiling)

    @property
    def group(self) -> int:
        """B, the images among which a block is looked for."""
        return len(self.first.views)

    @property
    def pixels(self) -> int:
        """Values of a patch."""
        return self.first.sets.pixels.shape[1]


def measure(model: JEPA, network: nn.Module, batches: Iterable[Batch], config: Config) -> Measured:
    """The scores over whole groups; images of a last, smaller group are left out.

    `batches` holds one batch or more, and raises where there are no images.
    """
    first: Group | None = None
    scores: list[Scores] = []
    for number, batch in enumerate(batches):
        if first is not None and batch.batch_size < len(first.views):
            break
        group = decode_group(model, network, batch, config, number)
        scores.append(score_group(model, batch, group))
        first = first or group
    assert first is not None
    return join_scores(scores, first)


@torch.no_grad()
def decode_group(model: JEPA, network: nn.Module, batch: Batch, config: Config, number: int) -> Group:
    """What the network makes of a batch's hidden patches; masks and noise follow from the batch's number."""
    plan = draw_masks(model, batch, config.seed, number, rank=1)  # training draws its own as rank 0
    sets = hidden_sets(model, batch, plan)
    conditions = make_conditions(model, batch, plan, sets)
    decoded = {name: decode(network, sets, own, TIMES, config, number) for name, own in conditions.items()}
    return Group(image_view(model, batch), plan, sets, decoded)


@torch.no_grad()
def score_group(model: JEPA, batch: Batch, group: Group) -> Scores:
    """The scores of a decoded batch."""
    sets, views = group.sets, group.views
    patches, truth = cut_patches(views, sets.grid), target_features(model, views, group.plan)
    values = {}
    for name, own in group.decoded.items():
        mean = own.samples.mean(0)
        values[name] = {
            **sample_scores(own, sets),
            "retrieval": retrieval(mean, patches, sets),
            "layout": retrieval(mean, patches, sets, channels=views.shape[1]),
            "cosine": composite_cosine(model, batch, group.plan, sets, own.samples[0], truth),
        }
    errors = {
        name: image_means(own.errors, sets.image_of_patch, sets.count) for name, own in group.decoded.items()
    }
    ceiling = retrieval(F.normalize(sets.predicted, dim=1), F.normalize(truth, dim=2), sets)
    return Scores(errors, values, ceiling, image_means(sets.at.lengths.float(), sets.images, sets.count))


def join_scores(scores: Sequence[Scores], first: Group) -> Measured:
    """The scores of several groups as one, in order."""
    names = scores[0].values
    return Measured(
        {name: torch.cat([own.errors[name] for own in scores], dim=1) for name in names},
        {
            name: {key: torch.cat([own.values[name][key] for own in scores]) for key in names[name]}
            for name in names
        },
        torch.cat([own.ceiling for own in scores]),
        torch.cat([own.patches for own in scores]),
        first,
    )
