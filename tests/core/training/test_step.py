"""One training step: groups, schedules at the right step, accumulation, clipping, and the order of things."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from jepa_core import (
    JEPA,
    Batch,
    IndexSet,
    MaskPlan,
    UserError,
    build_model,
    load_recipe,
    sample_masks,
    training_step,
)
from jepa_core.recipes.duration import steps_of
from jepa_core.training.optimizer import check_coverage, clip_parts
from jepa_core.training.parameter_groups import parameter_groups
from jepa_core.training.step import TrainingStep


def images(batch: int = 8, seed: int = 0) -> Tensor:
    return torch.randn(batch, 3, 16, 16, generator=torch.Generator().manual_seed(seed))


def training(recipe: Path, *overrides: str) -> TrainingStep:
    resolved = load_recipe(recipe, *overrides)
    return training_step(build_model(resolved), resolved)


def plan_for(step: TrainingStep, batch: int = 8) -> MaskPlan:
    return sample_masks(step.model, batch, seed=0, step=step.done)


def part(plan: MaskPlan, start: int, stop: int) -> MaskPlan:
    """The samples start … stop-1 of a plan."""
    sets = [
        [IndexSet.from_lists(s.split()[start:stop]) for s in side] for side in (plan.contexts, plan.targets)
    ]
    return MaskPlan(tuple(sets[0]), tuple(sets[1]), plan.pairs)


def gradients(model: JEPA) -> dict[str, Tensor]:
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def test_biases_and_vectors_do_not_decay_and_everything_else_does(tiny_recipe: Path) -> None:
    step = training(tiny_recipe)
    model = step.model
    names = {id(p): name for name, p in model.named_parameters()}
    groups = parameter_groups(model, step.settings)
    decayed, spared = ({names[id(p)] for p in group["params"]} for group in groups)
    trainable = {name for name, p in model.named_parameters() if p.requires_grad}
    assert decayed | spared == trainable
    assert not decayed & spared
    shapes = dict(model.named_parameters())
    assert spared == {name for name in trainable if name.endswith("bias") or shapes[name].ndim <= 1}
    assert "predictor.mask_token" in decayed
    assert not any(name.startswith("target_encoder") for name in trainable)


def test_a_parameter_outside_the_optimizer_is_named() -> None:
    module = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    optimizer = torch.optim.SGD(module[0].parameters(), lr=0.1)
    with pytest.raises(UserError) as error:
        check_coverage(module, optimizer)
    assert str(error.value) == "parameter '1.weight' stands 0 times in the optimizer; expected once"


def test_a_parameter_in_two_groups_is_named_and_a_tied_or_frozen_one_is_fine() -> None:
    module = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    module[1].weight = module[0].weight
    module[1].bias.requires_grad_(False)
    optimizer = torch.optim.SGD([p for p in module.parameters() if p.requires_grad], lr=0.1)
    check_coverage(module, optimizer)
    optimizer.param_groups.append({**optimizer.param_groups[0], "params": [module[0].bias]})
    with pytest.raises(UserError, match=r"parameter '0.bias' stands 2 times in the optimizer"):
        check_coverage(module, optimizer)


def test_schedules_are_evaluated_at_the_steps_number(tiny_recipe: Path) -> None:
    """Against I-JEPA's formulas with k = 1, 2, … (facts §3.6, §3.7), over a whole run."""
    step = training(
        tiny_recipe, "optimizer.start_lr=1e-4", "optimizer.final_lr=1e-5", "optimizer.warmup_steps=2",
        "optimizer.final_weight_decay=0.4", "target_update.momentum=[0.9, 1.0]",
    )  # fmt: skip
    total = 6
    for k in range(1, total + 1):
        step(images(seed=k), plan_for(step))
        share = (k - 2) / (total - 2)
        lr = 1e-4 + 9e-4 * k / 2 if k < 2 else 1e-5 + (1e-3 - 1e-5) * (1 + math.cos(math.pi * share)) / 2
        decay = 0.4 + (0.04 - 0.4) * (1 + math.cos(math.pi * k / total)) / 2
        assert step.logged["lr"] == pytest.approx(lr)
        assert step.logged["weight_decay"] == pytest.approx(decay)
        assert step.logged["momentum"] == pytest.approx(0.9 + 0.1 * (k - 1) / total)
        groups = step.optimizer.param_groups
        assert [g["lr"] for g in groups] == [pytest.approx(lr)] * 2
        assert [g["weight_decay"] for g in groups] == [pytest.approx(decay), 0.0]
    assert step.done == total


