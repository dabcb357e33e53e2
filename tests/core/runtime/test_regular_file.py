"""Pipes, sockets and devices are refused at once, before anything waits for them."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from jepa_core.errors import UserError
from jepa_core.runtime.regular_file import irregularity, open_regular


def test_a_regular_file_is_opened_through_a_link_too(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"text")
    (tmp_path / "link").symlink_to("a")
    for name in ("a", "link"):
        assert irregularity(tmp_path / name) is None
        with open_regular(tmp_path / name) as file:
            assert file.read() == b"text"


def test_what_is_no_regular_file_is_named_and_not_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to("pipe")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "socket"))
    kinds = {tmp_path / "pipe": "a pipe", tmp_path / "link": "a pipe", tmp_path / "socket": "a socket"}
    for path, kind in {**kinds, tmp_path: "a folder", Path("/dev/zero"): "a device"}.items():
        with pytest.raises(UserError, match=f"is {kind}; expected a regular file"):
            open_regular(path)


@pytest.mark.parametrize("name", ["gone", "nul\0", "x" * 300])
def test_what_is_not_there_is_an_error_of_the_system(tmp_path: Path, name: str) -> None:
    with pytest.raises(OSError, match=r"No such file|not a file's name|name too long"):
        open_regular(tmp_path / name)
