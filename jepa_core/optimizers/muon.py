"""Muon for the matrices inside the blocks, AdamW for everything else, as one optimizer.

What is unusual: which parameters are Muon's is a pattern of names. By default it is the weights of modules
inside a numbered block (`encoder.blocks.3.attn.qkv.weight`), and of those the two-dimensional ones. Patch and
token embeddings, projections in and out, heads, norms and biases stay with AdamW, as Muon's authors advise.
Both follow one schedule: by default Muon's steps have the size of AdamW's (Moonlight, arXiv 2502.16982).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fnmatch import fnmatchcase
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from jepa_core.errors import UserError
from jepa_core.optimizers.adamw import STATE
from jepa_core.optimizers.base import fusible
from jepa_core.settings.optimizer import DecayRate, OptimizerSettings


def has_muon() -> bool:
    """Whether this torch has Muon (from 2.9)."""
    return hasattr(torch.optim, "Muon")


class Muon:
    """Muon (Jordan 2024) for the matrices inside the blocks, AdamW for all other parameters."""

    class Config(OptimizerSettings):
        """Settings of Muon, and of AdamW beside it."""

        state_entries: ClassVar[tuple[frozenset[str], ...]] = (frozenset({"momentum_buffer"}), STATE)

        matrices: list[str] = Field(default=["*.[0-9]*.*.weight"], min_length=1)
        """Names of the parameters that Muon takes, where they are two-dimensional; `*` and `?` as in groups.
        By default the weights inside numbered blocks."""
        momentum: float = Field(0.95, ge=0, lt=1)
        """Muon's momentum."""
        nesterov: bool = True
        """Nesterov's momentum."""
        ns_steps: int = Field(5, ge=1, le=99)
        """Newton–Schulz iterations that make the step orthogonal."""
        adjust: Literal["match_rms_adamw", "original"] = "match_rms_adamw"
        """Factor on the learning rate of an A×B matrix: .2 √max(A, B), with which AdamW's rates and decays
        fit (Moonlight), or √max(1, A / B) (Jordan), which wants rates about ten times as high."""
        betas: tuple[DecayRate, DecayRate] = (0.9, 0.999)
        """AdamW's decay rates of the two moments."""
        eps: float = Field(1e-8, gt=0)
        """AdamW's ε."""

    def __init__(self, config: Config) -> None:
        self.config = config

    def make(self, groups: Sequence[dict[str, Any]]) -> torch.optim.Optimizer:
        """Both optimizers, the groups split in two. Raises UserError where Muon would have nothing."""
        matrices = [self._part(group, matrices=True) for group in groups]
        others = [self._part(group, matrices=False) for group in groups]
        if not any(group["params"] for group in matrices):
            patterns = ", ".join(self.config.matrices)
            raise UserError(f"optimizer.matrices ({patterns}) matches no two-dimensional parameter")
        return MuonWithAdamW(_not_empty(matrices), _not_empty(others), self.config)

    def _part(self, group: dict[str, Any], matrices: bool) -> dict[str, Any]:
        """The group with its matrices alone, or without them."""
        pairs = [
            (name, parameter)
            for name, parameter in zip(group["names"], group["params"], strict=True)
            if self._is_matrix(name, parameter) == matrices
        ]
        names, parameters = [name for name, _ in pairs], [parameter for _, parameter in pairs]
        return {**group, "names": names, "params": parameters}

    def _is_matrix(self, name: str, parameter: Tensor) -> bool:
        return parameter.ndim == 2 and any(fnmatchcase(name, pattern) for pattern in self.config.matrices)


def _not_empty(groups: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [group for group in groups if group["params"]]


class MuonWithAdamW(torch.optim.Optimizer):
    """torch's Muon and AdamW as one optimizer: their groups are its groups, their state is its state."""

    def __init__(
        self, matrices: list[dict[str, Any]], others: list[dict[str, Any]], config: Muon.Config
    ) -> None:
        super().__init__([*matrices, *others], {"lr": config.lr, "weight_decay": config.weight_decay})
        self.count = len(matrices)
        self.parts: list[torch.optim.Optimizer] = [
            torch.optim.Muon(
                self.param_groups[: self.count],
                lr=config.lr,
                weight_decay=config.weight_decay,
                momentum=config.momentum,
                nesterov=config.nesterov,
                ns_steps=config.ns_steps,
                adjust_lr_fn=config.adjust,
            )
        ]
        if others:
            rest = self.param_groups[self.count :]
            self.parts.append(
                torch.optim.AdamW(
                    rest,
                    lr=config.lr,
                    weight_decay=config.weight_decay,
                    betas=config.betas,
                    eps=config.eps,
                    fused=fusible(rest),
                )
            )
        self._share()

    def _share(self) -> None:
        """Makes groups and state of the two those of this one: the same objects."""
        for part, groups in zip(
            self.parts, (self.param_groups[: self.count], self.param_groups[self.count :]), strict=False
        ):
            part.param_groups, part.state = groups, self.state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Takes over what `state_dict` gave."""
        super().load_state_dict(state_dict)
        self._share()

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """A step of both."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for part in self.parts:
            part.step()
        return loss