def test_schedules_can_be_made_for_a_longer_run_which_is_cut_off(tiny_recipe: Path) -> None:
    """V-JEPA's: warm-up as given, cosines over 1.25 times the steps."""
    step = training(
        tiny_recipe, "train.steps=8", "optimizer.schedule_scale=1.25", "optimizer.final_lr=1e-5",
        "optimizer.warmup_steps=2", "optimizer.final_weight_decay=0.4",
    )  # fmt: skip
    for _ in range(8):
        step(images(), plan_for(step))
    assert step.logged["lr"] == pytest.approx(1e-5 + 9.9e-4 * (1 + math.cos(math.pi * 6 / 8)) / 2)
    assert step.logged["weight_decay"] == pytest.approx(0.4 - 0.36 * (1 + math.cos(math.pi * 8 / 10)) / 2)


def test_clipping_can_wait_for_the_end_of_the_warm_up(tiny_recipe: Path) -> None:
    given = ("train.steps=8", "optimizer.warmup_steps=2", "optimizer.clip_grad=0.01")
    for delay in (0, 2):
        more = ("optimizer.clip_after_warmup=true", f"optimizer.clip_delay_steps={delay}")
        step, norms = training(tiny_recipe, *given, *more), []
        for _ in range(3 + delay):
            step(images(), plan_for(step))
            norms.append(torch.cat([g.flatten() for g in gradients(step.model).values()]).norm().item())
        assert min(norms[: 2 + delay]) > 0.02
        assert norms[2 + delay] == pytest.approx(0.01, rel=1e-4)


def clip_as_released(
    step: TrainingStep, epoch: int, warmup: int, clip_grad: float
) -> dict[str, torch.Tensor]:
    """V-JEPA's released training loop (app/vjepa/train.py), on the gradients of a step that clips nothing."""
    encoder, predictor = step.model.encoder, step.model.predictor
    if (epoch > warmup) and (clip_grad is not None):
        nn.utils.clip_grad_norm_(encoder.parameters(), clip_grad)
        nn.utils.clip_grad_norm_(predictor.parameters(), clip_grad)
    return gradients(step.model)


