"""OpenMP threads that spin while they wait, which beside other busy processes slows a step up to tenfold.

GNU OpenMP reads its settings once, when torch is loaded; the command line sets GOMP_SPINCOUNT before that. A
library must not, so it says in a line where a setting would help and it is too late.
"""

from __future__ import annotations

import logging
import os

import torch

from jepa_core.runtime.environment import cores

log = logging.getLogger("jepa.run")

SETTINGS = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY", "KMP_BLOCKTIME")
"""Variables by which a user decides how threads wait."""

BUSY = 0.5
"""Processes of others that want to run, for each core, from which on the machine counts as busy."""


def warn_of_spinning_threads() -> None:
    """Logs one line where several threads spin: a warning on a busy machine, information on a quiet one."""
    threads = torch.get_num_threads()
    if threads < 2 or any(name in os.environ for name in SETTINGS):
        return
    level = logging.WARNING if _load() > BUSY * cores() else logging.INFO
    log.log(
        level,
        "torch computes with %d threads that spin while they wait; where other processes are busy too, set "
        "GOMP_SPINCOUNT=1000 before torch is imported",
        threads,
    )


def _load() -> float:
    """Processes that want to run, the mean of the last minute; 0 where the system does not tell."""
    try:
        return os.getloadavg()[0]
    except (OSError, AttributeError):
        return 0.0
