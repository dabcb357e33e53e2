"""timm's optimizers by name: `timm_lamb`, `timm_adopt`, `timm_lion`, …"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import timm.optim
import torch
from pydantic import Field

from jepa_core.errors import UserError, suggest_name, unknown
from jepa_core.settings.optimizer import OptimizerSettings

PREFIX = "timm_"

SET_BY_THE_ENGINE = frozenset({"self", "params", "lr", "weight_decay"})
"""Arguments that have settings of their own."""


class TimmOptimizer:
    """An optimizer of timm's, `timm_NAME`; what it can be given besides stands in `arguments`."""

    class Config(OptimizerSettings):
        """Settings of an optimizer of timm's."""

        arguments: dict[str, bool | int | float | str | list[int | float]] = Field(default_factory=dict)
        """Further arguments of timm's optimizer, such as `betas`; momentum is .9 where it has one."""

        def check(self) -> None:
            """Raises UserError for one that timm lacks or that cannot be used, and unknown arguments."""
            known = arguments_of(self.name)
            if "deterministic" in known and self.arguments.get("deterministic") is not True:
                raise UserError(
                    f"optimizer {self.name!r} draws random numbers that no checkpoint holds; set "
                    "optimizer.arguments.deterministic=true"
                )
            for key, value in self.arguments.items():
                if key in SET_BY_THE_ENGINE:
                    raise UserError(f"optimizer.arguments.{key}: set optimizer.{key} instead")
                if key not in known:
                    raise unknown(f"argument of {self.name}", key, known)
                if (expected := _kind(known[key])) is not None and _kind(_as_timm(value)) != expected:
                    raise UserError(f"setting 'optimizer.arguments.{key}' is {value!r}; expected {expected}")

    def __init__(self, config: Config) -> None:
        self.config = config

    def make(self, groups: Sequence[dict[str, Any]]) -> torch.optim.Optimizer:
        """timm's optimizer over these groups. Raises UserError where timm cannot make it."""
        config = self.config
        values = {key: _as_timm(value) for key, value in config.arguments.items()}
        try:
            return timm.optim.create_optimizer_v2(
                list(groups),
                opt=config.name.removeprefix(PREFIX),
                lr=config.lr,
                weight_decay=config.weight_decay,
                **values,
            )
        except Exception as error:  # optimizers of timm take arguments of any type, and fail in any way
            reason = " ".join(str(error).split()) or type(error).__name__
            raise UserError(f"timm cannot make {config.name!r} with {config.arguments}: {reason}") from None


def arguments_of(name: str) -> dict[str, Any]:
    """The arguments of timm's optimizer of this name, without those that are settings, and their defaults.

    Raises UserError for one that timm lacks, and for those that want another library or second derivatives.
    """
    own = name.removeprefix(PREFIX)
    known: list[str] = list(map(str, timm.optim.list_optimizers()))
    if own not in known:
        raise UserError(f"optimizer {name!r}: timm has no optimizer {own!r}.{suggest_name(own, known)}")
    info = timm.optim.get_optimizer_info(own)
    if isinstance(info.opt_class, str):
        raise UserError(
            f"optimizer {name!r} needs {info.opt_class.partition('.')[0]}, which is not used here"
        )
    if info.second_order:
        raise UserError(f"optimizer {name!r} needs second derivatives, which the training step does not make")
    parameters = inspect.signature(info.opt_class).parameters.values()
    defaults = {parameter.name: parameter.default for parameter in parameters}
    return {key: value for key, value in defaults.items() if key not in SET_BY_THE_ENGINE}


def _as_timm(value: Any) -> Any:
    """A list, which TOML has in place of a tuple, as a tuple."""
    return tuple(value) if isinstance(value, list) else value


def _kind(value: Any) -> str | None:
    """What a value is, in words; None where it says nothing of what else may stand there."""
    if isinstance(value, bool):
        return "true or false"
    if isinstance(value, tuple):
        return f"a list of {len(value)} numbers"
    kinds = ((int | float, "a number"), (str, "a text"))
    return next((words for kind, words in kinds if isinstance(value, kind)), None)
