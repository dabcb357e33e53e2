"""`huggingface`: a data set of the Hugging Face hub, or one saved with `save_to_disk`.

Needs the package `datasets` (the extra `data`). Images are decoded here and not there, so that odd
and corrupt ones are treated as everywhere else.
"""

from __future__ import annotations

from collections.abc import Collection
from functools import cached_property
from pathlib import Path
from typing import Any

from PIL.Image import Image
from torch import Tensor

from jepa_core.data.cache import expand_home
from jepa_core.data.captions import FIELDS, Captioned
from jepa_core.data.images import CorruptSample, read_image
from jepa_core.data.samples import BaseSamples, class_number
from jepa_core.data.splits import ImageFileSettings, SplitSource
from jepa_core.errors import UserError, unknown
from jepa_core.types.sample import Fields

_NAMES = {"train": ("train",), "val": ("validation", "val", "valid", "dev"), "test": ("test",)}


class HuggingFaceSource(SplitSource):
    """A Hugging Face data set with a column of images."""

    class Config(ImageFileSettings):
        """Settings of the Hugging Face data set."""

        path: str
        """A name on the hub (`uoft-cs/cifar10`), or a folder written by `save_to_disk`."""
        subset: str | None = None
        """The configuration, where the data set has several."""
        image_column: str | None = None
        """Column of the images; by default the first one of that type."""
        label_column: str | None = None
        """Column of the labels; by default the first one of class labels, if any."""
        caption_column: str | None = None
        """Column of the captions, the second view; of a list of captions the first. By default none."""

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.config = config

    @cached_property
    def _splits(self) -> dict[str, Any]:
        """The data set's splits as train, val, test; `train` is always among them."""
        data = _load(self.config)
        if not isinstance(data, dict):
            return {"train": data}
        splits = {split: data[name] for split, names in _NAMES.items() for name in names if name in data}
        if "train" not in splits:
            raise UserError(f"data set {self.config.path!r} has no split 'train'; known: {', '.join(data)}")
        return splits

    def fields(self) -> Fields | None:
        """An image and its caption, where a column of captions is named."""
        return FIELDS if self.config.caption_column else None

    def own_splits(self) -> Collection[str]:
        """Those the data set has, by their usual names."""
        return self._splits.keys()

    def load(self, name: str) -> BaseSamples:
        """One of the data set's splits. Raises UserError where it has no images."""
        data = self._splits[name]
        image = _column(data, self.config.image_column, "Image")
        if image is None:
            raise UserError(
                f"data set {self.config.path!r} has no image column; columns: {', '.join(data.features)}"
            )
        label = _column(data, self.config.label_column, "ClassLabel")
        note = f"Hugging Face {self.config.path}, {name}"
        samples = HuggingFaceSamples(data, image, label, note, self.config.max_pixels)
        caption = self.config.caption_column
        if caption is None:
            return samples
        return Captioned(samples, data[_column(data, caption, "Value")])


class HuggingFaceSamples(BaseSamples):
    """Rows of a Hugging Face data set."""

    def __init__(self, data: Any, image: str, label: str | None, note: str, max_pixels: int) -> None:
        import datasets

        self.data = data.cast_column(image, datasets.Image(decode=False))
        self.image, self.label, self.note, self.max_pixels = image, label, note, max_pixels
        feature = data.features[label] if label else None
        self.classes = feature.names if isinstance(feature, datasets.ClassLabel) else None

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> tuple[Image | Tensor, int]:
        row = self.data[int(index)]
        where = f"row {index} of {self.note}"
        stored = row[self.image] or {}
        content = stored.get("bytes") or stored.get("path")
        if not content:
            raise CorruptSample(where, "it has no image", "empty")
        label = -1 if self.label is None else class_number(row[self.label], self.classes, where)
        return read_image(content, where, self.max_pixels), label


def _load(config: HuggingFaceSource.Config) -> Any:
    try:
        import datasets
    except ImportError:
        raise UserError(
            "the source 'huggingface' needs the package datasets: pip install 'jepa-core[data]'"
        ) from None
    folder = expand_home(Path(config.path))
    saved = (folder / "dataset_dict.json").is_file() or (folder / "state.json").is_file()
    try:
        return datasets.load_from_disk(folder) if saved else datasets.load_dataset(config.path, config.subset)
    except Exception as error:  # the package raises what it likes for files that are not what it wrote
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(
            f"Hugging Face data set {config.path!r} cannot be loaded: {reason} (data.path is a name on the "
            "hub, or a folder written by save_to_disk)"
        ) from None


def _column(data: Any, column_name: str | None, kind: str) -> str | None:
    import datasets

    if column_name is None:
        feature = getattr(datasets, kind)
        return next((name for name, column in data.features.items() if isinstance(column, feature)), None)
    if column_name not in data.features:
        raise unknown("column", column_name, data.features)
    return column_name
