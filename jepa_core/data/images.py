"""Reading one image file, whatever its kind, as 8-bit RGB.

What is unusual: 16-bit images are scaled (Pillow alone clips them to white), transparency is laid on
white (Pillow alone shows whatever colours lie hidden below it), and the EXIF orientation is applied.
"""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import ExifTags, Image, ImageOps

from jepa_core.errors import UserError

EXTENSIONS = (".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")

ODD = "jepa_odd"
"""Key of `Image.info` with what was unusual: rotated, transparent, grey, deep (more than 8 bits) or
other_colours (such as CMYK)."""

_UNREADABLE = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
)
"""What Pillow raises for files that are not, or no longer, images."""


@dataclass(frozen=True)
class Skipped:
    """A sample that was passed over: where it stands, why, and what kind of trouble that is."""

    path: str
    reason: str
    kind: str = "damaged"
    """missing, unreadable, empty, not_an_image, truncated, too_large, too_short or damaged."""

    def __str__(self) -> str:
        return f"{self.path}: {self.reason}"


class CorruptSample(UserError):
    """A sample that cannot be read. Loaders skip these and count them, by kind (see `Skipped`)."""

    def __init__(self, path: str, reason: str, kind: str = "damaged") -> None:
        super().__init__(path, reason, kind)
        self.record = Skipped(path, reason, kind)

    def __str__(self) -> str:
        return str(self.record)


def read_image(file: str | Path | bytes, name: str | None = None) -> Image.Image:
    """An image file, or the bytes of one, as an upright RGB image.

    What was unusual about it stands in its `info[ODD]`. Raises CorruptSample (naming `name`, or the path)
    for what cannot be decoded.
    """
    where = name or ("bytes" if isinstance(file, bytes) else str(file))
    if isinstance(file, bytes) and not file:
        raise CorruptSample(where, "the file is empty", "empty")
    try:
        with Image.open(io.BytesIO(file) if isinstance(file, bytes) else file) as image:
            image.load()
            upright = ImageOps.exif_transpose(image)
            rgb = to_rgb(upright)
            rgb.info[ODD] = tuple(_oddities(image))
            return rgb
    except _UNREADABLE as error:
        raise CorruptSample(where, _reason(error), _kind(error)) from None


def _oddities(image: Image.Image) -> Iterator[str]:
    """What `to_rgb` and the EXIF orientation change in it."""
    if image.getexif().get(ExifTags.Base.Orientation, 1) != 1:
        yield "rotated"
    if image.has_transparency_data:
        yield "transparent"
    if image.mode.startswith("I") or image.mode == "F":
        yield "deep"
    elif image.mode in ("1", "L", "LA", "La"):
        yield "grey"
    elif image.mode not in ("RGB", "RGBA", "RGBa", "RGBX", "P", "PA"):
        yield "other_colours"


def _reason(error: BaseException) -> str:
    if isinstance(error, Image.UnidentifiedImageError):
        return "not an image that Pillow can identify"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return " ".join(str(error).split()) or type(error).__name__


def _kind(error: BaseException) -> str:
    if isinstance(error, Image.UnidentifiedImageError):
        return "not_an_image"
    if isinstance(error, Image.DecompressionBombError):
        return "too_large"
    if isinstance(error, FileNotFoundError):
        return "missing"
    if isinstance(error, OSError) and error.errno:
        return "unreadable"
    return "truncated" if "truncated" in str(error) else "damaged"


def to_rgb(image: Image.Image) -> Image.Image:
    """Any Pillow image as 8-bit RGB: grey, 16-bit, float, palette, CMYK, with or without transparency."""
    if image.mode == "RGB" and not image.has_transparency_data:
        return image
    if image.mode.startswith("I") or image.mode == "F":
        return Image.fromarray(_to_8_bit(np.asarray(image))).convert("RGB")
    if image.has_transparency_data:
        colours = image.convert("RGBA")
        white = Image.new("RGBA", colours.size, "white")
        return Image.alpha_composite(white, colours).convert("RGB")
    return image.convert("RGB")


def _to_8_bit(values: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """uint8 [h, w] of integers taken for 16 bits (32 where they exceed them), or of floats 0 to 1."""
    if values.dtype.kind == "f":
        full = 1.0
    else:
        full = 65535.0 if values.size == 0 or values.max() <= 65535 else float(2**32 - 1)
    return np.rint(np.clip(values / full, 0, 1) * 255).astype(np.uint8)
