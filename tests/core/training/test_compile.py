"""torch.compile: loss and gradients of the whole model as one graph, for ragged sets of all lengths.

The backend is `aot_eager`: it traces forward and backward as the real one does, and makes no C++ of them.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from jepa_core import build_model, load_recipe, sample_masks, training_step
from jepa_core.types import IndexSet

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def _fresh() -> Iterator[None]:
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    yield
    torch._dynamo.reset()


@pytest.mark.parametrize(
    "overrides",
    [
        ("encoder.depth=1",),
        ("encoder.depth=1", "predictor.context=shared", "masker.sets=2"),
        (*("masker=random", "variant.target_norm=batch", "variant.target_layers=2"),
         "terms.spread.name=variance_covariance"),
    ],
    ids=["ijepa", "shared", "batch"],
)  # fmt: skip
def test_the_whole_model_is_one_graph_for_all_lengths(tiny_recipe: Path, overrides: tuple[str, ...]) -> None:
    model = build_model(load_recipe(tiny_recipe, *overrides))
    compiled = torch.compile(model, fullgraph=True, dynamic=True, backend="aot_eager")
    for number in range(3):
        images = torch.randn(8, 3, 16, 16, generator=torch.Generator().manual_seed(number))
        plan = sample_masks(model, 8, step=number)
        losses, gradients = [], []
        for forward in (model, compiled):
            model.zero_grad()
            loss = forward(images, plan).loss
            loss.backward()
            losses.append(loss.detach())
            gradients.append([p.grad for p in model.parameters() if p.grad is not None])
        torch.testing.assert_close(losses[1], losses[0], rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(gradients[1], gradients[0], rtol=1e-4, atol=1e-6)
    graphs = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    assert graphs <= 3, f"three batches of other lengths made {graphs} graphs"


def test_a_compiled_step_trains_like_another_and_saves_the_same_names(
    tiny_recipe: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    backends: list[object] = []

    def compile_quickly(module: torch.nn.Module, **settings: object) -> None:
        backends.append(settings)
        module._compiled_call_impl = torch.compile(module._call_impl, backend="aot_eager", **settings)  # type: ignore[call-overload]

    monkeypatch.setattr(torch.nn.Module, "compile", compile_quickly)
    losses, names = [], []
    for overrides in ((), ("train.compile=true",)):
        recipe = load_recipe(tiny_recipe, *overrides)
        model = build_model(recipe)
        step = training_step(model, recipe)
        images = torch.randn(8, 3, 16, 16, generator=torch.Generator().manual_seed(0))
        losses.append([step(images, sample_masks(model, 8, step=n)).loss.item() for n in range(3)])
        names.append(list(model.state_dict()))
    assert backends == [{"dynamic": True}], "only the second one compiles"
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] >= 1
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)
    assert names[0] == names[1]


def test_what_is_computed_once_is_kept_outside_of_graphs_only() -> None:
    sets = IndexSet.from_lists([[0, 1], [2]])
    assert sets.offsets is sets.offsets
    compiled = torch.compile(lambda kept: kept.offsets * 2, fullgraph=True, backend="eager")
    fresh = IndexSet.from_lists([[0], [2, 5]])
    assert compiled(fresh).tolist() == [0, 2, 6]
    assert "offsets" not in vars(fresh)
