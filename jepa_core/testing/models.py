"""Checks of a whole model in training: of a variant with small parts, or of a recipe's own model.

Axes: B samples, D width.
"""

from __future__ import annotations

import io
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from jepa_core.jepa import JEPA
from jepa_core.testing.distributed import two_processes
from jepa_core.testing.model_case import BATCH, STEPS, ModelCase
from jepa_core.testing.outcomes import NotAsked, require, require_equal, require_same, untouched_randomness
from jepa_core.training.optimizer import check_coverage
from jepa_core.training.parameter_groups import parameter_groups


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
    predictions, targets = len(step.predictions), len(step.targets)
    require(predictions == targets, f"{predictions} predictions for {targets} targets")
    if not step.plan.empty:
        require(targets == len(step.plan.pairs), f"{targets} targets for {len(step.plan.pairs)} pairs")
    for number, (prediction, target) in enumerate(zip(step.predictions, step.targets, strict=True)):
        shapes = tuple(prediction.values.shape), tuple(target.values.shape)
        require(shapes[0] == shapes[1], f"pair {number}: prediction {shapes[0]}, target {shapes[1]}")
        equal = torch.equal(prediction.at.index, target.at.index) and torch.equal(
            prediction.at.lengths, target.at.lengths
        )
        require(equal, f"pair {number}: prediction and target stand at other places")


def target_detached(case: ModelCase) -> None:
    """No gradient reaches targets or target encoder, unless the settings ask for it."""
    model, output = case.forward()
    if model.config.target_gradient:
        raise NotAsked("its settings let the loss move the target branch (target_gradient)")
    attached = [n for n, target in enumerate(output.step.targets) if target.values.requires_grad]
    require(not attached, f"the targets of pairs {attached} carry a gradient")
    output.loss.backward()
    targets = _targets(model).named_parameters()
    touched = [name for name, p in targets if p.grad is not None]
    require(not touched, f"a gradient reaches the target encoder: {', '.join(touched[:3])}")


def target_still(case: ModelCase) -> None:
    """Forward, backward and optimizer leave target encoders as they are; only `update_target` moves them."""
    model = case.build(0).train()
    before = [p.detach().clone() for p in _targets(model).parameters()]
    optimizer = torch.optim.AdamW(parameter_groups(model, case.recipe.optimizer), lr=0.1)
    model(*case.inputs(model)).loss.backward()
    optimizer.step()
    after = [p.detach() for p in _targets(model).parameters()]
    require_same(after, before, "the target encoder moved before update_target was called")


def in_the_optimizer(case: ModelCase) -> None:
    """Every parameter that the loss depends on is in exactly one group of the optimizer."""
    model, output = case.forward()
    optimizer = torch.optim.AdamW(parameter_groups(model, case.recipe.optimizer))
    check_coverage(model, optimizer)
    optimized = {id(p) for group in optimizer.param_groups for p in group["params"]}
    names = {id(p): name for name, p in model.named_parameters()}
    for leaf in _leaves(output.loss):
        name = names.get(id(leaf), "one that no module registers")
        message = f"a parameter {list(leaf.shape)} would never be trained: {name}"
        require(id(leaf) in optimized, message)


def all_trained(case: ModelCase) -> None:
    """Every trainable parameter gets a gradient (several processes wait for each)."""
    model, output = case.forward()
    output.loss.backward()
    untouched = [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None]
    require(not untouched, f"without a gradient: {', '.join(untouched[:5])}")


def goes_on(case: ModelCase) -> None:
    """Saved, loaded into a fresh model and trained on, it is bit for bit what it is without a stop."""
    uninterrupted = case.training()
    case.steps(uninterrupted, STEPS - 1)
    file = io.BytesIO()
    torch.save((uninterrupted.model.state_dict(), uninterrupted.state_dict()), file)
    file.seek(0)
    weights, state = torch.load(file, weights_only=True)
    resumed = case.training(seed=1)
    resumed.model.load_state_dict(weights)
    resumed.load_state_dict(state)
    expected, actual = case.steps(uninterrupted, STEPS), case.steps(resumed, STEPS)
    require_same(actual, expected, f"after resuming the loss of step {STEPS} is another")
    resumed_state, expected_state = resumed.model.state_dict(), uninterrupted.model.state_dict()
    changed = [name for name in expected_state if not torch.equal(resumed_state[name], expected_state[name])]
    require(not changed, f"after resuming, step {STEPS} gives other weights: {', '.join(changed[:3])}")


def seed_alone(case: ModelCase) -> None:
    """Two steps follow from the seed alone, and draw from no global randomness."""
    first, second = case.training(), case.training()
    with untouched_randomness():
        expected = case.steps(first, 2)
    torch.manual_seed(99)
    require_same(case.steps(second, 2), expected, "with another global random state the losses are others")


def features(case: ModelCase) -> None:
    """`features` gives [B, D] of whole views, of every role's encoder, without gradient."""
    model = case.build(0).eval()
    views = case.batch(model).views
    for role in model.roles():
        name = model.view_of(role)
        require(name is None or name in views, f"the batch has no view {name!r} for the role {role!r}")
        values = model.features(next(iter(views.values())) if name is None else views[name], role=role)
        size = (BATCH, model.encoder_of(role).width)
        require(tuple(values.shape) == size, f"features of the {role} encoder are {size}; got {values.shape}")
        require(not values.requires_grad, f"features of the {role} encoder carry a gradient")


def _targets(model: JEPA) -> nn.Module:
    """All target encoders, the main one's and those of named encoders."""
    targets = nn.ModuleDict(dict(model.target_encoders.items()))
    if model.target_encoder is not None:
        targets["target"] = model.target_encoder
    if not len(targets):
        raise NotAsked("the online encoder is its own target")
    return targets


def _leaves(loss: Tensor) -> Iterator[Tensor]:
    """Every leaf tensor with a gradient from which the loss was computed."""
    nodes, visited = [loss.grad_fn], set()
    while nodes:
        node = nodes.pop()
        if node is None or node in visited:
            continue
        visited.add(node)
        if hasattr(node, "variable"):  # torch's AccumulateGrad
            yield node.variable
        nodes += [parent for parent, _ in node.next_functions]


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
