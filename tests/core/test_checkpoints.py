"""Checkpoints: what is saved comes back, and what does not fit is named."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from jepa_core import UserError, build_model, checkpoints, load_recipe, sample_masks, training_step
from jepa_core.optim import TrainingStep


def training(recipe: Path, *overrides: str) -> TrainingStep:
    resolved = load_recipe(recipe, *overrides)
    return training_step(build_model(resolved), resolved)


def go_on(step: TrainingStep, count: int) -> list[float]:
    losses = []
    for _ in range(count):
        images = torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(step.done))
        losses.append(step(images, sample_masks(step.model, 4, 0, step.done)).loss.item())
    return losses


def test_a_loaded_run_goes_on_bit_for_bit(tiny_recipe: Path, tmp_path: Path) -> None:
    first, second = training(tiny_recipe), training(tiny_recipe, "seed=99")
    go_on(first, 2)
    torch.manual_seed(11)
    saved = checkpoints.save(tmp_path, first, keep=2)
    drawn = torch.rand(3)
    assert saved == tmp_path / "checkpoints" / "step-00000002"
    checkpoints.load_training(saved, second)
    assert torch.equal(torch.rand(3), drawn), "the random state comes back too"
    assert second.done == 2
    assert go_on(first, 3) == go_on(second, 3)
    for (name, mine), theirs in zip(
        first.model.state_dict().items(), second.model.state_dict().values(), strict=True
    ):
        assert torch.equal(mine, theirs), name


def test_only_the_newest_are_kept(tiny_recipe: Path, tmp_path: Path) -> None:
    step = training(tiny_recipe)
    for done in (9, 10, 100):
        step.done = done
        checkpoints.save(tmp_path, step, keep=2)
    assert [p.name for p in checkpoints.found(tmp_path)] == ["step-00000010", "step-00000100"]
    assert checkpoints.latest(tmp_path).name == "step-00000100"


def test_saving_a_step_again_replaces_it(tiny_recipe: Path, tmp_path: Path) -> None:
    step = training(tiny_recipe)
    checkpoints.save(tmp_path, step, keep=1)
    with torch.no_grad():
        step.model.predictor.mask_token.fill_(7.0)  # type: ignore[union-attr, attr-defined]
    other = training(tiny_recipe)
    checkpoints.load_weights(checkpoints.save(tmp_path, step, keep=1), other.model)
    assert (other.model.predictor.mask_token == 7).all()  # type: ignore[attr-defined]


def test_a_checkpoint_whose_writing_was_cut_off_is_none(tiny_recipe: Path, tmp_path: Path) -> None:
    step = training(tiny_recipe)
    (tmp_path / "checkpoints" / "step-00000009.partial").mkdir(parents=True)
    with pytest.raises(UserError) as error:
        checkpoints.latest(tmp_path)
    assert str(error.value) == f"run {str(tmp_path)!r} has no checkpoint in {tmp_path / 'checkpoints'}"
    step.done = 9
    assert checkpoints.save(tmp_path, step, keep=1) == checkpoints.latest(tmp_path)


def test_tied_weights_can_be_saved(tmp_path: Path) -> None:
    """safetensors refuses tensors that share memory; a run must not end on that."""
    module = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    module[1].weight = module[0].weight
    step = SimpleNamespace(model=module, optimizer=torch.optim.SGD(module.parameters(), lr=1.0), done=1)
    saved = checkpoints.save(tmp_path, step, keep=1)  # type: ignore[arg-type]
    fresh = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    fresh[1].weight = fresh[0].weight
    checkpoints.load_weights(saved, fresh)
    assert torch.equal(fresh[1].weight, module[0].weight)


def spoil(path: Path, how: str) -> None:
    if how == "missing":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:100] if how == "cut" else b"")


@pytest.mark.parametrize("how", ["cut", "empty", "missing"])
@pytest.mark.parametrize("file", [checkpoints.WEIGHTS, checkpoints.STATE])
def test_a_damaged_checkpoint_is_one_line_that_names_the_file(
    tiny_recipe: Path, tmp_path: Path, file: str, how: str
) -> None:
    step = training(tiny_recipe)
    saved = checkpoints.save(tmp_path, step, keep=1)
    spoil(saved / file, how)
    with pytest.raises(UserError) as error:
        checkpoints.load_training(saved, step)
    assert str(error.value).startswith(f"checkpoint {saved / file} cannot be read: ")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (
            ["encoder.depth=1"],
            "unexpected encoder.blocks.1.attn.proj.bias; unexpected encoder.blocks.1.attn.proj.weight; "
            "unexpected encoder.blocks.1.attn.qkv.bias; and 21 more",
        ),
        (["predictor.width=48"], "predictor.mask_token is [1, 1, 24], the model has [1, 1, 48]; "),
        (["predictor.depth=2"], "missing predictor.blocks.1.norm1.weight; "),
    ],
)
def test_weights_of_another_model_are_named(
    tiny_recipe: Path, tmp_path: Path, overrides: list[str], said: str
) -> None:
    saved = checkpoints.save(tmp_path, training(tiny_recipe), keep=1)
    other = training(tiny_recipe, *overrides)
    before = {name: value.clone() for name, value in other.model.state_dict().items()}
    with pytest.raises(UserError) as error:
        checkpoints.load_weights(saved, other.model)
    path = saved / checkpoints.WEIGHTS
    assert str(error.value).startswith(f"checkpoint {path} is of another model: {said}")
    assert all(torch.equal(before[name], value) for name, value in other.model.state_dict().items())
