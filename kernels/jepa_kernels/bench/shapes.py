"""The attention that JEPAs do, as versioned data: heads and lengths of each stage of each model.

    case = load("I-JEPA B/16 context")          # as really masked: 128 sequences of 56 to 123 tokens
    case = load("I-JEPA B/16 context, equal")   # cut to the smallest of the batch, as the released code does

`shapes.json` holds the models, `lengths.json` one batch for each grid, drawn from the real laws of the masks,
with the command that drew it; uniform lengths would favour padding. A change of either file is a new
`VERSION`, which every result names, so that results are compared like with like.

Axes: B samples, H heads, D head width.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache
from importlib.resources import files
from math import prod
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    import torch

    from jepa_kernels.layout import Layout

STAGES = ("target", "context", "predictor")
EQUAL = ", equal"


class Model(NamedTuple):
    """An encoder and its predictor: (heads, head width) of each; `grid`: the key in lengths.json."""

    grid: str
    encoder: tuple[int, int]
    predictor: tuple[int, int]


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
        """The name in rows and on the command line."""
        return f"{self.model} {self.stage}"

    @property
    def uniform(self) -> bool:
        """Whether all sequences are of one length, so that nobody has to pad."""
        return len(set(self.lengths)) == 1

    def layout(self, device: "torch.device | str" = "cpu") -> "Layout":
        """A fresh layout, nothing cached on it."""
        import torch

        from jepa_kernels.layout import Layout

        offsets = torch.tensor([0, *self.lengths]).cumsum(0)
        return Layout.packed(offsets, uniform=self.lengths[0] if self.uniform else None).to(device)

    def numbers(self) -> int:
        """Elements of the output: rows times heads times head width."""
        return sum(self.lengths) * self.heads * self.width

    def operations(self) -> int:
        """Floating point operations of the forward pass: two products, each 2 L² D a head."""
        return sum(4 * length**2 for length in self.lengths) * self.heads * self.width

    def about(self) -> Mapping[str, Any]:
        """Facts for rows: heads, head width, sequences, mean tokens of a sequence."""
        count = len(self.lengths)
        facts = {"heads": self.heads, "width": self.width, "sequences": count}
        return {**facts, "tokens": sum(self.lengths) / max(1, count)}


def names() -> list[str]:
    """Names of all cases of `load` with ragged masks; append EQUAL for equal ones (not for "target")."""
    return [f"{model} {stage}" for model in MODELS for stage in STAGES]


def load(name: str) -> Case:
    """A case by name. Raises ValueError for another name, which says the nearest ones."""
    model, _, stage = name.removesuffix(EQUAL).rpartition(" ")
    if model not in MODELS or stage not in STAGES:
        near = get_close_matches(name, names(), n=1)
        hint = f". Did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"unknown case {name!r}; a model ({', '.join(MODELS)}) and one of {STAGES}{hint}")
    return case(model, stage, equal=name.endswith(EQUAL))


def case(model: str, stage: str, samples: int | None = None, equal: bool = False) -> Case:
    """One stage of one of MODELS; `samples`: only the first so many of the batch; `equal`: see `load`."""
    sizes, batch = MODELS[model], _read("lengths.json")[MODELS[model].grid]
    contexts = batch["contexts"][:samples]
    if equal:
        contexts = [min(contexts)] * len(contexts)
    heads, width = sizes.predictor if stage == "predictor" else sizes.encoder
    lengths = _lengths(stage, batch, contexts)
    return Case(model, stage + EQUAL * equal, heads, width, tuple(lengths))


def _lengths(stage: str, batch: Mapping[str, Any], contexts: list[int]) -> list[int]:
    if stage == "context":
        return contexts
    if stage == "target" or len(batch["grid"]) == 3:  # V-JEPA predicts all that is hidden in one sequence
        return [prod(batch["grid"])] * len(contexts)
    return [context + target for target in batch["targets"] for context in contexts]


@cache
def _read(name: str) -> dict[str, Any]:
    text = files("jepa_kernels.bench").joinpath(name).read_text(encoding="utf-8")
    data: dict[str, Any] = json.loads(text)
    return data


def _models() -> dict[str, Model]:
    listed = _read("shapes.json")["models"].items()
    return {
        name: Model(entry["grid"], tuple(entry["encoder"]), tuple(entry["predictor"]))
        for name, entry in listed
    }


VERSION: int = _read("shapes.json")["version"]
MODELS = _models()
"""The most important first, so that a run that is cut short has them."""
