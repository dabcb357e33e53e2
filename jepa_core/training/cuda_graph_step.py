"""The training step as CUDA graphs: recorded once, replayed from then on (`train.cuda_graph`).

    accumulate(parts)     for each micro-batch: inputs into their places, replay forward and backward;
                          replay clip and optimizer; target update

What is unusual:
- nothing is warmed up on made-up inputs: the first steps are real ones, run as they are; the next is recorded
- ragged sets are padded to a room that the masker's own draws tell (`capacity.py`); a batch that does not fit
  runs as it is
- the host reads nothing back. A step that is not finite is stopped on the device, where the optimizer sees
  `found_inf`; the host learns of it when a line is logged, or a checkpoint is made
- learning rate, weight decay and gradient limit are device scalars. The decay is a product of its own before
  AdamW, which keeps its as a plain number
- the target update is no part of the graph: it is one launch, and plugins' updates may do what they like
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from jepa_core.errors import UserError
from jepa_core.jepa import JEPA, Output
from jepa_core.maskers.step_masks import StepMasks
from jepa_core.runtime.distributed import Ranks
from jepa_core.settings.recipe import Recipe
from jepa_core.training.cuda_graphs import CudaRecorder, Recorded, Recorder
from jepa_core.training.plan_buckets import DRAWS, PlanBuckets, sets_of, unpad, without_cache
from jepa_core.training.step import TrainingStep
from jepa_core.types.batch import Batch
from jepa_core.types.index_set import grid_size
from jepa_core.types.mask_plan import MaskPlan

MAX_GRAPHS = 64
"""Graphs of forward and backward that are kept, one for each combination of the sets' rooms."""


class MicroBatchGraph:
    """Forward and backward for sets of one size, on inputs that are copied into their places.

    `views`: the places of the batch's views, which all sizes share.
    """

    def __init__(self, views: Mapping[str, Tensor], plan: MaskPlan, work: Any, recorder: Recorder) -> None:
        device = next(iter(views.values())).device
        self.views = views
        self.plan = plan.map(
            lambda one: replace(
                one,
                index=torch.empty_like(one.index, device=device),
                lengths=torch.empty_like(one.lengths, device=device),
            )
        )
        # sets anew each time: what is derived from them belongs to the graph
        self.recorded = Recorded(lambda: work(Batch(self.views), without_cache(self.plan)), recorder)

    def __call__(self, batch: Batch, plan: MaskPlan) -> Output:
        """On a batch and a plan with the shapes of the first; nothing waits for the copies."""
        for name, place in self.views.items():
            place.copy_(batch.views[name], non_blocking=True)
        for kept, given in zip(sets_of(self.plan), sets_of(plan), strict=True):
            kept.index.copy_(given.index, non_blocking=True)
            kept.lengths.copy_(given.lengths, non_blocking=True)
        output: Output = self.recorded()
        return output


