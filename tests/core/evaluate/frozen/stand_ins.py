"""A model and a source whose answers are known: colours as classes, in memory, with one or two label sets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from jepa_core import build_model, load_recipe
from jepa_core.evaluate import EvaluationContext
from jepa_core.protocols import FeatureMap

CLASSES = ("dark", "middle", "bright")
SIZES = {"train": 120, "test": 60, "val": 30}


class Shades:
    """Images of noise around the brightness of their class; of the task `side`, the lighter half."""

    note = "shades"

    def __init__(self, split: str, task: str = "", classes: Sequence[str] | None = CLASSES) -> None:
        self.count, self.task = SIZES[split], task
        self.classes = ("left", "right") if task == "side" else classes
        draw = torch.Generator().manual_seed(len(split))
        self.images = torch.randint(0, 90, (self.count, 3, 16, 16), generator=draw, dtype=torch.uint8)
        self.sides = torch.randint(2, (self.count,), generator=draw)
        for index, image in enumerate(self.images):
            image += 60 * (index % 3)
            image[:, :, slice(0, 8) if self.sides[index] == 0 else slice(8, 16)] += 25
        self.read = 0

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        self.read += 1
        if self.classes is None:
            return self.images[index], -1
        return self.images[index], int(self.sides[index]) if self.task == "side" else index % 3


class ShadeSource:
    """One set of labels, or none."""

    def __init__(self, classes: Sequence[str] | None = CLASSES) -> None:
        self.classes = classes

    def split(self, name: str) -> Shades:
        return Shades(name, classes=self.classes)


class TwoTasks:
    """The shade and the lighter side, as `Tasks`, with a control that sees nothing."""

    def tasks(self) -> Sequence[str]:
        return ["shade", "side"]

    def labelled_samples(self, task: str, split: str, view_shape: Sequence[int]) -> Shades:
        return Shades(split, task)

    def split(self, name: str) -> Shades:
        raise AssertionError("tasks have their own samples")

    def controls(self, model: Any, role: Any, tokens: bool) -> Sequence[FeatureMap]:
        return [FeatureMap("nothing", "a constant", lambda views: torch.ones(len(views), 2))]


def make_context(recipe_file: Path, source: Any = None, **changes: Any) -> EvaluationContext:
    """A random model with a twin of another seed, on shades."""
    recipe = load_recipe(recipe_file, "evaluations.low_shot.draws=2", "evaluations.low_shot.l2=[0.1]")
    model, twin = build_model(recipe).eval(), build_model(recipe, seed=99).eval()
    context = EvaluationContext(recipe, model, twin, source or ShadeSource(), batch_size=32)
    return replace(context, **changes)
