"""Which implementation each kernel's `impl = "auto"` chooses here, and why, for layers of I-JEPA's sizes.

A case is one attention layer as in training (ragged contexts, predictor sequences) or in evaluation (whole
images, no gradient), in the precision that `train.precision = "auto"` chooses here.

Axes: T packed tokens, H heads, D head width.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from jepa_core.doctor.check import Check
from jepa_core.runtime.devices import use_bf16
from jepa_kernels import EmaPlan, Layout, explain, explain_ema

SAMPLES = 8


@dataclass(frozen=True)
class Case:
    """One layer: sequences from `shortest` to `longest` tokens, H heads of D."""

    name: str
    shortest: int
    longest: int
    heads: int
    width: int
    trained: bool = True

    def layout(self, device: torch.device) -> Layout:
        """`SAMPLES` sequences, their lengths evenly spread."""
        if self.shortest == self.longest:
            return Layout.dense(SAMPLES, self.longest, device)
        lengths = torch.linspace(self.shortest, self.longest, SAMPLES).long()
        return Layout.packed(nn.functional.pad(lengths.cumsum(0), (1, 0))).to(device)

    def qkv(self, device: torch.device) -> Tensor:
        """Random query, key and value [T, 3, H, D], the same at every call."""
        generator = torch.Generator().manual_seed(0)
        rows = self.layout(torch.device("cpu")).total
        value = torch.randn(rows, 3, self.heads, self.width, generator=generator)
        dtype = torch.bfloat16 if use_bf16("auto", device) else torch.float32
        return value.to(device, dtype).requires_grad_(self.trained)

    def __str__(self) -> str:
        equal = self.shortest == self.longest
        tokens = f"{self.longest}" if equal else f"{self.shortest} to {self.longest}"
        return f"{tokens} tokens, {self.heads} heads of {self.width}"


CASES = (
    Case("ViT-S/16 at 224, context", 60, 110, 6, 64),
    Case("ViT-S/16 at 224, predictor", 90, 150, 6, 64),
    Case("ViT-S/16 at 224, target", 196, 196, 6, 64, trained=False),
    Case("CIFAR 8 x 8, context", 20, 40, 3, 64),
    Case("CIFAR 8 x 8, predictor", 30, 55, 3, 64),
)


def choices() -> Iterator[Check]:
    """For each device: attention's choice in each case, what cannot run there, and EMA's choice."""
    for device in (torch.device("cpu"), *(torch.device("cuda", i) for i in range(torch.cuda.device_count()))):
        for case in CASES:
            lines = explain(case.qkv(device), case.layout(device))
            yield _choice_check(case.name, f"{case}, {_precision(device)} on {device}", lines)
        absent = [f"{line.impl} {line.reason}" for line in lines if not line.usable]
        if absent:
            yield Check("kernels", f"cannot run on {device}", "ok", "; ".join(absent))
        teacher, student = nn.Linear(2, 2, device=device), nn.Linear(2, 2, device=device)
        plan = EmaPlan(teacher.parameters(), student.parameters())
        yield _choice_check("EMA", f"fp32 on {device}", explain_ema(plan))


def _choice_check(name: str, what: str, lines: list[Any]) -> Check:
    chosen = next(line for line in lines if line.chosen)
    text = f"{chosen.impl} for {what}: {chosen.reason}"
    return Check("kernels", name, "ok", text, details={"choices": [line._asdict() for line in lines]})


def _precision(device: torch.device) -> str:
    return "bf16" if use_bf16("auto", device) else "fp32"
