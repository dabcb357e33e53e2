"""The step recorded in CUDA graphs (`train.cuda_graph`): what of it a machine without a GPU can tell.

A recorder that does the work again stands in for CUDA's. That nothing on a GPU is read back, or copied to it,
is asked with tensors that only claim to lie on one.
"""

from __future__ import annotations

import math
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from jepa_core import UserError, build_model, load_recipe, sample_masks, training_step
from jepa_core.training.cuda_graph_step import CudaGraphStep
from jepa_core.training.cuda_graphs import WARM, SharedPlaces
from jepa_core.training.step import TrainingStep
from jepa_core.training.step_guard import StepRefused
from jepa_core.types import Batch, MaskPlan


class Again:
    """Records by keeping the work, and replays by doing it again; counts both."""

    def __init__(self) -> None:
        self.recorded = self.replayed = 0

    def run(self, work: Callable[[], Any]) -> Any:
        return work()

    def record(self, work: Callable[[], Any]) -> Callable[[], Any]:
        self.recorded += 1

        def replay() -> Any:
            self.replayed += 1
            return work()

        return replay


STEPS = 8


def stepper(recipe: Path, captured: bool, *overrides: str) -> tuple[Any, Again]:
    """A plain step or a captured one, and what records it."""
    fixed = (f"train.steps={STEPS}", "optimizer.warmup_steps=2", "train.device=cpu", "train.precision=fp32")
    resolved = load_recipe(recipe, *fixed, *overrides)
    model, again = build_model(resolved), Again()
    if captured:
        return CudaGraphStep(model, resolved, STEPS, 2, recorder=again), again
    return training_step(model, resolved), again


def batch(step: TrainingStep, micro: int = 0, size: int = 8) -> tuple[Tensor, MaskPlan]:
    images = torch.randn(size, 3, 16, 16, generator=torch.Generator().manual_seed(10 * step.done + micro))
    return images, sample_masks(step.model, size, 0, step.done, micro)


def run(step: TrainingStep, until: int, micros: int = 1) -> list[float]:
    losses = []
    while step.done < until:
        losses.append(step.accumulate([batch(step, m) for m in range(micros)]).loss.item())
    return losses


def weights(step: TrainingStep) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in step.model.state_dict().items()}


@pytest.mark.parametrize(
    ("overrides", "micros"),
    [
        (("optimizer.clip_grad=0.1",), 1),
        (("predictor.context=shared", "masker.sets=2", "objective.name=l1", "objective.average=pairs"), 1),
        (("terms.spread.name=variance_covariance", "terms.spread.on=tokens"), 1),
        (("terms.spread.name=variance_covariance", "objective.name=cosine", "variant.target_norm=batch"), 1),
        (("optimizer.clip_grad=0.1", "optimizer.clip_after_warmup=true"), 2),
        (("optimizer.clip_grad=0.05", "optimizer.clip=by_part", "optimizer.clip_after_warmup=true"), 1),
        (("masker.name=random", "objective.name=mse", "optimizer.weight_decay=0.4"), 1),
        (
            (
                "optimizer.layer_decay=0.7",
                "optimizer.groups.p={match='predictor', lr_scale=0.3, weight_decay=0.5}",
            ),
            1,
        ),
    ],
    ids=["clip", "shared-pairs", "tokens", "cosine", "micro", "by part", "random", "groups"],
)
def test_it_learns_what_the_plain_step_learns(
    tiny_recipe: Path, overrides: tuple[str, ...], micros: int
) -> None:
    plain, _ = stepper(tiny_recipe, False, *overrides)
    captured, again = stepper(tiny_recipe, True, *overrides)
    assert run(captured, STEPS, micros) == pytest.approx(run(plain, STEPS, micros), rel=1e-5)
    assert captured.logged["grad_norm"].item() == pytest.approx(plain.logged["grad_norm"].item(), rel=1e-4)
    assert captured.eager_fallbacks == 0
    assert again.replayed > WARM, "steps were recorded and replayed"
    for name, value in weights(captured).items():
        torch.testing.assert_close(value, weights(plain)[name], rtol=1e-4, atol=2e-5, msg=name)


def test_each_size_of_the_sets_is_run_first_then_recorded_then_replayed(tiny_recipe: Path) -> None:
    step, again = stepper(tiny_recipe, True)
    images, plan = batch(step)
    for calls in range(1, 6):
        step.accumulate([(images, plan)])
        # forward and backward, and the optimizer's part: two pieces of work, one size of sets
        assert again.recorded == (2 if calls > WARM else 0), calls
        assert again.replayed == 2 * max(0, calls - WARM)


