"""What each kind of component must do. Plain typed Python: no hook is called during a step.

A component is a class with a nested `Config` (settings), built once while a run is assembled. The
constructor's arguments are the same for every member of a kind and are given below. Encoders, predictors,
maskers, target updates, objectives and variants whose constructor has a parameter `fields` are also given
what the source's values are, `{"views.image": Field, "condition.actions": Field, …}`, after transforms.

Axes: B samples, S packed tokens, N tokens of the grid, D width, C channels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, runtime_checkable

from torch import Generator, Tensor, nn

from jepa_core.settings.base import ComponentSettings, ObjectiveSettings, SourceSettings
from jepa_core.settings.recipe import Recipe
from jepa_core.settings.roles import ROLES as ROLES
from jepa_core.settings.roles import Role as Role
from jepa_core.types.feature_map import FeatureMap as FeatureMap
from jepa_core.types.feature_map import FeatureModel as FeatureModel
from jepa_core.types.index_set import Grid, IndexSet
from jepa_core.types.mask_plan import MaskPlan
from jepa_core.types.sample import Fields, Kind, Sample
from jepa_core.types.step import Step
from jepa_core.types.tokens import Tokens

if TYPE_CHECKING:
    from PIL.Image import Image


@runtime_checkable
class Encoder(Protocol):
    """`Encoder(config)`, a torch module: one input view to features of the tokens that are kept.

    One whose constructor has a parameter `field` is given the `Field` of its view.
    """

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
        """The shape (without B) of views by the settings, such as `(3, image_size, image_size)`."""
        ...

    def __call__(self, view: Tensor, keep: IndexSet | None = None, layers: Sequence[int] = ()) -> Tokens:
        """Features of the kept tokens (all without `keep`), final norm applied.

        `layers` asks for the outputs of these blocks as well, in `Tokens.layers`, without the norm.
        """
        ...


@runtime_checkable
class ReadsKinds(Protocol):
    """What an `Encoder` adds that reads other views than images and clips; it is built as
    `Encoder(config, field)`, with the description of its view."""

    kinds: ClassVar[tuple[Kind, ...]]
    """The kinds of views that it reads, such as `("ids",)`."""


@runtime_checkable
class Predictor(Protocol):
    """`Predictor(config, encoder, target_width)`, a torch module: predicts the features of hidden tokens."""

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
class SideMasker(Protocol):
    """What a `Masker` adds whose masks follow the samples: it is called with `side={name: value}` as well."""

    side: tuple[str, ...]
    """The names of `Batch.side` that it reads, each a value for the whole batch, first axis B."""


@runtime_checkable
class TargetUpdate(Protocol):
    """`TargetUpdate(config)`: makes the target encoder and updates it from the online encoder."""

    Config: ClassVar[type[ComponentSettings]]

    def make_target(self, encoder: nn.Module) -> nn.Module | None:
        """The target encoder, or None where the online encoder is its own target."""
        ...

    def update(self, target: nn.Module, online: nn.Module, step: int, total_steps: int) -> dict[str, float]:
        """Updates the target after optimizer step `step` (0-based) of `total_steps`; returns what to log."""
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
    """A sample that is longer than one view: of a video, say, a view is a window of T frames."""

    def starts(self, frames: int) -> Sequence[int]:
        """The frames at which a window of T = `frames` frames may begin; at least one.

        Raises `jepa_core.data.CorruptSample` where there is none, or the recording cannot be read.
        """
        ...

    def window(self, start: int, frames: int) -> Tensor | Sample:
        """The window that begins at `start`, one of `starts(frames)`: uint8 [T, C, h, w].

        Or a `Sample` whose first view they are, with what belongs to this window beside it: actions, states,
        sound. Its values replace those of the recording's own sample.
        Raises `jepa_core.data.CorruptSample` where it cannot be read.
        """
        ...


class Samples(Protocol):
    """One split of a source: random access, so that a step's samples depend on its number alone."""

    classes: Sequence[str] | None
    """Names of the classes, or None where there are no labels."""
    note: str
    """Where the samples come from and how the split was made, in words for a reader."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> tuple[Image | Tensor | Recording, int] | Sample:
        """An image (PIL, or uint8 tensor [C, H, W]), or frames (uint8 [T, C, H, W], or a `Recording` of
        them), and its label (-1: none); or a `Sample`, whose values the source describes (`DescribesFields`).

        Raises `jepa_core.data.CorruptSample` for one that cannot be read.
        """
        ...


@runtime_checkable
class Source(Protocol):
    """`Source(config)`: a data set. Nothing is read or downloaded before `split` is called."""

    Config: ClassVar[type[SourceSettings]]

    def split(self, name: str) -> Samples:
        """The split `train`, `val` (held out from training, to choose settings on) or `test` (final scores).

        Raises UserError in one line where the data are missing, empty or unreadable.
        """
        ...


@runtime_checkable
class DescribesFields(Protocol):
    """What a `Source` adds whose samples are more than an image or a clip and a class."""

    def fields(self) -> Fields | None:
        """What each named value is, by its place: `{"views.image": Field("image"), "views.caption": …}`.

        None, where these settings give an image or a clip and a class alone. The first view is the main
        encoder's. Asked for before `split`; reads no more than a header. Raises
        UserError where that is missing.
        """
        ...


@runtime_checkable
class Probe(Protocol):
    """`Probe(config)`: scores frozen features. It gets features and labels, never the model."""

    Config: ClassVar[type[ComponentSettings]]

    def __call__(
        self, train: tuple[Tensor, Tensor], held_out: tuple[Tensor, Tensor], classes: int
    ) -> Mapping[str, float]:
        """Scores by name, such as `{"top1": .42}`, from (features [n, D], labels [n]) of both splits.

        The first stands in the table, or the one that a class attribute `headline` names; its standard error
        is under the same name with `_se`, the probe's own chance level under `chance`. A probe that guesses
        classes returns `jepa_core.evaluate.ProbeScores`, which keeps the guess for each sample,
        and a note that the table shows.
        """
        ...


@runtime_checkable
class TokenProbe(Protocol):
    """`Probe(config)` that scores the features of every token instead of their mean."""

    Config: ClassVar[type[ComponentSettings]]

    def on_tokens(
        self, train: tuple[Tensor, Tensor], held_out: tuple[Tensor, Tensor], classes: int
    ) -> Mapping[str, float]:
        """Scores by name, such as `{"top1": .42}`, from (features [n, N, D], labels [n]) of both splits."""
        ...


@runtime_checkable
class Tasks(Protocol):
    """What a `Source` adds whose samples can be labelled in several ways, each a task for the probes."""

    def tasks(self) -> Sequence[str]:
        """Names of the tasks, at least one."""
        ...

    def labelled_samples(self, task: str, split: str, view_shape: Sequence[int]) -> Samples:
        """A split's samples for views of this shape, with the task's labels; the same at every call.

        Raises UserError as `Source.split` does, and where there are none for views of this shape.
        """
        ...

    def controls(self, model: FeatureModel, role: Role, tokens: bool) -> Sequence[FeatureMap]:
        """Further rows of the probe table: features that give the labels away without solving the task.

        The arguments are those of `jepa_core.evaluate.model_features`.
        """
        ...


class TrainingRun(Protocol):
    """The part of a run that observers may read."""

    folder: Path
    recipe: Recipe
    notes: dict[str, Any]
    """Facts that observers and the trainer add, such as `alarms`, for readers of the finished run."""

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
        """The logged metrics, one dictionary for each line of metrics.jsonl, oldest first."""
        ...
