"""All measures of a decoder on held-out images, batch by batch, as a table and a record for decode.json.

Every condition has the same images, masks, noise and seeds. Images come in groups of 64, among which blocks
are retrieved, and as an evaluation sees them: resized and cropped at the centre.

Axes: n images, B images of a group, T times.
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

Values = dict[str, dict[str, Tensor]]
"""By condition and measure, one value an image."""


@dataclass(frozen=True, eq=False)
class Group:
    """A batch of held-out images, what is hidden of them, and what was decoded of it."""

    views: Tensor
    """float [B, C, h, w]."""
    plan: MaskPlan
    sets: HiddenSets
    decoded: Mapping[str, Decoded]
    """By condition."""

    @property
    def seen(self) -> Tensor:
        """bool [B, N]: patches of any context."""
        return any_of(self.plan.contexts, grid_size(self.sets.grid))

    @property
    def hidden(self) -> Tensor:
        """bool [B, N]: patches of any target."""
        return any_of(self.plan.targets, grid_size(self.sets.grid))


def any_of(sets: Sequence[IndexSet], tokens: int) -> Tensor:
    """bool [B, N]: tokens that are in one of the sets."""
    return torch.stack([own.mask(tokens) for own in sets]).any(0)


@dataclass(frozen=True, eq=False)
class Measured:
    """What was measured of all groups."""

    errors: Mapping[str, Tensor]
    """By condition, float [T, n]: the denoising error at `measures.TIMES`."""
    values: Mapping[str, Mapping[str, Tensor]]
    """By condition and measure, float [n]."""
    ceiling: Tensor
    """float [n]: retrieval by the predicted features themselves."""
    first: Group
    """The first group, for pictures."""
    patches: float
    """Hidden patches of a set, on average."""

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
    """The measures over whole groups; images of a last, smaller group are left out.

    Raises UserError where there are no images.
    """
    groups: list[Group] = []
    scores: list[tuple[Mapping[str, Tensor], Values, Tensor]] = []
    patches: list[float] = []
    for number, batch in enumerate(batches):
        if groups and batch.batch_size < len(groups[0].views):
            break
        plan = draw_masks(model, batch, config.seed, number, rank=1)
        sets = hidden_sets(model, batch, plan)
        group, values, ceiling = measure_group(model, network, batch, plan, sets, config, number)
        groups = groups or [group]
        errors = {
            name: image_means(own.errors, sets.image_of_patch, sets.count)
            for name, own in group.decoded.items()
        }
        scores.append((errors, values, ceiling))
        patches.append(sets.at.total / sets.at.batch_size)
    conditions = groups[0].decoded
    return Measured(
        {name: torch.cat([errors[name] for errors, _, _ in scores], dim=1) for name in conditions},
        {
            name: {
                key: torch.cat([values[name][key] for _, values, _ in scores]) for key in scores[0][1][name]
            }
            for name in conditions
        },
        torch.cat([ceiling for _, _, ceiling in scores]),
        groups[0],
        sum(patches) / len(patches),
    )


@torch.no_grad()
def measure_group(
    model: JEPA,
    network: nn.Module,
    batch: Batch,
    plan: MaskPlan,
    sets: HiddenSets,
    config: Config,
    number: int,
) -> tuple[Group, Values, Tensor]:
    """A group's decoded sets, its values by condition and measure, and retrieval by predicted features."""
    views = image_view(model, batch)
    patches, truth = cut_patches(views, sets.grid), target_features(model, views, plan)
    decoded, values = {}, Values()
    for name, condition in make_conditions(model, batch, plan, sets).items():
        own = decoded[name] = decode(network, sets, condition, TIMES, config, number)
        mean = own.samples.mean(0)
        values[name] = {
            **sample_scores(own, sets),
            "retrieval": retrieval(mean, patches, sets),
            "layout": retrieval(mean, patches, sets, channels=views.shape[1]),
            "cosine": composite_cosine(model, batch, plan, sets, own.samples[0], truth),
        }
    ceiling = retrieval(F.normalize(sets.predicted, dim=1), F.normalize(truth, dim=2), sets)
    return Group(views, plan, sets, decoded), values, ceiling
