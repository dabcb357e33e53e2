"""The evaluation `many_heads`: linear heads for several learning rates and layers, trained at once by SGD.

For data whose features do not fit into memory: each batch goes through the encoder once, and every head
learns from it. The heads are those of DINOv2's linear evaluation (Oquab et al. 2023, arXiv 2304.07193, App.
B.3): learning rates × {last block, last 4 blocks}, SGD with momentum, cosine decay.

What is unusual: the best head is chosen on a part of the training split that no head learns from, where the
published code takes the best one on the validation set that it reports.

Axes: m held-out samples, B samples of a batch, D width, H heads.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from pydantic import Field, PositiveFloat
from torch import Tensor

from jepa_core.errors import UserError
from jepa_core.evaluate.batches import samples_word
from jepa_core.evaluate.context import EvaluationContext
from jepa_core.evaluate.frozen.bank import (
    BlockMap,
    class_names,
    labelled_samples,
    read_split,
    row_maps,
    tasks_of,
    view_shape,
)
from jepa_core.evaluate.frozen.parallel_heads import ParallelHeads
from jepa_core.evaluate.logistic import shuffle_order
from jepa_core.evaluate.samples import choose_samples
from jepa_core.evaluate.score_tables import EvaluationTable, MetricScore, share_score
from jepa_core.protocols import FeatureMap
from jepa_core.settings.base import EvaluationSettings

LAYERS = {"last": "last block", "last4": "last 4 blocks"}

Batch = tuple[Tensor, Tensor]
"""Views [B, ...] and labels int64 [B], all of them labelled."""


class ManyHeads:
    """Linear heads for learning rates × {last block, last 4 blocks}, trained at once by SGD; the best of them
    by a part of train.
    """

    class Config(EvaluationSettings):
        """How the heads are trained."""

        rates: tuple[PositiveFloat, ...] = Field((1e-3, 3e-3, 1e-2, 3e-2, 0.1, 0.3, 1.0), min_length=1)
        """Learning rates for a batch of 256, scaled with the batch size; each falls to 0 along a cosine."""
        epochs: float = Field(10.0, gt=0)
        """Passes over the training samples."""
        batch_size: int = Field(256, ge=1)
        """Samples of a step."""
        chosen_on: float = Field(0.1, gt=0, lt=1)
        """Share of the training samples that no head learns from, to choose among them."""
        flip: float = Field(0.5, ge=0, le=1)
        """Probability that a batch of training images or clips is mirrored."""

    def __init__(self, config: Config) -> None:
        self.config = config

    def __call__(self, context: EvaluationContext) -> list[EvaluationTable]:
        """A table for each task. Raises UserError without labels, and where the training split is scored."""
        if context.split == "train":
            raise UserError("it is fitted on the train split; score it on another one (--split test or val)")
        context = replace(context, batch_size=self.config.batch_size)
        return [self._table(context, task) for task in tasks_of(context)]

    def _table(self, context: EvaluationContext, task: str | None) -> EvaluationTable:
        classes = class_names(context, task)
        total = len(labelled_samples(context, "train", task))
        index = choose_samples(total, None, context.images)
        shuffle = index[shuffle_order(len(index))]
        out = min(max(1, round(len(index) * self.config.chosen_on)), len(index) - 1)
        maps = row_maps(context)
        heads = self._train(context, task, maps, shuffle[out:], len(classes))
        kept_out = judge(context, "train", task, maps, heads, shuffle[:out].sort().values)
        held_out = judge(context, context.split, task, maps, heads, None)
        chosen = {m.name: choose_rates(right) for m, right in zip(maps, kept_out, strict=True)}
        scores = {
            m.name: _scores(right, chosen[m.name], len(classes))
            for m, right in zip(maps, held_out, strict=True)
        }
        count, word = len(held_out[0]["last"]), samples_word(view_shape(context))
        picked = "; ".join(f"{name}: {self._words(choice)}" for name, choice in chosen.items())
        return context.table(
            scores,
            count=count,
            samples=word,
            task=task,
            note=self._note(f"{len(index) - out:,} training {word}", f"{out:,}", picked),
        )

    def _note(self, fitted: str, kept_out: str, picked: str) -> str:
        config = self.config
        return (
            f"{len(config.rates)} learning rates × {{last block, last 4 blocks}}, {config.epochs:g} epochs "
            f"of {fitted} in batches of {config.batch_size}; rate and layers chosen on {kept_out} others of "
            f"the train split ({picked}). Of rows without blocks last4 is the same as last."
        )

    def _words(self, choice: Choice) -> str:
        rates = ", ".join(f"{layers} {self.config.rates[i]:g}" for layers, i in choice.rates.items())
        return f"{LAYERS[choice.layers]}, rates {rates}"

    def _train(
        self,
        context: EvaluationContext,
        task: str | None,
        maps: Sequence[FeatureMap],
        index: Tensor,
        classes: int,
    ) -> list[dict[str, ParallelHeads]]:
        """The heads of each map by layers, after training on the samples `index`."""
        config, heads = self.config, list[dict[str, ParallelHeads]]()
        steps = max(1, round(config.epochs * len(index) / config.batch_size))
        context.progress.begin("steps of the heads", steps)
        mirror, start = context.generator("many_heads flips"), context.generator("many_heads weights")
        for step, (views, labels) in enumerate(_training_batches(context, task, index, steps)):
            if views.dim() > 3 and torch.rand((), generator=mirror) < config.flip:
                views = views.flip(-1)
            factor = (1 + math.cos(math.pi * step / steps)) / 2 * config.batch_size / 256
            for number, feature_map in enumerate(maps):
                features = split_layers(feature_map, views)
                if number == len(heads):
                    heads.append(
                        {
                            layers: ParallelHeads(
                                values.shape[1], classes, config.rates, start, values.device
                            )
                            for layers, values in features.items()
                        }
                    )
                for layers, values in features.items():
                    heads[number][layers].step(values, labels, factor)
            context.progress.advance(1)
        if not heads:
            raise UserError("no training sample has a label")
        return heads


def _training_batches(
    context: EvaluationContext, task: str | None, index: Tensor, steps: int
) -> Iterator[Batch]:
    """So many batches of the samples, in another order in each pass."""
    generator, done = context.generator("many_heads order"), 0
    while done < steps:
        before = done
        order = index[torch.randperm(len(index), generator=generator)]
        for batch in _labelled_batches(context, "train", task, order):
            if done == steps:
                return
            done += 1
            yield batch
        if done == before:
            return


def _labelled_batches(
    context: EvaluationContext, split: str, task: str | None, index: Tensor | None
) -> Iterator[Batch]:
    for views, labels in read_split(context, split, task, index):
        named = labels >= 0
        if named.any():
            yield views[named].to(context.device), labels[named].to(context.device)


def split_layers(feature_map: FeatureMap, views: Tensor) -> dict[str, Tensor]:
    """Features float32 [B, D] and [B, L·D] by the layers that they are of; of rows without blocks the first
    alone."""
    values = feature_map.pool_tokens(feature_map.encode(views)).float()
    if not isinstance(feature_map, BlockMap) or not feature_map.blocks_width:
        return {"last": values}
    blocks = feature_map.blocks_width
    return {"last": values[:, :-blocks], "last4": values[:, -blocks:]}


def judge(
    context: EvaluationContext,
    split: str,
    task: str | None,
    maps: Sequence[FeatureMap],
    heads: Sequence[Mapping[str, ParallelHeads]],
    index: Tensor | None,
) -> list[dict[str, Tensor]]:
    """Of each map, by layers, whether each head is right on each sample, bool [m, H].

    Raises UserError where no sample has a label.
    """
    parts: list[dict[str, list[Tensor]]] = [{layers: [] for layers in of_map} for of_map in heads]
    context.progress.begin(f"heads on the {split} split", None)
    for views, labels in _labelled_batches(context, split, task, index):
        for feature_map, of_map, part in zip(maps, heads, parts, strict=True):
            for layers, values in split_layers(feature_map, views).items():
                part[layers].append(of_map[layers].right(values, labels).cpu())
    if not parts[0]["last"]:
        raise UserError(f"no sample of the {split} split has a label")
    return [{layers: torch.cat(hits) for layers, hits in part.items()} for part in parts]


@dataclass(frozen=True)
class Choice:
    """The best head on the part of train that was kept out."""

    rates: Mapping[str, int]
    """By layers, which rate."""
    layers: str


def choose_rates(right: Mapping[str, Tensor]) -> Choice:
    """The rate of each layers' head that is right most often, the first of equals, and the best layers."""
    counts = {layers: hits.sum(0) for layers, hits in right.items()}
    rates = {layers: int(count.argmax()) for layers, count in counts.items()}
    return Choice(rates, max(rates, key=lambda layers: int(counts[layers][rates[layers]])))


def _scores(right: Mapping[str, Tensor], choice: Choice, classes: int) -> dict[str, MetricScore]:
    scores = {
        layers: share_score(hits[:, choice.rates[layers]].double().tolist(), 1 / classes)
        for layers, hits in right.items()
    }
    return {
        "chosen": scores[choice.layers],
        "last": scores["last"],
        "last4": scores.get("last4", scores["last"]),
    }
