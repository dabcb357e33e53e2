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
- the features that a pass hands on are copied to places that all graphs share: left where they are, they
  would take memory of their own in each graph, which there is one of for each size of the sets
- the target update is no part of the graph: it is one launch, and plugins' updates may do what they like
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import count
from typing import Any

import torch
from torch import Tensor, nn

from jepa_core.capacity import DRAWS, Capacity, afresh, sets_of, unpadded
from jepa_core.cuda_graphs import CudaRecorder, Recorded, Recorder, SharedPlaces
from jepa_core.data.steps import StepMasks
from jepa_core.errors import UserError
from jepa_core.jepa import JEPA, Output
from jepa_core.optim import TrainingStep
from jepa_core.ranks import Ranks
from jepa_core.recipes import Recipe
from jepa_core.types import Batch, MaskPlan, Tokens, grid_size

log = logging.getLogger("jepa.captured")

MOST = 64
"""Graphs of forward and backward that are kept, one for each combination of the sets' rooms."""


class Pass:
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
        self.recorded = Recorded(lambda: work(Batch(self.views), afresh(self.plan)), recorder)

    def __call__(self, batch: Batch, plan: MaskPlan) -> Output:
        """On a batch and a plan with the shapes of the first; nothing waits for the copies."""
        for name, place in self.views.items():
            place.copy_(batch.views[name], non_blocking=True)
        for kept, given in zip(sets_of(self.plan), sets_of(plan), strict=True):
            kept.index.copy_(given.index, non_blocking=True)
            kept.lengths.copy_(given.lengths, non_blocking=True)
        output: Output = self.recorded()
        return output


class CapturedStep(TrainingStep):
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
        self.capacity: Capacity | None = None
        self.unfit = 0
        """Micro-batches that did not fit and ran as they are."""
        self._views: dict[str, Tensor] = {}
        self._passes: dict[tuple[int, ...], Pass] = {}
        self._places = SharedPlaces()
        self._end = Recorded(self._clip_and_step, self.recorder)
        self._share = 1.0
        names = list(model.objectives)
        self._sums = torch.zeros(1 + len(names), device=device)
        self._flags = torch.zeros(recipe.train.log_every, dtype=torch.bool, device=device)
        self._slot = torch.zeros(1, dtype=torch.long, device=device)
        self._looked = 0

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
        self.logged.update(self.model.update_target(self.done))
        self.done += 1
        self.objection = None
        if self._due():
            self._look()
        loss, *terms = self._sums.clone()
        return replace(output, loss=loss, terms=dict(zip(self.model.objectives, terms, strict=True)))

    def _one(self, batch: Batch, plan: MaskPlan) -> Output:
        """Forward and backward of one micro-batch: replayed where it fits into the places."""
        if self.capacity is None:
            self.capacity = self._measured(batch.batch_size)
            self._places.headroom = max(room.rungs[-1] / room.rungs[0] for room in self.capacity.rooms)
        padded = self.capacity.pad(plan)
        key = () if padded is None else tuple(one.total for one in sets_of(padded))
        full = key not in self._passes and len(self._passes) >= MOST
        if padded is None or full or not self._same_views(batch):
            self.unfit += 1
            return self._forward_backward(batch, plan)
        if self.device.type == "cuda" and any(one.index.device.type == "cpu" for one in sets_of(padded)):
            padded = padded.pin_memory()
        if key not in self._passes:
            self._passes[key] = Pass(self._views, padded, self._in_shared_places, self.recorder)
            log.info(
                "step %d: graph %d is recorded, for sets of %s tokens", self.done, len(self._passes), key
            )
        output = self._passes[key](batch, padded)
        step = unpadded(output.step, plan)
        return replace(output, step=step, metrics=self.model.metrics(step))

    def _same_views(self, batch: Batch) -> bool:
        """Whether the views have the shapes of the first batch's, for which places are made."""
        if batch.condition is not None:
            raise UserError("train.cuda_graph takes views alone; these batches have a condition as well")
        if not self._views:
            self._views = {n: torch.empty_like(v, device=self.device) for n, v in batch.views.items()}
        shapes = {name: view.shape for name, view in batch.views.items()}
        return shapes == {name: view.shape for name, view in self._views.items()}

    def _in_shared_places(self, batch: Batch, plan: MaskPlan) -> Output:
        """Forward and backward, the features copied to where those of all graphs lie."""
        output, numbers = self._forward_backward(batch, plan), count()

        def moved(tokens: Tokens) -> Tokens:
            values, *layers = (self._places(next(numbers), one) for one in (tokens.values, *tokens.layers))
            return Tokens(values, tokens.at, tokens.grid, tuple(layers))

        return replace(output, step=output.step.map(moved))

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

    def _measured(self, batch_size: int) -> Capacity:
        """Room for the masks of this batch size, from draws all over the run."""
        masks = StepMasks(self.model.masker, self.model.grid(), self.total_steps, self.recipe.seed)
        steps = [self.total_steps * n // DRAWS for n in range(DRAWS)]
        return Capacity.measured([masks(step, 0, batch_size) for step in steps], grid_size(self.model.grid()))

    def _due(self) -> bool:
        train = self.recipe.train
        return self.done == self.total_steps or self.done % train.log_every == 0

    def _look(self) -> None:
        """Reads back which steps since the last look were not finite, and does what the recipe says.

        Raises StepRefused as `guards.StepGuard` does.
        """
        count = self.done - self._looked
        flags, first = self._flags[:count].tolist(), self._looked + 1
        self._looked = self.done
        self._slot.zero_()
        refused = [first + n for n, bad in enumerate(flags) if bad]
        if refused:
            self.objection = self.guard.found_late(refused, self.done)

    def state_dict(self) -> dict[str, Any]:
        """As another step's: what the device knows is read first. Raises StepRefused as `_look` does."""
        self._look()
        state = super().state_dict()
        groups = [
            group | {"lr": self.logged.get("lr", 0.0), "capturable": False}
            for group in state["optimizer"]["param_groups"]
        ]
        return state | {"optimizer": state["optimizer"] | {"param_groups": groups}}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes over what `state_dict` gave, this step's or a plain one's."""
        super().load_state_dict(state)
        self._looked = self.done
        self._on_device(self.optimizer)


def _check(recipe: Recipe, model: JEPA, ranks: Ranks, usable: bool) -> None:
    """Raises UserError where the recipe asks for what cannot be recorded."""
    if not usable:
        raise UserError("train.cuda_graph needs a CUDA device, and this run is on the CPU; leave it out")
    if ranks.world > 1:
        raise UserError(f"train.cuda_graph is for one process; these are {ranks.world}")
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
