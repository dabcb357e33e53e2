"""Virtual environments with nothing but wheels built here: for packaging, and for other people's plugins."""

from __future__ import annotations

import os
import subprocess
import sys
import venv
from pathlib import Path

ROOT = Path(__file__).parents[1]


def build_wheel(source: Path, folder: Path) -> Path:
    """Builds the wheel of a source folder into `folder`, in this environment, offline."""
    _run([sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)], source)
    return next(folder.glob("*.whl"))


class FreshEnvironment:
    """A virtual environment that holds only wheels built here; what those need, it borrows from this one.

    No index is asked. The checkout is out of reach: commands run in an empty folder, without PYTHONPATH.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.empty = folder / "venv", folder / "empty"
        self.empty.mkdir()
        venv.create(self.folder, symlinks=True)

    def install(self, *wheels: Path) -> None:
        """Puts the wheels in, then lends it this environment's packages."""
        pip = [sys.executable, "-m", "pip", "--python", str(self.bin / "python"), "install", "--quiet"]
        _run([*pip, "--no-deps", "--no-index", *map(str, wheels)], self.empty)
        own = next((self.folder / "lib").glob("python*")) / "site-packages"
        lent = [path for path in sys.path if Path(path).name == "site-packages"]
        (own / "borrowed.pth").write_text("\n".join(lent), encoding="utf-8")

    @property
    def bin(self) -> Path:
        """Where its commands are."""
        return self.folder / "bin"

    def jepa(self, *words: object) -> str:
        """What `jepa …` prints there."""
        return _run([str(self.bin / "jepa"), *map(str, words)], self.empty)

    def python(self, code: str) -> str:
        """What a line of Python prints there."""
        return _run([str(self.bin / "python"), "-c", code], self.empty)

    def shell(self, script: str) -> str:
        """What a bash script prints there; its `pip` and `pytest` are this environment's.

        pip asks no index, and takes what a distribution needs for installed.
        """
        for name, command in {
            "pip": f"{sys.executable} -m pip --python {self.bin}/python",
            "pytest": f"{self.bin}/python -m pytest",
        }.items():
            (self.bin / name).write_text(f'#!/bin/sh\nexec {command} "$@"\n', encoding="utf-8")
            (self.bin / name).chmod(0o755)
        own = f"export PATH={self.bin}:$PATH PIP_NO_INDEX=1 PIP_NO_DEPS=1 PIP_NO_BUILD_ISOLATION=0\n"
        return _run(["bash", "-c", own + script], self.empty)


def _run(command: list[str], folder: Path) -> str:
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "JEPA"))}
    done = subprocess.run(
        command,
        cwd=folder,
        env={**environment, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout}\n{done.stderr}"
    return done.stdout
