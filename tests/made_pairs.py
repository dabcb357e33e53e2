"""A model of two encoders as a plugin would bring it: images beside poses, with masks of both.

Poses are vectors that an encoder takes apart into one token a number. The variant predicts the mean of the
pose from the picture's context, in a group of its own, beside the usual prediction inside the picture.

Axes: B samples, S packed tokens, N numbers of a pose, D width.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Generator, Tensor, nn

from jepa_core import (
    JEPA,
    ComponentSettings,
    Field,
    Group,
    IndexSet,
    MaskPlan,
    Sample,
    Tokens,
    UserError,
    hookimpl,
    plugins,
)
from jepa_core.settings import MaskerSettings, SourceSettings
from jepa_core.types import Batch, Grid, Step, grid_size

NUMBERS, CELLS = 6, 16

RECIPE = """# pairs: pictures with poses, for tests
# cost: a second
# expected: nothing
seed = 3
data = { name = "pairs" }
variant = { name = "pairs" }
encoder = { name = "official_tiny", width = 32, depth = 1, heads = 2, image_size = 16, patch_size = 4 }
encoders.pose = { name = "numbers", width = 24 }
target_updates.pose = { name = "ema", momentum = [0.5, 0.5] }
predictor = { name = "vit_predictor", width = 24, depth = 1, heads = 2 }
masker = { name = "multiblock" }
maskers.pose = { name = "random", ratio = 0.5 }
terms.pose = { name = "mse", group = "pose", weight = 0.5 }
optimizer = { lr = 1e-3, warmup_steps = 2 }
train = { steps = 6, batch_size = 8, log_every = 1, precision = "fp32", device = "cpu" }
probes = { knn = { name = "knn", k = 3 } }
"""


class Numbers(nn.Module):
    """Each number of a vector is a token, with the mean of its sample's kept numbers."""

    class Config(ComponentSettings):
        """Settings of the encoder."""

        width: int = 24
        """Width of the features, D."""

    depth = heads = 1

    def __init__(self, config: Config, field: Field) -> None:
        super().__init__()
        self.config, self.width, self.numbers = config, config.width, field.width
        self.places = nn.Parameter(torch.randn(field.width, config.width))
        self.read = nn.Linear(2, config.width)
        self.norm = nn.LayerNorm(config.width)

    def view_shape(self) -> tuple[int, ...]:
        """(N,)."""
        return (self.numbers,)

    def grid(self, view_shape: Sequence[int]) -> Grid:
        """A token a number."""
        return tuple(view_shape)

    def forward(self, view: Tensor, keep: IndexSet | None = None, layers: Sequence[int] = ()) -> Tokens:
        at = IndexSet.full(*view.shape, device=view.device) if keep is None else keep
        numbers = Tokens(view.reshape(-1, 1)[at.flat(self.numbers)], at, (self.numbers,))
        mean = numbers.mean()[at.samples]
        features = self.read(torch.cat([numbers.values, mean], 1)) + self.places[at.index]
        return Tokens(self.norm(features), at, (self.numbers,), tuple(features for _ in layers))


class Pairs(JEPA):
    """I-JEPA on the pictures; the visible part of a picture also predicts its pose."""

    class Config(JEPA.Config):
        """Settings of the variant."""

        named_encoders: ClassVar[tuple[str, ...] | None] = ("pose",)
        plans_of_views: ClassVar[bool] = True

    def __init__(self, config: Config, fields: Mapping[str, Field] | None = None, **parts: Any) -> None:
        super().__init__(config, **parts)
        self.described = fields
        width = self.encoders["pose"].width
        self.to_pose = nn.Linear(self.encoder.width + width, width)

    def run_stages(self, batch: Batch, plan: MaskPlan) -> Step:
        """As ever, and the group `pose`: the mean target features from the contexts of both views."""
        step, pose = super().run_stages(batch, plan), batch.views["pose"]
        keep = plan.of("pose").contexts[0] if plan.others else None
        with torch.no_grad():
            target = self.encoder_of("pose")(pose).mean()
        visible = self.encoders["pose"](pose, keep).mean()
        guess = self.to_pose(torch.cat([step.contexts[0].mean(), visible], 1))
        at = IndexSet.full(len(pose), 1, pose.device)
        group = Group((Tokens(guess, at, (1,)),), (Tokens(target, at, (1,)),))
        return replace(step, groups={"pose": group})


class HideTheHot:
    """Hides the quarter of each sample's tokens that its map marks as the hottest."""

    side = ("heat",)

    class Config(MaskerSettings):
        """Settings of the masker."""

    def __init__(self, config: Config) -> None:
        self.config = config

    def check(self, grid: Grid) -> None:
        """Raises UserError for a grid of one token."""
        if grid_size(grid) < 2:
            raise UserError(f"masker hide_the_hot: a grid {grid} has nothing to hide")

    def __call__(
        self,
        grid: Grid,
        batch_size: int,
        generator: Generator,
        progress: float = 0.0,
        *,
        side: Mapping[str, Any],
    ) -> MaskPlan:
        """One context, one target."""
        heat = side["heat"].reshape(batch_size, -1)
        hot = heat.argsort(1, descending=True).argsort(1) < max(1, heat.shape[1] // 4)
        return MaskPlan((IndexSet.from_mask(~hot),), (IndexSet.from_mask(hot),))


class PairSamples:
    """48 blobs whose brightness rises to one side, with a pose of six numbers and a map of heat."""

    classes = ("left", "right")
    note = "made pairs"

    def __len__(self) -> int:
        return 48

    def __getitem__(self, index: int) -> Sample:
        draw = torch.Generator().manual_seed(index)
        image = torch.randint(0, 256, (3, 16, 16), generator=draw, dtype=torch.uint8)
        pose = torch.randn(NUMBERS, generator=draw)
        heat = torch.rand(CELLS, generator=draw)
        views = {"image": image, "pose": pose}
        return Sample(views, side={"heat": heat}, label=index % 2, key=f"pair {index}")


class PairSource:
    """Pictures with poses and a map of heat."""

    class Config(SourceSettings):
        """Settings of the source."""

    def __init__(self, config: Config) -> None:
        self.config = config

    def fields(self) -> Mapping[str, Field]:
        """An image, a pose, a map."""
        return {
            "views.image": Field("image"),
            "views.pose": Field("vector", (NUMBERS,), units="m"),
            "side.heat": Field("vector", (CELLS,)),
        }

    def split(self, name: str) -> PairSamples:
        """The same samples for every split."""
        return PairSamples()


class Plugin:
    """The hooks."""

    @hookimpl
    def jepa_encoders(self) -> Mapping[str, type]:
        return {"numbers": Numbers}

    @hookimpl
    def jepa_variants(self) -> Mapping[str, type]:
        return {"pairs": Pairs}

    @hookimpl
    def jepa_maskers(self) -> Mapping[str, type]:
        return {"hide_the_hot": HideTheHot}

    @hookimpl
    def jepa_data(self) -> Mapping[str, type]:
        return {"pairs": PairSource}


@contextmanager
def pairs_installed() -> Iterator[None]:
    """Inside, the plugin is one of those that are loaded."""
    plugins.registry().register(Plugin(), "pairs")
    try:
        yield
    finally:
        plugins.registry().manager.unregister(name="pairs")
        plugins.registry()._catalogues.clear()


def write_recipe(folder: Path) -> Path:
    """The recipe's file in a folder."""
    path = folder / "pairs.toml"
    path.write_text(RECIPE, encoding="utf-8")
    return path
