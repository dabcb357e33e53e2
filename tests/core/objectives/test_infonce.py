"""InfoNCE against a plain loop in float64, in one process and in two."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from jepa_core import IndexSet, MaskPlan, Tokens, UserError
from jepa_core.objectives.infonce import InfoNCE
from jepa_core.optimizers.adamw import AdamW
from jepa_core.runtime.distributed import Ranks
from jepa_core.testing.process_pair import on_both
from jepa_core.training.parameter_groups import parameter_groups
from jepa_core.types.step import Group, Step


def infonce(**settings: object) -> InfoNCE:
    config = InfoNCE.Config(name="infonce", **settings)
    config.check()
    return InfoNCE(config)


def vectors(samples: int = 5, width: int = 4, seed: int = 0) -> Tensor:
    return torch.randn(samples, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def one_each(values: Tensor) -> Tokens:
    """One token a sample."""
    return Tokens(values, IndexSet.full(len(values), 1), (1,))


def step_of(predictions: Tensor, targets: Tensor) -> Step:
    return Step((one_each(predictions),), (one_each(targets),), (), None, MaskPlan())


def loop(predictions: Tensor, targets: Tensor, temperature: float, symmetric: bool = True) -> float:
    """The formula, a sample at a time."""

    def one_way(queries: list[list[float]], keys: list[list[float]]) -> float:
        total = 0.0
        for i, query in enumerate(queries):
            scores = []
            for key in keys:
                dot = sum(a * b for a, b in zip(query, key, strict=True))
                norms = math.sqrt(sum(a * a for a in query)) * math.sqrt(sum(b * b for b in key))
                scores.append(dot / norms / temperature)
            total -= scores[i] - math.log(sum(math.exp(score) for score in scores))
        return total / len(queries)

    p, t = predictions.tolist(), targets.tolist()
    return (one_way(p, t) + one_way(t, p)) / 2 if symmetric else one_way(p, t)


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("learned", [True, False])
def test_it_is_the_formula(symmetric: bool, learned: bool) -> None:
    predictions, targets = vectors(), vectors(seed=1)
    term = infonce(temperature=0.2, symmetric=symmetric, learned=learned).double()
    value = term(step_of(predictions, targets)).item()
    assert value == pytest.approx(loop(predictions, targets, 0.2, symmetric), rel=1e-6)
    assert value != pytest.approx(loop(predictions, targets, 0.2, not symmetric), rel=1e-3)


def test_it_judges_the_mean_of_each_samples_tokens_and_each_pair_by_itself() -> None:
    lists = [[0, 1, 2], [3], [0, 3]]
    tokens = Tokens(vectors(6), IndexSet.from_lists(lists), (2, 2))
    means = torch.stack([tokens.values[:3].mean(0), tokens.values[3], tokens.values[4:].mean(0)])
    other, targets = vectors(3, seed=2), vectors(3, seed=1)
    step = Step((tokens, one_each(other)), (one_each(targets),) * 2, (), None, MaskPlan())
    expected = (loop(means, targets, 0.07) + loop(other, targets, 0.07)) / 2
    assert infonce()(step).item() == pytest.approx(expected, rel=1e-9)


def test_it_judges_the_group_that_it_names() -> None:
    main, text = step_of(vectors(), vectors(seed=1)), step_of(vectors(width=7), vectors(width=7, seed=1))
    group = Group(text.predictions, text.targets)
    step = replace(main, groups={"image_text": group})
    term = infonce(group="image_text")
    assert torch.equal(term(step.of_group(term.config.group)), term(text))


@pytest.mark.parametrize("both", [True, False])
def test_gradients_are_those_of_finite_differences_on_every_side_that_has_one(both: bool) -> None:
    predictions, targets = vectors(4, 3).requires_grad_(), vectors(4, 3, seed=1).requires_grad_(both)
    term = infonce(temperature=0.5)
    assert torch.autograd.gradcheck(lambda p, t: term(step_of(p, t)), (predictions, targets))


def test_a_learned_temperature_is_trained_without_decay_and_stops_at_a_hundredth() -> None:
    term = infonce(learned=True)
    (parameter,) = term.parameters()
    groups = parameter_groups(term, AdamW.Config(name="adamw"))
    assert [len(group["params"]) for group in groups] == [0, 1]
    assert groups[1]["params"] == [parameter]
    assert groups[1]["fixed_decay"] == 0
    predictions = vectors()
    term(step_of(predictions, predictions)).backward()  # all are right: a sharper softmax is better
    assert parameter.grad is not None
    assert parameter.grad < 0
    with torch.no_grad():
        parameter.fill_(9.0)
    scale = term.scale()
    assert isinstance(scale, Tensor)
    assert scale.item() == pytest.approx(100)


@pytest.mark.parametrize(("agrees", "leads_back"), [(True, False), (False, True)])
def test_beyond_the_bound_the_gradient_leads_back_alone(agrees: bool, leads_back: bool) -> None:
    term = infonce(learned=True)
    with torch.no_grad():
        term.log_scale.fill_(9.0)
    predictions = vectors()
    term(step_of(predictions, predictions if agrees else -predictions)).backward()
    assert (term.log_scale.grad.item() > 0) is leads_back


def test_fixed_and_learned_values_are_settings_that_fit() -> None:
    assert not list(infonce().parameters())
    with pytest.raises(
        UserError, match=r"a learned temperature stays at 0\.01 or above; got temperature=0\.005"
    ):
        infonce(learned=True, temperature=0.005)
    infonce(temperature=0.005)
    infonce(learned=True, temperature=0.01)


def test_half_precision_is_judged_in_fp32() -> None:
    step = step_of(vectors().bfloat16(), vectors(seed=1).bfloat16())
    value = infonce()(step)
    assert value.dtype == torch.float32
    exact = step.map(lambda tokens: replace(tokens, values=tokens.values.double()))
    assert value.item() == pytest.approx(infonce()(exact).item(), rel=1e-4)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_features_that_are_not_finite_make_it_nan(bad: float) -> None:
    predictions = vectors()
    predictions[2, 1] = bad
    assert infonce()(step_of(predictions, vectors(seed=1))).isnan()


def test_a_sample_without_tokens_costs_a_finite_gradient() -> None:
    values = vectors(3).requires_grad_()
    tokens = Tokens(values, IndexSet.from_lists([[0, 1], [], [0]]), (2,))
    value = infonce()(Step((tokens,), (one_each(vectors(3, seed=1)),), (), None, MaskPlan()))
    (gradient,) = torch.autograd.grad(value, values)
    assert value.isfinite()
    assert gradient.isfinite().all()


@pytest.mark.parametrize(
    ("predictions", "targets", "message"),
    [
        (vectors(1), vectors(1), "infonce tells samples from each other and got one; set train.batch_size"),
        (
            vectors(3),
            vectors(4),
            "predictions of 3 samples, 4 wide; targets of 4, 4 wide",
        ),
        (vectors(3), vectors(3, width=6), "predictions of 3 samples, 4 wide; targets of 3, 6 wide"),
    ],
)
def test_what_cannot_be_contrasted_is_an_error_in_a_line(
    predictions: Tensor, targets: Tensor, message: str
) -> None:
    with pytest.raises(UserError, match=message):
        infonce()(step_of(predictions, targets))


def test_without_predictions_or_with_other_numbers_of_them_it_says_so() -> None:
    tokens = one_each(vectors())
    for predictions, targets in ((), ()), ((tokens,), ()), ((tokens,), (tokens, tokens)):
        message = f"got {len(predictions)} and {len(targets)}"
        with pytest.raises(UserError, match=message):
            infonce()(Step(predictions, targets, (), None, MaskPlan()))


def judge_part(ranks: Ranks, part: tuple[Tensor, Tensor]) -> tuple[Tensor, list[Tensor]]:
    """The value of a process's samples, and the gradients of them and of the learned scale."""
    term = infonce(learned=True).double()
    leaves = [values.requires_grad_() for values in part]
    value = term(step_of(leaves[0], leaves[1]))
    return value.detach(), list(torch.autograd.grad(value, [*leaves, term.log_scale]))


@pytest.mark.parametrize("first", [3, 1])
def test_two_processes_have_the_value_and_the_gradients_of_one(first: int) -> None:
    """Gradients are averaged over the processes later on, so each carries those of both processes' terms."""
    whole = vectors(6), vectors(6, seed=1)
    value, expected = judge_part(Ranks(), (whole[0].clone(), whole[1].clone()))
    parts = [(whole[0][:first], whole[1][:first]), (whole[0][first:], whole[1][first:])]
    (one, own), (other, others) = on_both(judge_part, parts)
    torch.testing.assert_close(one, value)
    torch.testing.assert_close(other, value)
    for i in range(2):
        torch.testing.assert_close(torch.cat([own[i], others[i]]) / 2, expected[i])
    torch.testing.assert_close((own[2] + others[2]) / 2, expected[2])
