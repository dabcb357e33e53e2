"""Reading one image file, whatever its kind, as 8-bit RGB.

What is unusual: 16-bit images are scaled (Pillow alone clips them to white), transparency is laid on
white (Pillow alone shows whatever colours lie hidden below it), and the EXIF orientation is applied.

Images are untrusted. Only the formats in `FORMATS` are opened: Pillow knows others, of which EPS starts
Ghostscript. Whatever has more than `max_pixels` pixels is refused by its header, before it is decoded.
"""

from __future__ import annotations

import errno
import io
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from PIL import EpsImagePlugin, ExifTags, Image, ImageOps

from jepa_core.errors import UserError
from jepa_core.runtime.regular_file import irregularity

EXTENSIONS = (".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")

FORMATS = ("JPEG", "PNG", "BMP", "DIB", "GIF", "PPM", "TIFF", "WEBP")
"""Pillow's names of the formats that are opened, those that the extensions stand for."""

MAX_PIXELS = 64_000_000
"""Most pixels of an image by default: 8,000 × 8,000. Decoding takes about 9 bytes a pixel."""

UNUSUAL = "jepa_unusual"
"""Key of `Image.info` with what was unusual: rotated, transparent, grey, deep (more than 8 bits) or
other_colours (such as CMYK)."""


@dataclass(frozen=True)
class Skipped:
    """A sample that was left out: its path, the reason, and the kind of fault."""

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


def read_image(
    file: str | Path | bytes, name: str | None = None, max_pixels: int = MAX_PIXELS
) -> Image.Image:
    """An image file, or the bytes of one, as an upright RGB image.

    What was unusual about it stands in its `info[UNUSUAL]`. Raises CorruptSample (naming `name`, or the path)
    for what cannot be decoded, is no regular file, or has more than `max_pixels` pixels; UserError where this
    process may open no further file.
    """
    where = name or ("bytes" if isinstance(file, bytes) else str(file))
    if isinstance(file, bytes) and not file:
        raise CorruptSample(where, "the file is empty", "empty")
    try:
        _refuse_irregular(file, where)
        with pillow_limits(max_pixels), open_image(file) as image:
            image.load()
            rgb = to_rgb(ImageOps.exif_transpose(image))
            rgb.info[UNUSUAL] = tuple(_unusual_properties(image))
            return rgb
    except (UserError, MemoryError):
        raise
    except Exception as error:  # Pillow fails in any way on damaged files; the others must be read
        if isinstance(error, OSError) and error.errno:
            raise unreadable_sample(where, error) from None
        raise CorruptSample(where, _reason(error, max_pixels), _kind(error)) from None


def unreadable_sample(where: str, error: OSError) -> UserError:
    """The error to raise for a file that cannot be opened or read.

    A CorruptSample, but where this process has too many files open: that says nothing of the file.
    """
    reason = error.strerror or str(error)
    if error.errno in (errno.EMFILE, errno.ENFILE):
        return UserError(f"{where} cannot be opened: {reason} (ulimit -n)")
    return CorruptSample(where, reason, "missing" if isinstance(error, FileNotFoundError) else "unreadable")


def open_image(file: str | Path | bytes) -> Image.Image:
    """`PIL.Image.open` for the formats in `FORMATS` alone; nothing is decoded before `load`.

    Raises what Pillow raises, such as `PIL.UnidentifiedImageError`.
    """
    return Image.open(io.BytesIO(file) if isinstance(file, bytes) else file, formats=_available())


@cache
def _available() -> tuple[str, ...]:
    """Of `FORMATS`, those that this build of Pillow has."""
    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN)


@contextmanager
def pillow_limits(max_pixels: int) -> Iterator[None]:
    """Pillow raises DecompressionBombError above so many pixels, starts no Ghostscript and warns of nothing.

    For images that other libraries open. The limits are those of the whole process while the context lasts.
    """
    before = Image.MAX_IMAGE_PIXELS, EpsImagePlugin.gs_binary
    Image.MAX_IMAGE_PIXELS = max_pixels / 2  # type: ignore[assignment]  # Pillow raises above twice of it
    EpsImagePlugin.gs_binary = False
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        Image.MAX_IMAGE_PIXELS, EpsImagePlugin.gs_binary = before


def _refuse_irregular(file: str | Path | bytes, where: str) -> None:
    """Raises CorruptSample for a pipe, a socket, a device or a folder: opening one may never return."""
    kind = None if isinstance(file, bytes) else irregularity(file)
    if kind is not None:
        raise CorruptSample(where, f"it is {kind}, not a regular file", "unreadable")


def _unusual_properties(image: Image.Image) -> Iterator[str]:
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


def _reason(error: Exception, max_pixels: int) -> str:
    if isinstance(error, Image.UnidentifiedImageError):
        return "not an image that Pillow can identify as BMP, GIF, JPEG, PNG, PPM, TIFF or WebP"
    if isinstance(error, Image.DecompressionBombError):
        pixels = re.search(r"\((\d+) pixels\)", str(error))
        size = f"it has {int(pixels[1]):,} pixels" if pixels else "it has too many pixels"
        return f"{size}; data.max_pixels allows {max_pixels:,}"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return " ".join(str(error).split()) or type(error).__name__


def _kind(error: Exception) -> str:
    if isinstance(error, Image.UnidentifiedImageError):
        return "not_an_image"
    if isinstance(error, Image.DecompressionBombError):
        return "too_large"
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
