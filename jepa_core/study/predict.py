"""`jepa study plan`: what a study will do and cost, before the first cell starts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from jepa_core.study.ledger import Ledger
from jepa_core.study.measure import measured_seconds, steps_of_recipe
from jepa_core.study.plan import Arm, Cell, Study
from jepa_core.study.statistics import detectable_effect, smallest_p
from jepa_core.study.worker_states import FINISHED, CellStatus


@dataclass(frozen=True)
class ArmPlan:
    """One arm on one data set: its steps, what one costs, and how many cells are to be done."""

    arm: Arm
    dataset: str | None
    steps: int
    step_seconds: float
    to_do: int

    @property
    def seconds(self) -> float:
        """Training time of the cells that are to be done."""
        return self.steps * self.step_seconds * self.to_do


@dataclass(frozen=True)
class StudyPlan:
    """A study as it will be run."""

    study: Study
    cells: Sequence[Cell]
    arms: Sequence[ArmPlan]

    @property
    def hours(self) -> float:
        """Training time of all cells that are to be done, on one worker; evaluation comes on top."""
        return sum(arm.seconds for arm in self.arms) / 3600

    def facts(self) -> dict[str, Any]:
        """As plain values for JSON."""
        seeds = len(self.study.settings.seeds)
        return {
            "name": self.study.name,
            "folder": str(self.study.folder),
            "cells": {cell.id: cell.identity for cell in self.cells},
            "hours": self.hours,
            "seeds": seeds,
            "smallest_p": smallest_p(seeds),
            "detectable_sd": detectable_effect(seeds),
            "arms": [
                {
                    "arm": arm.arm.name,
                    "dataset": arm.dataset,
                    "set": list(arm.arm.overrides),
                    "steps": arm.steps,
                    "step_seconds": arm.step_seconds,
                    "to_do": arm.to_do,
                    "hours": arm.seconds / 3600,
                }
                for arm in self.arms
            ],
        }


def plan_study(study: Study, statuses: Sequence[CellStatus], ledger: Ledger) -> StudyPlan:
    """What is to be done, and how long it takes by measured steps. Raises UserError as training does."""
    arms = []
    for dataset in study.datasets:
        for arm in study.arms:
            own = [s for s in statuses if (s.cell.arm, s.cell.dataset) == (arm.name, dataset)]
            to_do = sum(status.state not in FINISHED for status in own)
            seconds = measured_seconds(study, arm, dataset, ledger)
            arms.append(ArmPlan(arm, dataset, steps_of_recipe(study.recipe_of(arm, dataset)), seconds, to_do))
    return StudyPlan(study, [status.cell for status in statuses], arms)
