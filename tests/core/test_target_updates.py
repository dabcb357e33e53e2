"""Target encoders: how they are made, and how each update moves them."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.distributed.tensor import DTensor, Partial, Replicate, Shard, distribute_tensor

from jepa_core import build_model, load_recipe
from jepa_core.runtime.distributed import Ranks
from jepa_core.target_updates import Ema, Frozen, NoTarget, PeriodicCopy
from jepa_core.testing.process_pair import on_both
from jepa_kernels import EmaPlan


def online() -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Linear(5, 2))


def disturb(module: nn.Module, seed: int) -> None:
    """Another value for every parameter and every floating buffer."""
    generator = torch.Generator().manual_seed(seed)
    for tensor in [*module.parameters(), *module.buffers()]:
        if tensor.is_floating_point():
            tensor.data += torch.randn(tensor.shape, generator=generator)


def state(module: nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.clone().double() for name, value in module.state_dict().items()}


def assert_same(mine: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> None:
    torch.testing.assert_close(mine, theirs, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("update", [Ema(Ema.Config(name="ema")), Frozen(Frozen.Config(name="frozen")),
                                    PeriodicCopy(PeriodicCopy.Config(name="copy"))])  # fmt: skip
def test_a_target_is_an_equal_copy_without_gradient_and_without_shared_memory(update) -> None:
    encoder = online()
    target = update.make_target(encoder)
    assert_same(state(target), state(encoder))
    assert not any(p.requires_grad for p in target.parameters())
    assert all(p.requires_grad for p in encoder.parameters())
    disturb(encoder, 1)
    assert not torch.equal(target[0].weight, encoder[0].weight)


def test_ema_is_the_formula_in_float64_step_after_step() -> None:
    encoder, ema = online(), Ema(Ema.Config(name="ema", momentum=(0.9, 1.0)))
    target = ema.make_target(encoder)
    expected = state(target)
    for step in range(5):
        disturb(encoder, step)
        m = 0.9 + 0.1 * step / 5
        now = state(encoder)
        for name, _ in encoder.named_parameters():
            expected[name] = m * expected[name] + (1 - m) * now[name]
        for name, _ in encoder.named_buffers():
            expected[name] = now[name]
        assert ema.update(target, encoder, step, 5) == {"momentum": pytest.approx(m)}
    assert_same(state(target), expected)


@pytest.mark.parametrize(("shape", "middle"), [("linear", 0.998), ("cosine", 0.998), ("constant", 0.996)])
def test_momentum_schedule(shape: str, middle: float) -> None:
    ema = Ema(Ema.Config(name="ema", shape=shape))  # type: ignore[arg-type]
    assert ema.momentum(0, 100) == 0.996
    assert ema.momentum(50, 100) == pytest.approx(middle)
    assert ema.momentum(100, 100) == pytest.approx(0.996 if shape == "constant" else 1.0)


def replaced(module: nn.Module) -> None:
    """New storage for every tensor, at another address."""
    module.load_state_dict({k: v.clone() for k, v in module.state_dict().items()}, assign=True)


def moved(module: nn.Module) -> None:
    module.to(torch.float64).to(torch.float32)


def one_layer(module: nn.Module) -> None:
    """The last layer alone is another one; the first parameter stays where it was."""
    module[2] = nn.Linear(5, 2).requires_grad_(False)  # type: ignore[operator]


@pytest.mark.parametrize("change", [replaced, moved, one_layer])
@pytest.mark.parametrize("whose", ["target", "online"])
def test_ema_follows_tensors_that_moved_after_the_first_update(change, whose: str) -> None:
    encoder, ema = online(), Ema(Ema.Config(name="ema", momentum=(0.5, 0.5)))
    target = ema.make_target(encoder)
    ema.update(target, encoder, 0, 1)
    change(target if whose == "target" else encoder)
    disturb(encoder, 3)
    before, now = state(target), state(encoder)
    ema.update(target, encoder, 0, 1)
    expected = {name: 0.5 * before[name] + 0.5 * now[name] for name, _ in encoder.named_parameters()}
    assert_same({name: state(target)[name] for name in expected}, expected)


def test_no_target_is_none() -> None:
    assert NoTarget(NoTarget.Config(name="none")).make_target(online()) is None


def test_frozen_never_moves() -> None:
    encoder, frozen = online(), Frozen(Frozen.Config(name="frozen"))
    target = frozen.make_target(encoder)
    before = state(target)
    disturb(encoder, 1)
    assert frozen.update(target, encoder, 0, 10) == {}
    assert_same(state(target), before)


def test_a_periodic_copy_moves_every_so_many_steps_and_not_between() -> None:
    encoder, copy = online(), PeriodicCopy(PeriodicCopy.Config(name="copy", every=3))
    target = copy.make_target(encoder)
    said = []
    for step in range(6):
        disturb(encoder, step)
        said.append(copy.update(target, encoder, step, 6)["target_copied"])
        equal = all(torch.equal(a, b) for a, b in zip(target.buffers(), encoder.buffers(), strict=True))
        assert (equal and torch.equal(target[0].weight, encoder[0].weight)) == (step in (2, 5))
    assert said == [0, 0, 1, 0, 0, 1]


@pytest.mark.parametrize("momentum", [(-0.1, 1.0), (0.9, 1.1)])
def test_momentum_lies_between_0_and_1(momentum: tuple[float, float]) -> None:
    with pytest.raises(ValueError, match="momentum"):
        Ema.Config(name="ema", momentum=momentum)


def update_sharded_teacher(ranks: Ranks, whole: bool) -> tuple[int, int, float]:
    """How many of the teacher's tensors move, of how many, and the largest error."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    model = build_model(load_recipe("ijepa/demo"))
    before = {name: value.clone() for name, value in model.target_encoder.named_parameters()}
    with torch.no_grad():
        for parameter in model.encoder.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    after = {name: value.clone() for name, value in model.encoder.named_parameters()}
    mesh = init_device_mesh("cpu", (ranks.world_size,))
    for encoder in (model.encoder, model.target_encoder):
        if not whole:
            for block in encoder.blocks:
                fully_shard(block, mesh=mesh)
        fully_shard(encoder, mesh=mesh)
    ema = Ema(Ema.Config(name="ema", momentum=(0.5, 0.5)))
    for _ in range(2):
        ema.update(model.target_encoder, model.encoder, 0, 10)
    moved, error = 0, 0.0
    for name, parameter in model.target_encoder.named_parameters():
        assert isinstance(parameter, DTensor)
        full = parameter.full_tensor().detach()
        expected = before[name] + 0.75 * (after[name] - before[name])
        moved += int(not torch.equal(full, before[name]))
        error = max(error, float((full - expected).abs().max()))
    return moved, len(before), error


