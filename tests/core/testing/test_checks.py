"""Every property that `jepa_core.testing` asks for is broken once on purpose, and is then named."""

from __future__ import annotations

import copy
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ConfigDict
from torch import distributed as dist
from torch import nn

from jepa_core import JEPA, ComponentSettings, IndexSet, MaskPlan, UserError, testing
from jepa_core.nn.bag_of_words import BagOfWords
from jepa_core.nn.identity import NoPredictor
from jepa_core.objectives import LossTerm, SmoothL1, VarianceCovariance, pair_values
from jepa_core.settings import MaskerSettings
from jepa_core.target_updates import Ema, frozen_copy
from jepa_core.testing import Failed, examine, examine_recipe, suites
from jepa_core.testing.small_parts import SmallEncoder, SmallMasker, SmallPredictor

BROKEN: dict[tuple[str, str], type] = {}


def breaks(kind: str, prop: str):
    """Notes a class as one that breaks this property of its kind."""

    def note(component: type) -> type:
        BROKEN[kind, prop] = component
        return component

    return note


def changed(tokens, values):
    return replace(tokens, values=values)


@breaks("encoder", "sizes")
class GridIsAList(SmallEncoder):
    def grid(self, view_shape):
        return list(view_shape[1:])


@breaks("encoder", "whole views")
class GridTurned(SmallEncoder):
    def forward(self, view, keep=None, layers=()):
        tokens = super().forward(view, keep, layers)
        return replace(tokens, grid=tokens.grid[::-1]) if keep is None else tokens


@breaks("encoder", "ragged sets")
class CutToTheShortest(SmallEncoder):
    def forward(self, view, keep=None, layers=()):
        if keep is not None:
            least = int(keep.lengths.min())
            keep = IndexSet.from_dense(torch.stack([row[:least] for row in keep.split()]))
        return super().forward(view, keep, layers)


@breaks("encoder", "all kept")
class KeptAreOthers(SmallEncoder):
    def forward(self, view, keep=None, layers=()):
        tokens = super().forward(view, keep, layers)
        return tokens if keep is None else changed(tokens, tokens.values + 1)


@breaks("encoder", "batch mates")
class NormedOverTheBatch(SmallEncoder):
    def forward(self, view, keep=None, layers=()):
        tokens = super().forward(view, keep, layers)
        return changed(tokens, tokens.values - tokens.values.mean(0))


@breaks("encoder", "fillers")
class NormedOverItsLength(SmallEncoder):
    def forward(self, view, keep=None, layers=()):
        tokens = super().forward(view, keep, layers)
        return changed(tokens, tokens.values / tokens.at.lengths.float().mean())


@breaks("encoder", "hidden unseen")
class SeesTheWhole(SmallEncoder):
    def forward(self, view, keep=None, layers=()):
        tokens = super().forward(view, keep, layers)
        return changed(tokens, tokens.values + view.flatten(1).mean(1)[tokens.at.samples, None])


@breaks("encoder", "ragged views")
class KnowsTheLongest(BagOfWords):
    def forward(self, view, keep=None, layers=()):
        tokens = super().forward(view, keep, layers)
        return changed(tokens, tokens.values * tokens.grid[0])


@breaks("encoder", "layers")
class WithoutLayers(SmallEncoder):
    def forward(self, view, keep=None, layers=()):
        return super().forward(view, keep)


@breaks("encoder", "repeatable")
class DropsInEvaluation(SmallEncoder):
    def forward(self, view, keep=None, layers=()):
        tokens = super().forward(view, keep, layers)
        return changed(tokens, nn.functional.dropout(tokens.values, 0.1, training=True))


@breaks("encoder", "state is all")
class HiddenTable(SmallEncoder):
    def __init__(self, config):
        super().__init__(config)
        self.table = torch.randn(self.width)

    def forward(self, view, keep=None, layers=()):
        tokens = super().forward(view, keep, layers)
        return changed(tokens, tokens.values + self.table)


@breaks("predictor", "a prediction a pair")
class TooNarrow(SmallPredictor):
    def _guess(self, context, target, grid):
        tokens = super()._guess(context, target, grid)
        return changed(tokens, tokens.values[:, 1:])


@breaks("predictor", "order of pairs")
class ContextsFirst(SmallPredictor):
    def forward(self, contexts, plan, grid, condition=None):
        return super().forward(contexts, replace(plan, pairs=tuple(sorted(plan.pairs))), grid)


