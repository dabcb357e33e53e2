"""What is asked of a whole model in training: of a variant among small parts, or of a recipe as it stands.

Axes: B samples, D width.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from jepa_core.assembly import build_model, sample_masks
from jepa_core.jepa import JEPA, Output
from jepa_core.objectives import SmoothL1
from jepa_core.optim import TrainingStep, check_coverage, parameter_groups
from jepa_core.recipes import Recipe
from jepa_core.settings import OptimizerSettings, SourceSettings, TrainSettings
from jepa_core.target_updates import Ema
from jepa_core.testing.common import Subject
from jepa_core.testing.outcomes import NotAsked, require, require_equal, require_same, untouched_randomness
from jepa_core.testing.pair import PROCESSES
from jepa_core.testing.parts import SmallEncoder, SmallMasker, SmallPredictor
from jepa_core.testing.together import two_processes
from jepa_core.types import Batch, MaskPlan

STEPS, BATCH = 4, 4

Batches = Callable[[int, torch.Generator], Batch]
"""A batch of so many samples, drawn from a generator."""


@dataclass(frozen=True)
class ModelCase:
    """A model as its recipe trains it, on random inputs."""

    recipe: Recipe
    build: Callable[[int], JEPA]
    """The model, its weights drawn from a seed."""
    batches: Batches | None = None
    """Batches of the variant's own; by default one view of normal random numbers."""

    def batch(self, model: JEPA, step: int = 0) -> Batch:
        """The batch of a step."""
        draw = torch.Generator().manual_seed(step)
        if self.batches is not None:
            return self.batches(BATCH, draw)
        return Batch.of(torch.randn(BATCH, *model.encoder.view_shape(), generator=draw))

    def forward(self) -> tuple[JEPA, Output]:
        """A model in training, and its output of the first batch."""
        model = self.build(0).train()
        return model, model(self.batch(model), sample_masks(model, BATCH))

    def training(self, seed: int = 0) -> TrainingStep:
        """The training step of a fresh model: fp32, on the CPU."""
        return TrainingStep(self.build(seed), self.plain_recipe(), STEPS, 0)

    def plain_recipe(self) -> Recipe:
        """The recipe, to be trained in fp32 without guards."""
        train = self.recipe.train.model_copy(
            update={"precision": "fp32", "compile": False, "spike_guard": None, "on_nonfinite": "stop"}
        )
        return replace(self.recipe, train=train)

    def micro_batches(self, steps: int = 2) -> list[list[tuple[Batch, MaskPlan]]]:
        """For each of so many steps the batch and the masks of each rank of two."""
        model = self.build(0)
        return [
            [
                (self.batch(model, step * PROCESSES + rank), sample_masks(model, BATCH, step=step, rank=rank))
                for rank in range(PROCESSES)
            ]
            for step in range(steps)
        ]

    def steps(self, step: TrainingStep, until: int) -> list[Tensor]:
        """Trains up to so many steps; the losses."""
        losses = []
        while step.done < until:
            plan = sample_masks(step.model, BATCH, step=step.done)
            losses.append(step(self.batch(step.model, step.done), plan).loss.detach())
        return losses


def of_recipe(recipe: Recipe, batches: Batches | None = None) -> ModelCase:
    """The recipe's own model."""
    return ModelCase(recipe, lambda seed: build_model(recipe, seed=seed), batches)


def of_variant(subject: Subject, batches: Batches | None = None) -> ModelCase:
    """The variant with a small encoder, predictor and masker, EMA and smooth L1.

    Raises UserError where it wants other parts: its recipes are then what can be checked.
    """
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
        optimizer=OptimizerSettings(),
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


def finite_loss(case: ModelCase) -> None:
    """The loss is one finite number, the weighted sum of its terms."""
    model, output = case.forward()
    require(output.loss.dim() == 0 and bool(output.loss.isfinite()), f"the loss is {output.loss}")
    expected = sum(model.objectives[name].config.weight * term for name, term in output.terms.items())
    require_equal(output.loss.detach(), torch.as_tensor(expected).detach(), "loss and terms", 1e-5)


def pairs_in_order(case: ModelCase) -> None:
    """Predictions and targets run along the plan's pairs, at the same places, in the same shape."""
    _, output = case.forward()
    step = output.step
    made, wanted = len(step.predictions), len(step.targets)
    require(made == wanted, f"{made} predictions for {wanted} targets")
    if not step.plan.empty:
        require(wanted == len(step.plan.pairs), f"{wanted} targets for {len(step.plan.pairs)} pairs")
    for number, (guess, target) in enumerate(zip(step.predictions, step.targets, strict=True)):
        shapes = tuple(guess.values.shape), tuple(target.values.shape)
        require(shapes[0] == shapes[1], f"pair {number}: prediction {shapes[0]}, target {shapes[1]}")
        same = torch.equal(guess.at.index, target.at.index) and torch.equal(
            guess.at.lengths, target.at.lengths
        )
        require(same, f"pair {number}: prediction and target stand at other places")


