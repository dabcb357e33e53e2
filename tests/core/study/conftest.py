"""A study small enough for seconds: three arms, two seeds, six steps a cell."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

THREE = """
recipe = "{recipe}"
seeds = [0, 1]
metric = "knn.top1"
baseline = "multiblock"
probes = ["knn"]
[arms.multiblock]
[arms.random]
set = ["masker.name=random"]
[arms.deep]
set = ["predictor.depth=2"]
"""

WriteStudy = Callable[..., Path]


@pytest.fixture
def write_study(tmp_path: Path, tiny_recipe: Path) -> WriteStudy:
    """Writes a study's file: `write_study(text, name)`, with {recipe} filled in."""

    def write(text: str = THREE, name: str = "three.toml") -> Path:
        file = tmp_path / name
        file.write_text(text.replace("{recipe}", str(tiny_recipe)), encoding="utf-8")
        return file

    return write