@breaks("predictor", "batch mates")
class PredictsFromTheBatch(SmallPredictor):
    def _guess(self, context, target, grid):
        return super()._guess(changed(context, context.values + context.values.mean(0)), target, grid)


@breaks("predictor", "fillers")
class CountsSequences(SmallPredictor):
    def _guess(self, context, target, grid):
        tokens = super()._guess(context, target, grid)
        return changed(tokens, tokens.values / len(target.lengths))


@breaks("predictor", "places matter")
class WithoutPlaces(SmallPredictor):
    def _guess(self, context, target, grid):
        return super()._guess(context, replace(target, index=target.index * 0), grid)


@breaks("predictor", "context matters")
class PlacesAlone(SmallPredictor):
    def _guess(self, context, target, grid):
        return super()._guess(changed(context, context.values * 0), target, grid)


@breaks("predictor", "condition matters")
class NeedsAndIgnores(SmallPredictor):
    def forward(self, contexts, plan, grid, condition=None):
        if condition is None:
            raise UserError("a condition is needed")
        return super().forward(contexts, plan, grid)


@breaks("predictor", "repeatable")
class Noisy(SmallPredictor):
    def _guess(self, context, target, grid):
        tokens = super()._guess(context, target, grid)
        return changed(tokens, tokens.values + torch.randn_like(tokens.values))


@breaks("predictor", "empty plan")
class Doubles(NoPredictor):
    def forward(self, contexts, plan, grid, condition=None):
        return tuple(changed(tokens, tokens.values * 2) for tokens in contexts)


@breaks("masker", "check is right")
class ChecksNothing(SmallMasker):
    def check(self, grid):
        pass


@breaks("masker", "places")
class Descending(SmallMasker):
    def __call__(self, grid, batch_size, generator, progress=0.0):
        plan = super().__call__(grid, batch_size, generator, progress)
        turned = IndexSet.from_lists([row.flip(0).tolist() for row in plan.targets[0].split()])
        return MaskPlan(plan.contexts, (turned,))


@breaks("masker", "numbers agree")
class WrongBound(SmallMasker):
    def __call__(self, grid, batch_size, generator, progress=0.0):
        plan = super().__call__(grid, batch_size, generator, progress)
        return MaskPlan((replace(plan.contexts[0], max_length=1000),), plan.targets)


@breaks("masker", "disjoint")
class ShowsAll(SmallMasker):
    def __call__(self, grid, batch_size, generator, progress=0.0):
        plan = super().__call__(grid, batch_size, generator, progress)
        return MaskPlan(plan.contexts, plan.contexts)


@breaks("masker", "generator alone")
class Remembers(SmallMasker):
    calls = 0

    def __call__(self, grid, batch_size, generator, progress=0.0):
        self.calls += 1
        return super().__call__(grid, batch_size, generator.manual_seed(self.calls), progress)


@breaks("masker", "travels")
class HoldsALambda(SmallMasker):
    def __init__(self, config):
        super().__init__(config)
        self.share = lambda: 0.5


@breaks("target_update", "made apart")
class SharesWeights(Ema):
    def make_target(self, encoder):
        return copy.copy(encoder)


@breaks("target_update", "online untouched")
class MovesTheOnline(Ema):
    def update(self, target, online, step, total_steps):
        return super().update(online, target, step, total_steps)


@breaks("target_update", "remembers nothing")
class Counts(Ema):
    seen = 0

    def update(self, target, online, step, total_steps):
        self.seen += 1
        return super().update(target, online, self.seen, total_steps)


@breaks("target_update", "stays finite")
class DividesByZero(Ema):
    def update(self, target, online, step, total_steps):
        return {"share": float(1 / torch.tensor(total_steps - 1.0 - step))}


@breaks("target_update", "nothing drawn")
class DrawsItsStart(Ema):
    def make_target(self, encoder):
        target = frozen_copy(encoder)
        for parameter in target.parameters():
            nn.init.normal_(parameter)
        return target


@breaks("objective", "a finite scalar")
class AVector(LossTerm):
    def forward(self, step):
        predictions, targets = pair_values(step)
        return (predictions - targets).abs().mean(0)


@breaks("objective", "fillers")
class CountsAllRows(LossTerm):
    class Config(LossTerm.Config):
        capturable = True

    def forward(self, step):
        predictions, targets = pair_values(step)
        return (predictions - targets).square().mean()


@breaks("objective", "gradient")
class Detached(SmoothL1):
    def forward(self, step):
        return super().forward(step).detach()


