"""The training step as CUDA graphs: recorded once, replayed from then on (`train.cuda_graph`).

    each micro-batch: inputs copied into their places, forward and backward replayed
    each step:        clip and optimizer replayed; target update

What is unusual:
- nothing is warmed up on made-up inputs: the first steps are real ones and run without a graph; the next is
  recorded
- ragged sets are padded to buckets measured on the masker's own draws (`plan_buckets.py`); a batch that does
  not fit runs without a graph
- the host reads nothing back. A step that is not finite is stopped on the device, where the optimizer sees
  `found_inf`; the host learns of it when a line is logged, or a checkpoint is made
- learning rate and weight decay of each group, and the gradient's limit, are device scalars. The decay is a
  product of its own before the optimizer, which keeps its as a plain number
- the features that a graph hands on are copied to places that all graphs share: left where they are, they
  would take memory of their own in each graph, of which there is one for each combination of bucket sizes
- the target update is no part of the graph: it is one launch, and plugins' updates may do anything
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace
from itertools import count
from typing import Any

import torch
from torch import Tensor, nn

from jepa_core.assembly import step_masks
from jepa_core.errors import UserError
from jepa_core.jepa import JEPA, Output
from jepa_core.runtime.distributed import Ranks
from jepa_core.settings.recipe import Recipe
from jepa_core.training.cuda_graphs import CudaRecorder, Recorded, Recorder, SharedPlaces
from jepa_core.training.graph_inputs import GraphInputs, use_of_step_in_a_line
from jepa_core.training.plan_buckets import DRAWS, PlanBuckets, sets_of, unpad, without_cache
from jepa_core.training.step import TrainingStep
from jepa_core.types.batch import Batch
from jepa_core.types.index_set import grid_size
from jepa_core.types.mask_plan import MaskPlan
from jepa_core.types.tokens import Tokens

log = logging.getLogger("jepa.cuda_graph")

MAX_GRAPHS = 64
"""Graphs of forward and backward that are kept, one for each combination of the sets' buckets."""


