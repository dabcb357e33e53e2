"""Calls the evaluations that see the model, core's own and those of plugins (hook `jepa_evaluations`).

What is unusual: an evaluation is foreign code that runs after hours of training, so one that raises
anything, SystemExit too, costs its own table and nothing else: one line of warning, and a table that says why
it is empty.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from jepa_core import plugins
from jepa_core.errors import UserError, printable, unknown
from jepa_core.evaluate.context import EvaluationContext
from jepa_core.evaluate.score_tables import EvaluationTable
from jepa_core.runtime.plugin_calls import PluginError, call_plugin
from jepa_core.runtime.plugin_catalogue import left_out
from jepa_core.settings.evaluations import OnRequest, with_settings
from jepa_core.settings.recipe import Recipe

Evaluate = Callable[[EvaluationContext], EvaluationTable | Sequence[EvaluationTable] | None]
"""What a plugin offers: see the hook `jepa_evaluations`."""

log = logging.getLogger("jepa.evaluate")


def choose_evaluations(recipe: Recipe, names: Sequence[str] | None) -> dict[str, Evaluate]:
    """The evaluations to make by name: the named ones, or by default all that the recipe does not leave out;
    of those `OnRequest` the ones that it asks for.

    Raises UserError for a name that no plugin offers.
    """
    registry = plugins.registry()
    offered, _ = registry.functions("evaluation")
    for name in names or ():
        if name not in offered:
            raise UserError(f"{unknown('evaluation', name, offered)}{left_out(registry.statuses)}")
    if names is not None:
        chosen = list(dict.fromkeys(names))
    else:
        wanted = recipe.evaluations
        chosen = [n for n, offer in offered.items() if wanted.get(n, not isinstance(offer, OnRequest))]
    return {name: with_settings(offered[name], recipe.evaluations.get(name)) for name in chosen}


def evaluate_with(evaluations: Mapping[str, Evaluate], context: EvaluationContext) -> list[EvaluationTable]:
    """The tables of these evaluations; of one that fails, a table that says why it has no rows."""
    owners = plugins.registry().functions("evaluation")[1]
    tables: list[EvaluationTable] = []
    for name, function in evaluations.items():
        try:
            tables += call_plugin(call_evaluation, name, function, context)
        except PluginError as error:  # the other evaluations go on
            text = error.message if isinstance(error.raised, UserError) else str(error)
            reason = printable(text).rstrip(".")
            log.warning(
                "evaluation %r of plugin %r is left out: %s", name, owners.get(name, "unknown"), reason
            )
            failed = EvaluationTable(name=name, split=context.split, count=0, rows=(), error=reason)
            tables.append(failed.model_copy(update={"transfer": context.transfer}))
    return tables


@torch.no_grad()
def call_evaluation(name: str, function: Evaluate, context: EvaluationContext) -> list[EvaluationTable]:
    """The tables of one evaluation, named. Raises whatever it raises, and TypeError for another answer."""
    was_training = {
        id(module): module.training for model in context.models.values() for module in model.modules()
    }
    context.progress.begin(f"evaluation {name}", None)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(context.seed)
        try:
            for model in context.models.values():
                model.eval()
            answer = function(context)
        finally:
            for model in context.models.values():
                for module in model.modules():
                    module.training = was_training.get(id(module), module.training)
    return _read(answer, name, context)


def _read(answer: Any, name: str, context: EvaluationContext) -> list[EvaluationTable]:
    tables = [] if answer is None else list(answer) if isinstance(answer, list | tuple) else [answer]
    for table in tables:
        if not isinstance(table, EvaluationTable):
            raise TypeError(
                f"it returns {type(table).__name__}; expected an EvaluationTable, a list of them, or None"
            )
    named = [
        table.model_copy(update={"name": table.name or name, "transfer": context.transfer})
        for table in tables
    ]
    titles = [table.title for table in named]
    if len(set(titles)) < len(titles):
        raise ValueError(f"two of its tables are called alike: {', '.join(titles)}; give each a task")
    return named
