"""kNN accuracy against CPU time, each implementation trained as long as the others.

What is unusual: all are trained in turn, a twelfth of their steps at a time; only the time of crops, masks
and steps counts. The number of steps is what fits into the time by the implementation's own first steps, so
that schedules end where training does. On 16 tokens of CIFAR-10; scores are of the validation split.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import matplotlib.pyplot as plt
import torch
from torch import Tensor

from jepa_core.assembly import build
from jepa_core.data.transforms import eval_transform
from tests.bench.peers.cases import CASES, Case, Crops
from tests.bench.peers.measure import BUILD, OURS, Clock
from tests.bench.peers.ours import Implementation
from tests.bench.peers.table import Curve, curves_table

ARMS = (
    "ours, as ijepa/demo",
    "ours, as ijepa/cifar10_plain",
    "ours, exact masks",
    OURS,
    "official way, the release's masks",
    "stable-pretraining",
)
"""Those that draw masks on 4 × 4 tokens; the released code and lightly on masks of ours."""
PARTS, BANK, TRIAL = 12, 10_000, 8
"""Turns; training images of kNN; steps that are timed to know how many fit."""


class Training:
    """One implementation's training of `seconds`, a part at a time; `points` are its curve so far."""

    def __init__(self, name: str, case: Case, seconds: float, images: Tensor) -> None:
        self.clock, self.crops, self.done, self.spent = Clock(1), Crops(images, case), 0, 0.0
        trial = self._build(name, case, TRIAL)
        times = [self.clock(lambda n=n: trial(self.crops.draw(n), n)) for n in range(TRIAL)]  # type: ignore[misc]
        self.steps = max(PARTS, int(seconds / statistics.median(times)))
        self.way = self._build(name, case, self.steps)
        self.points: list[tuple[float, float]] = []

    @staticmethod
    def _build(name: str, case: Case, steps: int) -> Implementation:
        torch.manual_seed(case.seed)
        return BUILD[name](case, "bf16", steps)

    def run_to(self, part: int) -> None:
        """Trains up to this part of `PARTS`."""
        while self.done < self.steps * part // PARTS:
            self.spent += self.clock(lambda: self.way(self.crops.draw(self.done), self.done))
            self.done += 1

    def score(self, judge: Callable[[Implementation], float]) -> None:
        """Adds a point to the curve."""
        self.points.append((self.spent, judge(self.way)))


def learn(seconds: float, seeds: int, folder: Path) -> None:
    """Trains every arm on every seed, prints the scores, writes `learning.json`, `.md` and `.png`."""
    torch.set_num_threads(1)
    case = CASES[-1]
    source = build("data", case.recipe("union", "fp32", 10).data)
    train, val = (source.split(name).tensors() for name in ("train", "val"))
    judge = _knn(case, (train[0][:BANK], train[1][:BANK]), val)
    curves: list[Curve] = []
    for seed in range(seeds):
        arms = {name: Training(name, replace(case, seed=seed), seconds, _rows(train[0])) for name in ARMS}
        for part in range(PARTS + 1):
            for arm in arms.values():
                arm.run_to(part)
                if part % 3 == 0:
                    arm.score(judge)
        curves += [Curve(name, seed, tuple(arm.points)) for name, arm in arms.items()]
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "learning.json").write_text(json.dumps([asdict(c) for c in curves], indent=1) + "\n")
    table = curves_table(curves)
    (folder / "learning.md").write_text(table + "\n")
    _draw(curves, folder / "learning.png")
    print(table)


def _rows(images: Tensor) -> Tensor:
    return images.permute(0, 2, 3, 1)


def _knn(
    case: Case, bank: tuple[Tensor, Tensor], held_out: tuple[Tensor, Tensor]
) -> Callable[[Implementation], float]:
    """The share of held-out images whose 20 nearest of the bank vote for their class."""
    recipe = case.recipe("union", "fp32", 10)
    probe = build("probe", recipe.probes["knn"])
    prepare = eval_transform(recipe.transform, (3, case.image, case.image))

    @torch.no_grad()
    def judge(way: Implementation) -> float:
        parts = []
        for images, labels in (bank, held_out):
            batches = [prepare(part) for part in images.split(500)]
            parts.append((torch.cat([way.features(batch).float() for batch in batches]), labels))
        return float(probe(*parts, 10)["top1"])

    return judge


def _draw(curves: list[Curve], file: Path) -> None:
    """A line for each training, in its implementation's colour."""
    figure, axes = plt.subplots(figsize=(7, 4))
    names = list(dict.fromkeys(curve.name for curve in curves))
    for curve in curves:
        seconds, shares = zip(*curve.points, strict=True)
        axes.plot(
            seconds,
            [100 * share for share in shares],
            color=f"C{names.index(curve.name)}",
            label=curve.name if curve.seed == 0 else None,
        )
    axes.set(xlabel="CPU seconds of one thread", ylabel="kNN on val, %")
    axes.legend(fontsize=8)
    figure.savefig(file, dpi=110, bbox_inches="tight")
    plt.close(figure)
