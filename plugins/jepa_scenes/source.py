"""`scenes`: rendered pictures of spheres, cubes and cylinders on a plane, with the exact truth about them.

    jepa scenes preview                        look at some
    jepa train ijepa/scenes                    26,000 are rendered at first use

Labels are `count` and `distance`; the maps `depth`, `ids` (which object) and `shape` (of which kind) are
targets. A picture follows from the seed and its number alone; splits are ranges of numbers that do not meet.

Axes: n scenes, S pixels a side.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

from einops import rearrange
from pydantic import Field
from torch import Tensor

from jepa_core.data.cache import cache_folder
from jepa_core.data.splits import SPLITS, check_split
from jepa_core.settings.base import SourceSettings
from jepa_core.types.sample import Fields
from jepa_scenes.samples import SceneSamples, scene_fields
from jepa_scenes.shards import Look, say_what_is_old
from jepa_scenes.store import Store
from jepa_scenes.tasks import CLASSES, CountAndDistance, TaskName, Truth

MOST_SCENES = 1_000_000
"""Of a split: its numbers end where those of the next split begin."""


class ScenesSource(CountAndDistance):
    """CLEVR-like scenes by our own ray caster, rendered once into the data folder."""

    class Config(SourceSettings):
        """Settings of the scenes."""

        path: Path | None = None
        """Folder to keep the pictures in; by default `scenes` in `$JEPA_DATA`, else in `~/.cache/jepa`."""
        train_images: int = Field(20_000, ge=1, le=MOST_SCENES)
        """Scenes of the training split."""
        val_images: int = Field(2_000, ge=1, le=MOST_SCENES)
        """Scenes of the split `val`."""
        test_images: int = Field(4_000, ge=1, le=MOST_SCENES)
        """Scenes of the split `test`."""
        size: int = Field(64, ge=16, le=512)
        """Pixels a side. The scenes are the same at every size."""
        field_of_view: float = Field(43.0, ge=38, le=55)
        """Of the camera, in degrees: at 38 the frame cuts objects off, at 49 they are small."""
        seed: int = Field(0, ge=0)
        """Other scenes of the same kind. It stands apart from the run's seed: runs can be compared."""
        label: TaskName = "count"
        """The labels of samples, where an evaluation takes one set; the probe tables have both."""
        render_processes: int = Field(0, ge=0, le=512)
        """Processes that render; 0: one for each core."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self._truth: dict[str, Truth] = {}
        self._images: dict[str, Tensor] = {}

    @cached_property
    def look(self) -> Look:
        """What the pictures depend on."""
        return Look(self.config.size, self.config.field_of_view, self.config.seed)

    @cached_property
    def folder(self) -> Path:
        """Where the pictures are kept, of all settings."""
        folder = cache_folder(self.config.path or cache_folder() / "scenes")
        say_what_is_old(folder, self.look)
        return folder

    def fields(self) -> Fields:
        """The image and three maps."""
        return scene_fields(self.config.size)

    def split(self, name: str) -> SceneSamples:
        """`train`, `val` or `test`; what is missing in the data folder is rendered.

        Raises UserError where that folder cannot be written.
        """
        task = self.config.label
        return self.with_labels(name, self.truth(name).labels(task), CLASSES[task])

    def truth(self, split: str) -> Truth:
        """Number of objects and distance of each scene."""
        if split not in self._truth:
            counts, distances = self._store(split).read("count", "distance")
            self._truth[split] = Truth.of(counts.tolist(), distances.tolist())
        return self._truth[split]

    def with_labels(self, split: str, labels: Tensor, classes: Sequence[str]) -> SceneSamples:
        """The scenes of a split with these labels; all tasks share the images."""
        store = self._store(split)
        if split not in self._images:
            self._images[split] = rearrange(store.tensors("images")[0], "n h w c -> n c h w")
        note = f"scenes {self.look.key} in {self.folder}; {split}: {store.total:,} scenes"
        return SceneSamples(self._images[split], labels, classes, note, store.maps)

    def render(self) -> int:
        """Renders what is missing of all splits; the number of scenes."""
        return sum(len(self.truth(split).count) for split in SPLITS)

    def _store(self, split: str) -> Store:
        check_split(split)
        total: int = getattr(self.config, f"{split}_images")
        return Store(self.folder, self.look, split, total, self.config.render_processes)
