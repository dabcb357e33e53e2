"""`torchvision`: the labelled image data sets of torchvision, by class name.

`SETS` says how each one's own splits serve as train, val and test. Where the published number stands on
a validation split (ImageNet, Places365, …: nobody has the test labels), that split is `test` here, and
`val` is held out from training. Sets that are small arrays are taken into memory whole.
"""

from __future__ import annotations

import inspect
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torchvision.datasets as sets
from PIL.Image import DecompressionBombError, Image
from pydantic import Field
from torch import Tensor

from jepa_core.data.cache import cache_folder
from jepa_core.data.images import CorruptSample, pillow_limits, to_rgb
from jepa_core.data.samples import ArraySamples, BaseSamples, Indices, class_number
from jepa_core.data.sources.npz import channels_first, class_numbers, label_numbers
from jepa_core.data.splits import ImageFileSettings, SplitSource
from jepa_core.errors import UserError, unknown

Splits = Mapping[str, Mapping[str, Any]]
"""Arguments of the class for each split that the data set has of its own."""


def _by_split(**names: str) -> Splits:
    return {part: {"split": name} for part, name in names.items()}


_FLAG: Splits = {"train": {"train": True}, "test": {"train": False}}
_TWO = _by_split(train="train", test="test")
_THREE = _by_split(train="train", val="val", test="test")
_PUBLISHED_ON_VAL = _by_split(train="train", test="val")
_WHOLE: Splits = {"train": {}}

SETS: Mapping[str, Splits] = {
    **dict.fromkeys(
        ("CIFAR10", "CIFAR100", "EMNIST", "FashionMNIST", "KMNIST", "MNIST", "QMNIST", "USPS"), _FLAG
    ),
    **dict.fromkeys(("FER2013", "Food101", "GTSRB", "StanfordCars", "STL10", "SVHN"), _TWO),
    **dict.fromkeys(("DTD", "FGVCAircraft", "Flowers102", "PCAM", "RenderedSST2"), _THREE),
    **dict.fromkeys(("CLEVRClassification", "ImageNet", "Imagenette"), _PUBLISHED_ON_VAL),
    **dict.fromkeys(("Caltech101", "Caltech256", "EuroSAT", "FakeData", "SEMEION", "SUN397"), _WHOLE),
    "Country211": _by_split(train="train", val="valid", test="test"),
    "OxfordIIITPet": _by_split(train="trainval", test="test"),
    "Places365": _by_split(train="train-standard", test="val"),
    "INaturalist": {"train": {"version": "2021_train"}, "test": {"version": "2021_valid"}},
}

_NAMELESS = {"CLEVRClassification": 11, "FER2013": 7, "GTSRB": 43, "PCAM": 2, "SEMEION": 10}
"""Number of classes of the sets that do not name them (CLEVR's label is the number of objects)."""

_ITS_HINT = "You can use download=True to download it"
"""Ends some of torchvision's messages; a recipe says it otherwise."""