def test_a_batch_that_does_not_fit_is_run_as_it_is(tiny_recipe: Path) -> None:
    step, plain = stepper(tiny_recipe, True)[0], stepper(tiny_recipe, False)[0]
    run(step, 3), run(plain, 3)
    odd = batch(step, size=5)
    assert step.accumulate([odd]).loss.item() == pytest.approx(plain.accumulate([odd]).loss.item(), rel=1e-5)
    assert step.eager_fallbacks == 1
    assert run(step, STEPS) == pytest.approx(run(plain, STEPS), rel=1e-5)
    assert step.eager_fallbacks == 1


def test_what_is_handed_on_has_no_filler(tiny_recipe: Path) -> None:
    step = stepper(tiny_recipe, True)[0]
    for _ in range(WARM + 2):
        images, plan = batch(step)
        output = step.accumulate([(images, plan)])
    assert step.buckets is not None
    assert step.buckets.pad(plan).contexts[0].total > plan.contexts[0].total
    assert [t.values.shape[0] for t in output.step.predictions] == [s.total for s in plan.targets]
    assert [t.at.valid for t in (*output.step.predictions, *output.step.contexts)] == [None] * 5
    expected = sum(s.total for s in plan.contexts) / 8 / len(plan.contexts)
    assert output.metrics["context_tokens"] == expected


def test_features_are_handed_on_in_the_same_memory_and_new_graphs_are_logged(
    tiny_recipe: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "jepa.cuda_graph")
    step, _ = stepper(tiny_recipe, True)
    seen = set()
    while step.done < STEPS:
        output = step.accumulate([batch(step)])
        features = (*output.step.predictions, *output.step.contexts)
        seen.add(tuple(tokens.values.data_ptr() for tokens in features))
    assert len(seen) == 1
    said = [record.getMessage() for record in caplog.records if record.name == "jepa.cuda_graph"]
    assert len(said) == len(step._graphs)
    assert said[0].startswith("step 0: graph 1 is recorded, for sets of (")


def test_a_shared_place_holds_what_was_handed_on_last() -> None:
    places = SharedPlaces(headroom=2.0)
    first = places(0, torch.ones(4, 3))
    larger = places(0, torch.arange(18.0).view(6, 3))
    assert first.data_ptr() == larger.data_ptr() != places(1, torch.ones(2)).data_ptr()
    assert torch.equal(larger, torch.arange(18.0).view(6, 3))
    beyond = places(0, torch.zeros(9, 3))
    assert beyond.data_ptr() != larger.data_ptr(), "graphs that are there still write to the first"
    assert torch.equal(larger, torch.arange(18.0).view(6, 3))


def test_a_step_that_is_not_finite_changes_no_weight_and_is_found_when_a_line_is_logged(
    tiny_recipe: Path,
) -> None:
    step, _ = stepper(tiny_recipe, True, "train.on_nonfinite=skip", "train.log_every=5", "train.steps=20")
    run(step, 3)
    before = weights(step)
    images, plan = batch(step)
    step.accumulate([(images + math.inf, plan)])
    after = {k: v for k, v in weights(step).items() if not k.startswith("target_encoder")}
    assert all(torch.equal(before[name], value) for name, value in after.items())
    assert step.guard.skipped == [], "the host does not know yet"
    assert step.skip_reason is None
    run(step, 5)
    assert step.guard.skipped == [4]
    assert step.skip_reason == "the loss or its gradient was not finite at step 4"
    assert all(value.isfinite().all() for value in weights(step).values())
    run(step, 6)
    assert step.skip_reason is None


@pytest.mark.parametrize("look", ["log", "save"])
def test_where_such_a_step_is_to_end_the_run_it_does(tiny_recipe: Path, look: str) -> None:
    step, _ = stepper(tiny_recipe, True, "train.log_every=2")
    run(step, 2)
    images, plan = batch(step)
    step.accumulate([(images * math.nan, plan)])
    with pytest.raises(StepRefused, match="the loss or its gradient was not finite at step 3, which"):
        step.state_dict() if look == "save" else run(step, 4)


def test_too_many_such_steps_end_a_run_that_skips_them(tiny_recipe: Path) -> None:
    step, _ = stepper(
        tiny_recipe, True, "train.on_nonfinite=skip", "train.max_skipped=1", "train.log_every=4"
    )
    for number in range(3):
        images, plan = batch(step)
        step.accumulate([(images * (math.nan if number else 1), plan)])
    with pytest.raises(StepRefused, match=r"2 of the last 300 steps had to be skipped"):
        run(step, 4)


