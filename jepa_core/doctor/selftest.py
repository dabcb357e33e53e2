"""The self-test: attention against its definition, two training steps on random pixels, a checkpoint.

Trained is every recipe called `selftest`, a tiny one, that a plugin brings. Its data are not read. Random
numbers come from generators of their own, so the global random states stay as they are.
"""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import torch

from jepa_core.assembly import build_model, random_batch, sample_masks
from jepa_core.doctor.check import Check
from jepa_core.doctor.kernels import CASES, Case
from jepa_core.errors import UserError
from jepa_core.recipes.files import names
from jepa_core.recipes.load import load_recipe
from jepa_core.runs import checkpoints
from jepa_core.runtime.devices import pick_device
from jepa_core.runtime.plugin_calls import PluginError, call_plugin
from jepa_core.settings.recipe import Recipe
from jepa_core.training.build import training_step
from jepa_core.training.step import TrainingStep
from jepa_kernels import block_attention

STEPS = 2
TOLERANCE = {torch.bfloat16: 3e-2, torch.float32: 1e-5}
"""Largest error of attention on normal random input; a few units in the last place."""


def run() -> Iterator[Check]:
    """Attention, then every `selftest` recipe, on the device that `train.device = "auto"` chooses."""
    device = pick_device("auto")
    yield _check_attention(device)
    recipes = [name for name in names() if name.endswith("/selftest")]
    for name in recipes:
        try:
            yield from call_plugin(_check_recipe, name, device)
        except PluginError as error:
            text = error.message if isinstance(error.raised, UserError) else str(error)
            advice = f"mend or update that plugin, or leave it out: JEPA_DISABLE_PLUGINS={name.split('/')[0]}"
            yield Check("self-test", "training", "problem", f"{name}: {text}", advice)
    if not recipes:
        text = "no loaded plugin has a recipe called selftest, so no training step was tried"
        yield Check("self-test", "training", "warning", text, "install or enable a plugin: `jepa plugins`")


def _check_attention(device: torch.device) -> Check:
    errors = {case.name: attention_error(case, device) for case in CASES}
    worst = max(errors, key=lambda name: errors[name])
    limit = TOLERANCE[CASES[0].qkv(device).dtype]
    text = f"on {device} at most {errors[worst]:.0e} from its float64 definition ({worst})"
    if errors[worst] <= limit:
        return Check("self-test", "attention", "ok", text, details={"errors": errors})
    advice = "do not train on this device; set encoder.attention=reference, and please report it"
    text += f"; at most {limit:.0e} is expected"
    return Check("self-test", "attention", "problem", text, advice, {"errors": errors})


@torch.no_grad()
def attention_error(case: Case, device: torch.device) -> float:
    """Largest difference of what `impl = "auto"` chooses in training from the definition in float64."""
    with torch.enable_grad():
        result = block_attention(case.qkv(device), case.layout(device))
    cpu = torch.device("cpu")
    exact = case.qkv(device).cpu().double()
    expected = block_attention(exact, case.layout(cpu), impl="reference")
    return float((result.detach().cpu().double() - expected).abs().max())


def _check_recipe(name: str, device: torch.device) -> list[Check]:
    """Training of one recipe and, where its losses are finite, a checkpoint of it."""
    started = time.perf_counter()
    recipe = load_recipe(name)
    step = training_step(build_model(recipe).to(device), recipe)
    losses = train(step, recipe)
    seconds = time.perf_counter() - started
    text = f"{len(losses)} steps of {name} on {device} in {seconds:.1f} s, loss {losses[-1]:.3f}"
    details = {"losses": [loss if math.isfinite(loss) else str(loss) for loss in losses], "seconds": seconds}
    if not all(map(math.isfinite, losses)):
        advice = "set train.precision=fp32 and look again; if it stays, please report it"
        return [Check("self-test", "training", "problem", f"{text}: not finite", advice, details)]
    trained = Check("self-test", "training", "ok", text, details=details)
    with tempfile.TemporaryDirectory(prefix="jepa-doctor-") as folder:
        return [trained, _check_checkpoint(step, recipe, Path(folder))]


def train(step: TrainingStep, recipe: Recipe) -> list[float]:
    """The losses of `STEPS` steps on random pixels."""
    generator = torch.Generator().manual_seed(recipe.seed)
    size = recipe.train.batch_size
    losses = []
    for number in range(STEPS):
        batch = random_batch(recipe, step.model, size, generator)
        plan = sample_masks(step.model, size, recipe.seed, number, side=batch.side)
        losses.append(float(step(batch, plan).loss))
    return losses


def _check_checkpoint(step: TrainingStep, recipe: Recipe, folder: Path) -> Check:
    """Saves a checkpoint, finds it, checks its hashes and loads it into a fresh model."""
    weights = step.model.state_dict()
    checkpoints.save(folder, step.done, weights, step.state_dict(), keep=1)
    checkpoint, _ = checkpoints.latest_checkpoint(folder)
    model = build_model(recipe, seed=recipe.seed + 1)
    checkpoints.load_weights(checkpoint, model)
    again = training_step(model, recipe)
    again.load_state_dict(checkpoints.load_state(checkpoint))
    equal = all(torch.equal(value, weights[name].cpu()) for name, value in model.state_dict().items())
    if equal and again.done == step.done:
        return Check("self-test", "checkpoint", "ok", "written, and read back bit for bit")
    text = f"what was read from {folder.parent} is not what was written"
    return Check("self-test", "checkpoint", "problem", text, "check that disk, or set TMPDIR to another")