class TorchvisionSource(SplitSource):
    """A labelled torchvision data set."""

    class Config(ImageFileSettings):
        """Settings of the torchvision data set."""

        dataset: str
        """Name of the class, such as CIFAR100, STL10, FashionMNIST, ImageNet, FakeData."""
        path: Path | None = None
        """The class's `root`; by default `$JEPA_DATA`, else `~/.cache/jepa`."""
        download: bool = False
        """Let torchvision download what is missing."""
        options: dict[str, Any] = Field(default_factory=dict)
        """Further arguments of the class, such as `{split = "letters"}` of EMNIST."""

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        if config.dataset not in SETS:
            raise unknown("torchvision data set", config.dataset, SETS)
        self.config = config

    def own_splits(self) -> Collection[str]:
        """As `SETS` has them."""
        return SETS[self.config.dataset].keys()

    def load(self, name: str) -> BaseSamples:
        """One of the set's own splits. Raises UserError where torchvision does not find or fetch it."""
        arguments = SETS[self.config.dataset][name]
        data = self._make({**self._root(), **arguments, **self.config.options})
        chosen = ", ".join(f"{key}={value!r}" for key, value in arguments.items())
        note = f"torchvision {self.config.dataset}({chosen})"
        return _in_memory(data, note) or TorchvisionSamples(data, note, self.config.max_pixels)

    def _make(self, arguments: dict[str, Any]) -> Any:
        offered = getattr(sets, self.config.dataset)
        if self.config.download:
            arguments["download"] = True
        try:
            inspect.signature(offered).bind(**arguments)
            data = offered(**arguments)
            len(data)
            return data
        except TypeError as error:
            raise UserError(
                f"torchvision {self.config.dataset}: {error} (data.download, data.options)"
            ) from None
        except (OSError, RuntimeError, ValueError, ImportError) as error:
            reason = " ".join(str(error).split()).removesuffix(_ITS_HINT).rstrip(". ")
            fetches = "download" in inspect.signature(offered).parameters and not self.config.download
            hint = "; data.download=true fetches it" if fetches else ""
            raise UserError(
                f"torchvision {self.config.dataset} in {arguments.get('root')}: {reason}{hint}"
            ) from None

    def _root(self) -> dict[str, Any]:
        return {} if self.config.dataset == "FakeData" else {"root": cache_folder(self.config.path)}


class TorchvisionSamples(BaseSamples):
    """A torchvision data set of (PIL image, class number)."""

    def __init__(self, data: Any, note: str, max_pixels: int) -> None:
        self.data, self.note, self.max_pixels = data, note, max_pixels
        self.classes = _class_names(data)

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> tuple[Image | Tensor, int]:
        where = f"{type(self.data).__name__}[{index}]"
        try:
            with pillow_limits(self.max_pixels):
                image, label = self.data[index]
                rgb = to_rgb(image)
        except DecompressionBombError:
            reason = f"it has more pixels than the {self.max_pixels:,} that data.max_pixels allows"
            raise CorruptSample(where, reason, "too_large") from None
        except OSError as error:
            raise CorruptSample(where, str(error)) from None
        return rgb, class_number(label, self.classes, f"torchvision {where}")

    def class_numbers(self) -> Indices | None:
        """int64 [n] of a set of folders; None of others."""
        return np.array(self.data.targets) if isinstance(self.data, sets.DatasetFolder) else None


def _class_names(data: Any) -> list[str] | None:
    """Names of a set's classes, from the attribute that its class has for them; numbers where it has none."""
    if isinstance(data, sets.FakeData):
        return [str(number) for number in range(data.num_classes)]
    if isinstance(data, sets.Caltech101 | sets.Caltech256):
        return list(data.categories)
    if isinstance(data, sets.INaturalist):
        return list(data.all_categories)
    count = _NAMELESS.get(type(data).__name__)
    names = [str(number) for number in range(count)] if count else getattr(data, "classes", None)
    return None if names is None else [name if isinstance(name, str) else ", ".join(name) for name in names]


def _in_memory(data: Any, note: str) -> ArraySamples | None:
    """Samples in memory of a set that torchvision holds as one array; None for sets of files."""
    if isinstance(data, sets.CIFAR10 | sets.USPS):
        images, labels = np.asarray(data.data), np.asarray(data.targets)
    elif isinstance(data, sets.MNIST):
        images, labels = data.data.numpy(), data.targets.numpy().reshape(len(data), -1)[:, 0]
    elif isinstance(data, sets.STL10 | sets.SVHN):
        images, labels = data.data.transpose(0, 2, 3, 1), np.asarray(data.labels)
    else:
        return None
    numbers = label_numbers(labels, len(images), f"labels of {note}")
    classes = _class_names(data) or class_numbers(numbers)
    return ArraySamples(
        channels_first(np.ascontiguousarray(images), f"images of {note}"), numbers, classes, note
    )
