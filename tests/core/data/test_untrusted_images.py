"""Image files that do harm: programs that Pillow would start, sizes that fill the memory, no files at all."""

from __future__ import annotations

import ast
import os
import socket
import struct
import subprocess
import time
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from jepa_core.data import CorruptSample, read_image
from jepa_core.data.images import MAX_PIXELS, pillow_limits
from jepa_core.data.sources.torchvision import TorchvisionSamples
from jepa_core.errors import UserError
from tests.core.data.sources.test_sources import folder, write

ROOT = Path(__file__).parents[3]
EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n%%EOF\n"


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """Every command that a test starts."""
    commands: list[object] = []

    class Started(OSError):
        pass

    def popen(command: object, *_: object, **__: object) -> None:
        commands.append(command)
        raise Started("no program is started")

    monkeypatch.setattr(subprocess, "Popen", popen)
    monkeypatch.setattr(os, "system", commands.append)
    return commands


@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.eps", "a.tif"])
def test_a_postscript_file_is_a_corrupt_sample_and_starts_nothing(
    tmp_path: Path, started: list[object], name: str
) -> None:
    (tmp_path / name).write_bytes(EPS)
    with Image.open(tmp_path / name) as image:
        assert image.format == "EPS", "Pillow alone opens it"
    for file in (tmp_path / name, EPS):
        with pytest.raises(CorruptSample, match="not an image that Pillow can identify as BMP") as corrupt:
            read_image(file)
        assert corrupt.value.record.kind == "not_an_image"
    assert started == []


def test_images_that_other_libraries_open_start_nothing_either(tmp_path: Path, started: list[object]) -> None:
    (tmp_path / "a.jpg").write_bytes(EPS)

    class OwnReader:
        classes = ("0",)

        def __len__(self) -> int:
            return 1

        def __getitem__(self, index: int) -> tuple[Image.Image, int]:
            return Image.open(tmp_path / "a.jpg").convert("RGB"), 0

    with pytest.raises(CorruptSample, match="Ghostscript"):
        TorchvisionSamples(OwnReader(), "a test", MAX_PIXELS)[0]
    assert started == []


def test_pillow_opens_images_in_one_place_only() -> None:
    """`open_image` knows which formats are allowed; `Image.open` would take all that Pillow knows."""
    calls = []
    for package in ("jepa_core", "plugins", "kernels"):
        for path in sorted((ROOT / package).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Attribute) and ast.unparse(node) in ("Image.open", "PIL.Image.open"):
                    calls.append(path.relative_to(ROOT).as_posix())
                elif isinstance(node, ast.ImportFrom) and node.module == "PIL.Image":
                    assert "open" not in {name.name for name in node.names}, path
    assert calls == ["jepa_core/data/images.py"]


def png_header(width: int, height: int) -> bytes:
    """A PNG file that claims a size and holds almost no pixels."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return (
            struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
        )

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(9)))


@pytest.mark.parametrize(("width", "height"), [(13_000, 13_000), (2**31 - 1, 2**31 - 1), (64_000_001, 1)])
def test_an_image_of_too_many_pixels_is_corrupt_before_it_is_decoded(width: int, height: int) -> None:
    with pytest.raises(CorruptSample) as corrupt:
        read_image(png_header(width, height), "bomb.png")
    pixels = f"{width * height:,}"
    assert corrupt.value.record.reason == f"it has {pixels} pixels; data.max_pixels allows 64,000,000"
    assert corrupt.value.record.kind == "too_large"


def test_the_limit_is_a_setting_and_holds_to_the_pixel(tmp_path: Path) -> None:
    Image.new("RGB", (9, 7)).save(tmp_path / "a.png")
    assert read_image(tmp_path / "a.png", max_pixels=63).size == (9, 7)
    with pytest.raises(CorruptSample, match=r"63 pixels; data\.max_pixels allows 62"):
        read_image(tmp_path / "a.png", max_pixels=62)
    with pillow_limits(5 * 10**9):
        Image._decompression_bomb_check((50_000, 50_000))
    assert Image.MAX_IMAGE_PIXELS == (1024 * 1024 * 1024 // 4 // 3)


def test_a_folders_limit_counts_larger_images_as_corrupt(tmp_path: Path) -> None:
    for name in ("a/0", "a/1", "a/2", "b/0", "b/1", "b/2"):
        write(tmp_path / f"{name}.png")
    Image.new("RGB", (40, 40)).save(tmp_path / "a" / "1.png")
    samples = folder(tmp_path, val_share=0, test_share=0, max_pixels=100).split("train")
    with pytest.raises(CorruptSample, match=r"1,600 pixels; data\.max_pixels allows 100"):
        samples[1]
    assert [samples[index][1] for index in (0, 2, 3)] == [0, 0, 1]


def make_pipe(path: Path) -> None:
    os.mkfifo(path)


def make_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))


@pytest.mark.parametrize(
    ("make", "kind"),
    [
        (make_pipe, "a pipe"),
        (make_socket, "a socket"),
        (lambda path: path.symlink_to("/dev/zero"), "a device"),
        (Path.mkdir, "a folder"),
    ],
    ids=["pipe", "socket", "device", "folder"],
)
def test_what_is_no_regular_file_is_corrupt_and_nothing_waits(
    tmp_path: Path, make: Callable[[Path], None], kind: str
) -> None:
    make(tmp_path / "a.jpg")
    before = time.monotonic()
    with pytest.raises(CorruptSample, match=f"it is {kind}, not a regular file") as corrupt:
        read_image(tmp_path / "a.jpg")
    assert corrupt.value.record.kind == "unreadable"
    assert time.monotonic() - before < 5


def test_a_process_out_of_file_handles_does_not_call_images_corrupt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Image.new("RGB", (4, 4)).save(tmp_path / "a.png")

    def fails(*_: object, **__: object) -> None:
        raise OSError(24, "Too many open files")

    monkeypatch.setattr("jepa_core.data.images.open_image", fails)
    with pytest.raises(
        UserError, match=r"a\.png cannot be opened: Too many open files \(ulimit -n\)"
    ) as error:
        read_image(tmp_path / "a.png")
    assert not isinstance(error.value, CorruptSample)
