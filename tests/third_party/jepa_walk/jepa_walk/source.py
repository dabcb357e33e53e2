"""A source: films of a dot that walks through noise, its steps as actions, and where it is."""

import torch
from pydantic import Field as Setting

from jepa_core import Field, Sample
from jepa_core.data import BaseSamples, SourceSettings
from jepa_core.errors import unknown

SIDE, LENGTH, STEP, EDGE = 32, 16, 5, 2
SPLITS = ("train", "val", "test")


class Walk:
    """A `Recording` of L frames: places (x, y) float32 [L, 2] and pixels uint8 [L, 3, h, w]."""

    def __init__(self, seed: int) -> None:
        draw, span = torch.Generator().manual_seed(seed), SIDE - 2 * EDGE - 1
        path = torch.randint(-STEP, STEP + 1, (LENGTH, 2), generator=draw).cumsum(0)
        path += torch.randint(2 * span, (2,), generator=draw)
        self.places = (EDGE + span - (path % (2 * span) - span).abs()).float()  # reflected at the edges
        near = (torch.arange(SIDE) - self.places[..., None]).abs() <= 1
        dot = near[:, 1, :, None] & near[:, 0, None, :]
        noise = torch.randint(64, dot.shape, generator=draw, dtype=torch.uint8)
        self.pixels = torch.where(dot, 255, noise)[:, None].expand(-1, 3, -1, -1)

    def starts(self, frames: int) -> range:
        return range(LENGTH - frames + 1)

    def window(self, start: int, frames: int) -> Sample:
        """T frames, the T - 1 actions between them (action t leaves frame t), the place in the last one."""
        film, places = (values[start : start + frames] for values in (self.pixels, self.places))
        return Sample({"film": film}, {"actions": places.diff(dim=0)}, targets={"place": places[-1]})


class Walks(BaseSamples):
    def __init__(self, split: str, count: int) -> None:
        self.split, self.count, self.note = split, count, f"walking dots; {split}, made as they are read"

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Sample:
        walk = Walk(SPLITS.index(self.split) * 1_000_000 + index)
        return Sample(views={"film": walk}, key=f"{self.split}-{index}")


class WalkSource:
    """Walks that differ from split to split."""

    class Config(SourceSettings):
        frames: int = Setting(5, ge=2, le=LENGTH)
        """Frames of a window, T; `transforms.film.frames` is the same."""
        count: int = Setting(2048, ge=4, le=1_000_000)
        """Walks to train on; the other splits have a quarter."""

    def __init__(self, config: Config) -> None:
        self.config = config

    def fields(self) -> dict[str, Field]:
        return {
            "views.film": Field("clip"),
            "condition.actions": Field("sequence", (self.config.frames - 1, 2), units="pixels"),
            "targets.place": Field("vector", (2,), units="pixels", names=("x", "y")),
        }

    def split(self, name: str) -> Walks:
        if name not in SPLITS:
            raise unknown("split", name, SPLITS)
        return Walks(name, self.config.count if name == "train" else self.config.count // 4)
