"""One training step of ViT-Tiny/4 at 32 px, beside the same step the official way, on the same masks.

    make bench     or     pytest tests/bench/test_bench_step.py --benchmark-enable

The goal is a third of the official way's time on a CPU with fast bf16; ratios only mean something within
one run.
"""

import pytest
import torch

import jepa_core
from tests.bench.official_way import Encoder, OfficialWay, Predictor

BATCH = 64
MODEL = (
    "encoder.name=official_tiny", "encoder.image_size=32", "encoder.patch_size=4",
    "predictor.depth=6", "predictor.width=96", "train.steps=1000", "train.batch_size=64",
)  # fmt: skip


def recipe(*overrides: str) -> jepa_core.Recipe:
    return jepa_core.load_recipe(
        "ijepa/official_in1k_vitb16", *MODEL, "masker.min_keep=5", "optimizer.warmup_steps=0", *overrides
    )


@pytest.fixture(scope="module")
def inputs():
    model = jepa_core.build_model(recipe())
    plan = jepa_core.sample_masks(model, BATCH, seed=0)
    return torch.randn(BATCH, 3, 32, 32, generator=torch.Generator().manual_seed(0)), plan


def official() -> OfficialWay:
    torch.manual_seed(0)
    return OfficialWay(Encoder((8, 8), 4, 192, 12, 3), Predictor((8, 8), 192, 96, 6, 3))


@pytest.mark.benchmark(group="training step, ViT-Tiny/4 at 32 px, batch 64")
def test_official_way_fp32(benchmark, inputs):
    images, plan = inputs
    peer, context = official(), plan.contexts[0].dense()
    targets = [t.dense() for t in plan.targets]
    loss = benchmark.pedantic(peer.step, (images, context, targets), rounds=8, warmup_rounds=2)
    assert loss.isfinite()


@pytest.mark.benchmark(group="training step, ViT-Tiny/4 at 32 px, batch 64")
@pytest.mark.parametrize("precision", ["auto", "fp32"])
def test_training_step(benchmark, inputs, precision):
    images, plan = inputs
    chosen = recipe(f"train.precision={precision}")
    step = jepa_core.training_step(jepa_core.build_model(chosen), chosen)
    output = benchmark.pedantic(step, (images, plan), rounds=8, warmup_rounds=2)
    assert output.loss.isfinite()


def test_the_peer_computes_the_same_loss(inputs):
    """Same weights, same masks, fp32: the benchmark compares two ways of one thing."""
    images, plan = inputs
    chosen = recipe("train.precision=fp32")
    model, peer = jepa_core.build_model(chosen), official()
    _copy_weights(model, peer)
    theirs = peer.step(images, plan.contexts[0].dense(), [t.dense() for t in plan.targets])
    ours = jepa_core.training_step(model, chosen)(images, plan).loss
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)


def _copy_weights(model: jepa_core.JEPA, peer: OfficialWay) -> None:
    ours = model.state_dict()

    def fill(module: torch.nn.Module, prefix: str, names: dict[str, str]) -> None:
        for name, tensor in module.state_dict().items():
            if name == "pos_embed":
                continue
            for old, new in names.items():
                name = name.replace(old, new)
            tensor.copy_(ours[prefix + name])

    names = {"patch_embed.": "patch_embed.proj.", "mlp.0": "mlp.fc1", "mlp.2": "mlp.fc2"}
    fill(peer.encoder, "encoder.", names)
    fill(peer.target, "target_encoder.", names)
    fill(peer.predictor, "predictor.", {k: v for k, v in names.items() if k.startswith("mlp")})