@breaks("objective", "weight outside")
class WeighsItself(SmoothL1):
    def forward(self, step):
        return self.config.weight * super().forward(step)


@breaks("objective", "order of samples")
class FirstCountsMost(LossTerm):
    def forward(self, step):
        predictions, targets = pair_values(step)
        rows = (predictions - targets).abs().mean(1)
        return (rows * torch.linspace(2, 0, len(rows))).mean()


@breaks("objective", "repeatable")
class RunningScale(SmoothL1):
    scale = 1.0

    def forward(self, step):
        self.scale += 1
        return super().forward(step) * self.scale


@breaks("objective", "ranks")
class SumsUp(LossTerm):
    def forward(self, step):
        predictions, targets = pair_values(step)
        return (predictions - targets).abs().sum()


@breaks("objective", "two processes")
class SaysThatItAddsUp(VarianceCovariance):
    class Config(VarianceCovariance.Config):
        summed = True


@breaks("objective", "targets as they are")
class NormsInPlace(SmoothL1):
    def forward(self, step):
        for target in step.targets:
            target.values.mul_(0.5)
        return super().forward(step)


@breaks("variant", "finite loss")
class LossIsAnother(JEPA):
    def forward(self, batch, plan=None):
        output = super().forward(batch, plan)
        return replace(output, loss=output.loss * 2)


@breaks("variant", "pairs in order")
class TargetsOfTheContext(JEPA):
    def make_targets(self, tokens, plan):
        return super().make_targets(tokens, MaskPlan(plan.targets, plan.contexts))

    def forward(self, batch, plan=None):
        self.objectives["prediction"].forward = lambda step: step.predictions[0].values.mean()
        return super().forward(batch, plan)


@breaks("variant", "target detached")
class OnlineTargets(JEPA):
    def encode_target(self, view, plan):
        return self.encoder(view)


@breaks("variant", "target still")
class MovesInForward(JEPA):
    def run_stages(self, batch, plan):
        with torch.no_grad():
            for parameter in self.target_encoder.parameters():
                parameter.mul_(0.9)
        return super().run_stages(batch, plan)


@breaks("variant", "in the optimizer")
class ParameterInAList(JEPA):
    def __init__(self, config, **parts):
        super().__init__(config, **parts)
        self.extra = [nn.Parameter(torch.ones(parts["encoder"].width))]

    def predict(self, contexts, plan, condition):
        return tuple(changed(t, t.values * self.extra[0]) for t in super().predict(contexts, plan, condition))


@breaks("variant", "all trained")
class IdleHead(JEPA):
    def __init__(self, config, **parts):
        super().__init__(config, **parts)
        self.head = nn.Linear(2, 2)


@breaks("variant", "goes on")
class ForgetsItsCentre(JEPA):
    centre: Any = 0.0

    def make_targets(self, tokens, plan):
        targets = super().make_targets(tokens, plan)
        centred = tuple(changed(t, t.values - self.centre) for t in targets)
        self.centre = 0.5 * self.centre + targets[0].values.mean(0)
        return centred


@breaks("variant", "seed alone")
class DrawsFromNumpy(JEPA):
    def predict(self, contexts, plan, condition):
        noise = float(np.random.rand())
        return tuple(changed(t, t.values + noise) for t in super().predict(contexts, plan, condition))


@breaks("variant", "two processes")
class CentredByItsOwnSamples(JEPA):
    def __init__(self, config, **parts):
        super().__init__(config, **parts)
        self.register_buffer("centre", torch.zeros(parts["encoder"].width))

    def make_targets(self, tokens, plan):
        targets = super().make_targets(tokens, plan)
        self.centre.lerp_(torch.cat([t.values for t in targets]).mean(0), 0.1)
        return tuple(changed(t, t.values - self.centre) for t in targets)


@breaks("variant", "features")
class FeaturesOfTokens(JEPA):
    def features(self, images, role="target", pool="mean"):
        return super().features(images, role, None)


@breaks("masker", "documented")
class Unexplained(SmallMasker):
    """A masker."""

    class Config(MaskerSettings):
        """Its settings."""

        share: float = 0.5


@breaks("masker", "strict")
class Changeable(SmallMasker):
    """A masker."""

    class Config(MaskerSettings):
        """Its settings."""

        model_config = ConfigDict(frozen=False)


SOUND = {
    "encoder": SmallEncoder,
    "predictor": SmallPredictor,
    "masker": SmallMasker,
    "target_update": Ema,
    "objective": SmoothL1,
    "variant": JEPA,
}


