"""What each kind of component must do. Plain typed Python: no hook is called during a step.

A component is a class with a nested `Config` (settings), built once while a run is assembled. The
constructor's arguments are the same for every member of a kind and are given below.

Axes: B samples, S packed tokens, N tokens of the grid, D width, C channels.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol, get_args, runtime_checkable

from torch import Generator, Tensor, nn

from jepa_core.settings.base import ComponentSettings, ObjectiveSettings, SourceSettings
from jepa_core.settings.recipe import Recipe
from jepa_core.types.index_set import Grid, IndexSet
from jepa_core.types.mask_plan import MaskPlan
from jepa_core.types.step import Step
from jepa_core.types.tokens import Tokens

if TYPE_CHECKING:
    from PIL.Image import Image


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


Role = Literal["target", "context"]
"""Which of a model's two encoders."""
ROLES: tuple[Role, ...] = get_args(Role)


class FeatureModel(Protocol):
    """What a model offers to whatever judges its features."""

    def features(
        self, images: Tensor, role: Role = "target", pool: Literal["mean"] | None = "mean"
    ) -> Tensor:
        """[B, D] of views [B, ...]; [B, N, D] with `pool=None`."""
        ...


@dataclass(frozen=True)
class FeatureMap:
    """One way from views [B, C, H, W], or of another rank, to features, and the words that say what it is."""

    name: str
    """Short, unique in a table: `trained`."""
    description: str
    """Which network, which role, which pooling: `target encoder, mean over tokens`."""
    encode: Callable[[Tensor], Tensor]
    """Gives [B, D], or the features of every token [B, N, D]."""
    module: nn.Module | None = None
    """Put in evaluation mode while features are taken, and back afterwards."""
    pool: Literal["mean", "flatten"] = "mean"
    """How one vector is made of the features of every token, for probes that take one."""

    def pooled(self, values: Tensor) -> Tensor:
        """[n, D] as it is; of [n, N, D] the mean over tokens, or all of them in a row, [n, N·D]."""
        if values.dim() == 2:
            return values
        return values.mean(1) if self.pool == "mean" else values.flatten(1)


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


class TrainingRun(Protocol):
    """What an observer may read of a run."""

    folder: Path
    recipe: Recipe
    notes: dict[str, Any]
    """What observers leave for whoever looks at the run afterwards, such as `alarms`."""

    @property
    def model(self) -> Any:
        """The model in training, a `jepa_core.JEPA`."""
        ...

    @property
    def samples(self) -> Samples:
        """The training split."""
        ...

    @property
    def step(self) -> int:
        """Optimizer steps done so far."""
        ...

    @property
    def total_steps(self) -> int:
        """Optimizer steps of the whole run."""
        ...

    def metrics(self) -> list[dict[str, Any]]:
        """What has been logged, a dictionary a line, oldest first."""
        ...
