"""What each kind of component must do. Plain typed Python: no hook is called during a step.

A component is a class with a nested `Config` (settings), built once while a run is assembled. The
constructor's arguments are the same for every member of a kind and are given below.

Axes: B samples, S packed tokens, N tokens of the grid, D width, C channels.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, runtime_checkable

from torch import Generator, Tensor, nn

from jepa_core.settings import ComponentSettings, ObjectiveSettings, SourceSettings
from jepa_core.types import Grid, IndexSet, MaskPlan, Tokens

if TYPE_CHECKING:
    from pathlib import Path

    from PIL.Image import Image

    from jepa_core.evaluate.features import FeatureMap, FeatureModel, Role
    from jepa_core.exchange.parts import Export, TimmModel, Weights
    from jepa_core.exchange.source import Source as WeightSource


@runtime_checkable
class Encoder(Protocol):
    """`Encoder(config)`, a torch module: one input view to features of the tokens that are kept."""

    Config: ClassVar[type[ComponentSettings]]
    width: int
    """D, the width of the features."""
    heads: int
    """Attention heads; predictors take it as their default."""
    depth: int
    """Number of blocks; `layers` counts from 1 to it."""

    def grid(self, view_shape: Sequence[int]) -> Grid:
        """The token grid that a view of this shape (without B: `(C, H, W)`) gives.

        Raises UserError where the shape cannot be cut into patches.
        """
        ...

    def view_shape(self) -> tuple[int, ...]:
        """The shape (without B) of the views that the settings speak of: `(3, image_size, image_size)`."""
        ...

    def __call__(self, view: Tensor, keep: IndexSet | None = None, layers: Sequence[int] = ()) -> Tokens:
        """Features of the kept tokens (all without `keep`), final norm applied.

        `layers` asks for the outputs of these blocks as well, in `Tokens.layers`, without the norm.
        """
        ...


@runtime_checkable
class Predictor(Protocol):
    """`Predictor(config, encoder, target_width)`, a torch module: guesses the features of hidden tokens."""

    Config: ClassVar[type[ComponentSettings]]

    def __call__(
        self, contexts: Sequence[Tokens], plan: MaskPlan, grid: Grid, condition: Any = None
    ) -> tuple[Tokens, ...]:
        """One `Tokens` [S of the target, target width] for each pair of `plan.pairs`, in that order."""
        ...


@runtime_checkable
class Masker(Protocol):
    """`Masker(config)`: draws what is visible and what is to be predicted."""

    Config: ClassVar[type[ComponentSettings]]

    def check(self, grid: Grid) -> None:
        """Raises UserError, naming the sizes, where the settings give no valid mask on this grid."""
        ...

    def __call__(self, grid: Grid, batch_size: int, generator: Generator, progress: float = 0.0) -> MaskPlan:
        """A plan for `batch_size` samples, drawn from `generator` (on the CPU) and from nothing else.

        `progress` is the share of training that is done, 0 to 1, for curricula.
        """
        ...


@runtime_checkable
class TargetUpdate(Protocol):
    """`TargetUpdate(config)`: how the target encoder is made and how it follows the online one."""

    Config: ClassVar[type[ComponentSettings]]

    def make_target(self, encoder: nn.Module) -> nn.Module | None:
        """The target encoder, or None where the online encoder is its own target."""
        ...

    def update(self, target: nn.Module, online: nn.Module, step: int, total_steps: int) -> dict[str, float]:
        """Moves the target after optimizer step `step` (0-based) of `total_steps`; returns what to log."""
        ...


@dataclass(frozen=True)
class Step:
    """What the stages of one step made, for the objectives.

    `predictions` and `targets` run along `plan.pairs`; `contexts` along `plan.contexts`;
    `target_tokens` is the target encoder's output on its whole view, before normalisation. `number` is the
    optimizer step's, from 0: what a term draws from it is the same in every process and micro-batch.
    """

    predictions: tuple[Tokens, ...]
    targets: tuple[Tokens, ...]
    contexts: tuple[Tokens, ...]
    target_tokens: Tokens | None
    plan: MaskPlan
    number: int = 0

    def map(self, change: Callable[[Tokens], Tokens]) -> Step:
        """The step with each of its tokens changed."""
        guesses, targets = tuple(map(change, self.predictions)), tuple(map(change, self.targets))
        whole = None if self.target_tokens is None else change(self.target_tokens)
        contexts = tuple(map(change, self.contexts))
        return Step(guesses, targets, contexts, whole, self.plan, self.number)


@runtime_checkable
class Objective(Protocol):
    """`Objective(config)`, a torch module: one term of the loss. `config.weight` scales it."""

    Config: ClassVar[type[ObjectiveSettings]]

    def __call__(self, step: Step) -> Tensor:
        """A scalar, not yet weighted."""
        ...


@runtime_checkable
class Recording(Protocol):
    """A sample that is longer than a view of it: a film, say, of which a view shows a window of T frames."""

    def starts(self, frames: int) -> Sequence[int]:
        """Where a window of T = `frames` frames may begin; at least one place.

        Raises `jepa_core.data.CorruptSample` where there is none, or the recording cannot be read.
        """
        ...

    def window(self, start: int, frames: int) -> Tensor:
        """The window that begins at `start`, one of `starts(frames)`: uint8 [T, C, h, w].

        Raises `jepa_core.data.CorruptSample` where it cannot be read.
        """
        ...


class Samples(Protocol):
    """One split of a source: random access, so that a step's samples depend on its number alone."""

    classes: Sequence[str] | None
    """Names of the classes, or None where there are no labels."""
    note: str
    """Where the samples come from and how the split was made, for people."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> tuple[Image | Tensor | Recording, int]:
        """An image (PIL, or uint8 tensor [C, H, W]), or frames (uint8 [T, C, H, W], or a `Recording` of
        them), and its label (-1: none).

        Raises `jepa_core.data.CorruptSample` for one that cannot be read.
        """
        ...


@runtime_checkable
class Source(Protocol):
    """`Source(config)`: where samples come from. Nothing is read or fetched before `split` is called."""

    Config: ClassVar[type[SourceSettings]]

    def split(self, name: str) -> Samples:
        """`train`, `val` (held out from training; choose settings on it) or `test` (final numbers only).

        Raises UserError in one line where the data are missing, empty or unreadable.
        """
        ...


@runtime_checkable
class Probe(Protocol):
    """`Probe(config)`: judges frozen features. Sees features and labels, never the model."""

    Config: ClassVar[type[ComponentSettings]]

    def __call__(
        self, train: tuple[Tensor, Tensor], held_out: tuple[Tensor, Tensor], classes: int
    ) -> Mapping[str, float]:
        """Scores by name, such as `{"top1": .42}`, from (features [n, D], labels [n]) of both splits."""
        ...


@runtime_checkable
class TokenProbe(Protocol):
    """`Probe(config)` that judges the features of every token instead of their mean."""

    Config: ClassVar[type[ComponentSettings]]

    def on_tokens(
        self, train: tuple[Tensor, Tensor], held_out: tuple[Tensor, Tensor], classes: int
    ) -> Mapping[str, float]:
        """Scores by name, such as `{"top1": .42}`, from (features [n, N, D], labels [n]) of both splits."""
        ...


@runtime_checkable
class Tasks(Protocol):
    """What a `Source` adds whose samples can be labelled in more than one way, each a task for the probes."""

    def tasks(self) -> Sequence[str]:
        """Names of the tasks, at least one."""
        ...

    def labelled(self, task: str, split: str, view_shape: Sequence[int]) -> Samples:
        """A split's samples for views of this shape, labelled; the same ones every time.

        Raises UserError as `Source.split` does, and where there is none for views of this shape.
        """
        ...

    def controls(self, model: FeatureModel, role: Role, tokens: bool) -> Sequence[FeatureMap]:
        """Further rows of the probe table: what would give the labels away without the skill that is asked.

        The arguments are those of `jepa_core.evaluate.model_features`.
        """
        ...


@runtime_checkable
class TimmEncoder(Protocol):
    """What an `Encoder` that is a plain ViT adds, so that `jepa export` can write it in other formats."""

    def to_timm(self) -> TimmModel:
        """The timm model with the same features at the image size of the settings."""
        ...


@runtime_checkable
class Format(Protocol):
    """`Format(config)`: one way to write weights down, for `jepa import` and `jepa export`.

    Reading is strict: what a file holds is in the result, or left out by name in its `notes`.
    """

    Config: ClassVar[type[ComponentSettings]]
    suffix: ClassVar[str]
    """How a written file's name ends, with the dot; empty where a folder is written."""

    def recognises(self, source: WeightSource) -> bool:
        """Whether this looks like the format. Raises UserError for a file that nobody could read."""
        ...

    def read(self, source: WeightSource, given: Mapping[str, Any]) -> Weights:
        """The weights, and the settings they ask for; `given` are the user's own settings of the encoder.

        Raises UserError for a file that is not this format, or does not say enough.
        """
        ...

    def write(self, export: Export, path: Path) -> Sequence[str]:
        """Writes a file, or a folder (which it makes); returns the parts that are in it, for people.

        Raises UserError for a model that the format cannot hold.
        """
        ...


KINDS: Mapping[str, str] = {
    "encoder": "jepa_encoders",
    "predictor": "jepa_predictors",
    "masker": "jepa_maskers",
    "target_update": "jepa_target_updates",
    "objective": "jepa_objectives",
    "data": "jepa_data",
    "probe": "jepa_probes",
    "variant": "jepa_variants",
    "format": "jepa_formats",
}
"""Every kind of component and the hook that supplies it."""

SETTINGS: Mapping[str, type[ComponentSettings]] = {
    **dict.fromkeys(KINDS, ComponentSettings),
    "objective": ObjectiveSettings,
    "data": SourceSettings,
}
"""What the `Config` of each kind derives from: what the engine itself reads stands there."""
