"""The job array: its script as bash reads it, and a submission through submitit on this machine."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from jepa_core.errors import UserError
from jepa_core.study.plan import load_study, study_of
from jepa_core.study.slurm import SlurmOptions, script, submit, write_script
from tests.core.study.conftest import WriteStudy

FAKE = {"srun": "exit ${FAKE_CODE}", "scontrol": 'echo "$@" > requeued'}
"""The two programs of SLURM that the script calls."""


@pytest.mark.parametrize(("code", "queued"), [(75, True), (0, False), (1, False)])
def test_only_exit_code_75_goes_back_into_the_queue(
    code: int, queued: bool, write_study: WriteStudy, tmp_path: Path
) -> None:
    path = write_script(load_study(write_study()), SlurmOptions(4))
    for name, text in FAKE.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{text}\n", encoding="utf-8")
        (tmp_path / name).chmod(0o755)
    environment = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "FAKE_CODE": str(code)}
    environment |= {"SLURM_ARRAY_JOB_ID": "12", "SLURM_ARRAY_TASK_ID": "3"}
    done = subprocess.run([path], env=environment, cwd=tmp_path, check=False)
    assert done.returncode == code
    assert (tmp_path / "requeued").exists() == queued
    if queued:
        assert (tmp_path / "requeued").read_text(encoding="utf-8") == "requeue 12_3\n"


def test_the_options_stand_in_the_script(write_study: WriteStudy) -> None:
    options = SlurmOptions(4, "1:00:00", "gpu", 1, 8, "32G", ["--account=vision"])
    text = script(load_study(write_study()), options)
    for line in ("--array=0-3", "--time=1:00:00", "--gpus-per-task=1", "--mem=32G", "--account=vision"):
        assert f"#SBATCH {line}\n" in text


def test_the_command_writes_it(write_study: WriteStudy, jepa: Callable[..., Any]) -> None:
    file = write_study()
    said = jepa("study", "submit", file, "--tasks", 2, "--json")
    assert said.code == 0
    assert Path(json.loads(said.out)["script"]).read_text(encoding="utf-8").startswith("#!/bin/bash\n")


def test_a_study_without_a_file_cannot_be_submitted(tiny_recipe: Path, tmp_path: Path) -> None:
    study = study_of({"recipe": str(tiny_recipe), "arms": {"a": {}}}, tmp_path / "mine")
    with pytest.raises(UserError, match="has no file"):
        write_script(study, SlurmOptions(1))


def test_without_submitit_it_says_what_to_install(
    write_study: WriteStudy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "submitit", None)
    with pytest.raises(UserError, match=r"pip install 'jepa-core\[study\]'"):
        submit(load_study(write_study()), SlurmOptions(1))


@pytest.mark.slow
@pytest.mark.long
def test_workers_through_submitit_on_this_machine(write_study: WriteStudy) -> None:
    pytest.importorskip("submitit", reason="--now needs jepa-core[study]")
    text = 'recipe = "{recipe}"\nprobes = ["knn"]\nseeds = [0]\n[arms.a]\n'
    study = load_study(write_study(text))
    jobs = submit(study, SlurmOptions(1), "local")
    assert [job.result() for job in jobs] == [0]
    assert (study.folder / "cells/a/seed-0/cell.json").is_file()