@pytest.mark.parametrize("clip_grad", [0.005, 0.02, 0.05, 10.0])
def test_clipping_by_part_is_the_release_s(tiny_recipe: Path, clip_grad: float) -> None:
    """Two epochs of two steps, one of them warm-up: the release clips from the third epoch on, step 4."""
    lengths = ("train.steps=8", "optimizer.warmup_steps=2", "masker=random")
    settings = ("clip=by_part", "clip_after_warmup=true", "clip_delay_steps=2", f"clip_grad={clip_grad}")
    ours = training(tiny_recipe, *lengths, *(f"optimizer.{setting}" for setting in settings))
    free = training(tiny_recipe, *lengths)
    for number in range(6):
        free.model.load_state_dict(ours.model.state_dict())
        free.done = ours.done
        for step in (ours, free):
            step(images(), plan_for(step))
        released = clip_as_released(free, epoch=number // 2, warmup=1, clip_grad=clip_grad)
        torch.testing.assert_close(gradients(ours.model), released, rtol=1e-5, atol=1e-8)
        whole = math.hypot(float(ours.logged["grad_norm/encoder"]), float(ours.logged["grad_norm/predictor"]))
        assert float(ours.logged["grad_norm"]) == pytest.approx(whole, rel=1e-5)


def test_the_published_recipes_clip_as_released() -> None:
    for name in ("vjepa/vitl16", "vjepa/vith16"):
        optimizer = load_recipe(name).optimizer
        assert (optimizer.clip, optimizer.clip_grad, optimizer.clip_after_warmup) == ("by_part", 10.0, True)
        assert optimizer.clip_delay_steps == 300
    assert load_recipe("ijepa/demo").optimizer.clip == "joint"


def test_other_parameters_are_a_part_of_their_own(tiny_recipe: Path) -> None:
    step = training(tiny_recipe, "optimizer.clip=by_part", "optimizer.clip_grad=0.01")
    assert list(step.clip_parts) == ["encoder", "predictor"]
    step.model.extra = nn.Linear(2, 2)
    step.model.predictor.tied = step.model.encoder.blocks[0]
    parts = clip_parts(step.model, "by_part")
    assert list(parts) == ["encoder", "predictor", "others"]
    trainable = [p for p in step.model.parameters() if p.requires_grad]
    assert sorted(id(p) for part in parts.values() for p in part) == sorted(map(id, trainable)), "each once"
    assert all(any(p is q for q in parts["encoder"]) for p in step.model.encoder.blocks[0].parameters())


def test_the_first_step_is_adamws_in_float64(tiny_recipe: Path) -> None:
    """p ← p (1 - lr wd) - lr g / (|g| + ε): both moments are bias-corrected to g and g²."""
    step = training(tiny_recipe, "optimizer.warmup_steps=0", "optimizer.weight_decay=0.1")
    before = {name: p.detach().double() for name, p in step.model.named_parameters()}
    step(images(), plan_for(step))
    lr = float(step.logged["lr"])
    for name, gradient in gradients(step.model).items():
        g, decay = gradient.double(), 0.0 if before[name].ndim <= 1 else 0.1
        expected = before[name] * (1 - lr * decay) - lr * g / (g.abs() + 1e-8)
        torch.testing.assert_close(
            step.model.get_parameter(name).double(),
            expected,
            rtol=1e-5,
            atol=1e-7,
            msg=lambda m, n=name: f"{n}: {m}",
        )


def test_micro_batches_add_up_to_the_whole_batch(tiny_recipe: Path) -> None:
    """With targets of one size the mean of the parts' means is the mean over everything."""
    whole, parted = training(tiny_recipe, "masker=random"), training(tiny_recipe, "masker=random")
    batch, plan = images(), plan_for(whole)
    one = whole(batch, plan)
    many = parted.accumulate([(batch[i : i + 2], part(plan, i, i + 2)) for i in range(0, 8, 2)])
    assert many.loss.item() == pytest.approx(one.loss.item(), rel=1e-6)
    assert many.terms["prediction"].item() == pytest.approx(one.terms["prediction"].item(), rel=1e-6)
    torch.testing.assert_close(gradients(parted.model), gradients(whole.model), rtol=1e-5, atol=1e-6)
    assert (whole.done, parted.done) == (1, 1)


def test_clipping_scales_the_whole_gradient_to_the_norm(tiny_recipe: Path) -> None:
    free, clipped = training(tiny_recipe), training(tiny_recipe, "optimizer.clip_grad=0.01")
    for step in (free, clipped):
        step(images(), plan_for(step))
    norm = torch.cat([g.flatten().double() for g in gradients(free.model).values()]).norm().item()
    assert norm > 0.01
    assert float(clipped.logged["grad_norm"]) == pytest.approx(norm, rel=1e-5)
    assert float(free.logged["grad_norm"]) == pytest.approx(norm, rel=1e-5)
    expected = {name: g * 0.01 / norm for name, g in gradients(free.model).items()}
    torch.testing.assert_close(gradients(clipped.model), expected, rtol=1e-4, atol=1e-9)


def test_the_target_moves_after_the_optimizer_and_once_a_step(tiny_recipe: Path) -> None:
    step = training(tiny_recipe, "target_update.momentum=[0.5, 0.5]", "masker=random")
    assert step.model.target_encoder is not None
    before = {n: p.detach().clone() for n, p in step.model.target_encoder.named_parameters()}
    batch, plan = images(), plan_for(step)
    step.accumulate([(batch[:4], part(plan, 0, 4)), (batch[4:], part(plan, 4, 8))])
    online = dict(step.model.encoder.named_parameters())  # type: ignore[attr-defined]
    expected = {name: (old + online[name].detach()) / 2 for name, old in before.items()}
    moved = {n: p.detach() for n, p in step.model.target_encoder.named_parameters()}
    torch.testing.assert_close(moved, expected, rtol=1e-6, atol=1e-7)
    assert any(not torch.equal(old, online[name]) for name, old in before.items())


def test_nothing_reaches_the_target_encoder_through_the_loss(tiny_recipe: Path) -> None:
    step = training(tiny_recipe)
    output = step(images(), plan_for(step))
    assert all(p.grad is None for p in step.model.target_encoder.parameters())  # type: ignore[union-attr]
    assert not any(t.values.requires_grad for t in output.step.targets)


def test_several_steps_on_one_batch_lower_its_loss(tiny_recipe: Path) -> None:
    step = training(tiny_recipe, "train.steps=30", "optimizer.lr=3e-3", "target_update.name=frozen")
    batch, plan = images(), plan_for(step)
    losses = [step(batch, plan).loss.item() for _ in range(30)]
    assert losses[-1] < 0.7 * losses[0]


@pytest.mark.parametrize(("precision", "dtype"), [("fp32", torch.float32), ("bf16", torch.bfloat16)])
def test_precision(tiny_recipe: Path, precision: str, dtype: torch.dtype) -> None:
    step = training(tiny_recipe, f"train.precision={precision}")
    output = step.forward(Batch.of(images()), plan_for(step))
    assert output.step.predictions[0].values.dtype == dtype
    assert output.loss.dtype == torch.float32


STEPS = ["train.batch_size=8", "optimizer.warmup_epochs=0.5"]


@pytest.mark.parametrize(
    ("overrides", "images_of_split", "expected"),
    [
        (["train.steps=7", "optimizer.warmup_steps=3"], None, (7, 3)),
        (["train.steps=7"], 70, (7, 4)),
        (["train.epochs=2.5"], 70, (20, 4)),
        (["train.epochs=2.5", "train.epoch_images=81"], 70, (25, 5)),
    ],
)
def test_length_of_a_run(
    tiny_recipe: Path,
    tmp_path: Path,
    overrides: list[str],
    images_of_split: int | None,
    expected: tuple[int, int],
) -> None:
    """70 images make 8 whole batches of 8."""
    assert (
        steps_of(load_recipe(open_ended(tiny_recipe, tmp_path), *STEPS, *overrides), images_of_split)
        == expected
    )


@pytest.mark.parametrize(
    ("overrides", "images_of_split", "said"),
    [
        ([], 70, "the recipe does not say how long to train; give train.steps or train.epochs"),
        (
            ["train.epochs=1"], None,
            "the recipe does not say how long to train; give train.epoch_images (or train.steps)",
        ),
        (
            ["train.epochs=1"], 5,
            "1 epochs of 5 images do not fill one batch of 8; raise train.epochs, or lower train.batch_size",
        ),
        (
            ["train.steps=3"], None,
            "optimizer.warmup_epochs needs the size of an epoch; give optimizer.warmup_steps",
        ),
    ],
)  # fmt: skip
def test_a_run_of_unknown_length_is_refused(
    tiny_recipe: Path, tmp_path: Path, overrides: list[str], images_of_split: int | None, said: str
) -> None:
    recipe = load_recipe(open_ended(tiny_recipe, tmp_path), *STEPS, *overrides)
    with pytest.raises(UserError) as error:
        steps_of(recipe, images_of_split)
    assert str(error.value) == said


def open_ended(tiny_recipe: Path, folder: Path) -> Path:
    """The tiny recipe without a number of steps."""
    text = (
        tiny_recipe.read_text(encoding="utf-8").replace("steps = 6, ", "").replace(", warmup_steps = 2", "")
    )
    path = folder / "open.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_two_steps_of_one_seed_are_the_same_and_of_two_are_not(tiny_recipe: Path) -> None:
    losses = []
    for seed in (1, 1, 2):
        step = training(tiny_recipe, f"seed={seed}")
        plan = sample_masks(step.model, 8, seed=1)
        losses.append([step(images(), plan).loss.item() for _ in range(3)])
    assert losses[0] == losses[1]
    assert losses[0] != losses[2]


def test_building_a_model_leaves_the_global_random_state_alone(tiny_recipe: Path) -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    build_model(load_recipe(tiny_recipe))
    assert torch.equal(torch.rand(3), expected)


def test_what_is_drawn_in_the_forward_pass_follows_from_seed_and_step(tiny_recipe: Path) -> None:
    """A component's dropout is the same whatever was drawn before, and leaves the global randomness alone."""

    def losses(seed: int, *overrides: str) -> list[float]:
        torch.manual_seed(seed)
        step = training(tiny_recipe, *overrides)
        step.model.predictor.norm.register_forward_hook(lambda *call: nn.functional.dropout(call[2], 0.5))
        before = torch.get_rng_state()
        found = [step(images(), plan_for(step)).loss.item() for _ in range(2)]
        assert torch.equal(torch.get_rng_state(), before)
        return found

    assert losses(1) == losses(2)
    assert losses(1) != losses(1, "seed=8")
    assert losses(1)[0] != losses(1)[1]
