"""Frozen features of a split with their labels, taken once for all evaluations of one `jepa eval`.

Rows are the trained encoder, the weights that it started with where those came from elsewhere, the random
twin, the raw pixels (or values), and what else the source offers as controls. Of an encoder the means over
tokens of its last blocks are kept beside its features, both from one forward pass.

What is unusual: each of the last blocks is layer-normed (token by token, without affine) before the mean, as
the encoder's own final norm does with its last block, so that blocks are of one size and the last one of them
says what the features say.

Axes: n samples of a split, B samples of a batch, D width, L blocks.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from jepa_core.errors import UserError
from jepa_core.evaluate.batches import samples_word
from jepa_core.evaluate.context import EvaluationContext
from jepa_core.evaluate.features import Features, extract, raw_features
from jepa_core.evaluate.model import INITIAL
from jepa_core.evaluate.samples import SplitLoader, choose_samples
from jepa_core.evaluate.score_tables import TRAINED, TWIN
from jepa_core.jepa import JEPA
from jepa_core.protocols import FeatureMap, Samples, Tasks
from jepa_core.settings.roles import encoder_name

BLOCKS = 4
"""Last blocks whose means are kept; all of an encoder that has fewer."""


@dataclass(frozen=True, eq=False)
class BankRow:
    """One kind of feature of every sample, on the CPU."""

    name: str
    description: str
    values: Tensor
    """float32 [n, D]: means over tokens."""
    blocks: Tensor | None
    """float32 [n, L·D]: means over tokens of the last L blocks, the last one at the end; None without
    blocks."""

    def take(self, index: Tensor) -> BankRow:
        """The same of some samples."""
        return replace(
            self, values=self.values[index], blocks=None if self.blocks is None else self.blocks[index]
        )


@dataclass(frozen=True, eq=False)
class Bank:
    """The features of a split by row, trained first, with labels int64 [n] (-1: none)."""

    rows: tuple[BankRow, ...]
    labels: Tensor
    classes: Sequence[str]
    """Names; empty without labels."""
    samples: str
    """What they are, in the plural."""

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, index: Tensor) -> Bank:
        """The same of some samples."""
        return replace(self, rows=tuple(row.take(index) for row in self.rows), labels=self.labels[index])


def tasks_of(context: EvaluationContext) -> Sequence[str | None]:
    """The names of the source's tasks; [None] where there is one set of labels."""
    return list(context.source.tasks()) if isinstance(context.source, Tasks) else [None]


def labelled_samples(context: EvaluationContext, split: str, task: str | None) -> Samples:
    """A split with the labels of a task."""
    if task is None or not isinstance(context.source, Tasks):
        return context.samples(split)
    return context.source.labelled_samples(task, split, view_shape(context))


def class_names(context: EvaluationContext, task: str | None) -> Sequence[str]:
    """The names of the classes. Raises UserError where there are none, or one."""
    classes = labelled_samples(context, "train", task).classes or ()
    if len(classes) < 2:
        has = f"one class, {classes[0]!r}" if classes else "none"
        raise UserError(f"it needs labels of two classes or more; {context.recipe.data.name!r} has {has}")
    return classes


def view_shape(context: EvaluationContext) -> tuple[int, ...]:
    """Of the views that the judged encoder reads, without B."""
    named = encoder_name(context.role)
    encoder = context.model.encoder_of(context.role) if named else context.model.encoder
    shape: tuple[int, ...] = tuple(encoder.view_shape())
    return shape


