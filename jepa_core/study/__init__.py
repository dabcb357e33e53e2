"""`jepa study`: arms compared on the same seeds at an equal budget, from one file, with error bars.

settings          the file's settings            worker        claims cells and does them
plan              every cell, resolved           cell_run      one cell: train, score, outcome
budget, measure   equal steps, time, FLOPs       ledger        claims and outcomes, what they are
store             the study's folder             file_ledger, database_ledger   where they are kept
statistics        paired by seed                 worker_states the state of each cell
across            several data sets              results       cells.csv, study.json
words, tables, charts, write: the report         pairs         two arms by their folders
search            trials by Optuna               launch, slurm many workers
predict           what a study will cost         metric        scores by name
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jepa_core.study.pairs import compare_folders as compare_folders
    from jepa_core.study.plan import load_study as load_study
    from jepa_core.study.plan import study_of as study_of
    from jepa_core.study.results import summarise as summarise
    from jepa_core.study.worker import read_study as read_study
    from jepa_core.study.worker import work as work
    from jepa_core.study.write import write_study_report as write_study_report

_HOMES = {
    "compare_folders": "pairs",
    "load_study": "plan",
    "study_of": "plan",
    "summarise": "results",
    "read_study": "worker",
    "work": "worker",
    "write_study_report": "write",
}

__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    """Functions load when they are first used: most need torch, the command's help does not."""
    if name not in _HOMES:
        raise AttributeError(f"module 'jepa_core.study' has no attribute {name!r}")
    return getattr(import_module(f"jepa_core.study.{_HOMES[name]}"), name)
