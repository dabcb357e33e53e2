"""Observers of a run: core's own, the progress bar, and the caller of all observers' hooks.

Core's observers use the three observer hooks and nothing else, so each can be left out or replaced.
`train(..., watch=[*standard(), mine])` adds an object for one run; a plugin's hooks observe every run.
"""

from jepa_core.observers.listeners import Listeners as Listeners
from jepa_core.observers.listeners import observe as observe
from jepa_core.observers.progress_bar import Terminal as Terminal
from jepa_core.observers.standard import CollapseAlarm as CollapseAlarm
from jepa_core.observers.standard import Journal as Journal
from jepa_core.observers.standard import MetricsWriter as MetricsWriter
from jepa_core.observers.standard import Pictures as Pictures
from jepa_core.observers.standard import TensorBoard as TensorBoard
from jepa_core.observers.standard import standard as standard

__all__ = [
    "CollapseAlarm",
    "Journal",
    "Listeners",
    "MetricsWriter",
    "Pictures",
    "TensorBoard",
    "Terminal",
    "observe",
    "standard",
]
