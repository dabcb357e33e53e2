"""Image files of real data sets whose whole pictures count: squashed to squares, not cropped.

A centre crop of a wide picture would cut objects off. As in VISSL's configurations for CLEVR, the aspect is
not kept.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from PIL.Image import Image, Resampling

from jepa_core.data.samples import ImageFiles
from jepa_core.errors import UserError


class SquashedImages(ImageFiles):
    """Image files as squares of their shorter side."""

    def __getitem__(self, index: int) -> tuple[Image, int]:
        image, label = super().__getitem__(index)
        side = min(image.size)
        squashed = image.resize((side, side), Resampling.BICUBIC, reducing_gap=3.0)
        squashed.info.update(image.info)
        return squashed, label


def check_files(folder: Path, wanted: Collection[str], described_by: str) -> None:
    """Raises UserError where the folder lacks files, with the first of them and their number."""
    held = names_in(folder)
    missing = [name for name in wanted if name not in held]
    if missing:
        more = f" and {len(missing) - 1:,} more" if len(missing) > 1 else ""
        raise UserError(
            f"{folder} lacks {missing[0]}{more}, of {len(wanted):,} that {described_by} describes"
        )


def names_in(folder: Path) -> set[str]:
    """Names of the files in a folder. Raises UserError where there is none, or it cannot be read."""
    try:
        return {entry.name for entry in folder.iterdir()}
    except OSError as error:
        raise UserError(f"the folder {folder} cannot be read: {error.strerror or error}") from None
