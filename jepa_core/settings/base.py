"""Base classes of settings: strict, frozen pydantic models, one nested in each component as `Config`.

Every default stands in exactly one of them. Settings that the engine reads of all components of a kind are
fields of that kind's base class.
"""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field


class Settings(BaseModel):
    """Base of all settings: no unknown keys, no NaN or infinity, no change after construction."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True)


class ComponentSettings(Settings):
    """Settings of a component that a recipe picks by name."""

    carried: ClassVar[frozenset[str]] = frozenset()
    """Settings that speak of the task: kept when an override swaps the component for another."""

    name: str
    """The registered name (`jepa plugins` lists them)."""

    def check(self) -> None:
        """Raises UserError where the settings contradict each other; called when a recipe is read.

        For rules that types cannot express and that are cheap to check. By default it accepts everything.
        """


class SourceSettings(ComponentSettings):
    """Base of the settings of every source of data: how it is read."""

    carried: ClassVar[frozenset[str]] = frozenset({"workers", "max_corrupt"})

    workers: int = Field(0, ge=0, le=512)
    """Processes that read and transform images; 0: the training process itself. Changes no batch."""
    max_corrupt: float = Field(0.1, ge=0, lt=1)
    """Share of unreadable images that is put up with; they are skipped, counted and reported."""


class ValueSettings(ComponentSettings):
    """Base of the settings of every transform of a named value."""

    invalid: Literal["refuse", "skip"] = "refuse"
    """What a value that cannot be used does: end the run with a line that names it, or leave its sample out
    as corrupt (`data.max_corrupt`)."""
    part: Literal["views", "condition", "side", "targets"] | None = None
    """The part of the batch that the value becomes; by default the one where the source has it. A caption
    with `part = "condition"` is read by the predictor and by no encoder."""


class EvaluationSettings(Settings):
    """Base of the settings of every evaluation that has some, `[evaluations.NAME]` in a recipe."""


class MaskerSettings(ComponentSettings):
    """Base of the settings of maskers that the engine can draw several times for a sample."""

    carried: ClassVar[frozenset[str]] = frozenset({"sets"})
    disjoint: ClassVar[bool] = True
    """Whether no target is visible in a context it is predicted from; `jepa plugins check` asks for it."""

    sets: int = Field(1, ge=1, le=64)
    """Context and target sets of a sample, each paired with its own, over one pass of the target encoder
    (V-JEPA: 2). A step then costs less for each pair, and more in all."""


class VariantSettings(ComponentSettings):
    """Base of the settings of variants: which parts beside the usual ones they use."""

    several_views: ClassVar[bool] = False
    """Whether it trains on the groups of `transform.views`, each [B, V, C, H, W], instead of one view."""
    named_encoders: ClassVar[tuple[str, ...] | None] = ()
    """The encoders that it needs beside the main one, `[encoders.NAME]`; None: any that a recipe has."""
    plans_of_views: ClassVar[bool] = False
    """Whether it uses the plans of further views, `[maskers.NAME]`."""


class ObjectiveSettings(ComponentSettings):
    """Base of the settings of every loss term."""

    batchwise: ClassVar[bool] = False
    """Whether the term looks at the batch as a whole (covariances, contrasts), so that its mean over ranks
    or micro-batches is not its value on all of them; `jepa plugins check` asks where it is not said."""

    capturable: ClassVar[bool] = False
    """Whether the term may be part of a CUDA graph (`train.cuda_graph`): it looks at nothing on the host,
    draws nothing from the step's number, and leaves out rows that are not `IndexSet.valid`."""
    summed: ClassVar[bool] = False
    """Whether such a term adds up over processes (`all_reduce_sum` or `all_gather_rows` of
    `jepa_core.runtime.distributed`): its value in each is that of all samples."""

    weight: float = 1.0
    """Factor of this term in the loss."""
    group: str = ""
    """The named group of predictions that it judges, of a variant that makes several; "": the main one."""
