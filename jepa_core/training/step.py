"""One whole training step: forward, backward, clip, optimizer, target update.

Schedules are evaluated at the step's number, before the forward pass, as I-JEPA does.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from jepa_core.assembly import build
from jepa_core.errors import UserError
from jepa_core.jepa import JEPA, Output
from jepa_core.runtime.devices import use_bf16
from jepa_core.runtime.distributed import Ranks
from jepa_core.runtime.json_lines import is_count
from jepa_core.runtime.seeding import step_generator
from jepa_core.schedules import between, warmup_cosine
from jepa_core.settings.recipe import DEFAULTS, Recipe
from jepa_core.training.optimizer import check_coverage, check_entries, clip_parts
from jepa_core.training.optimizer_state import load_optimizer_state
from jepa_core.training.parameter_groups import freeze_groups, parameter_groups
from jepa_core.training.plan_buckets import unpad
from jepa_core.training.rounded_sets import can_round, round_plan
from jepa_core.training.step_guard import StepGuard
from jepa_core.types.batch import Batch
from jepa_core.types.mask_plan import MaskPlan


class TrainingStep:
    """`step(batch, plan) -> Output`: one optimizer step of a model, as the training loop does it.

    Where several processes train together each has a TrainingStep of its own micro-batches; `ranks` says
    which process this is. What components draw in their forward pass (dropout, drop path) follows from
    (seed, micro-batch, step), like samples and masks, so no random state needs saving.
    """

    def __init__(
        self, model: JEPA, recipe: Recipe, total_steps: int, warmup_steps: int, ranks: Ranks | None = None
    ) -> None:
        self.model = model
        self.ranks = ranks or Ranks()
        freeze_groups(model, recipe.optimizer)
        if recipe.train.compile:
            model.compile(dynamic=True)
        self.wrapped = self.ranks.wrap(model)
        self.seed = recipe.seed
        self.settings = recipe.optimizer
        self.total_steps, self.warmup_steps = total_steps, warmup_steps
        self.device = next(model.parameters()).device
        self.bf16 = use_bf16(recipe.train.precision, self.device)
        eager_cpu = self.device.type == "cpu" and not recipe.train.compile
        self.rounds_sets = eager_cpu and self.bf16 and can_round(model)
        """Whether ragged sets are padded to few sizes (`rounded_sets.py`)."""
        self.optimizer = self.make_optimizer()
        check_entries(self.optimizer, self.settings.name)
        check_coverage(model, self.optimizer)
        self.clip_parts = clip_parts(model, self.settings.clip)
        self.done = 0
        """Optimizer steps so far, skipped ones too."""
        self.guard = StepGuard(recipe.train)
        self.skip_reason: str | None = None
        """Why the last step was skipped; None where it was taken."""
        self.logged: dict[str, float | Tensor] = {}
        """Learning rate, weight decay, momentum and gradient norm (before clipping) of the last step; also
        `lr/GROUP` and `weight_decay/GROUP` of groups whose own differ."""

    def make_optimizer(self) -> torch.optim.Optimizer:
        """The recipe's optimizer over the model's trainable parameters."""
        groups = parameter_groups(self.model, self.settings)
        optimizer: torch.optim.Optimizer = build("optimizer", self.settings).make(groups)
        return optimizer

    def __call__(self, batch: Batch | Tensor, plan: MaskPlan | None = None) -> Output:
        """Forward, backward, optimizer and target update on one batch."""
        return self.accumulate([(batch, plan)])

    def accumulate(self, parts: Sequence[tuple[Batch | Tensor, MaskPlan | None]]) -> Output:
        """One optimizer step over several micro-batches.

        Returns the last one's output, with the loss and the terms of the whole step.
        """
        self.model.train()
        self.set_schedules()
        self.zero_gradients()
        for number, (batch, plan) in enumerate(parts):
            with self._sync_on_last(number == len(parts) - 1), self.randomness(number, len(parts)):
                output = self.micro_batch(Batch.of(batch), plan, len(parts))
        return self.finish(output)

    def zero_gradients(self) -> None:
        """Makes the gradients, and the sums of the losses, those of no micro-batch."""
        self.optimizer.zero_grad(set_to_none=True)
        self._losses: list[Tensor] = []

    def micro_batch(self, batch: Batch, plan: MaskPlan | None, parts: int) -> Output:
        """Forward and backward pass of one of `parts` micro-batches, whose gradient is added up."""
        output = self.forward(batch, plan)
        (output.loss / parts).backward()
        self._losses.append(torch.stack([output.loss, *output.terms.values()]).detach())
        return output

    def finish(self, output: Output) -> Output:
        """Clipping, optimizer step and target update; the last output with the loss of all micro-batches."""
        loss, *means = self.ranks.mean(torch.stack(self._losses).mean(0))
        output = replace(output, loss=loss, terms=dict(zip(output.terms, means, strict=True)))
        norm = self.clip()
        self.skip_reason = self.guard.skip_reason(self.done + 1, loss, output.terms, norm, self.model)
        if self.skip_reason is None:
            self.optimizer.step()
            self.logged.update(self.model.update_target(self.done, self.total_steps))
        self.done += 1
        return output

    def clip(self) -> Tensor:
        """The norm of the whole gradient, which is then scaled down to the limit, whole or part by part.

        Also logs that norm, and those of the parts.
        """
        limit = self.limit()
        norms = {}
        for name, parameters in self.clip_parts.items():
            grads = [p.grad for p in parameters if p.grad is not None]
            if not grads and len(self.clip_parts) > 1:
                continue
            norms[name] = nn.utils.get_total_norm(grads)
            if limit < math.inf:
                nn.utils.clip_grads_with_norm_(parameters, limit, norms[name])
        return self.log_norms(norms)

    def log_norms(self, norms: Mapping[str, Tensor]) -> Tensor:
        """Logs the norm of each part (before clipping), and that of the whole gradient, which it returns."""
        if len(norms) == 1:
            (whole,) = norms.values()
        else:
            whole = torch.linalg.vector_norm(torch.stack(list(norms.values())))
            self.logged |= {f"grad_norm/{name}": norm for name, norm in norms.items()}
        self.logged["grad_norm"] = whole
        return whole

    def limit(self) -> float:
        """The largest norm that the gradient of this step may have; infinite where it is not clipped."""
        settings = self.settings
        start = self.warmup_steps + settings.clip_delay_steps if settings.clip_after_warmup else 0
        return math.inf if settings.clip_grad is None or self.done < start else settings.clip_grad

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run's step needs besides the model's weights."""
        return {
            "step": self.done,
            "optimizer": self.optimizer.state_dict(),
            "optimizer_name": self.settings.name,
            "guard": self.guard.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes over what `state_dict` gave; rates, betas and eps stay those of this step's recipe.

        Raises UserError for anything else, and for the state of another model's step or another optimizer.
        States of old do not name theirs, which was the default.
        """
        if not is_count(state.get("step")):
            raise UserError(f"its step is {state.get('step')!r:.30}; expected a whole number")
        name = state.get("optimizer_name", DEFAULTS["optimizer"]["name"])
        if name != self.settings.name:
            own = self.settings.name
            raise UserError(
                f"its optimizer is {name!r:.40}; the recipe's is {own!r}, which cannot go on from it"
            )
        load_optimizer_state(self.optimizer, state.get("optimizer"), self.settings)
        self.guard.load_state_dict(state.get("guard", {}))
        self.done = state["step"]

    def forward(self, batch: Batch | Tensor, plan: MaskPlan | None) -> Output:
        """The model's output on the step's device and in its precision; the batch serves this step."""
        batch = replace(Batch.of(batch), step=self.done)
        rounded = round_plan(plan, self.model) if plan is not None and self.rounds_sets else plan
        output = self.run_model(batch, rounded)
        if plan is None or rounded is plan:
            return output
        step = unpad(output.step, plan)
        return replace(output, step=step, metrics=self.model.metrics(step))

    def run_model(self, batch: Batch, plan: MaskPlan | None) -> Output:
        """The model's output on the step's device and in its precision, `batch.step` as it is."""
        plan = plan.to(self.device, non_blocking=True) if plan is not None else None
        with self.autocast():
            output: Output = self.wrapped(batch.to(self.device, non_blocking=True), plan)
        return output

    def autocast(self) -> AbstractContextManager[None]:
        """The precision of the forward pass."""
        return torch.autocast(self.device.type, torch.bfloat16) if self.bf16 else nullcontext()

    def _sync_on_last(self, last: bool) -> AbstractContextManager[None]:
        """Gradients are averaged over the processes once a step, in the last micro-batch's backward pass."""
        if last or not isinstance(self.wrapped, nn.parallel.DistributedDataParallel):
            return nullcontext()
        return self.wrapped.no_sync()

    @contextmanager
    def randomness(self, number: int, parts: int) -> Iterator[None]:
        """Seeds torch's global random state for this micro-batch, and restores it after."""
        seed = step_generator(self.seed, self.ranks.rank * parts + number, self.done, "model").initial_seed()
        with torch.random.fork_rng(devices=[self.device] if self.device.type == "cuda" else []):
            torch.manual_seed(seed)
            yield

    def set_schedules(self) -> None:
        """Puts learning rate and weight decay of the coming step into the optimizer and `logged`."""
        lr, decay = self.schedules()
        for group in self.optimizer.param_groups:
            group["lr"] = lr * group["lr_scale"]
            group["weight_decay"] = decay if group["fixed_decay"] is None else group["fixed_decay"]
        self.logged = self.rates_to_log(lr, decay)

    def rates_to_log(self, lr: float, decay: float) -> dict[str, float | Tensor]:
        """Learning rate and weight decay of a step; beside them those of groups that have others."""
        rates: dict[str, float | Tensor] = {"lr": lr, "weight_decay": decay}
        for name, group in self.settings.groups.items():
            if group.lr_scale != 1:
                rates[f"lr/{name}"] = lr * group.lr_scale
            if group.weight_decay is not None:
                rates[f"weight_decay/{name}"] = group.weight_decay
        return rates

    def schedules(self) -> tuple[float, float]:
        """Learning rate and weight decay of the coming step."""
        o = self.settings
        total = round(o.schedule_scale * self.total_steps)
        lr = warmup_cosine(self.done, total, self.warmup_steps, o.start_lr, o.lr, o.final_lr)
        final = o.weight_decay if o.final_weight_decay is None else o.final_weight_decay
        return lr, between(self.done + 1, total, o.weight_decay, final, "cosine")
