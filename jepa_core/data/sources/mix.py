"""`mix`: several sources in one, with weights; sample by sample, or whole batches in turn.

    [data]
    name = "mix"
    by = "samples"
    [data.sources.photos]
    name = "folder"
    path = "photos"
    weight = 3.0
    [data.sources.drawings]
    name = "npz"
    path = "drawings.npz"

An epoch has as many samples as all sources together; a source's share of them is its weight's. Which ones
come at which step follows from (seed, step), as for any source.

Axes: n samples of an epoch.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field as Setting
from torch import Generator, Tensor

from jepa_core.data.named_samples import plain_fields, source_fields
from jepa_core.data.samples import BaseSamples
from jepa_core.data.sources.nested import build_source
from jepa_core.errors import UserError, unknown
from jepa_core.protocols import Samples, Source
from jepa_core.settings.base import SourceSettings
from jepa_core.types.sample import Fields


class MixSource:
    """Several sources as one, whose samples have the same fields."""

    class Config(SourceSettings):
        """Settings of the mix."""

        carried: ClassVar[frozenset[str]] = SourceSettings.carried

        sources: dict[str, dict[str, Any]] = Setting(default_factory=dict)
        """The sources by a name of your own: a table each, as [data] is, with a `weight` (1 by default)."""
        by: Literal["samples", "batches"] = "samples"
        """Whether each batch is a mixture, or the samples of one source, in turns drawn by the weights."""
        classes_of: str | None = None
        """The source that has the labels and the splits for evaluation; by default the first one."""

        def check(self) -> None:
            """Raises UserError for less than two sources, and for what is wrong with one of them."""
            if len(self.sources) < 2:
                raise UserError(
                    f"data.sources has {len(self.sources)} of them; a mix takes two or more, each a "
                    "table with a name"
                )
            if self.classes_of is not None and self.classes_of not in self.sources:
                raise unknown("source", self.classes_of, self.sources)
            for name in self.sources:
                make_source(self, name)

    def __init__(self, config: Config) -> None:
        self.config = config
        self.sources = {name: make_source(config, name) for name in config.sources}

    def fields(self) -> Fields | None:
        """Those of the first source. Raises UserError where another one's differ."""
        fields = {name: source_fields(source) for name, source in self.sources.items()}
        first = next(iter(fields))
        for name, own in fields.items():
            if list(own) != list(fields[first]):
                raise UserError(
                    f"the sources of a mix give samples of the same fields; {first} gives "
                    f"{', '.join(fields[first])}, and {name} {', '.join(own)}"
                )
        return None if fields[first] == plain_fields((3, 0, 0)) else fields[first]

    def split(self, name: str) -> Samples:
        """`train`: the mix. `val` and `test`: those of the source whose classes are asked for."""
        if name != "train":
            return self.sources[self.config.classes_of or next(iter(self.sources))].split(name)
        parts = {key: source.split("train") for key, source in self.sources.items()}
        weights = {key: weight_of(self.config, key) for key in parts}
        return MixSamples(parts, weights, self.config.by, self.config.classes_of or next(iter(parts)))


def weight_of(config: MixSource.Config, name: str) -> float:
    """A source's weight. Raises UserError for anything but a positive number."""
    weight = config.sources[name].get("weight", 1.0)
    if isinstance(weight, bool) or not isinstance(weight, int | float) or not 0 < weight < math.inf:
        raise UserError(f"setting 'data.sources.{name}.weight' is {weight!r:.40}; expected a positive number")
    return float(weight)


def make_source(config: MixSource.Config, name: str) -> Source:
    """One of the sources, built from its table. Raises UserError for what is wrong with it."""
    weight_of(config, name)
    table = {key: value for key, value in config.sources[name].items() if key != "weight"}
    return build_source(table, f"data.sources.{name}")


class MixSamples(BaseSamples):
    """The training samples of several sources, one source after the other; see `epoch_order`."""

    def __init__(
        self, parts: Mapping[str, Samples], weights: Mapping[str, float], by: str, labelled: str
    ) -> None:
        self.parts, self.by, self.labelled = dict(parts), by, labelled
        self.weights = torch.tensor([weights[name] for name in parts], dtype=torch.float64)
        self.classes = parts[labelled].classes
        sizes = {name: len(samples) for name, samples in parts.items()}
        if empty := [name for name, size in sizes.items() if not size]:
            raise UserError(f"the source {empty[0]!r} of the mix has no training samples")
        self.starts = torch.tensor([0, *sizes.values()]).cumsum(0).tolist()
        listed = " + ".join(f"{name} {size:,}" for name, size in sizes.items())
        self.note = f"a mix of {listed}"

    def __len__(self) -> int:
        return int(self.starts[-1])

    def __getitem__(self, index: int) -> Any:
        """The sample of the source whose turn it is; labels are those of one source alone."""
        number = next(k for k, end in enumerate(self.starts[1:]) if index < end)
        name = list(self.parts)[number]
        sample: Any = self.parts[name][index - self.starts[number]]
        if name == self.labelled:
            return sample
        return (sample[0], -1) if isinstance(sample, tuple | list) else sample.without_label()

    def keys(self) -> Sequence[str]:
        """`SOURCE/key` of each sample."""
        names = []
        for name, samples in self.parts.items():
            own = samples.keys() if isinstance(samples, BaseSamples) else map(str, range(len(samples)))
            names += [f"{name}/{key}" for key in own]
        return names

    def epoch_order(self, generator: Generator, together: int) -> Tensor:
        """int64 [n]: an epoch's samples by the weights; in `batches` mode a step's are of one source.

        A source that is asked for more samples than it has gives all of them before one comes again.
        """
        count = len(self)
        if self.by == "samples":
            return self._draw(self._shares(count), generator)[torch.randperm(count, generator=generator)]
        blocks, rest = divmod(count, together)
        turns = torch.repeat_interleave(torch.arange(len(self.parts)), self._shares(blocks))
        turns = turns[torch.randperm(blocks, generator=generator)]
        totals = torch.bincount(turns, minlength=len(self.parts)) * together
        totals[0] += rest
        streams = list(self._draw(totals, generator).split(totals.tolist()))
        order = []
        for turn in turns.tolist():
            order.append(streams[turn][:together])
            streams[turn] = streams[turn][together:]
        return torch.cat([*order, *streams])

    def _shares(self, count: int) -> Tensor:
        """int64 [sources] that add up to `count`, in proportion to the weights."""
        exact = self.weights / self.weights.sum() * count
        shares = exact.floor().long()
        largest = (exact - shares).argsort(descending=True, stable=True)
        shares[largest[: count - int(shares.sum())]] += 1
        return shares

    def _draw(self, shares: Tensor, generator: Generator) -> Tensor:
        """Positions of so many samples of each source, source after source, in random order each."""
        drawn = []
        for number, share in enumerate(shares.tolist()):
            start, size = self.starts[number], self.starts[number + 1] - self.starts[number]
            rounds = [torch.randperm(size, generator=generator) for _ in range(-(-share // size))]
            drawn.append(torch.cat([*rounds, torch.empty(0, dtype=torch.int64)])[:share] + start)
        return torch.cat(drawn)
