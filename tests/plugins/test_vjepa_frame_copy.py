"""Decoded copies that are damaged are decoded again; what is no video file is not opened."""

from __future__ import annotations

import logging
import os
import time
from pathlib import Path

import numpy as np
import pytest

from jepa_core.data import CorruptSample
from jepa_core.data.cache import DamagedCache
from jepa_core.errors import UserError
from jepa_vjepa import frame_copy
from jepa_vjepa.decoding import VideoFile
from jepa_vjepa.frame_copy import open_copy, write_copy
from tests.plugins.made_clips import write_video
from tests.plugins.test_vjepa_clips import numbered

FRAMES = np.random.default_rng(0).integers(0, 256, (6, 5, 4, 3), dtype=np.uint8)


@pytest.fixture(autouse=True)
def no_open_copies() -> None:
    open_copy.cache_clear()


def test_frames_are_read_as_they_were_written(tmp_path: Path) -> None:
    write_copy(tmp_path / "folder" / "a.npy", FRAMES)
    assert np.array_equal(open_copy(tmp_path / "folder" / "a.npy").read([5, 0, 2]), FRAMES[[5, 0, 2]])


@pytest.mark.parametrize("how", ["cut", "empty", "flipped", "text", "plain frames", "no checksums", "pipe"])
def test_a_damaged_copy_is_decoded_again_with_a_line(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, how: str
) -> None:
    video = VideoFile(str(write_video(tmp_path / "a.mp4", numbered(20))), 24, tmp_path / "copies")
    expected = video.read([3, 11, 19])
    (copy,) = (tmp_path / "copies").iterdir()
    whole = copy.read_bytes()
    spoilt = {
        "cut": whole[:-500],
        "empty": b"",
        "flipped": whole[:-500] + bytes([whole[-500] ^ 1]) + whole[-499:],
        "text": b"text",
    }
    copy.unlink()
    if how == "pipe":
        os.mkfifo(copy)
    elif how in spoilt:
        copy.write_bytes(spoilt[how])
    else:
        plain = np.zeros((20, 24, 48, 3), np.uint8)
        np.save(copy, plain if how == "plain frames" else np.zeros(3, [("pixels", "u1", (2, 2, 3))]))
    open_copy.cache_clear()
    if how == "pipe":
        with pytest.raises(UserError, match=r"is damaged as soon as it is written|cannot be kept"):
            video.read([3])
        return
    with caplog.at_level(logging.WARNING, logger="jepa.vjepa"):
        assert np.array_equal(video.read([3, 11, 19]), expected)
    (line,) = (record.getMessage() for record in caplog.records)
    assert line.startswith(f"{copy} is damaged and is decoded again: ")
    assert copy.read_bytes() == whole


def test_a_flipped_pixel_is_found_in_the_frame_that_has_it(tmp_path: Path) -> None:
    write_copy(tmp_path / "a.npy", FRAMES)
    content = bytearray((tmp_path / "a.npy").read_bytes())
    content[-10] ^= 1
    (tmp_path / "a.npy").write_bytes(content)
    copy = open_copy(tmp_path / "a.npy")
    copy.read([0, 4])
    with pytest.raises(DamagedCache, match="frame 5 is not what was written"):
        copy.read([0, 5])


def test_a_full_disk_is_one_line_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(frame_copy.np, "save", full)
    with pytest.raises(UserError, match=r"No space left on device; data\.decoded_copies=false does without"):
        write_copy(tmp_path / "copies" / "a.npy", FRAMES)
    assert not list((tmp_path / "copies").iterdir())


def test_a_pipe_and_a_playlist_are_no_videos(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.mp4")
    (tmp_path / "list.mp4").write_text("#EXTM3U\n#EXTINF:1,\nhttp://127.0.0.1:9/a.ts\n#EXT-X-ENDLIST\n")
    (tmp_path / "concat.mp4").write_text("ffconcat version 1.0\nfile /etc/passwd\n")
    before = time.monotonic()
    for name in ("pipe.mp4", "list.mp4", "concat.mp4"):
        with pytest.raises(CorruptSample):
            VideoFile(str(tmp_path / name)).length()
    assert time.monotonic() - before < 10


def test_frames_of_too_many_pixels_are_not_decoded(tmp_path: Path) -> None:
    path = str(write_video(tmp_path / "a.mp4", numbered(4)))
    height, width = VideoFile(path).read([0]).shape[1:3]
    assert VideoFile(path, max_pixels=height * width).read([0]).shape[1:3] == (height, width)
    with pytest.raises(CorruptSample, match=r"its frames have .* pixels; data\.max_pixels allows 100"):
        VideoFile(path, max_pixels=100).read([0])