def failing(found) -> dict[str, str]:
    return {outcome.property: outcome.said for outcome in found if outcome.state == "fails"}


@pytest.mark.parametrize("kind", SOUND)
def test_a_sound_component_has_every_property(kind: str) -> None:
    found = examine(kind, SOUND[kind])
    assert failing(found) == {}
    assert sum(outcome.state == "holds" for outcome in found) >= 7


@pytest.mark.parametrize(("kind", "prop"), BROKEN)
def test_a_broken_property_is_named(kind: str, prop: str) -> None:
    component = BROKEN[kind, prop]
    component.__doc__ = component.__doc__ or "Broken on purpose."
    broken = failing(examine(kind, component))
    assert prop in broken
    assert broken[prop], "it is said how"
    with pytest.raises(Failed, match=f"{kind} {component.__name__}: {prop}: "):
        getattr(testing, f"check_{kind}")(component)


def test_every_property_of_every_suite_is_broken_once() -> None:
    asked = {(kind, p.__name__.replace("_", " ")) for kind in SOUND for p in suites.SUITES[kind][1]}
    assert asked | {("masker", "documented"), ("masker", "strict")} == set(BROKEN)
    elsewhere = {"data", "probe", "optimizer"}
    assert set(suites.SUITES) - set(SOUND) == elsewhere, "test_data_checks.py, test_optimizer_checks.py"


@pytest.mark.parametrize(
    ("kind", "prop", "said"),
    [
        (
            "masker",
            "disjoint",
            "grid (2,), 1 samples, progress 0, pair (0, 0): 1 tokens are both visible and",
        ),
        ("masker", "documented", "without a docstring under the field: share"),
        ("masker", "travels", "AttributeError: Can't pickle local object"),
        (
            "variant",
            "in the optimizer",
            "a parameter [48] would never be trained: one that no module registers",
        ),
        ("variant", "all trained", "without a gradient: head.weight, head.bias"),
        ("target_update", "made apart", "tensors of the target are those of the online encoder"),
        ("objective", "two processes", "the value in two processes and in one: values differ by up to"),
        (
            "variant",
            "two processes",
            "loss and terms of step 1 in two processes and in one: values differ by",
        ),
        (
            "objective",
            "ranks",
            "(a term that looks at the whole batch declares batchwise = True): values differ",
        ),
    ],
)
def test_what_is_said_tells_what_broke(kind: str, prop: str, said: str) -> None:
    assert said in failing(examine(kind, BROKEN[kind, prop]))[prop]


class RemembersItsOwnSamples(JEPA):
    """Its loss is the engine's; what it would save differs from process to process."""

    def __init__(self, config, **parts):
        super().__init__(config, **parts)
        self.register_buffer("seen", torch.zeros(()))

    def views(self, batch):
        self.seen += batch.views["image"].mean()
        return super().views(batch)


class StopsInOneProcess(JEPA):
    """One process of several does not come to the end of the step."""

    def views(self, batch):
        if dist.is_initialized() and dist.get_rank() == 1:
            raise RuntimeError("out of memory")
        return super().views(batch)


@pytest.mark.parametrize(
    ("variant", "said"),
    [
        (RemembersItsOwnSamples, "the two processes go apart: seen"),
        (StopsInOneProcess, "in one of two processes, RuntimeError: out of memory"),
    ],
)
@pytest.mark.slow
def test_two_processes_may_also_go_apart_or_fail(variant: type, said: str) -> None:
    assert failing(examine("variant", variant)) == {"two processes": said}
    assert failing(examine("variant", JEPA)) == {}, "whatever happened to the two, the next check has them"


def test_what_cannot_be_sent_to_another_process_is_not_asked() -> None:
    class Local(JEPA):
        """A variant that no other process can import."""

    (outcome,) = [o for o in examine("variant", Local) if o.property == "two processes"]
    assert outcome.state == "not asked"
    assert outcome.said.startswith("it cannot be sent to another process: Can't pickle local object")


def test_a_target_with_gradients_and_a_masker_of_global_randomness_fail_too() -> None:
    class Trained(Ema):
        def make_target(self, encoder):
            return copy.deepcopy(encoder)

    class Global(SmallMasker):
        def __call__(self, grid, batch_size, generator, progress=0.0):
            return super().__call__(grid, batch_size, torch.Generator().manual_seed(torch.seed()), progress)

    assert "take gradients: embed.weight" in failing(examine("target_update", Trained))["made apart"]
    said = failing(examine("masker", Global))["generator alone"]
    assert said.startswith("draws from the global randomness of torch")


