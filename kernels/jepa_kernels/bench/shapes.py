"""The attention that JEPAs do: heads and lengths of each stage of each model, contexts as really masked.

Heads of the predictors are those of the released code: as many as the encoder's on a width of 384 for
I-JEPA, 12 for V-JEPA. Lengths of one batch were drawn from the real laws of the masks and stand in
`lengths.json` with the command that drew them; uniform ones would flatter whoever pads.

Axes: B samples, H heads, D head width.
"""

import json
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

import torch

from jepa_kernels.layout import Layout


@dataclass(frozen=True)
class Model:
    """An encoder and its predictor: (heads, head width) of each; `grid`: the key in lengths.json."""

    grid: str
    encoder: tuple[int, int]
    predictor: tuple[int, int]


MODELS = {
    "I-JEPA B/16": Model("14x14", (12, 64), (12, 32)),
    "I-JEPA L/16": Model("14x14", (16, 64), (16, 24)),
    "I-JEPA H/14": Model("16x16", (16, 80), (16, 24)),
    "CIFAR T/4": Model("8x8", (3, 64), (3, 32)),
    "V-JEPA L/16": Model("8x14x14", (16, 64), (12, 32)),
    "I-JEPA S/16": Model("14x14", (6, 64), (6, 64)),
    "I-JEPA T/16": Model("14x14", (3, 64), (3, 128)),
    "I-JEPA g/16": Model("14x14", (16, 88), (16, 24)),
}
"""Those that matter most first: a run that is cut short has them."""
STAGES = ("target", "context", "predictor")


@dataclass(frozen=True)
class Case:
    """Self-attention inside sequences of these lengths."""

    model: str
    stage: str
    heads: int
    width: int
    lengths: tuple[int, ...]

    @property
    def name(self) -> str:
        """As in rows and on the command line."""
        return f"{self.model} {self.stage}"

    @property
    def uniform(self) -> bool:
        """Whether all sequences are of one length, so that nobody has to pad."""
        return len(set(self.lengths)) == 1

    def layout(self, device: torch.device) -> Layout:
        """A fresh layout, nothing cached on it."""
        offsets = torch.tensor([0, *self.lengths]).cumsum(0)
        return Layout.packed(offsets, uniform=self.lengths[0] if self.uniform else None).to(device)

    def numbers(self) -> int:
        """Of the output: rows times heads times head width."""
        return sum(self.lengths) * self.heads * self.width

    def operations(self) -> int:
        """Of the forward pass: two products, each 2 L² D a head."""
        return sum(4 * length**2 for length in self.lengths) * self.heads * self.width


def case(model: str, stage: str, samples: int | None = None) -> Case:
    """One stage of one of MODELS; `samples`: only the first so many of the batch."""
    described = MODELS[model]
    drawn = _drawn()[described.grid]
    contexts = drawn["contexts"][:samples]
    if stage == "target":
        lengths = [_tokens(drawn)] * len(contexts)
    elif stage == "context":
        lengths = contexts
    elif len(drawn["grid"]) == 3:  # V-JEPA predicts all that is hidden in one sequence
        lengths = [_tokens(drawn)] * len(contexts)
    else:
        lengths = [context + target for target in drawn["targets"] for context in contexts]
    heads, width = described.predictor if stage == "predictor" else described.encoder
    return Case(model, stage, heads, width, tuple(lengths))


def _tokens(drawn: dict[str, Any]) -> int:
    return int(torch.tensor(drawn["grid"]).prod())


@cache
def _drawn() -> dict[str, Any]:
    text = files("jepa_kernels.bench").joinpath("lengths.json").read_text(encoding="utf-8")
    found: dict[str, Any] = json.loads(text)
    return found
