"""`jepa bench step`: the time of one training step, by stages and as a whole, beside other implementations.

What is unusual: an implementation is judged by model FLOPs utilisation relative to the matrix product rate
measured on this machine, not to a data sheet. All implementations get the same images and masks. Images are
random and already on the device, since decoding them is the data workers' time and not the step's.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import torch

from jepa_core import plugins
from jepa_core.assembly import build_model, random_batch, sample_masks
from jepa_core.bench.stages import measure_stages
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
"""Name of the implementation, among those of the hook `jepa_peers`, that `--official` selects."""


@dataclass(frozen=True)
class Way:
    """One implementation of the step: seconds and images of a step, utilisation (0 to 1), and on a GPU the
    peak memory in bytes above weights and optimizer."""

    name: str
    seconds: float
    images: int
    utilisation: float
    peak: int | None


@dataclass(frozen=True)
class Report:
    """The measurements: seconds of each stage, operations of a step, and the implementations, ours first."""

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
        """The next batch and its masks, moved to the device."""
        plan = sample_masks(self.model, self.size, self.seed, self.drawn, side=self.host.side)
        self.drawn += 1
        images = self.host.to(self.device, non_blocking=True)
        return images, plan.to(self.device, non_blocking=True)


def measure_step(recipe: Recipe, ceilings: Ceilings, steps: int, official: bool = False) -> Report:
    """Measures `steps` training steps of one micro-batch each, on the recipe's device; with
    `train.cuda_graph` both without and with CUDA graphs.

    Raises UserError where the recipe cannot be trained, and with `official` where no plugin offers that
    implementation or it cannot train this recipe.
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
    stages = measure_stages(training, inputs.draw, steps)
    calls: dict[str, Callable[[], Any]] = {"jepa-core": lambda: training(batch, without_cache(plan))}
    if captured is not None:
        calls["jepa-core, CUDA graphs"] = lambda: captured(batch, plan)
    if peer is not None:
        calls["the released code's way"] = lambda: peer(batch, plan)
    ways = []
    for name, call in calls.items():
        seconds, peak = _measure_call(call, device, steps)
        utilisation = operations / seconds / ceilings.matmul
        ways.append(Way(name, seconds, inputs.size, utilisation, peak))
    return Report(_description(recipe, inputs, training), operations, stages, ways)


def _peer(recipe: Recipe, model: JEPA, plan: MaskPlan) -> Callable[[Batch, MaskPlan], Any]:
    peers = plugins.registry().peers()
    if OFFICIAL not in peers:
        raise UserError("no loaded plugin offers the released code's way of a step (hook jepa_peers)")
    step: Callable[[Batch, MaskPlan], Any] = peers[OFFICIAL](recipe, model, plan)
    return step


def _measure_call(call: Callable[[], Any], device: torch.device, steps: int) -> tuple[float, int | None]:
    """(mean seconds of a call over `steps` calls; peak bytes above those allocated before, on a GPU)."""
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


def _description(recipe: Recipe, inputs: Inputs, training: TrainingStep) -> str:
    precision = "bf16" if training.bf16 else "fp32"
    return f"{recipe.name}, {inputs.size} images a step, {precision}, {inputs.device}"
