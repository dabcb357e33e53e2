"""`ema_update_` against its formula in float64, and what `EmaPlan` refuses."""

import pytest
import torch

from jepa_kernels import EMA_IMPLS, EmaPlan, ema_update_, explain_ema

SHAPES = [(3, 4), (7,), (), (0, 5), (33, 17)]
IMPLS = ("auto", *(impl for impl in EMA_IMPLS if impl != "triton"))  # which is in interpreted/


def tensors(dtype: torch.dtype = torch.float32) -> list[torch.Tensor]:
    return [torch.randn(shape).to(dtype) for shape in SHAPES]


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(2)


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("alpha", [0.004, torch.tensor(0.004), torch.tensor([0.3]), 0.0, 1])
def test_equals_the_formula_in_float64(impl, dtype, alpha):
    teacher, student = tensors(), tensors(dtype)
    weight = float(alpha)
    expected = [
        weight * s.double() + (1 - weight) * t.double() for t, s in zip(teacher, student, strict=True)
    ]
    ema_update_(EmaPlan(teacher, student), alpha, impl=impl)
    for got, exact in zip(teacher, expected, strict=True):
        torch.testing.assert_close(got.double(), exact, rtol=2e-7, atol=2e-7)


@pytest.mark.parametrize("impl", IMPLS)
def test_momentum_one_leaves_the_teacher_alone(impl):
    teacher, student = tensors(), tensors()
    before = [t.clone() for t in teacher]
    ema_update_(EmaPlan(teacher, student), 0.0, impl=impl)
    assert all(torch.equal(a, b) for a, b in zip(teacher, before, strict=True))


@pytest.mark.parametrize("impl", IMPLS)
def test_a_teacher_equal_to_its_student_stays_bit_equal(impl):
    student = tensors()
    teacher = [s.clone() for s in student]
    plan = EmaPlan(teacher, student)
    for alpha in (0.004, 0.1, 0.6):
        ema_update_(plan, alpha, impl=impl)
    assert all(torch.equal(a, b) for a, b in zip(teacher, student, strict=True))


def test_implementations_agree_bit_for_bit():
    teacher, student = tensors(), tensors()
    copies = [t.clone() for t in teacher]
    ema_update_(EmaPlan(teacher, student), 0.01, impl="foreach")
    ema_update_(EmaPlan(copies, student), 0.01, impl="reference")
    assert all(torch.equal(a, b) for a, b in zip(teacher, copies, strict=True))


def test_many_steps_stay_near_float64():
    teacher, student = [torch.randn(1000)], [torch.randn(1000)]
    exact = teacher[0].double()
    plan = EmaPlan(teacher, student)
    for _ in range(200):
        ema_update_(plan, 0.004)
        exact += 0.004 * (student[0].double() - exact)
    torch.testing.assert_close(teacher[0].double(), exact, rtol=0, atol=5e-6)


def test_tied_weights_move_once():
    teacher, student = torch.zeros(4), torch.ones(4)
    plan = EmaPlan([teacher, teacher.view(2, 2)], [student, student.view(2, 2)])
    assert repr(plan) == "EmaPlan(1 tensors, 4 numbers)"
    ema_update_(plan, 0.5)
    assert teacher.tolist() == [0.5] * 4


def test_parameters_that_require_grad_are_updated_outside_autograd():
    teacher, student = torch.nn.Linear(3, 2), torch.nn.Linear(3, 2)
    ema_update_(EmaPlan(teacher.parameters(), student.parameters()), 1.0)
    assert torch.equal(teacher.weight, student.weight)
    assert teacher.weight.grad_fn is None


def test_an_empty_plan_does_nothing():
    ema_update_(EmaPlan([], []), 0.5)
    ema_update_(EmaPlan([], [], []), 0.5)


@pytest.mark.parametrize("impl", IMPLS)
def test_a_shadow_is_the_new_teacher_rounded(impl):
    teacher, student, shadow = tensors(), tensors(), tensors(torch.bfloat16)
    plan = EmaPlan(teacher, student, shadow)
    assert repr(plan) == "EmaPlan(4 tensors, 581 numbers, with a shadow)"
    ema_update_(plan, 0.3, impl=impl)
    assert all(torch.equal(w, t.bfloat16()) for w, t in zip(shadow, teacher, strict=True))


def test_explain_says_what_runs_here():
    lines = {line.impl: line for line in explain_ema(EmaPlan(tensors(), tensors()))}
    needs = "needs CUDA tensors, got cpu; on a CPU it runs under TRITON_INTERPRET=1, for tests"
    assert lines["triton"] == ("triton", False, needs, False)
    assert lines["foreach"] == ("foreach", True, "all tensors in one call", True)
    assert explain_ema(EmaPlan([], []))[1].reason == "there is nothing to update"


