"""Floating-point operations of a training step, forward and backward: the one counter of the project.

What is counted: matrix products and convolutions, a multiply-add as two operations, as often as the machine
does them (activations that are computed again in the backward pass count again). Element-wise operations
are not counted, and the optimizer has no products.

What is unusual: nothing is multiplied. A dispatch mode sees each product, adds up its size and returns zeros
of the right shape, so that counting a step costs little even for a large model. Packed attention is counted
from the lengths of its sequences and not from the padded products that an implementation may compute, so
that the number does not depend on the implementation.

Axes: S packed tokens, H heads, E dimensions of a head, B samples.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map_only, tree_unflatten
from torch.utils.flop_counter import flop_registry, sdpa_backward_flop, sdpa_flop

from jepa_core.assembly import random_batch, sample_masks
from jepa_core.jepa import JEPA
from jepa_core.nn import attention
from jepa_core.settings.recipe import Recipe
from jepa_core.types.batch import Batch
from jepa_core.types.index_set import IndexSet
from jepa_core.types.mask_plan import MaskPlan
from jepa_kernels import Layout

DRAWS = 256
"""Mask draws over which the expected cost is averaged."""
SEED = 0
"""Of these draws, whatever the run's seed: two runs of one masker have one number."""
COUNTED = 10
"""Of these draws, so many are counted through the model."""
SAMPLES = 2
"""Samples of a counted draw that the model runs on."""
LARGEST_BATCH = 256
"""Masks are drawn for the run's micro-batch, for at most so many samples."""
FIT_ERROR = 1e-3
"""Largest relative error of the fitted costs at which they stand for those of the other draws."""
UNFITTED = 32
"""Draws that are counted through a model whose cost does not follow from the tokens."""


def _cpu_attention(query: Tensor, key: Tensor, value: Tensor, *rest: Any, **named: Any) -> int:
    return int(sdpa_flop(query, key, value))


def _cpu_attention_backward(
    gradient: Tensor, query: Tensor, key: Tensor, value: Tensor, *rest: Any, **named: Any
) -> int:
    return int(sdpa_backward_flop(gradient, query, key, value))


_CPU_ATTENTION: dict[str, Callable[..., int]] = {
    "aten._scaled_dot_product_flash_attention_for_cpu": _cpu_attention,
    "aten._scaled_dot_product_flash_attention_for_cpu_backward": _cpu_attention_backward,
}
"""Dense attention as torch computes it on a CPU, which its own table of formulas lacks; by shapes."""


@dataclass(frozen=True)
class StepCost:
    """What one training step costs for each image, as the mean over draws of masks."""

    flops: float
    """Operations an image."""
    flops_std: float
    """Standard deviation over the draws."""
    context_tokens: float
    """Visible tokens an image, the mean over the context sets; 0 for a method without masks."""
    target_tokens: float
    """Hidden tokens an image, the mean over the target sets; 0 for a method without masks."""
    draws: int
    """Over so many draws of masks; 1 for a method without."""


