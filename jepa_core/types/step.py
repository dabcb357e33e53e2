"""The results of the stages of one training step, which the terms of the loss take."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from jepa_core.types.mask_plan import MaskPlan
from jepa_core.types.tokens import Tokens


@dataclass(frozen=True)
class Step:
    """The results of the stages of one step, for the objectives.

    `predictions` and `targets` run along `plan.pairs`; `contexts` along `plan.contexts`;
    `target_tokens` is the target encoder's output on its whole view, before normalisation. `number` is the
    optimizer step's, from 0: what a term draws from it is the same in every process and micro-batch.
    """

    predictions: tuple[Tokens, ...]
    targets: tuple[Tokens, ...]
    contexts: tuple[Tokens, ...]
    target_tokens: Tokens | None
    plan: MaskPlan
    number: int = 0

    def map(self, change: Callable[[Tokens], Tokens]) -> Step:
        """The step with each of its tokens changed."""
        predictions, targets = tuple(map(change, self.predictions)), tuple(map(change, self.targets))
        whole = None if self.target_tokens is None else change(self.target_tokens)
        contexts = tuple(map(change, self.contexts))
        return Step(predictions, targets, contexts, whole, self.plan, self.number)
