"""Tar files with damaged, hostile and unusual headers: one bad member is one bad member."""

from __future__ import annotations

import contextlib
import io
import os
import random
import tarfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from jepa_core.data import CorruptSample
from jepa_core.data.sources import webdataset
from jepa_core.data.sources.tar_headers import (
    BEYOND,
    BLOCK,
    EXTENDED,
    NEGATIVE,
    SPARSE,
    DamagedTar,
    Member,
    TarHeaders,
)
from jepa_core.data.sources.webdataset import build_index, expand
from jepa_core.errors import UserError
from tests.core.data.sources.test_webdataset import picture, red, source

pytestmark = pytest.mark.usefixtures("own_cache")


@pytest.fixture
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JEPA_DATA", str(tmp_path / "cache"))


def tar(count: int = 6, format: int = tarfile.USTAR_FORMAT, prefix: str = "", **pax: str) -> bytes:
    """A shard of pictures with labels; `prefix` before every name, `pax` headers for every member."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=format) as archive:
        for number in range(count):
            for name, content in (
                (f"{number}.png", picture(number)),
                (f"{number}.cls", b"%d" % (number % 3)),
            ):
                member = tarfile.TarInfo(prefix + name)
                member.size = len(content)
                member.pax_headers = pax
                archive.addfile(member, io.BytesIO(content))
    return stream.getvalue()


def members(content: bytes) -> list[Member]:
    return list(TarHeaders(io.BytesIO(content), len(content)))


def with_header(content: bytes, at: int, field: slice, value: bytes) -> bytes:
    """The file with a field of the header at `at` overwritten and the checksum made right again."""
    header = bytearray(content[at : at + BLOCK])
    header[field] = value.ljust(field.stop - field.start, b"\0")
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    return content[:at] + bytes(header) + content[at + BLOCK :]


SIZE, KIND = slice(124, 136), slice(156, 157)
PICTURE = 2
"""Blocks of a picture with its header."""


@pytest.mark.parametrize("format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
@pytest.mark.parametrize("prefix", ["", "folder/", "x" * 90 + "/" + "y" * 60 + "/", "caf\xe9/" + "z" * 120])
def test_whole_files_of_every_kind_are_read_as_tarfile_reads_them(format: int, prefix: str) -> None:
    if format == tarfile.USTAR_FORMAT and len(prefix) > 120 and prefix.startswith("caf"):
        pytest.skip("too long a name for ustar")
    content = tar(format=format, prefix=prefix, comment="hello", mtime="1.5")
    with tarfile.open(fileobj=io.BytesIO(content)) as archive:
        expected = [Member(member.name, member.offset_data, member.size) for member in archive]
    assert members(content) == expected


def test_what_is_no_regular_file_is_left_out() -> None:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        for kind in (tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE):
            member = tarfile.TarInfo(f"{kind.decode()}.png")
            member.type, member.linkname = kind, "elsewhere"
            archive.addfile(member)
        archive.addfile(tarfile.TarInfo("a.png"))
    assert [member.name for member in members(stream.getvalue())] == ["a.png"]


@pytest.mark.parametrize(
    ("size", "fault"),
    [
        (b"\xff" * 12, NEGATIVE),  # -1 in base 256
        (b"\xff" * 11 + b"\x00", NEGATIVE),  # -256: `tarfile` goes round in circles
        (b"-1", NEGATIVE),
        (b"sixteen", NEGATIVE),
        (b"77777777777", BEYOND),
        (b"\x80" + b"\x7f" * 11, BEYOND),
    ],
)
def test_a_size_that_cannot_be_is_one_corrupt_member(tmp_path: Path, size: bytes, fault: int) -> None:
    content = with_header(tar(), PICTURE * 2 * BLOCK, SIZE, size)  # the second picture
    read = members(content)
    assert [member.fault for member in read] == [0, 0, fault, *[0] * 9]
    assert [member.name for member in read][2:4] == ["1.png", "1.cls"]
    (tmp_path / "a.tar").write_bytes(content)
    samples = source(str(tmp_path / "a.tar")).load("train")
    with pytest.raises(CorruptSample, match=r"a\.tar!1: its header gives (no size|a size that reaches)"):
        samples[1]
    assert [(red(samples, index), samples[index][1]) for index in (0, 2, 5)] == [(0, 0), (2, 2), (5, 2)]


def test_a_header_that_is_overwritten_is_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    content = bytearray(tar())
    content[PICTURE * 2 * BLOCK + 10] ^= 0xFF
    (tmp_path / "a.tar").write_bytes(content)
    samples = source(str(tmp_path / "a.tar")).load("train")
    assert (len(samples), samples[1][1]) == (5, 2)
    assert "a.tar has 1 damaged headers, which are left out" in caplog.text


@pytest.mark.parametrize(
    "records",
    [
        b"12 path=",
        b"99999999 path=a\n",
        b"9 path=a\n9 path\n",
        b"0 =\n",
        b"path=a\n",
        b"11 size=-1\n",
        b"13 size=1e9\n\n",
        b"\xff\xfe\x00",
        b"26 size=999999999999999999999\n",
    ],
)
def test_damaged_pax_records_are_a_fault_of_the_next_member_alone(records: bytes) -> None:
    header = tarfile.TarInfo("PaxHeaders/a")
    header.type, header.size = b"x", len(records)
    extended = header.tobuf(tarfile.USTAR_FORMAT) + records.ljust(BLOCK, b"\0")
    read = members(extended + tar(2))
    assert [(member.name, member.fault) for member in read[:2]] == [("0.png", EXTENDED), ("0.cls", 0)]


@pytest.mark.parametrize("size", [b"\xff" * 12, b"77777777777", b"00004000001"])
@pytest.mark.parametrize("kind", [b"x", b"L"])
def test_an_extended_header_of_a_wrong_size(kind: bytes, size: bytes) -> None:
    header = with_header(tar(1)[:BLOCK], 0, SIZE, size)
    read = members(with_header(header, 0, KIND, kind) + bytes(BLOCK * 4) + tar(2))
    assert [member.name for member in read] in (["0.png", "0.cls", "1.png", "1.cls"], [])
    assert not read or read[0].fault == EXTENDED


def test_sparse_members_are_faults() -> None:
    assert members(tar(1, tarfile.PAX_FORMAT, **{"GNU.sparse.major": "1"}))[0].fault == SPARSE
    old = members(with_header(tar(2), 0, KIND, b"S"))
    assert [(member.name, member.fault) for member in old[:2]] == [("0.png", SPARSE), ("0.cls", 0)]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "empty file"),
        (b"text", "unexpected end of data"),
        (b"no tar " * 500, "does not begin with a tar header"),
        (tar()[: BLOCK * 5], "the mark of its end is missing"),
        (tar()[: BLOCK * 5 - 100], "cut short|unexpected end"),
        (tar()[: BLOCK * 4 + 100], "cut short|unexpected end"),
    ],
)
def test_what_is_no_whole_tar_file_is_an_error(content: bytes, reason: str) -> None:
    with pytest.raises(DamagedTar, match=reason):
        members(content)


@pytest.mark.parametrize("seed", range(40))
def test_random_damage_never_hangs_and_never_crashes(seed: int) -> None:
    chance = random.Random(seed)
    content = bytearray(tar(8, format=chance.choice([0, 1, 2]), prefix="d" * chance.randrange(90)))
    for _ in range(chance.randrange(1, 30)):
        block = chance.randrange(len(content) // BLOCK) * BLOCK
        content[block + chance.choice([chance.randrange(BLOCK), 124, 156, 482])] = chance.randrange(256)
        content[block : block + BLOCK] = with_header(bytes(content), block, slice(148, 156), b"")[
            block : block + BLOCK
        ]
    before = time.monotonic()
    with contextlib.suppress(DamagedTar):
        assert all(0 <= member.start <= len(content) for member in members(bytes(content)))
    assert time.monotonic() - before < 5


def test_one_long_name_does_not_make_the_index_large(tmp_path: Path) -> None:
    """Names of one width took the length of the longest for each: 1.14 GB for a large shard."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        for number in range(2000):
            archive.addfile(tarfile.TarInfo(f"{number}.png" if number else "x" * 60_000 + ".png"))
    (tmp_path / "a.tar").write_bytes(stream.getvalue())
    index = build_index(tmp_path / "a.tar")
    assert (len(index.names), index.names[0], index.names[1999]) == (2000, "x" * 60_000, "1999")
    assert sum(array.nbytes for array in index.arrays().values()) < 200_000, "120 MB at one width"


