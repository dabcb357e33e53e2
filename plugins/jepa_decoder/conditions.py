"""The five conditions that a decoder is measured under, on the same images, masks and noise.

`shuffled`: the features that the model has of another image at the same positions, by the same masks; a
decoder that looks at its condition does worse with them than with nothing.

Axes: B images, Q sets, S packed hidden patches, X pixels of a patch, D width of features, K samples, T times.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from jepa_core.jepa import JEPA
from jepa_core.runtime.seeding import step_generator
from jepa_core.types import Batch, MaskPlan
from jepa_decoder.flow import add_noise, sample
from jepa_decoder.hidden import HiddenSets, hidden_sets, shuffle
from jepa_decoder.network import NOTHING, PREDICTED, TARGET
from jepa_decoder.settings import Config

CONDITIONS = ("nothing", "predicted, shuffled", "predicted", "target, shuffled", "target")


@dataclass(frozen=True, eq=False)
class Condition:
    """What the decoder is given: a kind of `network.KINDS`, and the features [S, D] of that kind."""

    kind: int
    features: Tensor


@dataclass(frozen=True, eq=False)
class Decoded:
    """What a decoder makes of a batch's hidden sets under one condition."""

    errors: Tensor
    """float [T, S]: the mean-square error of x̂ over a patch's pixels at each time, without sampling."""
    mean_square: Tensor
    """float [S, X]: x̂ at t = 0."""
    samples: Tensor
    """float [K, S, X]."""


def make_conditions(model: JEPA, batch: Batch, plan: MaskPlan, sets: HiddenSets) -> Mapping[str, Condition]:
    """The conditions by name, of the hidden sets that `hidden_sets` gives of this batch and plan."""
    other = hidden_sets(model, shuffle(batch), plan)
    conditions = (
        Condition(NOTHING, sets.predicted),
        Condition(PREDICTED, other.predicted),
        Condition(PREDICTED, sets.predicted),
        Condition(TARGET, other.target),
        Condition(TARGET, sets.target),
    )
    return dict(zip(CONDITIONS, conditions, strict=True))


@torch.no_grad()
def decode(
    network: nn.Module,
    sets: HiddenSets,
    condition: Condition,
    times: Sequence[float],
    config: Config,
    number: int,
) -> Decoded:
    """What the network makes of the sets under a condition.

    Noise follows from (config.seed, `number`) alone, so it is the same for every condition.
    """
    device, count = sets.pixels.device, sets.at.batch_size
    kind = torch.full((count,), condition.kind, device=device)

    def denoise(x: Tensor, t: float) -> Tensor:
        at_time = torch.full((count,), t, device=device)
        guess: Tensor = network(x, at_time, kind, condition.features, sets.at)
        return guess

    generator = step_generator(config.seed, 0, number, "decoder noise")
    draws = torch.randn(config.samples + 1, *sets.pixels.shape, generator=generator).to(device)
    guesses = [denoise(add_noise(sets.pixels, draws[0], t), t) for t in times]
    errors = torch.stack([(guess - sets.pixels).square().mean(1) for guess in guesses])
    samples = torch.stack([sample(denoise, noise, config.euler_steps) for noise in draws[1:]])
    return Decoded(errors, denoise(draws[0], 0.0), samples)
