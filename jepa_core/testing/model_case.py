"""`ModelCase`: a model as its recipe trains it, on random inputs, for the checks of whole models."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from jepa_core.assembly import build_model, random_batch, sample_masks
from jepa_core.data.examples import offers_examples
from jepa_core.errors import UserError
from jepa_core.jepa import JEPA, Output
from jepa_core.objectives.prediction import SmoothL1
from jepa_core.optimizers.adamw import AdamW
from jepa_core.settings.base import SourceSettings, VariantSettings
from jepa_core.settings.recipe import Recipe
from jepa_core.settings.sections import TrainSettings
from jepa_core.target_updates import Ema
from jepa_core.testing.process_pair import PROCESSES
from jepa_core.testing.small_parts import SmallEncoder, SmallMasker, SmallPredictor
from jepa_core.testing.subject import Subject
from jepa_core.training.parameter_groups import freeze_groups
from jepa_core.training.step import TrainingStep
from jepa_core.types.batch import Batch
from jepa_core.types.mask_plan import MaskPlan

STEPS, BATCH = 4, 4

Batches = Callable[[int, torch.Generator], Batch]
"""(number of samples, generator) to a batch."""


@dataclass(frozen=True)
class ModelCase:
    """A model as its recipe trains it, on random inputs."""

    recipe: Recipe
    build: Callable[[int], JEPA]
    """Seed to a model with weights drawn from it."""
    batches: Batches | None = None
    """Makes batches for a variant that needs its own; by default one view of normal random numbers."""

    def batch(self, model: JEPA, step: int = 0) -> Batch:
        """The batch of a step."""
        draw = torch.Generator().manual_seed(step)
        if self.batches is not None:
            return self.batches(BATCH, draw)
        if _is_described(model, self.recipe):
            return random_batch(self.recipe, model, BATCH, draw)
        views = {"image": torch.randn(BATCH, *model.encoder.view_shape(), generator=draw)}
        for name, encoder in model.encoders.items():
            views[name] = torch.randn(BATCH, *encoder.view_shape(), generator=draw)
        return Batch(views, labels=torch.arange(BATCH) % 2)

    def inputs(self, model: JEPA, step: int = 0, rank: int = 0, ranks: int = 1) -> tuple[Batch, MaskPlan]:
        """The batch and the masks of one of the ranks of a step."""
        batch = self.batch(model, step * ranks + rank)
        return batch, sample_masks(model, BATCH, step=step, rank=rank, side=batch.side)

    def forward(self) -> tuple[JEPA, Output]:
        """A model in training mode, and its output for the first batch."""
        model = self.build(0).train()
        return model, model(*self.inputs(model))

    def training(self, seed: int = 0) -> TrainingStep:
        """The training step of a new model: fp32, on the CPU."""
        return TrainingStep(self.build(seed), self.plain_recipe(), STEPS, 0)

    def plain_recipe(self) -> Recipe:
        """The recipe with fp32, without compilation and without guards against bad steps."""
        train = self.recipe.train.model_copy(
            update={"precision": "fp32", "compile": False, "spike_guard": None, "on_nonfinite": "stop"}
        )
        return replace(self.recipe, train=train)

    def micro_batches(self, steps: int = 2) -> list[list[tuple[Batch, MaskPlan]]]:
        """For each step the batch and the masks of each of two ranks."""
        model = self.build(0)
        return [
            [self.inputs(model, step, rank, PROCESSES) for rank in range(PROCESSES)] for step in range(steps)
        ]

    def steps(self, step: TrainingStep, until: int) -> list[Tensor]:
        """Trains until `until` steps are done; returns their losses."""
        losses = []
        while step.done < until:
            losses.append(step(*self.inputs(step.model, step.done)).loss.detach())
        return losses


def _is_described(model: JEPA, recipe: Recipe) -> bool:
    """Whether the source has more values than one view of which loaders make crops, or offers its own."""
    if not model.fields:
        return False
    crops = {f"views.{name}" for name in ("image", "video", *recipe.transform.views)}
    return not model.fields.keys() <= crops or offers_examples(recipe.data)


def of_recipe(recipe: Recipe, batches: Batches | None = None) -> ModelCase:
    """The recipe's own model."""

    def build(seed: int) -> JEPA:
        model = build_model(recipe, seed=seed)
        freeze_groups(model, recipe.optimizer)
        return model

    return ModelCase(recipe, build, batches)


def of_variant(subject: Subject, batches: Batches | None = None) -> ModelCase:
    """The variant with a small encoder, predictor and masker, EMA and smooth L1.

    Raises UserError where it needs other parts; its recipes can be checked then.
    """
    named = subject.config.named_encoders if isinstance(subject.config, VariantSettings) else ()
    if named:
        raise UserError(f"it needs [encoders.{named[0]}], which only a recipe says; check_recipe checks that")
    configs: dict[str, Any] = {
        "encoder": SmallEncoder.Config(name="small"),
        "predictor": SmallPredictor.Config(name="small"),
        "masker": SmallMasker.Config(name="small"),
        "target_update": Ema.Config(name="ema"),
        "objective": SmoothL1.Config(name="smooth_l1"),
    }
    recipe = Recipe(
        name=subject.name,
        seed=0,
        variant=subject.config,
        data=SourceSettings(name="none"),
        transform=None,  # type: ignore[arg-type]  # nothing is read
        optimizer=AdamW.Config(name="adamw"),
        train=TrainSettings(steps=STEPS, batch_size=BATCH, device="cpu"),
        **configs,
    )

    def build(seed: int) -> JEPA:
        torch.manual_seed(seed)
        encoder: Any = SmallEncoder(configs["encoder"])
        model: JEPA = subject.component(
            subject.config,
            encoder=encoder,
            predictor=SmallPredictor(configs["predictor"], encoder, encoder.width),
            masker=SmallMasker(configs["masker"]),
            target_update=Ema(configs["target_update"]),
            objectives={"prediction": SmoothL1(configs["objective"])},
        )
        return model

    with torch.random.fork_rng(devices=[]):
        build(0)
    return ModelCase(recipe, build, batches)