def test_names_that_are_no_utf_8(tmp_path: Path) -> None:
    (tmp_path / "a.tar").write_bytes(tar(prefix=os.fsdecode(b"caf\xe9/")))
    samples = source(str(tmp_path / "a.tar")).load("train")
    assert samples.keys()[1] == os.fsdecode(b"a.tar/caf\xe9/1")
    assert red(samples, 1) == 1


@pytest.mark.parametrize(
    ("pattern", "reason"),
    [
        ("x-{000..99999999999}.tar", "the braces stand for more than 100,000 files"),
        ("{1..1000}{1..1000}{1..1000}{1..1000}", "the braces stand for more than 100,000 files"),
        ("{" + "a," * 20 + "}" + "{a,b}" * 20, "the braces stand for more than 100,000 files"),
        ("{000..999999999999999999999999}.tar", "there is no file"),
        ("{9..3}.tar", "the braces stand for no file"),
        ("nul\0.tar", "no file can have this name"),
        ("/dev/zero", "'/dev/zero' is a device; expected a regular file"),
        ("x" * 300 + ".tar", "there is no file"),
    ],
)
def test_patterns_that_stand_for_too_much_or_nothing(pattern: str, reason: str) -> None:
    before = time.monotonic()
    with pytest.raises(UserError, match=reason) as error:
        expand(pattern)
    assert len(str(error.value)) < 1000
    assert time.monotonic() - before < 10


