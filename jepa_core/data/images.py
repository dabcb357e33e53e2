"""Reading one image file, whatever its kind, as 8-bit RGB.

What is unusual: 16-bit images are scaled (Pillow alone clips them to white), transparency is laid on
white (Pillow alone shows whatever colours lie hidden below it), and the EXIF orientation is applied.
"""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from jepa_core.errors import UserError

EXTENSIONS = (".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")

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


class CorruptSample(UserError):
    """A sample that cannot be read: where it stands, and why. Loaders skip and count these."""

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(path, reason)
        self.path = path
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.path}: {self.reason}"


def read_image(file: str | Path | bytes, name: str | None = None) -> Image.Image:
    """An image file, or the bytes of one, as an upright RGB image.

    Raises CorruptSample (naming `name`, or the path) for what cannot be decoded.
    """
    where = name or ("bytes" if isinstance(file, bytes) else str(file))
    if isinstance(file, bytes) and not file:
        raise CorruptSample(where, "the file is empty")
    try:
        with Image.open(io.BytesIO(file) if isinstance(file, bytes) else file) as image:
            image.load()
            return to_rgb(ImageOps.exif_transpose(image))
    except _UNREADABLE as error:
        raise CorruptSample(where, _reason(error)) from None


def _reason(error: BaseException) -> str:
    if isinstance(error, Image.UnidentifiedImageError):
        return "not an image that Pillow can identify"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return " ".join(str(error).split()) or type(error).__name__


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