class CudaGraphStep(TrainingStep):
    """A `TrainingStep` whose work on the device is replayed from CUDA graphs.

    Raises UserError off CUDA, for several processes, for settings and terms that need the host at each step,
    and where the step cannot be recorded. `recorder` is for tests.
    """

    def __init__(
        self,
        model: JEPA,
        recipe: Recipe,
        total_steps: int,
        warmup_steps: int,
        ranks: Ranks | None = None,
        recorder: Recorder | None = None,
    ) -> None:
        device = next(model.parameters()).device
        self.scalars = {name: torch.zeros((), device=device) for name in ("lr", "decay", "limit")}
        super().__init__(model, recipe, total_steps, warmup_steps, ranks)
        _check(recipe, model, self.ranks, recorder is not None or device.type == "cuda")
        self.recorder = recorder or CudaRecorder(device)
        self.recipe = recipe
        self.buckets: PlanBuckets | None = None
        self.eager_fallbacks = 0
        """Micro-batches that did not fit and ran as they are."""
        self._views: dict[str, Tensor] = {}
        self._passes: dict[tuple[int, ...], MicroBatchGraph] = {}
        self._end = Recorded(self._clip_and_step, self.recorder)
        self._share = 1.0
        names = list(model.objectives)
        self._sums = torch.zeros(1 + len(names), device=device)
        self._flags = torch.zeros(recipe.train.log_every, dtype=torch.bool, device=device)
        self._slot = torch.zeros(1, dtype=torch.long, device=device)
        self._flags_read = 0

    def make_optimizer(self) -> torch.optim.AdamW:
        """AdamW that reads its rate on the device, and leaves weight decay to `_clip_and_step`."""
        optimizer = super().make_optimizer()
        self._decayed = optimizer.param_groups[0]["params"]
        self._on_device(optimizer)
        return optimizer

    def _on_device(self, optimizer: torch.optim.Optimizer) -> None:
        for group in optimizer.param_groups:
            on_gpu = self.device.type == "cuda"
            group |= {"lr": self.scalars["lr"], "weight_decay": 0.0, "capturable": on_gpu}

    def accumulate(self, parts: Sequence[tuple[Batch | Tensor, MaskPlan | None]]) -> Output:
        """One optimizer step over several micro-batches; see `TrainingStep.accumulate`."""
        self.model.train()
        self.set_schedules()
        self.optimizer.zero_grad(set_to_none=False)
        self._sums.zero_()
        self._share = 1 / len(parts)
        for number, (batch, plan) in enumerate(parts):
            with self.randomness(number, len(parts)):
                output = self._one(Batch.of(batch), MaskPlan() if plan is None else plan)
        self.logged["grad_norm"] = self._end()
        self.logged.update(self.model.update_target(self.done, self.total_steps))
        self.done += 1
        self.skip_reason = None
        if self._due():
            self._read_flags()
        loss, *terms = self._sums.clone()
        return replace(output, loss=loss, terms=dict(zip(self.model.objectives, terms, strict=True)))

    def _one(self, batch: Batch, plan: MaskPlan) -> Output:
        """Forward and backward of one micro-batch: replayed where it fits into the places."""
        if self.buckets is None:
            self.buckets = self._measured(batch.batch_size)
        padded = self.buckets.pad(plan)
        key = () if padded is None else tuple(one.total for one in sets_of(padded))
        full = key not in self._passes and len(self._passes) >= MAX_GRAPHS
        if padded is None or full or not self._same_views(batch):
            self.eager_fallbacks += 1
            return self._forward_backward(batch, plan)
        if self.device.type == "cuda" and any(one.index.device.type == "cpu" for one in sets_of(padded)):
            padded = padded.pin_memory()
        if key not in self._passes:
            self._passes[key] = MicroBatchGraph(self._views, padded, self._forward_backward, self.recorder)
        output = self._passes[key](batch, padded)
        step = unpad(output.step, plan)
        return replace(output, step=step, metrics=self.model.metrics(step))

    def _same_views(self, batch: Batch) -> bool:
        """Whether the views have the shapes of the first batch's, for which places are made."""
        if batch.condition is not None:
            raise UserError("train.cuda_graph takes views alone; these batches have a condition as well")
        if not self._views:
            self._views = {n: torch.empty_like(v, device=self.device) for n, v in batch.views.items()}
        shapes = {name: view.shape for name, view in batch.views.items()}
        return shapes == {name: view.shape for name, view in self._views.items()}

    def _forward_backward(self, batch: Batch, plan: MaskPlan) -> Output:
        output = self.forward(batch, plan)
        (output.loss * self._share).backward()
        self._sums += torch.stack([output.loss, *output.terms.values()]).detach() * self._share
        return output.detach()

    @torch.no_grad()
    def _clip_and_step(self) -> Tensor:
        """The gradient's norm, after the optimizer has taken the step unless loss or norm are not finite."""
        trained = [p.grad for p in self.model.parameters() if p.grad is not None]
        norm = nn.utils.get_total_norm(trained)
        torch._foreach_mul_(trained, (self.scalars["limit"] / (norm + 1e-6)).clamp(max=1.0))
        finite = self._sums[0].isfinite() & norm.isfinite()
        torch._foreach_mul_(self._decayed, 1 - self.scalars["lr"] * self.scalars["decay"] * finite)
        # how torch's own loss scaler tells a fused optimizer to leave this step out
        self.optimizer.found_inf = (~finite).float()  # type: ignore[attr-defined]
        self.optimizer.step()
        self._flags.index_copy_(0, self._slot, ~finite[None])
        self._slot.add_(1)
        return norm

    def set_schedules(self) -> None:
        """Learning rate, weight decay and limit of the step that comes, on the device and in `logged`."""
        self.logged = dict(zip(("lr", "weight_decay"), self.schedules(), strict=True))
        values = (*self.logged.values(), self.limit())
        for scalar, value in zip(self.scalars.values(), values, strict=True):
            scalar.fill_(value)

    def _measured(self, batch_size: int) -> PlanBuckets:
        """Room for the masks of this batch size, from draws all over the run."""
        masks = StepMasks(self.model.masker, self.model.grid(), self.total_steps, self.recipe.seed)
        steps = [self.total_steps * n // DRAWS for n in range(DRAWS)]
        return PlanBuckets.measured(
            [masks(step, 0, batch_size) for step in steps], grid_size(self.model.grid())
        )

    def _due(self) -> bool:
        train = self.recipe.train
        return self.done == self.total_steps or self.done % train.log_every == 0

    def _read_flags(self) -> None:
        """Reads back which steps since the last look were not finite, and does what the recipe says.

        Raises StepRefused as `guards.StepGuard` does.
        """
        count = self.done - self._flags_read
        flags, first = self._flags[:count].tolist(), self._flags_read + 1
        self._flags_read = self.done
        self._slot.zero_()
        refused = [first + n for n, bad in enumerate(flags) if bad]
        if refused:
            self.skip_reason = self.guard.report_nonfinite(refused, self.done)

    def state_dict(self) -> dict[str, Any]:
        """As a plain step's, after reading the flags. Raises StepRefused as `_read_flags` does."""
        self._read_flags()
        state = super().state_dict()
        groups = [
            group | {"lr": self.logged.get("lr", 0.0), "capturable": False}
            for group in state["optimizer"]["param_groups"]
        ]
        return state | {"optimizer": state["optimizer"] | {"param_groups": groups}}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes over what `state_dict` gave, this step's or a plain one's."""
        super().load_state_dict(state)
        self._flags_read = self.done
        self._on_device(self.optimizer)


def _check(recipe: Recipe, model: JEPA, ranks: Ranks, usable: bool) -> None:
    """Raises UserError where the recipe asks for what cannot be recorded."""
    if not usable:
        raise UserError("train.cuda_graph needs a CUDA device, and this run is on the CPU; leave it out")
    if ranks.world_size > 1:
        raise UserError(f"train.cuda_graph is for one process; these are {ranks.world_size}")
    if recipe.train.spike_guard is not None:
        raise UserError(
            "train.spike_guard judges each loss before the step is taken, and train.cuda_graph waits for "
            "none; leave one of them out"
        )
    for name, term in model.objectives.items():
        if not term.config.capturable:
            raise UserError(
                f"the term {name!r} ({term.config.name}) does not say that it may be part of a CUDA graph "
                "(capturable); set train.cuda_graph=false"
            )