def test_a_pipe_named_as_a_shard(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.tar")
    for pattern in (tmp_path / "a.tar", tmp_path, tmp_path / "*.tar"):
        with pytest.raises(UserError, match=r"a\.tar' is a pipe; expected a regular file"):
            source(str(pattern)).load("train")


Spoil = Callable[[bytes], bytes]


@pytest.mark.parametrize(
    "spoil",
    [
        lambda content: content[: len(content) // 2],
        lambda content: b"",
        lambda content: content[:300] + bytes([content[300] ^ 1]) + content[301:],
        lambda content: b"\x80\x04K\x01.",
        None,
    ],
    ids=["cut", "empty", "flipped", "pickle", "other arrays"],
)
def test_a_damaged_index_is_made_again_with_a_line(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, spoil: Spoil | None
) -> None:
    (tmp_path / "a.tar").write_bytes(tar())
    source(str(tmp_path / "a.tar")).load("train")
    (kept,) = (tmp_path / "cache/shards").iterdir()
    whole = kept.read_bytes()
    if spoil is None:
        with kept.open("wb") as stream:
            np.savez(stream, start=np.arange(3))
    else:
        kept.write_bytes(spoil(whole))
    samples = source(str(tmp_path / "a.tar")).load("train")
    assert [red(samples, index) for index in range(6)] == list(range(6))
    (line,) = (record.getMessage() for record in caplog.records)
    assert line.startswith(f"{kept} is damaged and is made again: ")
    assert "\n" not in line
    assert kept.read_bytes() == whole


def test_every_flipped_byte_of_an_index_is_found_or_changes_nothing(tmp_path: Path) -> None:
    (tmp_path / "a.tar").write_bytes(tar())
    expected = build_index(tmp_path / "a.tar").arrays()
    source(str(tmp_path / "a.tar")).load("train")
    (kept,) = (tmp_path / "cache/shards").iterdir()
    whole = kept.read_bytes()
    for place in range(0, len(whole), 7):
        kept.write_bytes(whole[:place] + bytes([whole[place] ^ 0x40]) + whole[place + 1 :])
        arrays = webdataset.index_of(tmp_path / "a.tar").arrays()
        assert all(np.array_equal(arrays[name], expected[name]) for name in expected), place


def test_a_cache_that_cannot_be_written_stops_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "a.tar").write_bytes(tar())

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez", full)
    assert len(source(str(tmp_path / "a.tar")).load("train")) == 6
    assert "cannot be written, so it is made again each time: No space left on device" in caplog.text
    assert not list((tmp_path / "cache/shards").iterdir())
    monkeypatch.setenv("JEPA_DATA", "/dev/null/cache")
    assert len(source(str(tmp_path / "a.tar")).load("train")) == 6


def test_a_pipe_in_place_of_the_index_is_neither_read_nor_written(tmp_path: Path) -> None:
    (tmp_path / "a.tar").write_bytes(tar())
    source(str(tmp_path / "a.tar")).load("train")
    (kept,) = (tmp_path / "cache/shards").iterdir()
    kept.unlink()
    os.mkfifo(kept)
    assert len(source(str(tmp_path / "a.tar")).load("train")) == 6