def test_triton_by_name_never_falls_back():
    with pytest.raises(ValueError, match="'triton' of ema_update_ cannot run here: it needs CUDA"):
        ema_update_(EmaPlan(tensors(), tensors()), 0.5, impl="triton")


@pytest.mark.parametrize(
    ("teacher", "student", "message"),
    [
        ([torch.zeros(2)], [], "teacher has 1 tensors, student 0; expected as many"),
        ([torch.zeros(2)], [torch.zeros(3)], "tensor 0: teacher has shape [2], student [3]"),
        ([torch.zeros(2)], [torch.zeros(2, device="meta")], "tensor 0: teacher is on cpu, student on meta"),
        (
            [torch.zeros(2).bfloat16()],
            [torch.zeros(2)],
            "tensor 0: the teacher must be float32 or float64, got torch.bfloat16; at low precision an EMA "
            "step is smaller than half a unit in the last place, so the teacher would never move",
        ),
        (
            [torch.zeros(2, device="meta")],
            [torch.zeros(2, device="meta")],
            "tensor 0: the teacher has no memory at an address, so it cannot be updated in place "
            "(Tensor on meta)",
        ),
        (
            [torch.zeros(2, 3).T],
            [torch.zeros(3, 2)],
            "tensor 0: the teacher must be contiguous, got strides (1, 3)",
        ),
    ],
)
def test_plans_that_are_refused(teacher, student, message):
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        EmaPlan(teacher, student)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("shadow", "message"),
    [
        ([], "teacher has 1 tensors, shadow 0; expected as many"),
        ([torch.zeros(3).bfloat16()], "tensor 0: teacher has shape [2, 3], shadow [3]"),
        ([torch.zeros(2, 3).half()], "tensor 0: the shadow must be bfloat16, got torch.float16"),
        (
            [torch.zeros(3, 2).bfloat16().T],
            "tensor 0: the shadow must be contiguous, got strides (1, 2)",
        ),
    ],
)
def test_shadows_that_are_refused(shadow, message):
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        EmaPlan([torch.zeros(2, 3)], [torch.zeros(2, 3)], shadow)
    assert str(caught.value) == message


def test_tied_teachers_of_different_shadows_are_refused():
    teacher, student, shadow = torch.zeros(2), torch.zeros(2), [torch.zeros(2).bfloat16() for _ in range(2)]
    with pytest.raises(ValueError, match="teacher tensors 0 and 1 are tied, but their shadows are not"):
        EmaPlan([teacher, teacher], [student, student], shadow)


def test_tied_teachers_of_different_students_are_refused():
    shared = torch.zeros(2)
    with pytest.raises(ValueError, match="teacher tensors 0 and 1 are tied, but their students are not"):
        EmaPlan([shared, shared], [torch.zeros(2), torch.ones(2)])


@pytest.mark.parametrize(
    ("alpha", "impl", "message"),
    [
        (1.5, "auto", r"alpha is 1 - momentum, in \[0, 1\]; got 1.5"),
        (torch.zeros(2), "auto", r"alpha must be one number, 1 - momentum; got a tensor of \[2\]"),
        (
            0.5,
            "foreech",
            "unknown impl 'foreech' for ema_update_; known: auto, triton, foreach, reference. "
            r"Did you mean 'foreach'\?",
        ),
    ],
)
def test_updates_that_are_refused(alpha, impl, message):
    with pytest.raises(ValueError, match=message):
        ema_update_(EmaPlan([torch.zeros(2)], [torch.zeros(2)]), alpha, impl=impl)


@pytest.mark.parametrize("impl", ["auto", "foreach", "reference"])
@pytest.mark.parametrize("student_type", [torch.float64, torch.float32, torch.bfloat16], ids=str)
def test_a_teacher_in_float64_is_averaged_in_float64(impl, student_type):
    generator = torch.Generator().manual_seed(0)
    teacher = torch.randn(3, 4, generator=generator, dtype=torch.float64)
    student = torch.randn(3, 4, generator=generator).to(student_type)
    expected = teacher + 1e-9 * (student.double() - teacher)
    other_teacher = torch.zeros(5)
    plan = EmaPlan([teacher, other_teacher], [student, torch.ones(5)])
    ema_update_(plan, 1e-9, impl=impl)
    torch.testing.assert_close(teacher, expected, rtol=1e-15, atol=1e-15)
    assert other_teacher[0] > 0
    assert plan.triton_problem == "needs teachers of float32, got float64"