@pytest.mark.parametrize(("first", "second"), [(True, True), (True, False), (False, True)])
def test_a_checkpoint_of_one_is_gone_on_from_by_the_other(
    tiny_recipe: Path, first: bool, second: bool
) -> None:
    whole = stepper(tiny_recipe, False)[0]
    expected = run(whole, STEPS)
    start = stepper(tiny_recipe, first)[0]
    losses = run(start, 4)
    then = stepper(tiny_recipe, second)[0]
    then.model.load_state_dict(start.model.state_dict())
    state = start.state_dict()
    assert [group["lr"] for group in state["optimizer"]["param_groups"]] == [start.logged["lr"]] * 2
    then.load_state_dict(state)
    assert losses + run(then, STEPS) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("optimizer.name=sgd",), "optimizer 'sgd' does not say that it may be part of a CUDA graph (captur"),
        (("train.spike_guard=3.0",), "train.spike_guard judges each loss before the step is taken"),
        (("terms.s.name=sigreg", "terms.s.on=context"), "the term 's' (sigreg) does not say that it may"),
    ],
)
def test_what_needs_the_host_at_each_step_is_refused(
    tiny_recipe: Path, overrides: tuple[str, ...], message: str
) -> None:
    with pytest.raises(UserError) as error:
        stepper(tiny_recipe, True, *overrides)
    assert message in str(error.value)


def with_all(images: Tensor, number: int, condition: Any = None) -> Batch:
    """A batch with everything that a batch can carry, another in each step."""
    generator = torch.Generator().manual_seed(number)
    draw = torch.randn(8, generator=generator)
    condition = {"action": draw, "others": [draw + 1, None]} if condition is None else condition
    return Batch({"image": images}, condition, {"weight": draw.abs()}, torch.arange(8) + number, step=99)


def keep_batches(step: TrainingStep, uses: Callable[[Batch], Tensor]) -> None:
    """Has the model's first stage add what `uses` makes of the batch to the images."""
    views = step.model.views

    def changed(batch: Batch) -> Any:
        image = batch.views["image"] + uses(batch).view(-1, 1, 1, 1)
        return views(Batch({"image": image}, None, {}, None, batch.step))

    step.model.views = changed  # type: ignore[method-assign]


USES: dict[str, Callable[[Batch], Tensor]] = {
    "labels": lambda batch: batch.labels.float(),  # type: ignore[union-attr]
    "side": lambda batch: batch.side["weight"],
    "condition": lambda batch: batch.condition["action"] + batch.condition["others"][0],
}


@pytest.mark.parametrize("part", USES)
def test_a_replayed_step_has_all_of_its_own_batch(tiny_recipe: Path, part: str) -> None:
    steps = [stepper(tiny_recipe, captured)[0] for captured in (False, True)]
    losses: list[list[float]] = [[], []]
    for step, of_step in zip(steps, losses, strict=True):
        keep_batches(step, USES[part])
        while step.done < STEPS:
            images, plan = batch(step)
            output = step.accumulate([(with_all(images, step.done), plan)])
            assert output.step.number == step.done - 1
            of_step.append(output.loss.item())
    assert steps[1].eager_fallbacks == 0
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)
    assert len(set(losses[0])) == STEPS


def test_a_batch_that_carries_other_tensors_than_the_first_runs_without_a_graph(tiny_recipe: Path) -> None:
    step = stepper(tiny_recipe, True)[0]
    keep_batches(step, lambda batch: torch.zeros(8))
    for number in range(5):
        images, plan = batch(step)
        step.accumulate([(with_all(images, number), plan)])
    assert step.eager_fallbacks == 0
    images, plan = batch(step)
    for other in (Batch({"image": images}), with_all(images, 0, {"action": torch.zeros(8)})):
        before = step.eager_fallbacks
        step.accumulate([(other, plan)])
        assert step.eager_fallbacks == before + 1


@pytest.mark.parametrize(
    "condition", ["push the cup", {"deep": [1.5]}, [object()]], ids=["text", "number", "other"]
)
def test_a_condition_that_is_no_tensor_is_refused(tiny_recipe: Path, condition: Any) -> None:
    step = stepper(tiny_recipe, True)[0]
    images, plan = batch(step)
    with pytest.raises(
        UserError, match=r"carries tensors alone, and batch\.condition holds a (str|float|object);"
    ):
        step.accumulate([(with_all(images, 0, condition), plan)])


