"""Settings: strict, frozen pydantic models, one nested in each component that uses it.

Every default lives in exactly one of these. A misspelt key, a wrong type or a value out of range is
one line that names the setting, what came and what is allowed.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import ErrorDetails, to_json

from jepa_core.errors import UserError, nearest


class Settings(BaseModel):
    """Base of all settings: no unknown keys, no change after construction."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class ComponentSettings(Settings):
    """Settings of a component that a recipe picks by name."""

    carried: ClassVar[frozenset[str]] = frozenset()
    """Settings that speak of the task: kept when an override swaps the component for another."""

    name: str
    """The registered name (`jepa plugins` lists them)."""


class SourceSettings(ComponentSettings):
    """What every source of data has, whoever wrote it: how it is read."""

    carried: ClassVar[frozenset[str]] = frozenset({"workers", "max_corrupt"})

    workers: int = Field(0, ge=0)
    """Processes that read and transform images; 0: the training process itself. Changes no batch."""
    max_corrupt: float = Field(0.1, ge=0, lt=1)
    """Share of unreadable images that is put up with; they are skipped, counted and reported."""


class ObjectiveSettings(ComponentSettings):
    """What every loss term has, whoever wrote it."""

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
    betas: tuple[float, float] = (0.9, 0.999)
    """Adam's decay rates of the two moments."""
    eps: float = Field(1e-8, gt=0)
    """Adam's ε."""
    clip_grad: float | None = Field(None, gt=0)
    """Largest norm of the whole gradient; by default it is not clipped."""

    @model_validator(mode="after")
    def _betas_in_range(self) -> OptimizerSettings:
        if not all(0 <= beta < 1 for beta in self.betas):
            raise ValueError(f"betas from 0 up to but not 1; got {list(self.betas)}")
        return self


S = TypeVar("S", bound=BaseModel)


def parse(model: type[S], values: Mapping[str, Any], section: str) -> S:
    """Plain TOML values as a `model`. Raises UserError naming `section.key` for the first that is wrong.

    By way of JSON, because pydantic's strict rules (no 6 from "6" or from 6.0, no 1 from true) take
    lists for tuples and texts for paths only there.
    """
    try:
        return model.model_validate_json(to_json(dict(values), inf_nan_mode="constants"), strict=True)
    except ValidationError as error:
        raise UserError(_explain(error, model, section)) from None


def _explain(error: ValidationError, model: type[BaseModel], section: str) -> str:
    errors = error.errors(include_url=False)
    first = errors[0]
    path = ".".join((section, *_path(model, first["loc"])))
    if first["type"] == "extra_forbidden":
        path = ".".join((section, *map(str, first["loc"])))
        key, known = str(first["loc"][-1]), _fields_at(model, first["loc"][:-1])
        return f"unknown setting {path!r}; known: {', '.join(sorted(known))}.{nearest(key, known)}"
    if first["type"] == "missing" and isinstance(first["loc"][-1], int):
        whole, more = path.rpartition(".")[0], first["loc"][-1] + 1
        return f"setting {whole!r} is {first['input']!r}; expected at least {more} values"
    if first["type"] == "missing":
        return f"setting {path!r} is required: {_hint(model, first['loc'])}"
    same = [e for e in errors if _path(model, e["loc"]) == _path(model, first["loc"])]
    said = " or ".join(dict.fromkeys(map(_expected, same)))
    return f"setting {path!r} is {first['input']!r}; expected {said}"


def _path(model: type[BaseModel], loc: tuple[Any, ...]) -> list[str]:
    """`loc` without the names that pydantic adds for the members of a union."""
    places = enumerate(loc)
    return [str(part) for i, part in places if isinstance(part, int) or part in _fields_at(model, loc[:i])]


def _expected(error: ErrorDetails) -> str:
    if error["type"] == "tuple_type":
        return "a list of values"
    if error["type"] == "too_long":
        return f"at most {error['ctx']['max_length']} values"
    return error["msg"].removeprefix("Value error, ").removeprefix("Input should be ")


def _fields_at(model: type[BaseModel], loc: tuple[Any, ...]) -> list[str]:
    for part in loc:
        inner = model.model_fields[part].annotation if part in model.model_fields else None
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            model = inner
    return list(model.model_fields)


def _hint(model: type[BaseModel], loc: tuple[Any, ...]) -> str:
    field = model.model_fields.get(str(loc[-1])) if loc else None
    return (field.description or "it has no default") if field else "it has no default"