def target_detached(case: ModelCase) -> None:
    """No gradient reaches targets or target encoder, unless the settings ask for it."""
    model, output = case.forward()
    if model.config.target_gradient:
        raise NotAsked("its settings let the loss move the target branch (target_gradient)")
    attached = [n for n, target in enumerate(output.step.targets) if target.values.requires_grad]
    require(not attached, f"the targets of pairs {attached} carry a gradient")
    output.loss.backward()
    reached = [name for name, p in _target(model).named_parameters() if p.grad is not None]
    require(not reached, f"a gradient reaches the target encoder: {', '.join(reached[:3])}")


def target_still(case: ModelCase) -> None:
    """Forward, backward and optimizer leave the target encoder as it is; only `update_target` moves it."""
    model = case.build(0).train()
    before = [p.detach().clone() for p in _target(model).parameters()]
    optimizer = torch.optim.AdamW(parameter_groups(model), lr=0.1)
    model(case.batch(model), sample_masks(model, BATCH)).loss.backward()
    optimizer.step()
    after = [p.detach() for p in _target(model).parameters()]
    require_same(after, before, "the target encoder moved before update_target was called")


def in_the_optimizer(case: ModelCase) -> None:
    """Every parameter that the loss depends on is in exactly one group of the optimizer."""
    model, output = case.forward()
    optimizer = torch.optim.AdamW(parameter_groups(model))
    check_coverage(model, optimizer)
    held = {id(p) for group in optimizer.param_groups for p in group["params"]}
    names = {id(p): name for name, p in model.named_parameters()}
    for leaf in _leaves(output.loss):
        where = names.get(id(leaf), "one that no module registers")
        said = f"a parameter {list(leaf.shape)} would never be trained: {where}"
        require(id(leaf) in held, said)


def all_trained(case: ModelCase) -> None:
    """Every trainable parameter gets a gradient (several processes wait for each)."""
    model, output = case.forward()
    output.loss.backward()
    idle = [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None]
    require(not idle, f"without a gradient: {', '.join(idle[:5])}")


def goes_on(case: ModelCase) -> None:
    """Saved, loaded into a fresh model and trained on, it is bit for bit what it is without a stop."""
    through = case.training()
    case.steps(through, STEPS - 1)
    file = io.BytesIO()
    torch.save((through.model.state_dict(), through.state_dict()), file)
    file.seek(0)
    weights, state = torch.load(file, weights_only=True)
    resumed = case.training(seed=1)
    resumed.model.load_state_dict(weights)
    resumed.load_state_dict(state)
    expected, found = case.steps(through, STEPS), case.steps(resumed, STEPS)
    require_same(found, expected, f"after resuming the loss of step {STEPS} is another")
    ours, theirs = resumed.model.state_dict(), through.model.state_dict()
    changed = [name for name in theirs if not torch.equal(ours[name], theirs[name])]
    require(not changed, f"after resuming, step {STEPS} gives other weights: {', '.join(changed[:3])}")


def seed_alone(case: ModelCase) -> None:
    """Two steps follow from the seed alone, and draw from no global randomness."""
    first, second = case.training(), case.training()
    with untouched_randomness():
        expected = case.steps(first, 2)
    torch.manual_seed(99)
    require_same(case.steps(second, 2), expected, "with another global random state the losses are others")


def features(case: ModelCase) -> None:
    """`features` gives [B, D] of whole views, of both encoders, without gradient."""
    model = case.build(0).eval()
    view = next(iter(case.batch(model).views.values()))
    for role in ("target", "context"):
        found = model.features(view, role=role)
        size = (len(view), model.encoder.width)
        require(tuple(found.shape) == size, f"features of the {role} encoder are {size}; got {found.shape}")
        require(not found.requires_grad, f"features of the {role} encoder carry a gradient")


def _target(model: JEPA) -> nn.Module:
    if model.target_encoder is None:
        raise NotAsked("the online encoder is its own target")
    target: nn.Module = model.target_encoder
    return target


def _leaves(loss: Tensor) -> Iterator[Tensor]:
    """Every tensor that asks for a gradient and that the loss was computed from."""
    nodes, seen = [loss.grad_fn], set()
    while nodes:
        node = nodes.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if hasattr(node, "variable"):  # torch's AccumulateGrad
            yield node.variable
        nodes += [following for following, _ in node.next_functions]


CHECKS = (
    finite_loss,
    pairs_in_order,
    target_detached,
    target_still,
    in_the_optimizer,
    all_trained,
    goes_on,
    seed_alone,
    two_processes,
    features,
)
