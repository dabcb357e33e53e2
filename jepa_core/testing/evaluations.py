"""Checks of evaluations that see the model (hook `jepa_evaluations`), on a recipe's model and random samples.

The samples are images (or clips) of the encoder's size with a caption, a class and a vector to regress, so
that most evaluations have something to say; one that has not is not asked further.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from jepa_core import plugins
from jepa_core.assembly import build_model
from jepa_core.errors import unknown
from jepa_core.evaluate.context import EvaluationContext
from jepa_core.evaluate.model_evaluations import Evaluate, call_evaluation
from jepa_core.evaluate.score_tables import TRAINED, EvaluationTable
from jepa_core.settings.describe import summary
from jepa_core.settings.evaluations import unwrap, with_settings
from jepa_core.settings.recipe import Recipe
from jepa_core.testing.outcomes import NotAsked, require, untouched_randomness
from jepa_core.types.sample import Field, Fields, Sample

TRAIN, HELD_OUT = 24, 16
WORDS = ("one", "two", "three")


class RandomSamples:
    """Images or clips of random pixels, each with a caption, a class, a vector and maps of its pixels."""

    classes: Sequence[str] = WORDS
    note = "random pixels"

    def __init__(self, view_shape: Sequence[int], count: int, seed: int) -> None:
        shape = tuple(view_shape)
        draw = torch.Generator().manual_seed(seed)
        self.views = torch.randint(0, 256, (count, *shape), generator=draw, dtype=torch.uint8)
        if len(shape) == 4:  # (C, T, H, W): frames come first in a source
            self.views = self.views.movedim(1, 2)
        self.states = torch.randn(count, 2, generator=draw)
        self.depths = 1 + torch.rand(count, *shape[-2:], generator=draw)
        self.kinds = torch.randint(0, len(WORDS), (count, *shape[-2:]), generator=draw)

    def __len__(self) -> int:
        return len(self.views)

    def __getitem__(self, index: int) -> Sample:
        word = WORDS[index % len(WORDS)]
        return Sample(
            {"image": self.views[index], "caption": f"number {index}, {word}"},
            targets={
                "state": self.states[index],
                "depth": self.depths[index],
                "kind": self.kinds[index],
            },
            label=index % len(WORDS),
            key=str(index),
        )


class RandomSource:
    """`RandomSamples` of a size as a source's splits."""

    def __init__(self, view_shape: Sequence[int]) -> None:
        self.view_shape = view_shape

    def split(self, name: str) -> RandomSamples:
        """`train`, or any other name for the samples that are scored."""
        count, seed = (TRAIN, 1) if name == "train" else (HELD_OUT, 2)
        return RandomSamples(self.view_shape, count, seed)

    def fields(self) -> Fields:
        """What the values are."""
        kind: Any = "image" if len(self.view_shape) == 3 else "clip"
        return {
            "views.image": Field(kind),
            "views.caption": Field("text"),
            "targets.state": Field("vector", (2,)),
            "targets.depth": Field("map", units="m"),
            "targets.kind": Field("map", names=WORDS),
        }


@dataclass(frozen=True)
class EvaluationCase:
    """An evaluation, and the recipe whose model it gets."""

    name: str
    function: Evaluate
    recipe: Recipe
    what: str = ""
    """What it measures, from its docstring."""

    @classmethod
    def of(cls, evaluation: Evaluate | str, recipe: Recipe) -> EvaluationCase:
        """From a function or a registered name. Raises UserError for an unknown name."""
        if not isinstance(evaluation, str):
            component = unwrap(evaluation)
            name = getattr(component, "__name__", "evaluation")
            return cls(name, with_settings(evaluation, None), recipe, summary(component))
        offered = plugins.registry().functions("evaluation")[0]
        if evaluation not in offered:
            raise unknown("evaluation", evaluation, offered)
        offer = offered[evaluation]
        return cls(evaluation, with_settings(offer, None), recipe, summary(unwrap(offer)))

    @cached_property
    def context(self) -> EvaluationContext:
        """The model, a twin of another seed, and random samples."""
        model, twin = build_model(self.recipe), build_model(self.recipe, seed=self.recipe.seed + 1)
        source: Any = RandomSource(model.encoder.view_shape())
        return EvaluationContext(self.recipe, model, twin, source, batch_size=8)

    def tables(self) -> list[EvaluationTable]:
        """What it answers. Raises NotAsked where it has nothing to say."""
        tables = call_evaluation(self.name, self.function, self.context)
        if not tables:
            raise NotAsked("it has nothing to say of this recipe's model on images with captions and vectors")
        return tables


def documented(case: EvaluationCase) -> None:
    """The function says what it measures."""
    require(bool(case.what), "the function has no docstring")


def own_row_first(case: EvaluationCase) -> None:
    """The first row of each table is the run's own, and a twin or control stands below it."""
    for table in case.tables():
        names = [row.name for row in table.rows]
        require(names[0] == TRAINED, f"the first row of {table.title} is {names[0]!r}; expected {TRAINED!r}")
        require(len(names) > 1, f"{table.title} has the row {TRAINED!r} alone; add the twin or a control")


def finite_scores(case: EvaluationCase) -> None:
    """Every score, chance level and standard error is a number; shares lie in 0 to 1."""
    for table in case.tables():
        for row in table.rows:
            for name, score in row.scores.items():
                numbers = [n for n in (score.value, score.se, score.chance) if n is not None]
                require(
                    all(math.isfinite(n) for n in numbers), f"{table.title}, {row.name}: {name} is {score}"
                )
                is_share = score.unit != "share" or 0 <= score.value <= 1
                require(is_share, f"{table.title}, {row.name}: {name} is a share of 1; got {score.value}")


def says_what_was_counted(case: EvaluationCase) -> None:
    """A table says on how many samples of which split it was scored, no more than there are."""
    for table in case.tables():
        require(table.split == case.context.split, f"{table.title} is of the split {table.split!r}")
        require(0 < table.count <= HELD_OUT, f"{table.title} counts {table.count} of {HELD_OUT} samples")


def repeatable(case: EvaluationCase) -> None:
    """The same model gives the same tables, and global randomness outside is not drawn from."""
    first = case.tables()
    with untouched_randomness():
        again = case.tables()
    require(first == again, "the second time the tables differ; draw from context.generator(…)")


def model_as_it_is(case: EvaluationCase) -> None:
    """Neither weights nor the mode of the models are changed."""
    models = list(case.context.models.values())
    before = [{name: value.clone() for name, value in model.state_dict().items()} for model in models]
    for model in models:
        model.train()
    case.tables()
    for model, state in zip(models, before, strict=True):
        changed = [name for name, value in model.state_dict().items() if not _same(value, state[name])]
        require(not changed, f"it changes {', '.join(changed[:3])} of a model")
        require(model.training, "it leaves a model in evaluation mode")


def _same(value: Tensor, other: Tensor) -> bool:
    return torch.equal(value, other)


CHECKS = (documented, own_row_first, finite_scores, says_what_was_counted, repeatable, model_as_it_is)
