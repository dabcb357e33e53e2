"""A mask plan: the context and target sets of one batch, and which target is predicted from which context."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from jepa_core.errors import unknown
from jepa_core.types.batch import Device
from jepa_core.types.index_set import IndexSet


@dataclass(frozen=True, eq=False)
class MaskPlan:
    """The visible (context) and the predicted (target) tokens of one batch.

    `pairs` lists (context i, target j) in the order of the predictor's output. Left out, every target
    is predicted from every context, target-major: I-JEPA's order (row = ((j · contexts) + i) · B + b).
    A plan may be empty: a method without masks. It speaks of the first view; `others` are the plans of other
    views by their names, each on a grid of its own.
    """

    contexts: tuple[IndexSet, ...] = ()
    targets: tuple[IndexSet, ...] = ()
    pairs: tuple[tuple[int, int], ...] = None  # type: ignore[assignment]  # filled in below
    others: Mapping[str, MaskPlan] = field(default_factory=dict)

    def __post_init__(self) -> None:
        contexts, targets = tuple(self.contexts), tuple(self.targets)
        pairs = self.pairs
        if pairs is None:
            pairs = tuple((i, j) for j in range(len(targets)) for i in range(len(contexts)))
        for i, j in pairs:
            if not (0 <= i < len(contexts) and 0 <= j < len(targets)):
                raise ValueError(
                    f"pair {(i, j)} is outside {len(contexts)} contexts and {len(targets)} targets"
                )
        sizes = {s.batch_size for s in (*contexts, *targets)}
        if len(sizes) > 1:
            raise ValueError(f"the sets of a plan speak of one batch; got batch sizes {sorted(sizes)}")
        for name, value in (("contexts", contexts), ("targets", targets), ("pairs", tuple(pairs))):
            object.__setattr__(self, name, value)

    @property
    def empty(self) -> bool:
        """True for a method without masks of the first view."""
        return len(self.contexts) + len(self.targets) == 0

    @property
    def batch_size(self) -> int | None:
        """B, or None for an empty plan."""
        return next((s.batch_size for s in (*self.contexts, *self.targets)), None)

    def check_batch(self, samples: int) -> None:
        """Raises ValueError for a plan of another number of samples than B; a further view has V·B crops."""
        if self.batch_size not in (None, samples):
            raise ValueError(f"the plan masks {self.batch_size} samples; the batch has {samples}")
        for view, plan in self.others.items():
            if plan.batch_size is not None and plan.batch_size % samples:
                masked = f"the plan of the view {view!r} masks {plan.batch_size} samples"
                raise ValueError(f"{masked}; the batch has {samples}")

    def of(self, view: str) -> MaskPlan:
        """The plan of another view. Raises UserError for a view without one."""
        if view not in self.others:
            raise unknown("plan of the view", view, self.others)
        return self.others[view]

    def to(self, device: Device, non_blocking: bool = False) -> MaskPlan:
        """The same plan on another device."""
        return self.map(lambda own: own.to(device, non_blocking))

    def pin_memory(self) -> MaskPlan:
        """The same plan in page-locked memory; called by torch's DataLoader."""
        return self.map(lambda own: own.pin_memory())

    def map(self, change: Callable[[IndexSet], IndexSet]) -> MaskPlan:
        """The plan with each of its sets changed: contexts, then targets, then those of the other views."""
        contexts, targets = tuple(map(change, self.contexts)), tuple(map(change, self.targets))
        others = {name: plan.map(change) for name, plan in self.others.items()}
        return MaskPlan(contexts, targets, self.pairs, others)
