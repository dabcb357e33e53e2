"""Settings that all optimizers share: schedules, clipping, and groups of parameters.

`OptimizerSettings` is the base class of every optimizer's `Config`. The engine reads these fields; what only
one optimizer has (betas, momentum) stands in its own class.
"""

from __future__ import annotations

from collections.abc import Mapping
from fnmatch import fnmatchcase
from typing import Annotated, ClassVar, Literal

from pydantic import AfterValidator, Field, model_validator

from jepa_core.settings.base import ComponentSettings, Settings

DecayRate = Annotated[float, Field(ge=0, lt=1)]
"""Of a running average: the share that stays."""

Pattern = Annotated[str, Field(min_length=1)]


class GroupSettings(Settings):
    """A group of parameters with a learning rate, a weight decay, or a freezing of its own."""

    match: Pattern | Annotated[list[Pattern], Field(min_length=1)]
    """Names of parameters, or of modules that hold them, with `*` and `?`: `encoders.text`, `*.norm*`; one,
    or a list. The first group that matches a parameter has it."""
    lr_scale: float = Field(1.0, gt=0)
    """Factor on the learning rate."""
    weight_decay: float | None = Field(None, ge=0)
    """Weight decay instead of the schedule's; 0 switches it off. Biases and vectors never have any."""
    frozen: bool = False
    """Whether the parameters stay as they are: they then take no gradient and are in no optimizer."""

    @model_validator(mode="after")
    def _frozen_alone(self) -> GroupSettings:
        if self.frozen and (self.lr_scale != 1 or self.weight_decay is not None):
            raise ValueError("neither lr_scale nor weight_decay beside frozen = true")
        return self

    @property
    def patterns(self) -> tuple[str, ...]:
        """`match` as a tuple."""
        return (self.match,) if isinstance(self.match, str) else tuple(self.match)

    def matches(self, parameter_name: str) -> bool:
        """Whether the parameter, or a module that holds it, has a name that `match` gives."""
        return any(
            fnmatchcase(parameter_name, pattern) or fnmatchcase(parameter_name, f"{pattern}.*")
            for pattern in self.patterns
        )


def _plain_names(groups: Mapping[str, GroupSettings]) -> Mapping[str, GroupSettings]:
    """Names become keys of metrics.jsonl, `lr/text`."""
    for name in groups:
        if not name.isidentifier():
            raise ValueError(f"names of letters, digits and underscores, which {name!r} is not")
    return groups


class OptimizerSettings(ComponentSettings):
    """Base of the settings of every optimizer: learning rate, weight decay, clipping, groups."""

    carried: ClassVar[frozenset[str]] = frozenset(
        ("lr", "start_lr", "final_lr", "warmup_steps", "warmup_epochs", "weight_decay", "final_weight_decay")
    ) | {
        "clip_grad",
        "clip",
        "clip_after_warmup",
        "clip_delay_steps",
        "schedule_scale",
        "layer_decay",
        "groups",
    }
    capturable: ClassVar[bool] = False
    """Whether its step may be part of a CUDA graph (`train.cuda_graph`): it takes a learning rate that is a
    tensor on the device, leaves a step out where its attribute `found_inf` is 1, and its weight decay is a
    factor 1 - lr · decay on the weights before the step, which the engine then applies itself."""
    state_entries: ClassVar[tuple[frozenset[str], ...]] = ()
    """What it keeps of a parameter, one set of names for each form: a count `step`, and tensors of the
    parameter's shape and type. A checkpoint with anything else is refused. Without a form: any tensors whose
    sizes are those of the parameter, and numbers."""
    counters: ClassVar[frozenset[str]] = frozenset({"step"})
    """Entries of the groups that count steps: a resumed run takes them over; all others are its own."""

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
    warmup_share: float | None = Field(None, ge=0, le=1)
    """Share of all steps that are warm-up, where it is given neither in steps nor in epochs."""
    weight_decay: float = Field(0.04, ge=0)
    """Weight decay at the start."""
    final_weight_decay: float | None = Field(None, ge=0)
    """Weight decay at the end of a cosine; by default it stays."""
    clip_grad: float | None = Field(None, gt=0)
    """Largest norm of the gradient; by default it is not clipped."""
    clip: Literal["joint", "by_part"] = "joint"
    """What `clip_grad` limits: the norm of the whole gradient, or of the encoder's, the predictor's, each
    named encoder's and all other parameters', each by itself (V-JEPA's released code)."""
    clip_after_warmup: bool = False
    """Whether the gradient is clipped from the end of the warm-up on only (V-JEPA)."""
    clip_delay_steps: int = Field(0, ge=0)
    """With `clip_after_warmup`, steps after the warm-up before the first that is clipped (V-JEPA's released
    code: one epoch, for it clips where epoch > warmup)."""
    schedule_scale: float = Field(1.0, ge=1)
    """The cosines of learning rate and weight decay are made for so many times the steps of the run, which so
    ends before they do (V-JEPA: 1.25)."""
    layer_decay: float | None = Field(None, gt=0, le=1)
    """The learning rate of layer ℓ of an encoder of L blocks is lr · layer_decay^(L + 1 - ℓ): ℓ is 0 for the
    embedding, 1 … L for the blocks, L + 1 for what follows (BEiT, MAE). By default all have the same."""
    groups: Annotated[dict[str, GroupSettings], AfterValidator(_plain_names)] = Field(default_factory=dict)
    """Groups of parameters by name, a table each: match, lr_scale, weight_decay, frozen. The first in the
    order of the file that matches a parameter has it; what none matches has the settings above."""