@pytest.mark.parametrize("whole", [True, False], ids=["as one", "block by block"])
def test_every_tensor_of_a_sharded_teacher_moves(whole: bool) -> None:
    for moved, count, error in on_both(update_sharded_teacher, [whole, whole]):
        assert (moved, count) == (52, 52)
        assert error < 1e-5


def refuse_other_sharding(ranks: Ranks, _: None) -> list[str]:
    """What is said of teachers and students that are sharded differently."""
    from torch.distributed.device_mesh import init_device_mesh

    mesh = init_device_mesh("cpu", (ranks.world_size,))
    rows, columns = (distribute_tensor(torch.ones(4, 4), mesh, [Shard(side)]) for side in (0, 1))
    copies = distribute_tensor(torch.ones(4, 4), mesh, [Replicate()])
    summands = DTensor.from_local(torch.ones(4, 4), mesh, [Partial()])
    texts = []
    pairs = [
        (rows, columns),
        (rows, copies),
        (rows, torch.ones(4, 4)),
        (torch.ones(4, 4), rows),
        (summands,) * 2,
    ]
    for teacher, student in pairs:
        try:
            EmaPlan([teacher], [student])
        except ValueError as error:
            texts.append(str(error))
    return texts


def test_a_teacher_that_is_sharded_otherwise_is_refused() -> None:
    texts, _ = on_both(refuse_other_sharding, [None, None])
    assert len(texts) == 5
    assert texts[0].startswith("tensor 0: teacher is sharded as ['S(0)'] over ")
    assert ", student as ['S(1)'] over " in texts[0]
    assert ", student as ['R'] over " in texts[1]
    assert texts[2] == "tensor 0: the teacher is sharded, the student not sharded; expected both alike"
    assert texts[3] == "tensor 0: the teacher is not sharded, the student sharded; expected both alike"
    assert texts[4].startswith("tensor 0: its shards are summands")
