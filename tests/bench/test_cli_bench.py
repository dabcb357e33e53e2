"""`jepa bench`: what it prints and writes, what it counts, and what it refuses."""

import json

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

import jepa_core
from jepa_core import plugins
from jepa_core.bench.stages import STAGES, measure_stages
from jepa_core.bench.step import measure_step
from jepa_core.evaluate.flops import step_flops
from jepa_ijepa.official_way import official_step
from jepa_kernels.bench.ceilings import Ceilings
from tests.bench.whole_predictor import compute_all_rows, repeat_contexts

DENSE = ("masker.truncate=first", "train.precision=fp32")


def test_kernels_are_shown_and_written(jepa, tmp_path):
    said = jepa(
        "bench", "kernels", "--op", "loss", "--shape", "CIFAR", "--quick", "--json", tmp_path / "new/k.json"
    )
    assert said.code == 0
    assert "loss  CIFAR T/4" in said.out
    assert "ours: reference" in said.out
    written = json.loads((tmp_path / "new/k.json").read_text())
    assert [row["impl"] for row in written["rows"]] == ["ours: reference", "ours: triton"]
    assert {"date", "environment", "ceilings", "device"} <= set(written)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ("kernels", "--op", "emma"),
            "unknown operation 'emma'; known: ema, loss, masks, attention. Did you",
        ),
        (("kernels", "--shape", "Q/7"), "unknown shape 'Q/7'; known: I-JEPA B/16"),
        (("kernels", "--device", "tpu"), "--device is 'tpu'; expected auto, cpu, cuda or cuda:<number>"),
        (("step", "ijepa/demmo"), "Did you mean 'ijepa/demo'?"),
    ],
)
def test_mistakes_are_one_line(jepa, words, message):
    said = jepa("bench", *words)
    assert (said.code, said.out) == (2, "")
    assert message in said.err


def test_a_step_is_split_into_stages(jepa, tiny_recipe, tmp_path):
    said = jepa("bench", "step", tiny_recipe, "--quick", "--json", tmp_path / "step.json")
    assert said.code == 0
    assert all(stage in said.out for stage in STAGES)
    written = json.loads((tmp_path / "step.json").read_text())
    assert list(written["stages"]) == list(STAGES)
    assert all(seconds > 0 for seconds in written["stages"].values())
    (way,) = written["ways"]
    assert (way["name"], way["images"], way["peak"]) == ("jepa-core", 8, None)
    assert written["recipe"]["train"]["batch_size"] == 8


def test_beside_the_released_codes_way(jepa, tiny_recipe):
    said = jepa("bench", "step", tiny_recipe, *DENSE, "--quick", "--official")
    assert said.code == 0
    assert "the released code's way takes" in said.out


def test_the_released_codes_way_takes_no_ragged_masks(jepa, tiny_recipe):
    said = jepa("bench", "step", tiny_recipe, "--quick", "--official")
    assert said.code == 2
    assert "takes one context, and sets of one length in the whole batch" in said.err


def test_without_its_plugin_there_is_no_other_way(tiny_recipe, monkeypatch):
    recipe = jepa_core.load_recipe(tiny_recipe, *DENSE)
    monkeypatch.setattr(plugins.Plugins, "peers", lambda self: {})
    with pytest.raises(jepa_core.UserError, match="no loaded plugin offers the released code's way"):
        measure_step(recipe, Ceilings(1e9, 1e12), steps=1, official=True)


def dense_step(tiny_recipe):
    recipe = jepa_core.load_recipe(tiny_recipe, *DENSE)
    model = jepa_core.build_model(recipe)
    plan = jepa_core.sample_masks(model, 8, seed=0)
    batch = jepa_core.Batch.of(torch.randn(8, 3, 16, 16))
    return recipe, model, jepa_core.training_step(model, recipe), batch, plan


def whole_predictor(monkeypatch):
    """A predictor that computes every row of every copy of a context, as the released code does."""
    compute_all_rows(monkeypatch)
    repeat_contexts(monkeypatch)


def test_operations_are_those_of_the_released_codes_way(tiny_recipe, monkeypatch):
    """Which torch counts by itself, attention and all; it embeds every patch, and we those that are seen."""
    whole_predictor(monkeypatch)
    recipe, model, _, batch, plan = dense_step(tiny_recipe)
    peer = official_step(recipe, model, plan)
    with FlopCounterMode(display=False) as counter:
        peer(batch, plan)
    counts = counter.get_flop_counts()["Global"]
    convolutions = sum(n for op, n in counts.items() if "convolution" in str(op))
    patch = 2 * 3 * 4 * 4 * model.encoder.width
    seen, everything = plan.contexts[0].total, 8 * 16
    expected = counter.get_total_flops() - convolutions + patch * (everything + 2 * seen)
    assert step_flops(model, batch, plan) == expected


@pytest.mark.parametrize("depth", [1, 2])
def test_operations_left_out_are_counted_as_none(tiny_recipe, monkeypatch, depth):
    """The last block's output at the context is not computed; a single block reads its context once."""
    recipe = jepa_core.load_recipe(tiny_recipe, *DENSE, f"predictor.depth={depth}")
    model = jepa_core.build_model(recipe)
    plan = jepa_core.sample_masks(model, 8, seed=0)
    batch = jepa_core.Batch.of(torch.randn(8, 3, 16, 16))
    operations = step_flops(model, batch, plan)
    whole_predictor(monkeypatch)
    pairs, context, width = len(plan.pairs), plan.contexts[0].total, model.predictor.width
    after_attention = pairs * context * (1 + 4 + 4) * width**2
    keys_of_copies = (pairs - 1) * context * 3 * width**2 if depth == 1 else 0
    products = 2 * 3 * (after_attention + keys_of_copies)
    assert step_flops(model, batch, plan) - operations >= products > 0


def test_the_stages_leave_the_model_as_it_was(tiny_recipe):
    _, model, training, batch, plan = dense_step(tiny_recipe)
    training(batch, plan)
    before = set(vars(model)), set(vars(training)), set(vars(training.optimizer))
    seconds = measure_stages(training, lambda: (batch, plan), 1)
    assert (set(vars(model)), set(vars(training)), set(vars(training.optimizer))) == before
    assert training.done == 3
    assert set(seconds) == set(STAGES)


def test_utilisation_is_operations_over_time(tiny_recipe):
    recipe = jepa_core.load_recipe(tiny_recipe, *DENSE)
    report = measure_step(recipe, Ceilings(copy=1e9, matmul=1e10), steps=1)
    (way,) = report.ways
    assert way.utilisation == pytest.approx(report.operations / way.seconds / 1e10)
    assert report.what.endswith("8 images a step, fp32, cpu")
