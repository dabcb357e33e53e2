"""Batches for training, each a pure function of its step number.

What is unusual: an item of the data set *is* a step (`steps.py`). Samples, crops and masks of step s
follow from (seed, rank, s) alone, so the number of workers, a pause and a resume change no bit of any
batch, and resuming replays nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from jepa_core.data.field_reader import field_reader
from jepa_core.data.field_transforms.pipeline import FieldTransforms
from jepa_core.data.readers import check_corrupt, reader
from jepa_core.data.step_dataset import EpochOrder, StepBatch, StepDataset
from jepa_core.data.workers import iterate
from jepa_core.errors import UserError
from jepa_core.maskers.step_masks import StepMasks, ViewMasks
from jepa_core.protocols import Masker, Samples
from jepa_core.settings.sections import TransformSettings
from jepa_core.types.index_set import Grid


class StepLoader:
    """Iterates over `StepBatch`, step after step and rank after rank; counts samples `seen` and `corrupt`.

    Iterating again starts again. `steps_per_epoch` is the number of whole batches in an epoch.
    """

    def __init__(
        self,
        dataset: StepDataset,
        steps: range,
        ranks: range,
        workers: int,
        pin_memory: bool,
        max_corrupt: float,
    ) -> None:
        self.dataset, self.steps, self.ranks, self.workers = dataset, steps, ranks, workers
        self.pin_memory, self.max_corrupt = pin_memory, max_corrupt
        self.steps_per_epoch = dataset.order.steps_per_epoch
        self.seen = self.corrupt = 0

    def __len__(self) -> int:
        return len(self.steps) * len(self.ranks)

    def __iter__(self) -> Iterator[StepBatch]:
        self.seen = self.corrupt = 0
        items = ((step, rank) for step in self.steps for rank in self.ranks)
        for loaded in iterate(self.dataset, items, self.workers, self.pin_memory):
            self.seen += loaded.batch.batch_size + len(loaded.skipped)
            self.corrupt += len(loaded.skipped)
            if loaded.skipped:
                check_corrupt(loaded.skipped, self.seen, self.max_corrupt, self.corrupt)
            yield loaded


def make_loader(
    samples: Samples,
    transform_settings: TransformSettings,
    view_shape: Sequence[int],
    batch_size: int,
    *,
    steps: range,
    seed: int,
    ranks: range = range(1),
    world: int = 1,
    workers: int = 0,
    masker: Masker | None = None,
    grid: Grid | None = None,
    view_masks: Mapping[str, ViewMasks] | None = None,
    total_steps: int | None = None,
    max_corrupt: float = 0.1,
    pin_memory: bool = False,
    fields: FieldTransforms | None = None,
) -> StepLoader:
    """Training batches for these steps: `StepBatch` with views float32 [batch_size, *view_shape] and masks.

    Args:
        samples: the training split. Small images in memory are transformed by the batch.
        view_shape: (3, H, W), or (3, T, H, W) of clips.
        batch_size: samples of one step of one rank.
        steps: numbers of the steps, from 0; `range(start, stop)` resumes at `start`.
        ranks, world: the shares of a step that this process draws, one `StepBatch` each, of `world` shares.
            On many devices each process takes its own; one device takes all of them, as micro-batches,
            and sees the same images and masks.
        workers: processes that read; they change no batch.
        masker, grid, total_steps: draw each step's masks with the batch, `progress` being step / total_steps.
        view_masks: draw those of further views, by their names.
        max_corrupt: share of unreadable samples that is put up with, judged from 100 samples on.
        fields: the transforms of samples with several named values; without them, or where there is but one
            view, the samples are images or clips with a class, and `transform_settings` say what is done.

    Raises UserError where there are fewer samples than one batch on each rank takes; while iterating,
    where too many samples are corrupt.
    """
    order = EpochOrder(len(samples), batch_size, seed, world, samples)
    if order.steps_per_epoch == 0:
        each = f" on each of {world} ranks" if world > 1 else ""
        raise UserError(
            f"{len(samples)} samples do not fill one batch of {batch_size}{each}; lower train.batch_size"
        )
    if fields is None or fields.plain:
        read = reader(samples, transform_settings, view_shape, max_corrupt)
    else:
        read = field_reader(samples, fields, max_corrupt)
    masks = None
    if masker is not None:
        assert grid is not None, "a masker needs the grid it draws on"
        total = total_steps if total_steps is not None else steps.stop
        masks = StepMasks(masker, grid, total, seed, view_masks or {})
    return StepLoader(StepDataset(order, read, masks), steps, ranks, workers, pin_memory, max_corrupt)
