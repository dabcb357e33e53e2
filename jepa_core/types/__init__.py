"""The values that travel between the stages: grids, ragged index sets, mask plans, tokens, batches, steps."""

from jepa_core.types.batch import Batch as Batch
from jepa_core.types.batch import Device as Device
from jepa_core.types.index_set import Grid as Grid
from jepa_core.types.index_set import IndexSet as IndexSet
from jepa_core.types.index_set import grid_size as grid_size
from jepa_core.types.mask_plan import MaskPlan as MaskPlan
from jepa_core.types.packed import Packed as Packed
from jepa_core.types.padded_set import PaddedSet as PaddedSet
from jepa_core.types.padded_set import valid_rows as valid_rows
from jepa_core.types.sample import Field as Field
from jepa_core.types.sample import Sample as Sample
from jepa_core.types.step import Group as Group
from jepa_core.types.step import Step as Step
from jepa_core.types.tokens import Tokens as Tokens

__all__ = [
    "Batch",
    "Device",
    "Field",
    "Grid",
    "Group",
    "IndexSet",
    "MaskPlan",
    "Packed",
    "PaddedSet",
    "Sample",
    "Step",
    "Tokens",
    "grid_size",
    "valid_rows",
]