class MicroBatchGraph:
    """Forward and backward pass for sets of one size, on inputs that are copied into their places.

    `inputs`: the places of the batch, which the graphs of all sizes share.
    """

    def __init__(self, inputs: GraphInputs, plan: MaskPlan, work: Any, recorder: Recorder) -> None:
        device = next(iter(inputs.batch.views.values())).device
        self.inputs = inputs
        self.plan = plan.map(
            lambda own: replace(
                own,
                index=torch.empty_like(own.index, device=device),
                lengths=torch.empty_like(own.lengths, device=device),
            )
        )
        # sets without cached properties each time: what is derived from them belongs to the graph
        self.recorded = Recorded(lambda: work(inputs.batch, without_cache(self.plan)), recorder)

    def __call__(self, batch: Batch, plan: MaskPlan) -> Output:
        """On a batch and a plan with the shapes of the first; nothing waits for the copies."""
        self.inputs.copy(batch)
        for place, own in zip(sets_of(self.plan), sets_of(plan), strict=True):
            place.index.copy_(own.index, non_blocking=True)
            place.lengths.copy_(own.lengths, non_blocking=True)
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
        self.clip_limit = torch.zeros((), device=device)
        super().__init__(model, recipe, total_steps, warmup_steps, ranks)
        _check(recipe, model, self.ranks, recorder is not None or device.type == "cuda")
        self.recorder = recorder or CudaRecorder(device)
        self.recipe = recipe
        self.buckets: PlanBuckets | None = None
        self.eager_fallbacks = 0
        """Micro-batches that did not fit and ran without a graph."""
        self._graphs: dict[tuple[int, ...], MicroBatchGraph] = {}
        self._places = SharedPlaces()
        self._end = Recorded(self._clip_and_step, self.recorder)
        self._share = 1.0
        names = list(model.objectives)
        self._sums = torch.zeros(1 + len(names), device=device)
        self._flags = torch.zeros(recipe.train.log_every, dtype=torch.bool, device=device)
        self._slot = torch.zeros(1, dtype=torch.long, device=device)
        self._flags_read = 0

    def make_optimizer(self) -> torch.optim.Optimizer:
        """The optimizer, which reads its rates on the device, and leaves weight decay to `_clip_and_step`."""
        optimizer = super().make_optimizer()
        self.rates, self.decays = (
            [torch.zeros((), device=self.device) for _ in optimizer.param_groups] for _ in range(2)
        )
        self._on_device(optimizer)
        return optimizer

    def _on_device(self, optimizer: torch.optim.Optimizer) -> None:
        for group, rate in zip(optimizer.param_groups, self.rates, strict=True):
            group |= {"lr": rate, "weight_decay": 0.0, "capturable": self.device.type == "cuda"}

    def zero_gradients(self) -> None:
        """Sets the gradients and the sums of the losses to zero, where they are."""
        self.optimizer.zero_grad(set_to_none=False)
        self._sums.zero_()

    def micro_batch(self, batch: Batch, plan: MaskPlan | None, parts: int) -> Output:
        """Forward and backward pass of one micro-batch: replayed where it fits into the places."""
        self._share = 1 / parts
        plan = MaskPlan() if plan is None else plan
        if self.buckets is None:
            self.buckets = self._measure_buckets(batch.batch_size)
            self.inputs = GraphInputs(batch, self.device)
            ratios = [bucket.sizes[-1] / bucket.sizes[0] for bucket in self.buckets.buckets]
            self._places.headroom = max(ratios, default=1.0)
        padded = self.buckets.pad(plan)
        key = () if padded is None else tuple(own.total for own in sets_of(padded))
        full = key not in self._graphs and len(self._graphs) >= MAX_GRAPHS
        if padded is None or full or not self.inputs.fits(batch):
            self.eager_fallbacks += 1
            return self._forward_backward(replace(batch, step=self.done), plan)
        if self.device.type == "cuda" and any(own.index.device.type == "cpu" for own in sets_of(padded)):
            padded = padded.pin_memory()
        if key not in self._graphs:
            self._graphs[key] = MicroBatchGraph(self.inputs, padded, self._in_shared_places, self.recorder)
            log.info(
                "step %d: graph %d is recorded, for sets of %s tokens", self.done, len(self._graphs), key
            )
        output = self._graphs[key](batch, padded)
        step = replace(unpad(output.step, plan), number=self.done)
        return replace(output, step=step, metrics=self.model.metrics(step))

    def _in_shared_places(self, batch: Batch, plan: MaskPlan) -> Output:
        """Forward and backward pass, with the features copied to the places that all graphs share."""
        output, numbers = self._forward_backward(batch, plan), count()

        def move(tokens: Tokens) -> Tokens:
            features = (tokens.values, *tokens.layers)
            values, *layers = (self._places(next(numbers), feature) for feature in features)
            return Tokens(values, tokens.at, tokens.grid, tuple(layers))

        return replace(output, step=output.step.map(move))

    def _forward_backward(self, batch: Batch, plan: MaskPlan) -> Output:
        with use_of_step_in_a_line():
            output = self.run_model(batch, plan)
        (output.loss * self._share).backward()
        self._sums += torch.stack([output.loss, *output.terms.values()]).detach() * self._share
        return output.detach()

    def finish(self, output: Output) -> Output:
        """Clipping and optimizer step, replayed, then the target update; reads flags back where due."""
        self.log_norms(self._end())
        self.logged.update(self.model.update_target(self.done, self.total_steps))
        self.done += 1
        self.skip_reason = None
        if self._is_due():
            self._read_flags()
        loss, *terms = self._sums.clone()
        return replace(output, loss=loss, terms=dict(zip(self.model.objectives, terms, strict=True)))

    @torch.no_grad()
    def _clip_and_step(self) -> dict[str, Tensor]:
        """The norms of the gradient's parts, after the optimizer has taken the step, unless loss or norms are
        not finite."""
        norms, finite = {}, self._sums[0].isfinite()
        for name, parameters in self.clip_parts.items():
            grads = [p.grad for p in parameters if p.grad is not None]
            if not grads:
                continue
            norms[name] = nn.utils.get_total_norm(grads)
            torch._foreach_mul_(grads, (self.clip_limit / (norms[name] + 1e-6)).clamp(max=1.0))
            finite = finite & norms[name].isfinite()
        for group, rate, decay in zip(self.optimizer.param_groups, self.rates, self.decays, strict=True):
            if group["params"] and group["fixed_decay"] != 0:
                torch._foreach_mul_(group["params"], 1 - rate * decay * finite)
        # how torch's own loss scaler tells a fused optimizer to leave this step out
        self.optimizer.found_inf = (~finite).float()  # type: ignore[attr-defined]
        self.optimizer.step()
        self._flags.index_copy_(0, self._slot, ~finite[None])
        self._slot.add_(1)
        return norms

    def set_schedules(self) -> None:
        """Learning rates, weight decays and limit of the coming step, on the device and in `logged`."""
        lr, weight_decay = self.schedules()
        self.logged = self.rates_to_log(lr, weight_decay)
        for group, rate, decay in zip(self.optimizer.param_groups, self.rates, self.decays, strict=True):
            rate.fill_(lr * group["lr_scale"])
            decay.fill_(weight_decay if group["fixed_decay"] is None else group["fixed_decay"])
        self.clip_limit.fill_(self.limit())

    def _measure_buckets(self, batch_size: int) -> PlanBuckets:
        """Buckets for the masks of this batch size, from draws all over the run."""
        masks = step_masks(self.model, self.recipe.seed, self.total_steps)
        steps = [self.total_steps * n // DRAWS for n in range(DRAWS)]
        return PlanBuckets.measure(
            [masks(step, 0, batch_size) for step in steps], grid_size(self.model.grid())
        )

    def _is_due(self) -> bool:
        train = self.recipe.train
        return self.done == self.total_steps or self.done % train.log_every == 0

    def _read_flags(self) -> None:
        """Reads back which steps since the last reading were not finite, and does what the recipe says.

        Raises StepRefused as `step_guard.StepGuard` does.
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
            group | {"lr": self.logged.get("lr", 0.0) * group["lr_scale"], "capturable": False}
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
    if model.maskers:
        raise UserError(
            f"train.cuda_graph carries the masks of one view, and the recipe has "
            f"[maskers.{next(iter(model.maskers))}]; set train.cuda_graph=false"
        )
    side = step_masks(model).side
    if side:
        raise UserError(
            f"train.cuda_graph measures masks before there are data, and the masker reads side.{side[0]}; "
            "set train.cuda_graph=false"
        )
    if not recipe.optimizer.capturable:
        raise UserError(
            f"optimizer {recipe.optimizer.name!r} does not say that it may be part of a CUDA graph "
            "(capturable); set train.cuda_graph=false"
        )
    for name, term in model.objectives.items():
        if not term.config.capturable:
            raise UserError(
                f"the term {name!r} ({term.config.name}) does not say that it may be part of a CUDA graph "
                "(capturable); set train.cuda_graph=false"
            )
