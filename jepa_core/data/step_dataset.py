"""One training step's batch and masks, as a function of the step's number.

An epoch is a permutation of all samples, drawn from (seed, epoch). Rank r of w takes every w-th from r
on; what does not fill a whole batch on every rank is left out of that epoch (drop last).

Axes: B samples.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch.utils.data import Dataset

from jepa_core.data.images import Skipped
from jepa_core.data.readers import Reader
from jepa_core.data.samples import Indices, OrderedSamples
from jepa_core.data.workers import one_thread
from jepa_core.errors import UserError
from jepa_core.maskers.step_masks import StepMasks
from jepa_core.runtime.seeding import step_generator
from jepa_core.types.batch import Batch, Device
from jepa_core.types.mask_plan import MaskPlan


@dataclass(frozen=True, eq=False)
class StepBatch:
    """One step's batch, its masks (None without a masker), and the corrupt samples that were left out."""

    step: int
    batch: Batch
    plan: MaskPlan | None
    skipped: tuple[Skipped, ...] = ()
    unusual: tuple[str, ...] = ()
    """For each unusual image of the batch, in which way (see `images.UNUSUAL`)."""

    def to(self, device: Device, non_blocking: bool = False) -> StepBatch:
        """A copy with batch and masks on another device."""
        plan = self.plan.to(device, non_blocking) if self.plan is not None else None
        return replace(self, batch=self.batch.to(device, non_blocking), plan=plan)

    def pin_memory(self) -> StepBatch:
        """A copy with batch and masks in page-locked memory; called by torch's DataLoader."""
        return replace(
            self,
            batch=self.batch.pin_memory(),
            plan=self.plan.pin_memory() if self.plan is not None else None,
        )


@dataclass(frozen=True)
class EpochOrder:
    """Which samples each of `world` ranks sees at which step."""

    samples: int
    batch_size: int
    seed: int
    world: int = 1
    source: object = None
    """What may have an order of its own (`samples.OrderedSamples`)."""

    @property
    def steps_per_epoch(self) -> int:
        """Whole batches that every rank has in an epoch."""
        return self.samples // self.world // self.batch_size

    def epoch(self, number: int) -> Indices:
        """int64 [samples]: the permutation of all samples in this epoch, or the order that they want."""
        generator = step_generator(self.seed, 0, number, "order")
        if not isinstance(self.source, OrderedSamples):
            return torch.randperm(self.samples, generator=generator).numpy()
        order = self.source.epoch_order(generator, self.batch_size * self.world)
        if order.shape != (self.samples,) or order.dtype != torch.int64:
            kind = str(order.dtype).removeprefix("torch.")
            raise UserError(
                f"epoch_order of {type(self.source).__name__} gave {kind} {list(order.shape)}; expected "
                f"int64 [{self.samples}]"
            )
        return order.numpy()


class StepDataset(Dataset[StepBatch]):
    """`dataset[s, r]` is rank r's batch of step s. The current epoch's permutation is kept between steps."""

    def __init__(self, order: EpochOrder, read: Reader, masks: StepMasks | None) -> None:
        self.order, self.read, self.masks = order, read, masks
        self._epoch: tuple[int, Indices] | None = None

    def __getitem__(self, item: tuple[int, int]) -> StepBatch:
        step, rank = item
        generator = step_generator(self.order.seed, rank, step, "transform")
        with one_thread():
            result = self.read(self._indices(step, rank), self.order.batch_size, generator)
        batch = result.to_batch(step)
        plan = self.masks(step, rank, self.order.batch_size, batch.side) if self.masks else None
        return StepBatch(step, batch, plan, result.skipped, result.unusual)

    def _indices(self, step: int, rank: int) -> Iterator[int]:
        """All samples of the rank in this epoch, beginning with the step's first and going round.

        A batch takes as many as it needs: those after its own take the place of corrupt ones.
        """
        epoch, position = divmod(step, self.order.steps_per_epoch)
        if self._epoch is None or self._epoch[0] != epoch:
            self._epoch = (epoch, self.order.epoch(epoch))
        start, share = position * self.order.batch_size, self.order.samples // self.order.world
        own = self._epoch[1][rank :: self.order.world]
        return (int(own[(start + k) % share]) for k in range(share))