def test_what_settings_declare_is_not_asked() -> None:
    class Overlapping(ShowsAll):
        class Config(MaskerSettings):
            disjoint = False

    class Batchwise(SumsUp):
        class Config(LossTerm.Config):
            batchwise = True

    for kind, component, prop in (("masker", Overlapping, "disjoint"), ("objective", Batchwise, "ranks")):
        (outcome,) = [o for o in examine(kind, component) if o.property == prop]
        assert outcome.state == "not asked"


class SaysSoItself(ShowsAll):
    """A masker that says in its class that targets may be visible."""

    disjoint = False


class InheritsIt(SaysSoItself):
    """A masker whose base class says it."""


class SaysSoAsASetting(ShowsAll):
    """A masker without the engine's settings that says it in a field of its own."""

    class Config(ComponentSettings):
        """Its settings."""

        disjoint: bool = False
        """Whether no target is visible."""


class TakesItBack(SaysSoItself):
    """A masker that promises what its base class does not."""

    disjoint = True


@pytest.mark.parametrize(
    ("masker", "state"),
    [
        (SaysSoItself, "not asked"),
        (InheritsIt, "not asked"),
        (SaysSoAsASetting, "not asked"),
        (TakesItBack, "fails"),
    ],
)
def test_visible_targets_may_be_declared_wherever_it_suits(masker: type, state: str) -> None:
    (outcome,) = [o for o in examine("masker", masker) if o.property == "disjoint"]
    assert outcome.state == state


def test_a_component_that_raises_fails_with_its_error_and_the_others_are_asked() -> None:
    class Raises(SmallMasker):
        def __call__(self, grid, batch_size, generator, progress=0.0):
            raise KeyError("tea")

    found = examine("masker", Raises)
    assert failing(found)["places"] == "KeyError: 'tea'"
    assert [o.property for o in found][:2] == ["documented", "strict"]


def test_global_randomness_is_left_alone() -> None:
    before = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()
    examine("variant", JEPA)
    examine("masker", SmallMasker)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert (np.random.get_state()[1].tolist(), random.getstate()) == before[1:]


def test_unknown_kinds_names_and_settings_are_the_users_errors() -> None:
    with pytest.raises(UserError, match=r"unknown kind of component 'maskers'.*Did you mean 'masker'"):
        examine("maskers", SmallMasker)
    with pytest.raises(UserError, match=r"unknown masker 'multiblok'.*Did you mean 'multiblock'"):
        testing.check_masker("multiblok")
    with pytest.raises(UserError, match="masker"):
        testing.check_masker(SmallMasker, shares=0.3)


HEAD = "# mine: a recipe\n# cost: seconds\n# expected: nothing\n"


@pytest.mark.parametrize(
    ("text", "prop", "said"),
    [
        ('extends = "ijepa/selftest"\n', "told", "the head comment does not say: what, cost, expected"),
        (HEAD + 'extends = "ijepa/selftest"\nencoder.widht = 3\n', "resolves", "unknown setting"),
        (HEAD + 'extends = "ijepa/selftest"\nencoder.image_size = 4\n', "fits", "UserError: "),
        (HEAD + 'extends = "ijepa/selftest"\ndata.name = "npz"\n', None, "the user says which file"),
        (HEAD + 'extends = "ijepa/selftest"\ndata.name = "npzz"\n', "resolves", "unknown data 'npzz'"),
        (
            HEAD + 'extends = "ijepa/selftest"\ntarget_update.name = "none"\nvariant.target_norm = "none"\n',
            None,
            "",
        ),
    ],
)
def test_recipes_that_are_wrong_are_named(tmp_path: Path, text: str, prop: str | None, said: str) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(text, encoding="utf-8")
    broken = failing(examine_recipe(str(path)))
    if prop is None:
        assert broken == {}
        return
    assert said in broken[prop]
    with pytest.raises(Failed, match=prop):
        testing.check_recipe(str(path))


def test_kinds_without_a_suite_are_asked_for_their_settings() -> None:
    class Format:
        class Config(ComponentSettings):
            compressed: bool = False

    said = "without a docstring under the field: compressed"
    assert failing(examine("format", Format)) == {"documented": "the class Format has no docstring"}
    Format.__doc__ = "A format."
    assert failing(examine("format", Format)) == {"documented": said}
