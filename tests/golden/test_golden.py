"""Twenty steps of a recipe give the losses they gave before: a refactor changes none of them.

    python -m tests.golden.test_golden      writes the files anew, when a change of the numbers is meant

fp32, a fixed batch of noise, masks of seed 0. Machines add up in other orders, so the last digits are free.
"""

import json
from pathlib import Path

import pytest
import torch

import jepa_core

HERE = Path(__file__).parent
SMALL = (
    "encoder.name=official_tiny", "encoder.image_size=64", "encoder.patch_size=8", "encoder.width=48",
    "encoder.depth=2", "predictor.depth=2", "predictor.width=24", "train.epochs=1", "train.epoch_images=320",
    "train.batch_size=16", "train.micro_batch=16", "optimizer.warmup_epochs=0.2",
)  # fmt: skip
CLIPS = (
    "data.path=unread", "encoder.name=vjepa_tiny", "encoder.image_size=64", "encoder.frames=8",
    "encoder.width=48", "encoder.depth=2", "encoder.positions=rope", "predictor.positions=rope",
    "predictor.depth=2", "predictor.width=48", "train.steps=20", "train.batch_size=16",
    "train.micro_batch=16", "optimizer.warmup_steps=4",
)  # fmt: skip
CASES = {
    "ijepa/demo": ("train.steps=20",),
    "ijepa/cifar10": ("train.steps=20",),
    "ijepa/cifar10_patch8": ("train.steps=20",),
    "ijepa/cifar10_plain": ("train.steps=20",),
    "ijepa/in1k_vitb16": SMALL,
    "ijepa/official_in1k_vitb16": (*SMALL, "masker.min_keep=4"),
    "vjepa/demo": ("train.steps=20",),
    "vjepa/vitl16": CLIPS,
}


def losses(name: str) -> list[float]:
    recipe = jepa_core.load_recipe(name, "train.precision=fp32", *CASES[name])
    model = jepa_core.build_model(recipe)
    step = jepa_core.training_step(model, recipe)
    images = torch.randn(16, *model.encoder.view_shape(), generator=torch.Generator().manual_seed(0))
    return [step(images, jepa_core.sample_masks(model, 16, 0, s)).loss.item() for s in range(20)]


def golden(name: str) -> Path:
    return HERE / f"{name.replace('/', '-')}.json"


@pytest.mark.parametrize("name", CASES)
def test_twenty_steps_give_the_same_losses(name):
    expected = json.loads(golden(name).read_text())
    assert losses(name) == pytest.approx(expected, rel=2e-3)


def main() -> None:
    """Writes every golden file."""
    for name in CASES:
        golden(name).write_text(json.dumps(losses(name), indent=1) + "\n")


if __name__ == "__main__":
    main()
