"""`jepa bench step`: one training step by stages, as a whole, and beside the same step another way.

What is unusual: a way is judged by model FLOPs utilisation against the matrix product that this machine was
measured at, not against a data sheet. All ways get the same images and the same masks; images are random and
lie on the device, since decoding them is the data workers' time and not the step's.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import torch

from jepa_core import plugins
from jepa_core.assembly import build_model, random_batch, sample_masks
from jepa_core.bench.stages import split
from jepa_core.errors import UserError
from jepa_core.evaluate.flops import step_flops
from jepa_core.jepa import JEPA
from jepa_core.runtime.devices import pick_device
from jepa_core.runtime.malloc import keep_freed_blocks
from jepa_core.settings.recipe import Recipe
from jepa_core.training.build import make_step
from jepa_core.training.cuda_graphs import WARM
from jepa_core.training.plan_buckets import without_cache
from jepa_core.training.step import TrainingStep
from jepa_core.types.batch import Batch
from jepa_core.types.mask_plan import MaskPlan
from jepa_kernels.bench.ceilings import Ceilings

OFFICIAL = "official"
"""The peer, of those that plugins offer by `jepa_peers`, that `--official` asks for."""


@dataclass(frozen=True)
class Way:
    """One way to do the step: seconds, images of it, utilisation (0 to 1), and on a GPU the peak bytes above
    weights and optimizer."""

    name: str
    seconds: float
    images: int
    utilisation: float
    peak: int | None


@dataclass(frozen=True)
class Report:
    """What was measured: seconds of each stage, operations of a step, and the ways, ours first."""

    what: str
    operations: int
    stages: dict[str, float]
    ways: list[Way]

    def facts(self) -> dict[str, Any]:
        """As plain values for JSON."""
        return asdict(self)


class Inputs:
    """Random images in a recipe's size, on the device, and a mask plan for each step."""

    def __init__(self, recipe: Recipe, model: JEPA, device: torch.device) -> None:
        self.model, self.device, self.seed = model, device, recipe.seed
        self.size = recipe.train.micro_batch or recipe.train.batch_size
        generator = torch.Generator().manual_seed(recipe.seed)
        images = random_batch(recipe, model, self.size, generator)
        self.host = images.pin_memory() if device.type == "cuda" else images
        self.drawn = 0

    def draw(self) -> tuple[Batch, MaskPlan]:
        """The next batch: masks drawn and moved, images moved."""
        plan = sample_masks(self.model, self.size, self.seed, self.drawn)
        self.drawn += 1
        images = self.host.to(self.device, non_blocking=True)
        return images, plan.to(self.device, non_blocking=True)


def measure_step(recipe: Recipe, ceilings: Ceilings, steps: int, official: bool = False) -> Report:
    """Measures `steps` training steps of one micro-batch each, on the recipe's device; with
    `train.cuda_graph` as they are and recorded.

    Raises UserError where the recipe cannot be trained, and with `official` where no plugin offers that way
    or the way does not do what the recipe asks for.
    """
    keep_freed_blocks()
    device = pick_device(recipe.train.device)
    model = build_model(recipe).to(device)
    training = TrainingStep(model, recipe, total_steps=1_000_000, warmup_steps=0)
    captured = make_step(model, recipe, 1_000_000, 0) if recipe.train.cuda_graph else None
    inputs = Inputs(recipe, model, device)
    batch, plan = inputs.draw()
    peer = _peer(recipe, model, plan) if official else None
    operations = step_flops(model, batch, plan)
    stages = split(training, inputs.draw, steps)
    calls: dict[str, Callable[[], Any]] = {"jepa-core": lambda: training(batch, without_cache(plan))}
    if captured is not None:
        calls["jepa-core, CUDA graphs"] = lambda: captured(batch, plan)
    if peer is not None:
        calls["the released code's way"] = lambda: peer(batch, plan)
    ways = []
    for name, call in calls.items():
        seconds, peak = _timed(call, device, steps)
        used = operations / seconds / ceilings.matmul
        ways.append(Way(name, seconds, inputs.size, used, peak))
    return Report(_described(recipe, inputs, training), operations, stages, ways)


def _peer(recipe: Recipe, model: JEPA, plan: MaskPlan) -> Callable[[Batch, MaskPlan], Any]:
    offered = plugins.registry().peers()
    if OFFICIAL not in offered:
        raise UserError("no loaded plugin offers the released code's way of a step (hook jepa_peers)")
    step: Callable[[Batch, MaskPlan], Any] = offered[OFFICIAL](recipe, model, plan)
    return step


def _timed(call: Callable[[], Any], device: torch.device, steps: int) -> tuple[float, int | None]:
    """(seconds of a call, the mean of `steps` in a row; peak bytes above what was there, on a GPU)."""
    for _ in range(WARM + 1):
        call()
    on_gpu = device.type == "cuda"
    if on_gpu:
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
    start = time.perf_counter()
    for _ in range(steps):
        call()
    if on_gpu:
        torch.cuda.synchronize(device)
    seconds = (time.perf_counter() - start) / steps
    return seconds, torch.cuda.max_memory_allocated(device) - before if on_gpu else None


def _described(recipe: Recipe, inputs: Inputs, training: TrainingStep) -> str:
    precision = "bf16" if training.bf16 else "fp32"
    return f"{recipe.name}, {inputs.size} images a step, {precision}, {inputs.device}"