def expected_cost(model: JEPA, recipe: Recipe, draws: int = DRAWS) -> StepCost:
    """The expected cost of a step for each image: masks of `draws` steps spread evenly over the run.

    Masks are drawn as training draws them, for the whole micro-batch (up to `LARGEST_BATCH`), since maskers
    may cut sets to the smallest of a batch. A few draws are counted through the model; the cost of all
    follows from their tokens (`_token_terms`), in which it is linear. For a variant whose cost is not, more
    draws are counted and their mean is taken. A method without masks costs the same at every step.
    Deterministic for a recipe.
    """
    size = min(recipe.train.micro_batch or recipe.train.batch_size, LARGEST_BATCH)
    count = min(SAMPLES, size)
    batch = random_batch(recipe, model, count, torch.Generator().manual_seed(SEED)).to(
        next(model.parameters()).device
    )
    total = model.total_steps
    steps = [number * total // draws if total >= draws else number for number in range(draws)]
    side: Mapping[str, Any] = {}
    if batch.side:  # masks that follow it are drawn for the whole micro-batch
        side = random_batch(recipe, model, size, torch.Generator().manual_seed(SEED)).side
    plans = [sample_masks(model, size, SEED, step, side=side) for step in steps]
    if plans[0].empty:
        return StepCost(_flops_per_image(model, batch, plans[0]), 0.0, 0.0, 0.0, 1)
    flops = _flops_of_all(model, batch, plans)
    mean, deviation = flops.mean().item(), flops.std(correction=0).item()
    context = _mean_length([tokens for plan in plans for tokens in plan.contexts])
    target = _mean_length([tokens for plan in plans for tokens in plan.targets])
    return StepCost(mean, deviation, context, target, draws)


def _mean_length(sets: Sequence[IndexSet]) -> float:
    return torch.cat([tokens.lengths for tokens in sets]).double().mean().item() if sets else 0.0


def _flops_of_all(model: JEPA, batch: Batch, plans: Sequence[MaskPlan]) -> Tensor:
    """float64 [draws]: operations an image with each of these plans."""
    parts = [_first_samples(plan, batch.batch_size) for plan in plans]
    by_tokens = sorted(range(len(plans)), key=lambda i: sum(s.total for s in parts[i].contexts))
    places = torch.linspace(0, len(plans) - 1, min(COUNTED, len(plans))).long().tolist()
    chosen = [by_tokens[place] for place in places]
    counted = torch.tensor([_flops_per_image(model, batch, parts[i]) for i in chosen], dtype=torch.float64)
    terms = torch.stack([_token_terms(parts[i]) for i in chosen])
    scale = terms.amax(0).clamp(min=1)
    weights = torch.linalg.lstsq(terms / scale, counted, driver="gelsd").solution
    error = ((terms / scale) @ weights / counted - 1).abs().max()
    if error > FIT_ERROR:
        subset = parts[:: max(1, len(parts) // UNFITTED)]
        return torch.tensor([_flops_per_image(model, batch, part) for part in subset], dtype=torch.float64)
    return torch.stack([_token_terms(plan) for plan in plans]) / scale @ weights


def _token_terms(plan: MaskPlan) -> Tensor:
    """float64 [7], means over samples: what the products of encoders and predictors are linear in.

    A constant; tokens of the contexts, of the targets, and of the pairs (context and target together); the
    squares of the contexts', the targets' and the pairs' lengths, for attention. `FIT_ERROR` finds a model
    whose cost is not linear in these.
    """
    contexts = [s.lengths.double() for s in plan.contexts]
    targets = [s.lengths.double() for s in plan.targets]
    pairs = [(contexts[i], targets[j]) for i, j in plan.pairs]
    zero = torch.zeros_like((contexts + targets)[0])
    terms = (
        zero + 1,
        sum(contexts, zero),
        sum(targets, zero),
        sum((c + t for c, t in pairs), zero),
        sum((c.square() for c in contexts), zero),
        sum((t.square() for _, t in pairs), zero),
        sum(((c + t).square() for c, t in pairs), zero),
    )
    return torch.stack([term.mean() for term in terms])


def _flops_per_image(model: JEPA, batch: Batch, plan: MaskPlan) -> float:
    return step_flops(model, batch, plan.to(next(model.parameters()).device)) / batch.batch_size


def step_flops(model: JEPA, batch: Batch | Tensor, plan: MaskPlan) -> int:
    """Operations of the model's forward and backward pass on one batch with these masks.

    The model's weights and gradients stay as they are. Batch and plan are on the model's device.
    """
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]

    def forward_and_backward() -> None:
        torch.autograd.grad(model(batch, plan).loss, trained, allow_unused=True)

    with torch.random.fork_rng(devices=[]):
        return count_flops(forward_and_backward)


def count_flops(call: Callable[[], Any]) -> int:
    """Operations of one call. Products give zeros while it runs, so its results mean nothing."""
    with ProductCounter() as counter, _attention_by_lengths(counter):
        call()
    return counter.total


class ProductCounter(TorchDispatchMode):
    """Adds up the operations of every product below autograd, and returns zeros in place of its result."""

    def __init__(self) -> None:
        super().__init__()
        self.total = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """One operation: counted and replaced if it is a product, else computed."""
        kwargs = kwargs or {}
        packet = func._overloadpacket
        if str(packet) in _CPU_ATTENTION:
            self.total += _CPU_ATTENTION[str(packet)](*args, **kwargs)
        elif packet in flop_registry:
            result = func(*args, **kwargs) if "out" in kwargs else _zeros(func, args, kwargs)
            formula: Any = flop_registry[packet]
            self.total += int(formula(*args, **kwargs, out_val=result))
            return result
        return func(*args, **kwargs)


def _zeros(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Zeros with the shapes and strides that the operation's results would have."""
    first = next(value for value in args if isinstance(value, Tensor))
    leaves, structure = tree_flatten((args, kwargs))
    empty = _results(func, structure, tuple(map(_Leaf.of, leaves)))
    return tree_map_only(Tensor, lambda value: torch.zeros_like(value, device=first.device), empty)


@dataclass(frozen=True)
class _Leaf:
    """An argument of an operation: a tensor's layout, or a value with its type (1 and 1.0 are two)."""

    layout: tuple[Any, ...] | None
    kind: type
    value: Any

    @classmethod
    def of(cls, value: Any) -> _Leaf:
        """An argument without its data."""
        if isinstance(value, Tensor):
            return cls((value.shape, value.stride(), value.dtype), Tensor, None)
        return cls(None, type(value), value)

    def argument(self) -> Any:
        """The value, or a tensor of this layout without data."""
        if self.layout is None:
            return self.value
        shape, stride, dtype = self.layout
        return torch.empty_strided(shape, stride, dtype=dtype, device="meta")


@lru_cache(maxsize=4096)
def _results(func: Any, structure: Any, leaves: tuple[_Leaf, ...]) -> Any:
    """The operation's results without data; blocks of one width repeat the same operations."""
    args, kwargs = tree_unflatten([leaf.argument() for leaf in leaves], structure)
    return func(*args, **kwargs)


class _CountedAttention(torch.autograd.Function):
    """Stands in for packed attention, [S, 3, H, E] to [S, H, E]: adds its operations and mixes nothing.

    Scores and their use are two products of the same size, 2·q·k·H·E each; the backward pass has four.
    """

    @staticmethod
    def forward(ctx: Any, qkv: Tensor, flops: int, counter: ProductCounter) -> Tensor:
        """Counts the forward pass."""
        counter.total += flops
        ctx.flops, ctx.counter = flops, counter
        return qkv.mean(1)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        """Counts the backward pass."""
        ctx.counter.total += 2 * ctx.flops
        return gradients[0][:, None].expand(-1, 3, -1, -1).contiguous(), None, None


@contextmanager
def _attention_by_lengths(counter: ProductCounter) -> Iterator[None]:
    """While it is entered, packed attention is counted from its layout and not computed."""

    def count_products(qkv: Tensor, layout: Layout, **named: Any) -> Any:
        _, queries, _, first, _, second = layout.seg.cpu().long().unbind(1)
        pairs = int((queries * (first + second)).sum())
        return _CountedAttention.apply(qkv, 4 * pairs * qkv.shape[2] * qkv.shape[3], counter)

    real = attention.block_attention
    attention.block_attention = count_products
    try:
        yield
    finally:
        attention.block_attention = real


def _first_samples(plan: MaskPlan, count: int) -> MaskPlan:
    """The plan of a batch's first `count` samples; a further view may have several crops of each."""
    samples = plan.batch_size or 1

    def cut(tokens: IndexSet) -> IndexSet:
        own = count * (tokens.batch_size // samples)
        return IndexSet.from_lengths(tokens.index[: int(tokens.offsets[own])], tokens.lengths[:own])

    return plan.map(cut)
