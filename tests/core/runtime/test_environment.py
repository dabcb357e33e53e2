"""What is written down of a machine and a repository, against what the system itself says."""

from __future__ import annotations

import json
import os
import platform
import subprocess
from pathlib import Path

import pytest
import torch

from jepa_core import __version__
from jepa_core.runtime import environment as provenance
from jepa_core.runtime.environment import environment, git_state


def git(folder: Path, *words: str) -> str:
    who = ("-c", "user.name=n", "-c", "user.email=n@example.org", "-c", "commit.gpgsign=false")
    return subprocess.run(
        ["git", *who, *words], cwd=folder, check=True, capture_output=True, text=True
    ).stdout.strip()


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    git(tmp_path, "init", "--quiet")
    (tmp_path / "file").write_text("one")
    git(tmp_path, "add", "file")
    git(tmp_path, "commit", "--quiet", "-m", "first")
    return tmp_path


def test_the_environment_is_plain_and_names_what_a_result_depends_on() -> None:
    found = json.loads(json.dumps(environment()))
    assert found["versions"]["python"] == platform.python_version()
    assert found["versions"]["jepa-core"] == __version__
    assert found["versions"]["torch"] == torch.__version__.partition("+")[0]
    assert found["versions"]["timm"]
    assert found["cpu"]["threads"] == torch.get_num_threads()
    assert 1 <= found["cpu"]["cores"] <= (os.cpu_count() or 1)
    assert found["cpu"]["model"]
    assert len(found["gpus"]) == torch.cuda.device_count()
    assert found["platform"] == platform.platform()


def test_memory_is_in_gib() -> None:
    total = next(
        (line for line in Path("/proc/meminfo").read_text().splitlines() if line.startswith("MemTotal")), ""
    )
    assert environment()["memory_gib"] == pytest.approx(int(total.split()[1]) / 1024**2, rel=0.05)


def test_a_clean_repository_and_a_changed_one(repository: Path) -> None:
    commit = git(repository, "rev-parse", "HEAD")
    assert git_state(repository) == {"commit": commit, "dirty": False}
    (repository / "run").mkdir()
    (repository / "run" / "metrics.jsonl").write_text("{}")
    assert git_state(repository / "run") == {"commit": commit, "dirty": False}, "new files do not count"
    (repository / "file").write_text("two")
    assert git_state(repository) == {"commit": commit, "dirty": True}


def test_a_folder_that_is_no_repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert git_state(tmp_path) is None


def test_a_machine_without_git(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(repository))
    assert git_state(repository) is None


def test_a_package_that_is_absent_has_no_version(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(provenance, "PACKAGES", ("torch", "no-such-package"))
    assert provenance.versions()["no-such-package"] is None
