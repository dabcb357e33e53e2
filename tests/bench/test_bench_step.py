"""One training step beside the same step the official way, on the same masks.

    make bench     or     pytest tests/bench/test_bench_step.py --benchmark-enable

Two sizes: ViT-Small/16 at 224 px, where matrix products dominate, and ViT-Tiny/4 at 32 px, where small
operations do. Goal: a third of the official way's time at 224 px on a CPU with fast bf16. Ratios only mean
something within one run; docs/results.md holds one.
"""

from dataclasses import dataclass

import pytest
import torch

import jepa_core
from jepa_ijepa.official_way import Encoder, OfficialWay, Predictor

pytestmark = pytest.mark.slow


@dataclass(frozen=True)
class Size:
    """A model and a batch."""

    encoder: str
    width: int
    heads: int
    image: int
    patch: int
    predictor: int
    batch: int

    def __str__(self) -> str:
        return f"{self.encoder}/{self.patch} at {self.image} px, batch {self.batch}"

    @property
    def grid(self) -> tuple[int, int]:
        return self.image // self.patch, self.image // self.patch

    def recipe(self, *overrides: str) -> jepa_core.Recipe:
        return jepa_core.load_recipe(
            "ijepa/in1k_vitb16",
            f"encoder.name=official_{self.encoder}",
            f"encoder.image_size={self.image}",
            f"encoder.patch_size={self.patch}",
            f"predictor.width={self.predictor}",
            "masker.truncate=first",  # the peer takes dense sets only
            "train.steps=1000",
            f"train.batch_size={self.batch}",
            f"train.micro_batch={self.batch}",
            "optimizer.warmup_steps=0",
            *overrides,
        )

    def official(self) -> OfficialWay:
        torch.manual_seed(0)
        encoder = Encoder(self.grid, self.patch, self.width, 12, self.heads)
        return OfficialWay(encoder, Predictor(self.grid, self.width, self.predictor, 6, self.heads))


SIZES = [
    Size("small", 384, 6, image=224, patch=16, predictor=384, batch=16),
    Size("tiny", 192, 3, image=32, patch=4, predictor=96, batch=64),
]


@pytest.fixture(params=SIZES, ids=str)
def size(request, benchmark):
    benchmark.group = f"training step, {request.param}"
    return request.param


def inputs(size: Size):
    plan = jepa_core.sample_masks(jepa_core.build_model(size.recipe()), size.batch, seed=0)
    shape = (size.batch, 3, size.image, size.image)
    return torch.randn(shape, generator=torch.Generator().manual_seed(0)), plan


def test_official_way_fp32(benchmark, size):
    images, plan = inputs(size)
    context, targets = plan.contexts[0].dense(), [t.dense() for t in plan.targets]
    loss = benchmark.pedantic(size.official().step, (images, context, targets), rounds=6, warmup_rounds=1)
    assert loss.isfinite()


@pytest.mark.parametrize("how", ["train.precision=auto", "encoder.residual=fp32", "train.precision=fp32"])
def test_training_step(benchmark, size, how):
    images, plan = inputs(size)
    chosen = size.recipe(how, *(["predictor.residual=fp32"] if "residual" in how else []))
    step = jepa_core.training_step(jepa_core.build_model(chosen), chosen)
    output = benchmark.pedantic(step, (images, plan), rounds=6, warmup_rounds=1)
    assert output.loss.isfinite()


def test_the_peer_computes_the_same_loss():
    """Same weights, same masks, fp32: the benchmark compares two ways of one thing."""
    size = SIZES[1]
    images, plan = inputs(size)
    chosen = size.recipe("train.precision=fp32")
    model, peer = jepa_core.build_model(chosen), size.official()
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
