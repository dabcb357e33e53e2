"""`jepa study submit`: the workers of a study as a SLURM job array, by a script or through submitit."""

from __future__ import annotations

import shlex
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jepa_core.errors import UserError
from jepa_core.runtime.atomic_write import atomic_write
from jepa_core.runtime.stop_signals import REQUEUE
from jepa_core.study.launch import JEPA
from jepa_core.study.plan import Study


@dataclass(frozen=True)
class SlurmOptions:
    """What a worker gets."""

    tasks: int
    """Workers: tasks of the array."""
    time: str = ""
    """Time limit as SLURM has it, such as 4:00:00."""
    partition: str = ""
    gpus: int = 0
    cpus: int = 0
    memory: str = ""
    """Such as 32G."""
    more: Sequence[str] = ()
    """Further options of sbatch, such as --account=vision."""


def script(study: Study, options: SlurmOptions) -> str:
    """An array job whose tasks are workers; one that was asked to stop (exit code 75) is queued again."""
    assert study.file is not None
    flags = {
        "--job-name": f"jepa-{study.name}",
        "--array": f"0-{options.tasks - 1}",
        "--output": f"{study.folder.resolve()}/logs/slurm-%A-%a.log",
        "--time": options.time,
        "--partition": options.partition,
        "--gpus-per-task": str(options.gpus or ""),
        "--cpus-per-task": str(options.cpus or ""),
        "--mem": options.memory,
    }
    lines = [f"{name}={value}" for name, value in flags.items() if value]
    words = [str(study.file.resolve()), "--folder", str(study.folder.resolve())]
    return "\n".join(
        (
            "#!/bin/bash",
            *(f"#SBATCH {line}" for line in (*lines, *options.more)),
            "#SBATCH --ntasks=1",
            "#SBATCH --requeue",
            "#SBATCH --open-mode=append",
            "#SBATCH --signal=TERM@120",
            'export OMP_NUM_THREADS="${SLURM_CPUS_PER_TASK:-1}"',
            f"srun jepa study work {shlex.join(words)} --no-wait",
            "code=$?",
            f"# {REQUEUE}: stopped by a signal, with a checkpoint; the task goes back into the queue",
            f'if [ "$code" -eq {REQUEUE} ]; then',
            '  scontrol requeue "${SLURM_ARRAY_JOB_ID}_${SLURM_ARRAY_TASK_ID}"',
            "fi",
            'exit "$code"',
            "",
        )
    )


def write_script(study: Study, options: SlurmOptions) -> Path:
    """Writes `submit.sh` into the study's folder. Raises UserError for a study that has no file."""
    if study.file is None:
        raise UserError("a study that was made in Python has no file for workers to read; write a STUDY.toml")
    path = study.folder / "submit.sh"
    (study.folder / "logs").mkdir(parents=True, exist_ok=True)
    atomic_write(path, script(study, options))
    path.chmod(0o755)
    return path


class StudyWorker:
    """One worker as a job of submitit: submitted again where it was preempted or asked to stop."""

    def __init__(self, words: Sequence[str]) -> None:
        self.words = list(words)

    def __call__(self) -> int:
        """Works, and returns the exit code; again for as long as a signal ended it."""
        while True:
            code = subprocess.call([*JEPA, "study", "work", *self.words, "--no-wait"])
            if code != REQUEUE:
                return code

    def checkpoint(self) -> object:
        """What submitit queues when the job is preempted: the same worker, which goes on by itself."""
        import submitit

        return submitit.helpers.DelayedSubmission(StudyWorker(self.words))


def submit(study: Study, options: SlurmOptions, cluster: str = "slurm") -> list[Any]:
    """Submits the workers through submitit and returns its jobs.

    Raises UserError where submitit is missing, or the cluster does not take the jobs.
    """
    try:
        import submitit
    except ModuleNotFoundError:
        raise UserError("--submit needs submitit: pip install 'jepa-core[study]'") from None
    assert study.file is not None
    words = [str(study.file.resolve()), "--folder", str(study.folder.resolve())]
    try:
        executor = submitit.AutoExecutor(folder=study.folder / "logs/submitit", cluster=cluster)
        executor.update_parameters(**_parameters(study, options, cluster))
        with executor.batch():
            jobs: list[Any] = [executor.submit(StudyWorker(words)) for _ in range(options.tasks)]
    except (RuntimeError, OSError, submitit.core.utils.FailedSubmissionError) as error:
        raise UserError(f"the jobs were not submitted: {' '.join(str(error).split())}") from None
    return jobs


def _parameters(study: Study, options: SlurmOptions, cluster: str) -> dict[str, object]:
    """The options in submitit's names."""
    parameters: dict[str, object] = {"name": f"jepa-{study.name}"}
    if options.cpus:
        parameters["cpus_per_task"] = options.cpus
    if options.gpus:
        parameters["gpus_per_node"] = options.gpus
    if cluster == "slurm":
        slurm = {"time": options.time, "partition": options.partition, "mem": options.memory}
        parameters |= {f"slurm_{name}": value for name, value in slurm.items() if value}
        extra = dict(option.lstrip("-").partition("=")[::2] for option in options.more)
        parameters |= {"slurm_additional_parameters": extra} if extra else {}
    return parameters
