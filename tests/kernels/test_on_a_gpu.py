"""EMA, loss and masks compiled and run on a GPU, where there is one: numbers, CUDA graphs, no waiting."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch

from jepa_kernels import EmaPlan, ema_update_, explain_ema, jepa_loss
from jepa_kernels.sampling import OFFICIAL, Multiblock, sample_multiblock
from tests.kernels.loss_cases import KINDS, case, truth

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")

SHAPES = [(3, 4), (), (0, 5), (4096,), (3 * 4096 + 33,), (768, 768), (1000, 3)]


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(8)


@contextmanager
def nothing_waits() -> Iterator[None]:
    """Raises on any synchronisation with the device."""
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


def tensors(dtype=torch.float32):
    return [torch.randn(shape, device="cuda").to(dtype) for shape in SHAPES]


def close(got, expected):
    for a, b in zip(got, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=2e-7, atol=5e-7)


@pytest.mark.parametrize("student_type", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("alpha", [0.0, 0.004, 0.5, 1.0])
def test_ema_equals_lerp(student_type, alpha):
    teacher, student, shadow = tensors(), tensors(student_type), tensors(torch.bfloat16)
    expected = [t.lerp(s.float(), alpha) for t, s in zip(teacher, student, strict=True)]
    ema_update_(EmaPlan(teacher, student, shadow), torch.tensor([alpha], device="cuda"), impl="triton")
    close(teacher, expected)
    assert all(torch.equal(w, t.bfloat16()) for w, t in zip(shadow, teacher, strict=True))


def test_ema_of_views_that_begin_anywhere():
    buffers = [torch.randn(20_000, device="cuda") for _ in range(2)]
    views = [[b[1:4098], b[4099:16_000]] for b in buffers]
    expected, before = buffers[0].lerp(buffers[1], 0.3), buffers[0].clone()
    ema_update_(EmaPlan(*views), 0.3, impl="triton")
    close([buffers[0][1:4098], buffers[0][4099:16_000]], [expected[1:4098], expected[4099:16_000]])
    assert torch.equal(buffers[0][[0, 4098, 16_000]], before[[0, 4098, 16_000]])


def test_auto_takes_triton_and_waits_for_nothing():
    plan, alpha = EmaPlan(tensors(), tensors()), torch.tensor([0.1], device="cuda")
    assert explain_ema(plan)[0].chosen
    ema_update_(plan, alpha)
    with nothing_waits():
        ema_update_(plan, alpha)


def test_a_captured_update_follows_alpha():
    teacher, student = tensors(), tensors()
    alpha, plan = torch.zeros(1, device="cuda"), EmaPlan(teacher, student)
    ema_update_(plan, alpha)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        ema_update_(plan, alpha)
    for value in (0.5, 0.25):
        expected = [t.lerp(s, value) for t, s in zip(teacher, student, strict=True)]
        alpha.fill_(value)
        graph.replay()
        close(teacher, expected)


@pytest.mark.parametrize(
    ("alpha", "message"),
    [(0.5, "alpha must be a tensor on cuda"), ("on device", "call it once before the capture")],
)
def test_what_a_capture_must_not_hold_is_refused(alpha, message):
    plan = EmaPlan(tensors(), tensors())
    alpha_input = torch.ones(1, device="cuda") if alpha == "on device" else alpha
    with pytest.raises(ValueError, match=message), torch.cuda.graph(torch.cuda.CUDAGraph()):
        ema_update_(plan, alpha_input)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_loss_equals_float64(dtype, kind):
    z, h, rows = (x.cuda() for x in case(300, 90, 1280, dtype, torch.float32))
    leaf = z.clone().requires_grad_()
    loss = jepa_loss(leaf, h, rows, kind=kind, impl="triton")
    (gradient_of_z,) = torch.autograd.grad(loss, leaf)
    expected, gradient = truth(z, h, rows, 1.0, 1e-5, kind, True)
    torch.testing.assert_close(loss.double(), expected, rtol=2e-6, atol=0)
    tolerance = {"rtol": 2 * torch.finfo(dtype).eps, "atol": float(gradient.abs().max()) * 4e-6}
    torch.testing.assert_close(gradient_of_z.double(), gradient, **tolerance)
    assert torch.equal(loss, jepa_loss(leaf, h, rows, kind=kind, impl="triton"))


@pytest.mark.parametrize("law", [Multiblock(), OFFICIAL], ids=["exact", "official"])
def test_masks_are_drawn_without_waiting_and_in_a_graph(law):
    generator = torch.Generator("cuda").manual_seed(0)
    sample_multiblock((14, 14), 64, law, generator=generator)
    with nothing_waits():
        sample_multiblock((14, 14), 64, law, generator=generator)
    graph = torch.cuda.CUDAGraph()
    graph.register_generator_state(generator)
    with torch.cuda.graph(graph):
        masks = sample_multiblock((14, 14), 64, law, generator=generator)
    indices = []
    for _ in range(2):
        graph.replay()
        indices.append(masks.contexts.index.clone())
        assert int(masks.contexts.offsets[-1]) > 64 * law.min_keep
    assert not torch.equal(*indices), "each replay draws anew"
