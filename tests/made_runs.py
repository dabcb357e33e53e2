"""Runs without training: a recipe's model with random weights, saved as a run's folder."""

from __future__ import annotations

from pathlib import Path

import torch

from jepa_core import JEPA, build_model, load_recipe
from jepa_core.runs import checkpoints
from jepa_core.runs.folder import RECIPE


def make_run(folder: Path, recipe: str | Path, *overrides: str, step: int = 7) -> JEPA:
    """The model that is in the run; context and target encoder differ, and no bias is zero."""
    resolved = load_recipe(recipe, *overrides)
    model = build_model(resolved)
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
    checkpoints.save(folder, step, model.state_dict(), None, keep=1)
    (folder / RECIPE).write_text(resolved.to_toml(), encoding="utf-8")
    return model.eval()


def images(*size: int, batch: int = 3) -> torch.Tensor:
    """[B, 3, H, W], normal."""
    return torch.randn(batch, 3, *size, generator=torch.Generator().manual_seed(1))


def error_of(one: torch.Tensor, other: torch.Tensor) -> float:
    """The largest difference between two tensors of one shape."""
    assert one.shape == other.shape
    return (one - other).abs().max().item()
