"""What many tests share: tiny real-valued images in an .npz file, a recipe small enough for seconds, `jepa`.

The tiny encoder sees 16×16 pixels as a 4×4 grid of patches; everything is fp32 on one thread, so that
two runs of one recipe agree bit for bit.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from hypothesis import settings

from tests.fresh_environment import ROOT, build_wheel

settings.register_profile("shared_machine", deadline=None, max_examples=40)
settings.load_profile("shared_machine")

TINY = """
seed = 3
data = {{ name = "npz", path = "{path}" }}
encoder = {{ name = "official_tiny", width = 32, depth = 2, heads = 2, image_size = 16, patch_size = 4 }}
predictor = {{ name = "vit_predictor", width = 24, depth = 1, heads = 2 }}
masker = {{ name = "multiblock" }}
optimizer = {{ lr = 1e-3, warmup_steps = 2 }}
train = {{ steps = 6, batch_size = 8, log_every = 1, precision = "fp32", device = "cpu" }}
probes = {{ knn = {{ name = "knn", k = 3 }} }}
"""


def pytest_configure() -> None:
    """Consoles look at the width once, when the command line is imported, by whichever test comes first."""
    os.environ["COLUMNS"] = "200"


class Said(NamedTuple):
    """What a command did."""

    code: int
    out: str
    err: str


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> Iterator[None]:
    """Sums are then always taken in one order."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def tiny_images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An .npz file with 64 blobs of two classes (bright on the left, bright on the right), 16×16×3."""
    random = np.random.default_rng(0)
    labels = np.arange(64) % 2
    ramp = np.linspace(0, 150, 16)[None, None, :, None]
    images = np.where(labels[:, None, None, None] == 0, ramp, 150 - ramp) + random.uniform(
        0, 100, (64, 16, 16, 3)
    )
    path = tmp_path_factory.mktemp("images") / "tiny.npz"
    np.savez(path, images=images.astype(np.uint8), labels=labels)
    return path


@pytest.fixture(scope="session")
def tiny_recipe(tiny_images: Path) -> Path:
    """The recipe file that most tests start from."""
    path = tiny_images.with_name("tiny.toml")
    path.write_text(TINY.format(path=tiny_images), encoding="utf-8")
    return path


@pytest.fixture
def jepa(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Said]:
    """Runs the command line in this process: `jepa("recipes")` gives its exit code and what it said."""
    from jepa_core.cli import main

    def run(*words: object) -> Said:
        monkeypatch.setattr(sys, "argv", ["jepa", *map(str, words)])
        monkeypatch.setenv("COLUMNS", "200")
        code = 0
        try:
            main()
        except SystemExit as exit:
            code = int(exit.code or 0)
        return Said(code, *capsys.readouterr())

    return run


@pytest.fixture(scope="session")
def core_wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of this repository."""
    return build_wheel(ROOT, tmp_path_factory.mktemp("core_wheel"))
