"""Settings: strict, frozen pydantic models, one nested in each component that uses it.

Every default lives in exactly one of these. A misspelt key, a wrong type or a value out of range is
one line that names the setting, what came and what is allowed.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic_core import to_json

from jepa_core.errors import UserError


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
        """Raises UserError where the settings cannot work together; called when a recipe is read.

        For what a type cannot say and costs little to find out. By default all is well.
        """


class SourceSettings(ComponentSettings):
    """What every source of data has, whoever wrote it: how it is read."""

    carried: ClassVar[frozenset[str]] = frozenset({"workers", "max_corrupt"})

    workers: int = Field(0, ge=0, le=512)
    """Processes that read and transform images; 0: the training process itself. Changes no batch."""
    max_corrupt: float = Field(0.1, ge=0, lt=1)
    """Share of unreadable images that is put up with; they are skipped, counted and reported."""


class MaskerSettings(ComponentSettings):
    """What maskers have that the engine can draw several times."""

    carried: ClassVar[frozenset[str]] = frozenset({"sets"})
    disjoint: ClassVar[bool] = True
    """Whether no target is visible in a context it is predicted from; `jepa plugins check` asks for it."""

    sets: int = Field(1, ge=1, le=64)
    """Context and target sets of a sample, each paired with its own, over one pass of the target encoder
    (V-JEPA: 2). A step then costs less for each pair, and more in all."""


class ObjectiveSettings(ComponentSettings):
    """What every loss term has, whoever wrote it."""

    batchwise: ClassVar[bool] = False
    """Whether the term looks at the batch as a whole (covariances, contrasts), so that its mean over ranks
    or micro-batches is not its value on all of them; `jepa plugins check` asks where it is not said."""

    capturable: ClassVar[bool] = False
    """Whether the term may be part of a CUDA graph (`train.cuda_graph`): it looks at nothing on the host,
    draws nothing from the step's number, and leaves out rows that are not `IndexSet.real`."""
    summed: ClassVar[bool] = False
    """Whether such a term adds up over processes (`jepa_core.ranks.summed`): its value in each is that of all
    samples."""

    weight: float = 1.0
    """Factor of this term in the loss."""


class TrainSettings(Settings):
    """The training loop."""

    steps: int | None = Field(None, ge=1)
    """Optimizer steps of the whole run; goes before `epochs`."""
    epochs: float | None = Field(None, gt=0)
    """Passes over the training images, where `steps` is not given."""
    epoch_images: int | None = Field(None, ge=1)
    """Images of one epoch; by default as many as the training split has."""
    batch_size: int = Field(128, ge=1)
    """Images of one optimizer step."""
    micro_batch: int | None = Field(None, ge=1)
    """Images of one forward pass; the gradients of batch_size / micro_batch passes add up to one step.
    Pass m draws its samples and masks as rank m of as many would. By default the whole batch at once."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """Autocast to bf16, or fp32 throughout; auto: bf16 where the device multiplies it fast."""
    compile: bool = False
    """Compile the model's forward and backward pass (torch.compile, one graph for sets of all lengths): the
    first steps take a minute or two."""
    cuda_graph: bool = False
    """Record the step in a CUDA graph once and replay it: for models whose many small kernels a GPU outruns.
    Ragged sets are padded to a room measured from the masker; a batch that does not fit runs as it is. NaN
    and infinite values are found when a line is logged; the optimizer leaves out the steps that had them."""
    device: str = "auto"
    """`cpu`, `cuda`, `cuda:1`, …; auto: the first GPU, or the CPU."""
    log_every: int = Field(10, ge=1)
    """Steps between two lines of metrics.jsonl."""
    eval_every: int = Field(0, ge=0)
    """Steps between two small kNN evaluations on the validation split; 0: none."""
    checkpoint_every: int = Field(0, ge=0)
    """Steps between two checkpoints; 0: only at the end."""
    keep: int = Field(2, ge=1)
    """Checkpoints that are kept."""
    on_nonfinite: Literal["stop", "skip"] = "stop"
    """What a step whose loss or gradient is NaN or infinite does: end the run, or change nothing."""
    spike_guard: float | None = Field(None, gt=0)
    """Skip a step whose loss is more than so many standard deviations above the mean of the last 300
    (V-JEPA 2.1); by default none is."""
    max_skipped: int = Field(10, ge=0)
    """Skipped steps among the last 300 that are put up with; one more ends the run."""


class KernelSettings(Settings):
    """Which implementations compute, where a component's own settings leave it open."""

    attention: str = "auto"
    """Of attention, for every encoder and predictor whose own `attention` is `auto`: one of
    `jepa_kernels.ATTENTION_IMPLS` (xformers, flex, varlen, sdpa …), which then runs or says why it cannot."""


DecayRate = Annotated[float, Field(ge=0, lt=1)]


class OptimizerSettings(Settings):
    """AdamW (Loshchilov & Hutter 2019) and its schedules."""

    lr: float = Field(1e-3, gt=0)
    """Peak learning rate; not scaled by the batch size."""
    start_lr: float = Field(0.0, ge=0)
    """Learning rate at the start of the warm-up."""
    final_lr: float = Field(0.0, ge=0)
    """Learning rate at the end of the cosine."""
    warmup_steps: int | None = Field(None, ge=0)
    """Steps of linear warm-up; goes before `warmup_epochs`."""
    warmup_epochs: float = Field(0.0, ge=0)
    """Epochs of linear warm-up."""
    weight_decay: float = Field(0.04, ge=0)
    """Weight decay at the start."""
    final_weight_decay: float | None = Field(None, ge=0)
    """Weight decay at the end of a cosine; by default it stays."""
    betas: tuple[DecayRate, DecayRate] = (0.9, 0.999)
    """Adam's decay rates of the two moments."""
    eps: float = Field(1e-8, gt=0)
    """Adam's ε."""
    clip_grad: float | None = Field(None, gt=0)
    """Largest norm of the whole gradient; by default it is not clipped."""
    clip_after_warmup: bool = False
    """Whether the gradient is clipped from the end of the warm-up on only (V-JEPA)."""
    schedule_scale: float = Field(1.0, ge=1)
    """The cosines of learning rate and weight decay are made for so many times the steps of the run, which so
    ends before they do (V-JEPA: 1.25)."""


S = TypeVar("S", bound=BaseModel)


def parse(model: type[S], values: Mapping[str, Any], section: str) -> S:
    """Plain TOML values as a `model`. Raises UserError naming `section.key` for the first that is wrong.

    By way of JSON, because pydantic's strict rules (no 6 from "6" or from 6.0, no 1 from true) take
    lists for tuples and texts for paths only there.
    """
    try:
        return model.model_validate_json(to_json(dict(values), inf_nan_mode="constants"), strict=True)
    except ValidationError as error:
        from jepa_core.mistakes import explain

        raise UserError(explain(error, model, values, section)) from None
