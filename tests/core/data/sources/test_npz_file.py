"""Arrays in .npz files that are damaged, encrypted, oversized, or made to do harm: one line each."""

from __future__ import annotations

import io
import os
import pickle
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest

from jepa_core.data import npz_file
from jepa_core.data.npz_file import array_names, read_array
from jepa_core.errors import UserError
from tests.core.data.sources.test_sources import save

IMAGES = np.arange(4 * 5 * 5 * 3, dtype=np.uint8).reshape(4, 5, 5, 3)


def npy(array: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


def npy_header(shape: str, descr: str = "'|u1'") -> bytes:
    text = f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}".encode()
    text += b" " * (-(len(text) + 11) % 64) + b"\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text


def archive(
    path: Path, content: bytes, compression: int = zipfile.ZIP_STORED, name: str = "images.npy"
) -> Path:
    with zipfile.ZipFile(path, "w", compression) as file:
        file.writestr(name, content)
    return path


def message(path: Path) -> str:
    with pytest.raises(UserError) as error:
        save_source(path).split("train")
    assert "\n" not in str(error.value)
    return str(error.value)


def save_source(path: Path):
    from jepa_core.data import NpzSource

    return NpzSource(NpzSource.Config(name="npz", path=path, val_share=0, test_share=0))


class Payload:
    def __reduce__(self):
        return os.mkdir, ("/tmp/never-made-by-a-pickle",)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"text", "is not in numpy's format"),
        (pickle.dumps(Payload()), "is not in numpy's format"),
        (npy(np.array([Payload()], dtype=object)), "it holds Python objects, not numbers"),
        (npy_header("(3,)", "'|O'") + pickle.dumps(Payload()), "it holds Python objects, not numbers"),
        (
            npy_header("(4, 5, 5, 3)") + bytes(10),
            "its header says uint8 [4, 5, 5, 3], 300 bytes; there are 10",
        ),
        (npy_header("(4, 5, 5, 3)") + bytes(301), "300 bytes; there are 301"),
        (npy_header("(1000000, 1000000, 1000000)"), "there are 0"),
        (npy_header("(-4, 5, 5, 3)"), "cannot be read"),
        (npy_header("('a',)"), "cannot be read"),
        (npy_header("(4,)", "[('a', '|u1', (100000, 100000))]"), "cannot be read"),
        (npy_header("(" * 500 + "4" + ",)" * 500), "cannot be read"),
        (b"\x93NUMPY\x09\x00" + bytes(100), "version 9.0 of numpy's format; expected 1.0 or 2.0"),
        (b"\x93NUMPY\x01\x00\xff\xff{" + bytes(10), "cannot be read"),
    ],
)
def test_a_member_that_is_no_array_of_numbers_is_one_line(
    tmp_path: Path, content: bytes, reason: str
) -> None:
    assert reason in message(archive(tmp_path / "a.npz", content))
    assert not Path("/tmp/never-made-by-a-pickle").exists()


@pytest.mark.parametrize("compression", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
@pytest.mark.parametrize("damage", ["flip", "cut"])
def test_every_compression_reads_and_its_damage_is_one_line(
    tmp_path: Path, compression: int, damage: str
) -> None:
    path = archive(tmp_path / "a.npz", npy(IMAGES), compression)
    assert np.array_equal(read_array(path, "images"), IMAGES)
    content = bytearray(path.read_bytes())
    if damage == "flip":
        content[90] ^= 0xFF
    path.write_bytes(content if damage == "flip" else content[:-30])
    assert "cannot be read: " in message(path) or "is damaged" in message(path)


def patched(content: bytes, local: int, central: int, value: bytes) -> bytes:
    """A zip archive of one member with the same field overwritten in both of its headers."""
    changed = bytearray(content)
    for start, offset in ((0, local), (content.rindex(b"PK\x01\x02"), central)):
        changed[start + offset : start + offset + len(value)] = value
    return bytes(changed)


@pytest.mark.parametrize(
    ("local", "central", "value", "reason"),
    [
        (6, 8, b"\x01\x00", "is encrypted"),
        (8, 10, b"\x61\x00", "compression method is not supported"),
        (4, 6, b"\xff\x00", "cannot be read|damaged"),
        (22, 24, b"\xff\xff\xff\x7f", "its header says"),
    ],
    ids=["encrypted", "compression", "version", "size"],
)
def test_headers_of_odd_archives(tmp_path: Path, local: int, central: int, value: bytes, reason: str) -> None:
    path = archive(tmp_path / "a.npz", npy(IMAGES))
    path.write_bytes(patched(path.read_bytes(), local, central, value))
    with pytest.raises(UserError, match=reason):
        save_source(path).split("train")


def test_an_array_larger_than_the_free_memory_is_refused_before_it_is_unpacked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = archive(tmp_path / "a.npz", npy(np.zeros((1000, 100, 100, 3), np.uint8)), zipfile.ZIP_DEFLATED)
    assert path.stat().st_size < 100_000
    monkeypatch.setattr(npz_file, "free_memory", lambda: 10_000_000)
    assert message(path).endswith("it takes 30,000,000 bytes; 10,000,000 bytes of memory are free")


def test_what_is_no_file_is_refused_and_nothing_waits(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.npz")
    before = time.monotonic()
    assert message(tmp_path / "pipe.npz") == f"'{tmp_path}/pipe.npz' is a pipe; expected a regular file"
    assert message(Path("/dev/zero")) == "'/dev/zero' is a device; expected a regular file"
    assert time.monotonic() - before < 5
    assert "not a file's name" in message(tmp_path / "nul\0.npz")


def test_an_error_lists_some_of_many_arrays(tmp_path: Path) -> None:
    path = tmp_path / "many.npz"
    with zipfile.ZipFile(path, "w") as file:
        for number in range(3000):
            file.writestr(f"{number:04}.npy", b"")
    assert len(array_names(path)) == 3000
    assert message(path).endswith(
        "0000, 0001, 0002, 0003, 0004, 0005, 0006, 0007, 0008, 0009, … (3,000 in all)"
    )


@pytest.mark.parametrize("labels", [np.array(3), np.zeros((4, 2), int), np.zeros(4), np.array(["a"] * 4)])
def test_labels_of_another_shape_or_type_are_one_line(tmp_path: Path, labels: np.ndarray) -> None:
    with pytest.raises(UserError, match=r"array 'labels' of .*expected"):
        save(tmp_path / "a.npz", images=IMAGES, labels=labels).load("train")


def test_labels_beyond_64_bits_are_one_line(tmp_path: Path) -> None:
    labels = np.full(4, 2**64 - 1, np.uint64)
    with pytest.raises(UserError, match=r"holds 18446744073709551615 to .*expected classes"):
        save(tmp_path / "a.npz", images=IMAGES, labels=labels).load("train")
