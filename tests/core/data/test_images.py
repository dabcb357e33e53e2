"""Odd images: every kind Pillow opens becomes sensible RGB; what cannot be read says so."""

from __future__ import annotations

import io
import pickle
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from jepa_core.data import CorruptSample, read_image, to_rgb


def pixel(image: Image.Image) -> tuple[int, ...]:
    assert image.mode == "RGB"
    return tuple(int(value) for value in np.asarray(image)[0, 0])


def filled(mode: str, colour: object) -> Image.Image:
    return Image.new(mode, (4, 3), colour)


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        (filled("RGB", (10, 20, 30)), (10, 20, 30)),
        (filled("L", 77), (77, 77, 77)),
        (filled("1", 1), (255, 255, 255)),
        (filled("CMYK", (255, 0, 0, 0)), (0, 255, 255)),
        (filled("RGBA", (200, 0, 0, 255)), (200, 0, 0)),
        (filled("RGBA", (200, 0, 0, 0)), (255, 255, 255)),
        (filled("RGBA", (200, 0, 0, 51)), (244, 204, 204)),
        (filled("LA", (0, 0)), (255, 255, 255)),
        (filled("LA", (40, 255)), (40, 40, 40)),
        (filled("I;16", 257 * 100), (100, 100, 100)),
        (filled("I", 65535), (255, 255, 255)),
        (filled("I", 2**31 - 1), (127, 127, 127)),
        (filled("F", 0.5), (128, 128, 128)),
    ],
    ids=lambda value: value.mode if isinstance(value, Image.Image) else str(value),
)
def test_every_mode_becomes_rgb(image: Image.Image, expected: tuple[int, ...]) -> None:
    np.testing.assert_allclose(pixel(to_rgb(image)), expected, atol=1)


def test_a_palette_keeps_its_colours_and_its_transparency_becomes_white() -> None:
    palette = Image.new("P", (2, 1))
    palette.putpalette([9, 8, 7, 200, 100, 50])
    palette.putdata([0, 1])
    assert np.asarray(to_rgb(palette)).tolist() == [[[9, 8, 7], [200, 100, 50]]]
    stored = io.BytesIO()
    palette.save(stored, "PNG", transparency=0)
    assert np.asarray(read_image(stored.getvalue())).tolist() == [[[255, 255, 255], [200, 100, 50]]]


def test_a_16_bit_png_is_scaled_and_not_clipped(tmp_path: Path) -> None:
    values = np.array([[0, 300, 32768, 65535]], dtype=np.uint16)
    Image.fromarray(values).save(tmp_path / "deep.png")
    assert np.asarray(read_image(tmp_path / "deep.png"))[0, :, 0].tolist() == [0, 1, 128, 255]


def test_the_exif_orientation_is_applied(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees to see it upright
    Image.new("RGB", (8, 5)).save(tmp_path / "turned.jpg", exif=exif)
    assert read_image(tmp_path / "turned.jpg").size == (5, 8)


def cut_short(path: Path) -> bytes:
    noise = np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    Image.fromarray(noise).save(path)
    return path.read_bytes()[:700]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (lambda path: b"no image at all", "not an image that Pillow can identify"),
        (lambda path: b"", "the file is empty"),
        (cut_short, "truncated"),
    ],
    ids=["text", "empty", "cut"],
)
def test_what_cannot_be_read_names_the_file_and_the_reason(tmp_path: Path, content, reason: str) -> None:
    path = tmp_path / "bad.jpg"
    data = content(path)
    with pytest.raises(CorruptSample, match=reason) as caught:
        read_image(data, str(path))
    assert caught.value.record.path == str(path)
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)


def test_a_missing_file_is_corrupt_and_not_a_crash(tmp_path: Path) -> None:
    with pytest.raises(CorruptSample, match=r"gone\.png: No such file"):
        read_image(tmp_path / "gone.png")