@pytest.mark.parametrize(
    "uses",
    [
        lambda step: torch.full((8,), float(step)),
        lambda step: torch.zeros(8) + step,
        lambda step: torch.zeros(8) if step > 3 else torch.ones(8),
        lambda step: torch.zeros(8) if step == 0 else torch.ones(8),
        lambda step: torch.randn(8, generator=torch.Generator().manual_seed(step)),
        lambda step: torch.full((8,), len(f"seed {step}")),
    ],
    ids=["float", "sum", "order", "equality", "seed", "text"],
)
def test_a_model_that_uses_the_number_of_the_step_is_refused(
    tiny_recipe: Path, uses: Callable[[int], Tensor]
) -> None:
    plain, captured = stepper(tiny_recipe, False)[0], stepper(tiny_recipe, True)[0]
    for step in (plain, captured):
        keep_batches(step, lambda batch: uses(batch.step))
    plain.accumulate([batch(plain)])
    with pytest.raises(UserError, match="uses the number of the step, which a CUDA graph cannot follow"):
        captured.accumulate([batch(captured)])


FAKE = """
import sys, torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from jepa_core import build_model, load_recipe, sample_masks
from jepa_core.training.plan_buckets import PlanBuckets
from jepa_core.training.cuda_graph_step import CudaGraphStep
from jepa_core.types import Batch, grid_size
from dataclasses import replace
sys.path.insert(0, sys.argv[2])
from test_cuda_graph_step import Again

torch.cuda.get_device_capability = lambda device=None: (9, 0)
recipe = load_recipe(sys.argv[1], "train.precision=fp32")
model = build_model(recipe)
plans = [sample_masks(model, 8, step=n) for n in range(8)]
capacity = PlanBuckets.measure(plans, grid_size(model.grid()))

class NoTransfers(TorchDispatchMode):
    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        given = [a for a in args if isinstance(a, torch.Tensor)]
        if isinstance(out, torch.Tensor) and out.device.type == "cuda":
            assert all(a.device.type == "cuda" or a.dim() == 0 for a in given), f"{func} copies to the device"
        return out

def there(tensor):
    return torch.empty(tensor.shape, dtype=tensor.dtype, device="cuda")

with FakeTensorMode(allow_non_fake_inputs=True):
    for module in model.modules():
        for name, parameter in list(module._parameters.items()):
            if parameter is not None:
                made = torch.nn.Parameter(there(parameter), requires_grad=parameter.requires_grad)
                module._parameters[name] = made
    step = CudaGraphStep(model, recipe, 8, 2, recorder=Again())
    plan = capacity.pad(plans[0]).map(lambda s: replace(s, index=there(s.index), lengths=there(s.lengths)))
    batch = Batch({"image": torch.empty(8, 3, 16, 16, device="cuda")})
    step.forward(batch, plan)  # tables are made now
    with NoTransfers():
        assert step.forward(batch, plan.map(replace)).loss.device.type == "cuda"
    for parameter in model.parameters():
        parameter.grad = there(parameter)
    step.optimizer.step = lambda: None  # fused AdamW has no rule for tensors that only claim something
    step._clip_and_step()
    with NoTransfers():
        assert step._clip_and_step()["all"].device.type == "cuda"
print("no transfer")
"""


@pytest.mark.slow
def test_on_a_gpu_nothing_is_read_back_and_nothing_copied_to_it(tiny_recipe: Path, tmp_path: Path) -> None:
    """With tensors that only claim to lie on a GPU: a process of its own, for tables are kept."""
    script = tmp_path / "fake.py"
    script.write_text(FAKE, encoding="utf-8")
    command = [sys.executable, str(script), str(tiny_recipe), str(Path(__file__).parent)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert done.stdout.endswith("no transfer\n"), done.stderr


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_recorded_on_a_gpu_it_learns_what_the_plain_step_learns(tiny_recipe: Path, precision: str) -> None:
    losses = []
    for graph in ("false", "true"):
        overrides = (f"train.cuda_graph={graph}", f"train.precision={precision}", "optimizer.clip_grad=0.1")
        recipe = load_recipe(tiny_recipe, "train.steps=12", "optimizer.warmup_steps=2", *overrides)
        step = training_step(build_model(recipe).to("cuda"), recipe)
        losses.append(run(step, 12))
    assert losses[1] == pytest.approx(losses[0], rel=1e-4 if precision == "fp32" else 2e-2)
