"""The contract with plugins: every hook, in one place.

A plugin is a module (or an installed distribution with an entry point in the group `jepa`) that
implements some of these with `@jepa_core.hookimpl`. Hooks are called while a run is assembled and by
observers between steps; never inside `forward` or compiled code.

Supply hooks take no argument and return `{name: class}`. Each class nests its settings as `Config`, a frozen
pydantic model derived from `jepa_core.ComponentSettings` (a source's from
`jepa_core.settings.SourceSettings`, an objective's from `ObjectiveSettings`, an optimizer's from
`OptimizerSettings`, a masker's, where the engine may draw it several times, from `MaskerSettings` there);
what the class must do is written in `jepa_core.protocols`. A name may be a pattern such as `vit_*`: the class
then serves every matching name that is not offered as a plain name. Of two plugins that offer the same name,
the one whose distribution comes first has it; the other's component is set aside with a warning. jepa-core
comes before all others, which follow in the order of their distributions' names.

A plugin that raises anything at import or in a supply hook is set aside with a warning, and everything else
goes on. An observer hook that raises is not called again in that run.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pluggy

if TYPE_CHECKING:
    from jepa_core.protocols import TrainingRun

hookspec = pluggy.HookspecMarker("jepa")
hookimpl = pluggy.HookimplMarker("jepa")


@hookspec
def jepa_encoders() -> Mapping[str, type]:  # type: ignore[empty-body]
    """Encoders, `{name: class}`: images, clips, … to features of kept tokens (`protocols.Encoder`)."""


@hookspec
def jepa_predictors() -> Mapping[str, type]:  # type: ignore[empty-body]
    """Predictors, `{name: class}`: context features to predicted features (`protocols.Predictor`)."""


@hookspec
def jepa_maskers() -> Mapping[str, type]:  # type: ignore[empty-body]
    """Maskers, `{name: class}`: a grid and a generator to a `MaskPlan` (`protocols.Masker`).

    `[maskers.NAME]` draws the plan of the view NAME, `plan.of("NAME")`, from a random stream of its own, for
    variants that say `plans_of_views`. One whose masks follow the samples is a `protocols.SideMasker`.
    """


@hookspec
def jepa_target_updates() -> Mapping[str, type]:  # type: ignore[empty-body]
    """How the target encoder is made and updated, `{name: class}` (`protocols.TargetUpdate`)."""


@hookspec
def jepa_objectives() -> Mapping[str, type]:  # type: ignore[empty-body]
    """Loss terms, `{name: class}` (`protocols.Objective`)."""


@hookspec
def jepa_optimizers() -> Mapping[str, type]:  # type: ignore[empty-body]
    """Optimizers, `{name: class}`: groups of parameters to torch's (`optimizers.base.Optimizer`)."""


@hookspec
def jepa_data() -> Mapping[str, type]:  # type: ignore[empty-body]
    """Data sources, `{name: class}` (`protocols.Source`)."""


@hookspec
def jepa_transforms() -> Mapping[str, type]:  # type: ignore[empty-body]
    """What is done to a named value of a sample, `{name: class}` (`data.field_transforms.base.Transform`)."""


@hookspec
def jepa_probes() -> Mapping[str, type]:  # type: ignore[empty-body]
    """Evaluations of frozen features, `{name: class}` (`protocols.Probe`)."""


@hookspec
def jepa_evaluations() -> Mapping[str, Callable[..., Any]]:  # type: ignore[empty-body]
    """Evaluations that see the model, `{name: function}`: retrieval, zero-shot, roll-outs.

    Or a class with settings, `Config` derived from `jepa_core.settings.EvaluationSettings`, whose instances
    are such functions; `evaluations.NAME.KEY = …` sets them. `jepa_core.evaluate.OnRequest` wraps what is
    made only where it is named, on the command line or in a recipe. The function is called with a
    `jepa_core.evaluate.EvaluationContext` (recipe, model, twin, source, split and more), the models in
    evaluation mode and without gradients. It returns a `jepa_core.evaluate.EvaluationTable`, a list of them
    with a task each, or None where it has nothing to say of this run. Tables stand in eval.json, in `jepa
    eval` and in reports. `evaluations.NAME = false` in a recipe leaves one out. A function that raises costs
    its own table only.

    A variant gives embeddings of pairs by `evaluate.pair_protocols.PairEmbedder`, compares them in a way of
    its own by `evaluate.pair_protocols.ComparesPairs`, and reads names of classes by
    `evaluate.pair_protocols.ReadsPrompts`.
    """


@hookspec
def jepa_variants() -> Mapping[str, type]:  # type: ignore[empty-body]
    """Subclasses of `jepa_core.JEPA` that change the flow, `{name: class}`.

    Their settings derive from `JEPA.Config`, and say what else they use: `named_encoders` (`[encoders.NAME]`,
    in `self.encoders`), `plans_of_views` (`[maskers.NAME]`), `several_views` (`[transform.views.NAME]`).
    """


@hookspec
def jepa_formats() -> Mapping[str, type]:  # type: ignore[empty-body]
    """Formats of weights that runs are made of and written in, `{name: class}` (`formats.base.Format`)."""


@hookspec
def jepa_peers() -> Mapping[str, Callable[..., Any]]:  # type: ignore[empty-body]
    """A training step written another way, `{name: function}`, for `jepa bench step`.

    Asked for when that command runs. The function is called with (recipe, model, plan) and returns a function
    that does one whole step on (batch, plan).
    """


@hookspec
def jepa_sections() -> Mapping[str, Callable[..., Any]]:  # type: ignore[empty-body]
    """Sections of `jepa report`, `{name: function}`: figures of what a run's model does.

    The function is called with (recipe, model, source), the model in evaluation mode and without gradients,
    and returns a `jepa_core.report.sections.Section`, or None where it has nothing to show of this run. The
    figure is also written to the run's folder `pictures` when training ends. A function that raises costs its
    own section only.
    """


@hookspec
def jepa_commands() -> Mapping[str, Any]:  # type: ignore[empty-body]
    """Commands of `jepa`, `{name: function or typer.Typer}`: `jepa NAME …`, a group where it is a `Typer`.

    Asked for when `jepa --help` is shown or a command is typed that is none of core's, so import what is
    heavy in the function itself: its signature and its docstring, which is the help, are all that the list
    needs. A name of core's commands is set aside with a warning. What a command raises is one line, with exit
    code 2; `jepa_core.UserError` is shown as it is.
    """


@hookspec
def jepa_recipes() -> Path:  # type: ignore[empty-body]
    """A folder of TOML recipes; `demo.toml` of the plugin `ijepa` is the recipe `ijepa/demo`.

    Asked for whenever recipes are listed or one is looked up by name. The head comment of each says what it
    costs and gives (`jepa_core.recipes.annotate`). One that is called `selftest.toml` is trained by `jepa
    doctor` for two steps on random pixels, and gives `jepa plugins check` the settings to check the plugin's
    components with.
    """


@hookspec
def jepa_run_started(run: TrainingRun) -> None:
    """A run is assembled and about to take its first step; `run.step` is where it starts."""


@hookspec
def jepa_step_ended(run: TrainingRun, step: int, metrics: Mapping[str, Any]) -> None:
    """Optimizer step `step` is done. `metrics` is empty except at steps that are logged."""


@hookspec
def jepa_run_ended(run: TrainingRun) -> None:
    """The last step is done, or the run stops early; called once also after an error."""