def read_split(
    context: EvaluationContext, split: str, task: str | None, index: Tensor | None = None
) -> SplitLoader:
    """Batches (views, labels) of a split for the judged encoder; of the samples `index`, by default those
    that the context keeps to."""
    samples, shape, data = labelled_samples(context, split, task), view_shape(context), context.recipe.data
    view = encoder_name(context.role)
    return SplitLoader(
        samples,
        context.recipe.transform,
        shape,
        max(1, context.batch_size // math.prod(shape[1:-2])),
        data.workers,
        choose_samples(len(samples), None, context.images) if index is None else index,
        data.max_corrupt,
        view,
        context.transforms if view else None,
    )


def bank_of(context: EvaluationContext, split: str, task: str | None = None) -> Bank:
    """The features of a split, from the context where an earlier evaluation took them.

    Raises UserError for features that are not finite, and where nothing can be read.
    """
    key = ("bank", split, task)
    if key not in context.memory:
        context.memory[key] = _take_features(context, split, task)
    bank: Bank = context.memory[key]
    return bank


def labelled_bank(context: EvaluationContext, split: str, task: str | None = None) -> Bank:
    """`bank_of`, of the samples that have a label. Raises UserError where there are none, or fewer than two
    classes."""
    class_names(context, task)
    bank = bank_of(context, split, task)
    named = bank.labels >= 0
    if not named.any():
        raise UserError(f"no sample of the {split} split has a label")
    if (most := int(bank.labels.max())) >= len(bank.classes):
        raise UserError(
            f"a label of the {split} split is {most}; expected 0 … {len(bank.classes) - 1}, or -1 without"
        )
    return bank if named.all() else bank.take(named.nonzero()[:, 0])


def train_and_held_out(context: EvaluationContext, task: str | None = None) -> tuple[Bank, Bank]:
    """The labelled features of the training split and of the scored one.

    Raises UserError where these are one split: what is fitted there cannot be scored there.
    """
    if context.split == "train":
        raise UserError("it is fitted on the train split; score it on another one (--split test or val)")
    held_out = labelled_bank(context, context.split, task)
    return labelled_bank(context, "train", task), held_out


def _take_features(context: EvaluationContext, split: str, task: str | None) -> Bank:
    loader = read_split(context, split, task)
    maps = row_maps(context)
    context.progress.begin(f"features of the {split} split", loader.images)
    features = extract(maps, loader, context.device, progress=context.progress)
    rows = tuple(_row(one, of) for one, of in zip(maps, features, strict=True))
    return Bank(rows, features[0].labels, loader.samples.classes or (), samples_word(view_shape(context)))


def _row(feature_map: FeatureMap, features: Features) -> BankRow:
    if not features.values.isfinite().all():
        raise UserError(f"the features of {feature_map.name!r} are not finite: the encoder has diverged")
    name, description, values = feature_map.name, feature_map.description, features.values
    if not isinstance(feature_map, BlockMap) or not feature_map.blocks_width:
        return BankRow(name, description, values, None)
    own, blocks = values.split([values.shape[1] - feature_map.blocks_width, feature_map.blocks_width], 1)
    return BankRow(name, description, own.contiguous(), blocks.contiguous())


@dataclass(frozen=True)
class BlockMap(FeatureMap):
    """Features [B, D + L·D] of an encoder: its own, then the means of its last L blocks."""

    blocks_width: int = 0
    """L·D."""


def row_maps(context: EvaluationContext) -> list[FeatureMap]:
    """A feature map for each row."""
    models = {TRAINED: context.model, INITIAL: context.initial, TWIN: context.twin}
    maps: list[FeatureMap] = [
        block_map(model, name, context.role) for name, model in models.items() if model is not None
    ]
    maps.append(raw_features(context.model, context.role, view_shape(context)))
    if isinstance(context.source, Tasks):
        maps += context.source.controls(context.model, context.role, False)
    return maps


def block_map(model: Any, name: str, role: str) -> BlockMap:
    """Features of a role's encoder, and the means over tokens of its last blocks, from one pass."""
    encoder = model.encoder_of(role)
    count = min(BLOCKS, encoder.depth)
    layers = tuple(range(encoder.depth - count + 1, encoder.depth + 1))
    own_way = type(model).features is not JEPA.features

    def encode(views: Tensor) -> Tensor:
        tokens = encoder(views, layers=layers) if layers else encoder(views)
        first = model.features(views, role=role) if own_way else tokens.mean()
        means = [
            replace(tokens, values=F.layer_norm(layer, layer.shape[-1:]), layers=()).mean()
            for layer in tokens.layers
        ]
        return torch.cat([first, *means], 1)

    module = model if isinstance(model, nn.Module) else None
    described = f"{role} encoder, mean over tokens"
    return BlockMap(name, described, encode, module, blocks_width=count * encoder.width)


def features_of(feature_map: FeatureMap, views: Tensor) -> Tensor:
    """The features [B, D] of some views that a `BankRow` has as `values`, on the CPU."""
    values = feature_map.pool_tokens(feature_map.encode(views).float().cpu())
    if isinstance(feature_map, BlockMap) and feature_map.blocks_width:
        return values[:, : -feature_map.blocks_width]
    return values
