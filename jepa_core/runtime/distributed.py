"""Several processes that train one run together, as torchrun starts them; or one, which is the same code.

    torchrun --nproc-per-node 8 --no-python -- jepa train ijepa/in1k_vith14 data.path=imagenet

What is unusual: a step's micro-batches *are* ranks (`train.micro_batch`), whichever process computes them.
Eight processes with one each and one process with eight see the same samples, crops and masks, and a run
may go on with another number of processes. Gradients are averaged by torch's DistributedDataParallel. What is
decided once (a signal, the folder) travels over a gloo group beside the devices' own.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch import distributed as dist

from jepa_core.errors import UserError
from jepa_core.runtime.launch import Launch, read_launch
from jepa_core.runtime.lost_process import Member, name_lost_process

T = TypeVar("T")


@dataclass(frozen=True)
class Ranks:
    """This process among those of the run. The default is a process alone, for which nothing is sent."""

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0
    """The rank among the processes of this machine: the number of its GPU."""
    control: Any = None
    """A gloo group for what lies on the CPU."""
    members: tuple[Member, ...] = ()
    """Who the processes are, by rank; empty for a process alone."""

    @property
    def is_main(self) -> bool:
        """Whether this process writes the run's folder and speaks."""
        return self.rank == 0

    def barrier(self) -> None:
        """Returns when every process has come here."""
        if self.world_size > 1:
            dist.barrier(group=self.control)

    def broadcast(self, value: T) -> T:
        """The main process's value."""
        box = [value]
        if self.world_size > 1:
            dist.broadcast_object_list(box, src=0, group=self.control)
        return box[0]

    def run_on_main(self, work: Callable[[], T]) -> T:
        """What `work` returns in the main process, for all; its UserError or OSError is raised in all."""
        if self.world_size == 1:
            return work()
        result: Any = None
        error: Exception | None = None
        if self.is_main:
            try:
                result = work()
            except (UserError, OSError) as problem:
                error = problem
        result, error = self.broadcast((result, error))
        if error is not None:
            raise error
        value: T = result
        return value

    @contextmanager
    def lost_process_in_error(self) -> Iterator[None]:
        """Turns the failure of a collective call into a UserError that names the process that is gone."""
        try:
            yield
        except RuntimeError as error:
            if self.world_size == 1:
                raise
            text = name_lost_process(self.members, self.rank, error)
            if text is None:
                raise
            raise UserError(text) from error

    def gather(self, value: T) -> list[T]:
        """Every process's value."""
        values: list[Any] = [value] * self.world_size
        if self.world_size > 1:
            dist.all_gather_object(values, value, group=self.control)
        return values

    def any(self, flag: bool) -> bool:
        """Whether the flag is up in any process."""
        up = torch.tensor([flag], dtype=torch.int32)
        if self.world_size > 1:
            dist.all_reduce(up, dist.ReduceOp.MAX, group=self.control)
        return bool(up)

    def mean(self, values: Tensor) -> Tensor:
        """The average over the processes, without gradient, on the values' device."""
        if self.world_size > 1:
            values = values.detach().clone()
            dist.all_reduce(values)
            values /= self.world_size
        return values

    def wrap(self, model: nn.Module) -> nn.Module:
        """The model, with its gradients averaged over the processes where there are several."""
        if self.world_size == 1:
            return model
        with warnings.catch_warnings():  # later versions of torch have another name for broadcast_buffers
            warnings.simplefilter("ignore", FutureWarning)
            return nn.parallel.DistributedDataParallel(
                model, broadcast_buffers=False, gradient_as_bucket_view=True
            )


def world_size() -> int:
    """Processes that train together."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def all_reduce_sum(values: Tensor) -> Tensor:
    """The sum over the processes, with gradient: for loss terms that judge the samples of all of them.

    Each process then has the whole term as its loss, so the gradient of a sum is the sum of everyone's;
    with the gradients averaged afterwards, as `wrap` does, it is that of the term.
    """
    return _Summed.apply(values) if world_size() > 1 else values


class _Summed(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        total = values.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        total = gradient.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total


def all_gather_rows(rows: Tensor) -> Tensor:
    """The rows [S, ...] of all processes, one process after the other, with gradient: [sum of their S, ...].

    Processes may have different numbers of rows; the host reads the numbers. For loss terms that contrast the
    samples of all processes: as with `all_reduce_sum`, each process then has the whole term as its loss, and
    the gradient of a row is the sum of all processes' gradients for it.
    """
    if world_size() == 1:
        return rows
    counts = torch.zeros(world_size(), dtype=torch.long, device=rows.device)
    counts[dist.get_rank()] = len(rows)
    dist.all_reduce(counts)
    return _Gathered.apply(rows, counts.tolist())


class _Gathered(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor, counts: list[int]) -> Tensor:
        ctx.counts = counts
        own = rows.new_zeros(max(counts), *rows.shape[1:])  # gloo gathers tensors of one shape
        own[: len(rows)] = rows
        parts = [torch.empty_like(own) for _ in counts]
        dist.all_gather(parts, own)
        return torch.cat([part[:count] for part, count in zip(parts, counts, strict=True)])

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        total = gradient.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total.split(ctx.counts)[dist.get_rank()], None


def is_main() -> bool:
    """Whether this process, before or after it joins the others, is the first one, or alone."""
    return os.environ.get("RANK", "0").strip() in ("", "0")


@contextmanager
def init_distributed(device: str) -> Iterator[Ranks]:
    """Joins the processes that torchrun started (RANK, WORLD_SIZE, LOCAL_RANK); alone where it did not.

    `device` is the setting `train.device`: `cpu` joins by gloo, anything else by NCCL where there are GPUs.
    Raises UserError for variables that make no sense, others that cannot be joined, and a process that is
    lost while they work together.
    """
    launch = read_launch(os.environ)
    if launch is None:
        yield Ranks()
        return
    on_gpu = device != "cpu" and torch.cuda.is_available()
    if on_gpu:
        _set_gpu(launch)
    _join(launch, "nccl" if on_gpu else "gloo")
    try:
        control = dist.new_group(backend="gloo") if on_gpu else None
        ranks = Ranks(launch.rank, launch.world_size, launch.local_rank, control)
        ranks = Ranks(*launch, control, tuple(ranks.gather(Member.of_this_process())))
        with ranks.lost_process_in_error():
            yield ranks
    finally:
        with suppress(RuntimeError):  # of a process that is lost
            dist.destroy_process_group()


def _set_gpu(launch: Launch) -> None:
    count = torch.cuda.device_count()
    if launch.local_rank >= count:
        raise UserError(f"LOCAL_RANK is {launch.local_rank}, but there are {count} GPUs here")
    torch.cuda.set_device(launch.local_rank)


def _join(launch: Launch, backend: str) -> None:
    """Raises UserError where the other processes cannot be reached."""
    try:
        dist.init_process_group(backend)
    except (RuntimeError, ValueError, OSError) as error:
        where = f"{os.environ.get('MASTER_ADDR')}:{os.environ.get('MASTER_PORT')}"
        text = str(error).partition("\n")[0]
        raise UserError(
            f"process {launch.rank} of {launch.world_size} cannot join the others at {where}: {text}"
        ) from error
