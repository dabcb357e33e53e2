"""The Triton EMA, run by Triton's interpreter: bit by bit as fp32 lerp, allowing one fused multiply-add."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.library import opcheck

from jepa_kernels import EmaPlan, ema_update_, explain_ema, triton_ema
from jepa_kernels.triton_ema import CHUNK

SHAPES = [(3, 4), (7,), (), (0, 5), (CHUNK,), (2 * CHUNK + 33,), (2, CHUNK // 2), (CHUNK - 1,)]
ALPHAS = [0.0, 0.004, 0.3, 0.5, 0.7, 1.0]


def tensors(dtype=torch.float32):
    return [torch.randn(shape).to(dtype) for shape in SHAPES]


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(5)


def ulps(got, exact):
    """Distance of two fp32 tensors in units in the last place."""
    a, b = (x.view(torch.int32).long() for x in (got, exact))
    ordered = [torch.where(x < 0, -(x & 0x7FFFFFFF), x) for x in (a, b)]
    return int((ordered[0] - ordered[1]).abs().max()) if got.numel() else 0


def apply_lerp(teacher, student, alpha):
    return [t.clone().lerp_(s.float(), alpha) for t, s in zip(teacher, student, strict=True)]


@pytest.mark.parametrize("alpha", ALPHAS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("shadowed", [False, True])
def test_equals_lerp(dtype, alpha, shadowed):
    teacher, student = tensors(), tensors(dtype)
    shadow = tensors(torch.bfloat16) if shadowed else None
    expected = apply_lerp(teacher, student, alpha)
    largest = max(float(x.abs().max()) for x in [*teacher, *student] if x.numel())
    ema_update_(EmaPlan(teacher, student, shadow), alpha, impl="triton")
    for got, exact in zip(teacher, expected, strict=True):
        torch.testing.assert_close(got, exact, rtol=0, atol=largest * 2**-24)
    for copy, new in zip(shadow or [], teacher, strict=False):
        assert torch.equal(copy, new.bfloat16()), "rounded to nearest even, as torch does"


@pytest.mark.parametrize("alpha", [0.004, 0.3, 0.7])
def test_is_one_unit_from_lerp_where_nothing_cancels(alpha):
    """All numbers positive, so the sum is no smaller than its parts."""
    teacher, student = ([x.abs() + 1 for x in tensors()] for _ in range(2))
    expected = apply_lerp(teacher, student, alpha)
    ema_update_(EmaPlan(teacher, student), alpha, impl="triton")
    assert max(ulps(got, exact) for got, exact in zip(teacher, expected, strict=True)) <= 1


def test_a_teacher_equal_to_its_student_stays_bit_equal():
    student = tensors()
    teacher = [s.clone() for s in student]
    plan = EmaPlan(teacher, student)
    for alpha in (0.004, 0.1, 0.6):
        ema_update_(plan, alpha, impl="triton")
    assert all(torch.equal(a, b) for a, b in zip(teacher, student, strict=True))


@pytest.mark.parametrize(("alpha", "which"), [(0.0, "teacher"), (1.0, "student")])
def test_both_ends_are_exact(alpha, which):
    teacher, student = tensors(), tensors()
    expected = [x.clone() for x in (teacher if which == "teacher" else student)]
    ema_update_(EmaPlan(teacher, student), alpha, impl="triton")
    assert all(torch.equal(a, b) for a, b in zip(teacher, expected, strict=True))


@settings(max_examples=25, deadline=None, derandomize=True)
@given(
    sizes=st.lists(st.sampled_from([0, 1, 5, CHUNK - 1, CHUNK, CHUNK + 1]), max_size=4),
    shift=st.integers(0, 5),
    student=st.sampled_from([torch.float32, torch.bfloat16]),
)
def test_views_that_begin_anywhere(sizes, shift, student):
    """All tensors cut from one buffer; what lies between and beside them stays as it was."""
    torch.manual_seed(0)
    gap = 3
    total = sum(sizes) + gap * (len(sizes) + 1) + shift
    buffers = torch.randn(total), torch.randn(total).to(student), torch.randn(total).bfloat16()
    starts = [shift + gap * (i + 1) + sum(sizes[:i]) for i in range(len(sizes))]
    lists = [[b[a : a + n] for a, n in zip(starts, sizes, strict=True)] for b in buffers]
    touched = torch.zeros(total, dtype=torch.bool)
    for start, size in zip(starts, sizes, strict=True):
        touched[start : start + size] = True
    before = [b.clone() for b in buffers]
    ema_update_(EmaPlan(*lists), 0.25, impl="triton")
    assert torch.equal(buffers[0][~touched], before[0][~touched])
    assert torch.equal(buffers[2][~touched], before[2][~touched])
    expected = before[0].lerp(before[1].float(), 0.25)[touched]
    torch.testing.assert_close(buffers[0][touched], expected, rtol=2e-7, atol=2e-7)
    assert torch.equal(buffers[2][touched], buffers[0].bfloat16()[touched])


def test_students_of_several_types_take_a_launch_each():
    teacher, student = tensors(), tensors()
    student[1::2] = [s.bfloat16() for s in student[1::2]]
    expected = apply_lerp(teacher, student, 0.1)
    plan = EmaPlan(teacher, student)
    assert len(plan.tables()) == 2
    ema_update_(plan, 0.1, impl="triton")
    for got, exact in zip(teacher, expected, strict=True):
        torch.testing.assert_close(got, exact, rtol=2e-7, atol=2e-7)


def test_alpha_is_read_when_the_kernel_runs():
    """The same tensor with another value, as a captured graph would see it."""
    teacher, student, alpha = [torch.zeros(9)], [torch.ones(9)], torch.tensor([0.5])
    plan = EmaPlan(teacher, student)
    tables = plan.tables()
    for value in (0.5, 0.25):
        alpha.fill_(value)
        triton_ema.launch(tables, alpha)
    assert teacher[0].tolist() == [0.625] * 9


def test_the_table_is_built_once_and_again_where_memory_moved():
    teacher, student = [torch.zeros(8)], [torch.ones(8)]
    plan = EmaPlan(teacher, student)
    first = plan.tables()
    assert plan.tables() is first
    plan.teacher[0].set_(torch.full((8,), 3.0))
    ema_update_(plan, 1.0, impl="triton")
    assert plan.tables() is not first
    assert plan.teacher[0].tolist() == [1.0] * 8
    assert teacher[0].tolist() == [0.0] * 8


@pytest.mark.filterwarnings("ignore:invalid value")
def test_nan_and_infinity_go_the_way_of_lerp():
    odd = torch.tensor([float("nan"), float("inf"), -float("inf"), 3e38, 1e-42, 0.0])
    teacher, student = odd.repeat_interleave(6), odd.repeat(6)
    expected = teacher.lerp(student, 0.25)
    shadow = torch.zeros(36).bfloat16()
    ema_update_(EmaPlan([teacher], [student], [shadow]), 0.25, impl="triton")
    torch.testing.assert_close(teacher, expected, rtol=2e-7, atol=2e-45, equal_nan=True)
    torch.testing.assert_close(shadow, teacher.bfloat16(), rtol=0, atol=0, equal_nan=True)


def test_an_empty_plan_launches_nothing():
    ema_update_(EmaPlan([], []), 0.5, impl="triton")
    ema_update_(EmaPlan([torch.zeros(0)], [torch.zeros(0)]), 0.5, impl="triton")


def test_a_student_that_is_not_contiguous_is_refused():
    plan = EmaPlan([torch.zeros(2, 3)], [torch.zeros(3, 2).T])
    with pytest.raises(ValueError, match="it needs contiguous students, and one is not"):
        ema_update_(plan, 0.5, impl="triton")
    assert explain_ema(plan)[1].chosen, "auto takes foreach"


def test_a_student_of_another_type_is_refused():
    plan = EmaPlan([torch.zeros(2)], [torch.zeros(2).double()])
    with pytest.raises(ValueError, match="needs students of float32, bfloat16 or float16, got torch"):
        ema_update_(plan, 0.5, impl="triton")


def test_as_an_operation_of_torch():
    lists = ([torch.randn(5), torch.randn(3)], [torch.randn(5), torch.randn(3).bfloat16()], [])
    opcheck(triton_ema.ema_update, (*lists, torch.tensor([0.25])))
    shadow = [torch.zeros(5).bfloat16(), torch.zeros(3).bfloat16()]
    opcheck(triton_ema.ema_update, (*lists[:2], shadow, torch.tensor([0.25])))


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_compiled_code_stays_one_graph(backend):
    teacher, student = tensors(), tensors()
    shadow = tensors(torch.bfloat16)
    plan, alpha = EmaPlan(teacher, student, shadow), torch.tensor([0.25])
    expected = apply_lerp(teacher, student, 0.25)

    @torch.compile(fullgraph=True, backend=backend)
    def step(x):
        ema_update_(plan, alpha, impl="triton")
        return x + 1

    step(torch.zeros(1))
    for got, exact in zip(teacher, expected, strict=True):
        torch.testing.assert_close(got, exact, rtol=2e-7, atol=2e-7)
    assert all(torch.equal(w, t.bfloat16()) for w, t in zip(shadow, teacher, strict=True))
