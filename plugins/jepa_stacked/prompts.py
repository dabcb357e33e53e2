"""What a stack is given beside its film: a prompt of any kind, as one vector, and actions.

Axes: B samples, C width of a prompt's vector, A numbers of an action.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from jepa_core import Batch, Field, UserError
from jepa_core.errors import unknown

PLACE = "condition."


@dataclass(frozen=True)
class Given:
    """What a film comes with: a prompt [B, C], actions [B, frames - 1, A]; None without."""

    prompt: Tensor | None = None
    actions: Tensor | None = None

    def with_others_prompt(self) -> Given:
        """Each sample with the prompt of the one before it."""
        return self if self.prompt is None else replace(self, prompt=self.prompt.roll(1, 0))


class Prompts(nn.Module):
    """Prompts as one vector [B, C]: the mean of an encoder's tokens and the vectors `beside`, summed.

    `kinds` are names of `encoders`, each of another kind of prompt; `none` stands for no prompt. Raises
    UserError for names that are not there, and for encoders that read no prompt.
    """

    def __init__(
        self,
        kinds: Sequence[str],
        beside: Sequence[str],
        encoders: Mapping[str, Any],
        fields: Mapping[str, Field],
        width: int,
    ) -> None:
        super().__init__()
        self.kinds, self.beside = tuple(kinds), tuple(beside)
        vectors = {
            place.removeprefix(PLACE): field.width
            for place, field in fields.items()
            if place.startswith(PLACE) and field.kind == "vector"
        }
        for name in kinds:
            if name not in encoders:
                raise unknown("prompt of variant.prompts, an entry of [encoders],", name, encoders)
        for name in encoders:
            if name not in kinds:
                raise UserError(
                    f"[encoders.{name}] reads no prompt; variant.prompts has: {', '.join(kinds) or 'none'}"
                )
        for name in beside:
            if name not in vectors:
                raise unknown("vector of variant.beside, a condition of the source,", name, vectors)
        widths = {name: encoders[name].width for name in kinds} | {name: vectors[name] for name in beside}
        self.width = width if widths else 0
        self.readers = nn.ModuleDict({name: nn.Linear(inputs, width) for name, inputs in widths.items()})
        self.none = nn.Parameter(torch.zeros(width)) if widths else None

    def forward(self, batch: Batch, encoders: Mapping[str, Any], kind: str | None = None) -> Tensor | None:
        """[B, C] of a batch: of one kind, or without `kind` of each for its share of the samples; None where
        there is no prompt at all.

        Raises UserError for an unknown kind, and for a batch without what it reads.
        """
        if kind is not None and kind not in self.kinds:
            raise unknown("kind of prompt", kind, self.kinds)
        parts = [self.readers[name](condition_of(batch, name)) for name in self.beside]
        kinds = self.kinds if kind is None else (kind,)
        if kinds:
            read = [self.readers[name](encoders[name](batch.views[name]).mean()) for name in kinds]
            rows = torch.arange(len(read[0]), device=read[0].device)
            parts.append(torch.stack(read)[rows % len(read), rows])
        return torch.stack(parts).sum(0) if parts else None

    def drop(self, prompt: Tensor, share: float) -> Tensor:
        """The prompts [B, C], of a random share of the samples `none`."""
        dropped = torch.rand(len(prompt), 1, device=prompt.device) < share
        return prompt if self.none is None else torch.where(dropped, self.none, prompt)

    def without(self, given: Given) -> Given:
        """The same with no prompt."""
        if self.none is None or given.prompt is None:
            return given
        return replace(given, prompt=self.none.expand_as(given.prompt))


def condition_of(batch: Batch, name: str) -> Tensor:
    """A condition of a batch. Raises UserError where it is missing."""
    condition = batch.condition or {}
    if name not in condition:
        raise UserError(
            f"variant 'stacked' needs condition.{name}; the batch has: {', '.join(condition) or 'none'}"
        )
    value: Tensor = condition[name]
    return value
