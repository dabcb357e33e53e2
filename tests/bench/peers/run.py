"""A training step of ours beside those of lightly, stable-pretraining and the released code, in one run.

    make bench-peers     or     python -m tests.bench.peers.run [--rounds 15] [--threads 1] [--learn SECONDS]

Makes an environment of its own at the first use (9 GB, some minutes) in $JEPA_PEERS or
~/.cache/jepa-core/peers, and runs itself there; the project's own environment and tests see nothing of it.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import venv
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[2]


def main() -> None:
    """Makes the environment, and measures in it."""
    parser = argparse.ArgumentParser(description="Ours beside other implementations of I-JEPA.")
    parser.add_argument("--rounds", type=int, default=15, help="steps of each that are timed, in turn")
    parser.add_argument("--threads", type=int, default=1, help="1: CPU time counts; more: the wall clock")
    parser.add_argument("--learn", type=float, metavar="SECONDS", help="train each so long, by CPU time")
    parser.add_argument("--seeds", type=int, default=1, help="of --learn")
    parser.add_argument("--out", type=Path, default=ROOT / "runs" / "peers", help="folder of what is written")
    options = parser.parse_args()
    folder = Path(os.environ.get("JEPA_PEERS", "~/.cache/jepa-core/peers")).expanduser()
    if Path(sys.prefix).resolve() != folder.resolve():
        settings = {**os.environ, "OMP_NUM_THREADS": str(options.threads), "WANDB_MODE": "disabled"}
        command = [make_environment(folder), "-m", "tests.bench.peers.run", *sys.argv[1:]]
        sys.exit(subprocess.run(command, env=settings, cwd=ROOT).returncode)
    if options.learn:
        from tests.bench.peers.learn import learn

        learn(options.learn, options.seeds, options.out)
    else:
        from tests.bench.peers.measure import measure

        measure(options.rounds, options.threads, options.out)


def make_environment(folder: Path) -> Path:
    """Its interpreter, once the project's and the peers' packages are there in the versions wanted."""
    python, ready = folder / "bin" / "python", folder / "ready"
    wanted = (HERE / "requirements.txt").read_text() + (ROOT / "pyproject.toml").read_text()
    if not ready.is_file() or ready.read_text() != wanted:
        print(f"Setting up {folder}: torch, lightly, stable-pretraining and what they need.", flush=True)
        venv.create(folder, with_pip=True)
        install = [python, "-m", "pip", "install", "--quiet", "-e", ROOT, "-r", HERE / "requirements.txt"]
        subprocess.run(install, check=True)
        ready.write_text(wanted)
    return python


if __name__ == "__main__":
    main()
