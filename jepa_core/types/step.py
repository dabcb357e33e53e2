"""The results of the stages of one training step, which the terms of the loss take."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from jepa_core.errors import unknown
from jepa_core.types.mask_plan import MaskPlan
from jepa_core.types.tokens import Tokens


@dataclass(frozen=True)
class Group:
    """Predictions and their targets, pair by pair: one of several comparisons of a step.

    Widths and grids of two groups may differ. `contexts` are the features that the predictions were made of,
    where a term is to see them.
    """

    predictions: tuple[Tokens, ...]
    targets: tuple[Tokens, ...]
    contexts: tuple[Tokens, ...] = ()

    def map(self, change: Callable[[Tokens], Tokens]) -> Group:
        """The group with each of its tokens changed."""
        return Group(*(tuple(map(change, part)) for part in (self.predictions, self.targets, self.contexts)))


@dataclass(frozen=True)
class Step:
    """The results of the stages of one step, for the objectives.

    `predictions` and `targets` run along `plan.pairs`; `contexts` along `plan.contexts`;
    `target_tokens` is the target encoder's output on its whole view, before normalisation. `number` is the
    optimizer step's, from 0: what a term draws from it is the same in every process and micro-batch.
    `condition` is the batch's. `groups` are further predictions with their targets, by name (`rollout`,
    `level2`, `image_text`); a term judges the one that its setting `group` names.
    """

    predictions: tuple[Tokens, ...]
    targets: tuple[Tokens, ...]
    contexts: tuple[Tokens, ...]
    target_tokens: Tokens | None
    plan: MaskPlan
    number: int = 0
    condition: Any = None
    groups: Mapping[str, Group] = field(default_factory=dict)

    def of_group(self, name: str) -> Step:
        """The step as a term of this group sees it; the step itself for the name "".

        Raises UserError for a group that the model did not make.
        """
        if not name:
            return self
        if name not in self.groups:
            raise unknown("group of predictions", name, self.groups)
        group = self.groups[name]
        return replace(
            self,
            predictions=group.predictions,
            targets=group.targets,
            contexts=group.contexts or self.contexts,
        )

    def map(self, change: Callable[[Tokens], Tokens]) -> Step:
        """The step with each of its tokens changed."""
        main = Group(self.predictions, self.targets, self.contexts).map(change)
        return replace(
            self,
            predictions=main.predictions,
            targets=main.targets,
            contexts=main.contexts,
            target_tokens=None if self.target_tokens is None else change(self.target_tokens),
            groups={name: group.map(change) for name, group in self.groups.items()},
        )
