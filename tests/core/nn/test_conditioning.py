"""Predictors that read a condition: by cross-attention, by modulation, as tokens of the sequence."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from jepa_core import Field, IndexSet, MaskPlan, Packed, Tokens, UserError
from jepa_core.nn.conditions import modulation_rows
from jepa_core.nn.packed_predictor import PackedPredictor
from jepa_core.nn.sincos import sincos
from jepa_core.testing.small_parts import SmallEncoder, pick_tokens, ragged_plan

GRID, BATCH, WIDTH = (3, 4), 3, 16
FIELDS = {
    "views.image": Field("image"),
    "condition.caption": Field("ids", (None,), vocabulary=20),
    "condition.actions": Field("sequence", (None, 5)),
    "condition.goal": Field("vector", (5,)),
}
HOW = [
    ("cross", "caption"),
    ("cross", "actions"),
    ("adaln", "actions"),
    ("adaln", "goal"),
    ("tokens", "caption"),
]


class Guesses(PackedPredictor):
    """Predicts with one mask token."""

    def make_mask_tokens(self) -> None:
        self.mask_token = nn.Parameter(torch.empty(1, self.width))
        nn.init.trunc_normal_(self.mask_token, std=self.config.init_std)

    def token_of(self, target: int, plan: MaskPlan) -> Tensor:
        return self.mask_token


def guesses(
    how: str,
    name: str = "",
    *,
    fields: Any = FIELDS,
    mode: Any = "repeat",
    nudge: float = 0.3,
    **settings: Any,
) -> Guesses:
    """A predictor of two blocks in float64; weights moved by `nudge`, so that what starts at zero acts."""
    torch.manual_seed(0)
    sizes = {"depth": 2, "width": WIDTH, "heads": 2}
    config = Guesses.Config(name="guesses", condition=how, condition_name=name, **{**sizes, **settings})
    encoder = SmallEncoder(SmallEncoder.Config(name="small", sides=GRID, width=12))
    predictor = Guesses(config, encoder, 6, mode, fields=fields).double().eval()
    with torch.no_grad():
        for parameter in predictor.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=nudge)
    return predictor


def random_batch(plan: MaskPlan) -> tuple[tuple[Tokens, ...], dict[str, Any]]:
    """Contexts for the plan, and a condition of each name: captions ragged, three actions a sample."""
    generator = torch.Generator().manual_seed(3)
    contexts = tuple(
        Tokens(torch.randn(at.total, 12, generator=generator, dtype=torch.float64), at, GRID)
        for at in plan.contexts
    )
    captions = [torch.randint(0, 20, (length,), generator=generator) for length in (4, 1, 3)]
    actions = torch.randn(BATCH, GRID[0], 5, generator=generator, dtype=torch.float64)
    return contexts, {"caption": Packed.of(captions), "actions": actions, "goal": actions[:, 0]}


def predict(predictor: Guesses, condition: Any = None, plan: MaskPlan | None = None) -> list[Tensor]:
    plan = plan or ragged_plan(GRID, BATCH)
    contexts, conditions = random_batch(plan)
    own = conditions if isinstance(condition, str) else condition
    return [tokens.values for tokens in predictor(contexts, plan, GRID, own)]


ALL = "all"
"""Every condition of the batch, by name."""


@pytest.mark.parametrize(("how", "name"), HOW)
def test_the_other_weights_are_those_of_the_predictor_without(how: str, name: str) -> None:
    plain, conditioned = guesses("none", nudge=0), guesses(how, name, nudge=0)
    own = conditioned.state_dict()
    for key, weight in plain.state_dict().items():
        assert torch.equal(own[key], weight), key
    assert all(key.startswith("condition.") for key in own.keys() - plain.state_dict().keys())


@pytest.mark.parametrize("positions", ["sincos", "rope"])
@pytest.mark.parametrize("mode", ["repeat", "shared"])
@pytest.mark.parametrize(("how", "name"), HOW)
def test_what_a_sample_is_told_reaches_its_own_predictions_alone(
    how: str, name: str, mode: str, positions: str
) -> None:
    """Poison: the condition of sample 1 is another one, and one that is no number."""
    predictor, plan = guesses(how, name, mode=mode, positions=positions), ragged_plan(GRID, BATCH)
    _, conditions = random_batch(plan)
    expected = predict(predictor, ALL, plan)
    if name == "caption":
        other = Packed(conditions[name].values.clone(), conditions[name].at)
        other.values[4] = (other.values[4] + 1) % 20
    else:
        other = conditions[name].clone()
        other[1] = torch.nan
    for own, changed, target in zip(
        expected,
        predict(predictor, {**conditions, name: other}, plan),
        [plan.targets[j] for _, j in plan.pairs],
        strict=True,
    ):
        mine = target.samples == 1
        assert torch.equal(own[~mine], changed[~mine])
        assert not torch.isclose(own[mine], changed[mine]).all(1).any()


@pytest.mark.parametrize(("how", "name"), HOW)
def test_the_gradient_reaches_every_part_of_the_condition(how: str, name: str) -> None:
    predictor = guesses(how, name)
    sum(p.square().sum() for p in predict(predictor, ALL)).backward()
    assert predictor.condition is not None
    for key, parameter in predictor.condition.named_parameters():
        assert parameter.grad is not None, key
        assert parameter.grad.abs().max() > 0, key


def test_words_in_the_sequence_are_tokens_before_the_context() -> None:
    """Beside a sequence that is put together by hand, a sample at a time."""
    predictor, plan = guesses("tokens", "caption"), ragged_plan(GRID, BATCH)
    contexts, conditions = random_batch(plan)
    table = sincos(GRID, WIDTH, dtype=torch.float64)
    words = predictor.condition.tokens.embed(conditions["caption"].values)
    words = words + sincos((4,), WIDTH)[conditions["caption"].at.index]
    for (i, j), values in zip(plan.pairs, predict(predictor, ALL, plan), strict=True):
        for b in range(BATCH):
            seen, hidden = pick_tokens(contexts[i], [b]), plan.targets[j].split()[b]
            context = predictor.embed(seen.values) + table[seen.at.index]
            own = words[conditions["caption"].at.samples == b]
            x = torch.cat([own, context, predictor.mask_token + table[hidden]])
            layout = IndexSet.full(1, len(x)).layout
            for block in predictor.blocks:
                x = block(x, attn_mask=layout)
            expected = predictor.proj(predictor.norm(x[-len(hidden) :]))
            torch.testing.assert_close(values[plan.targets[j].samples == b], expected)


def test_a_modulation_is_shift_scale_and_gate_of_attention_and_mlp() -> None:
    predictor, plan = guesses("adaln", "goal", depth=1), ragged_plan(GRID, BATCH)
    contexts, conditions = random_batch(plan)
    table, block = sincos(GRID, WIDTH, dtype=torch.float64), predictor.blocks[0]
    (i, j), values = plan.pairs[1], predict(predictor, ALL, plan)[1]
    for b in range(BATCH):
        seen, hidden = pick_tokens(contexts[i], [b]), plan.targets[j].split()[b]
        x = torch.cat(
            [predictor.embed(seen.values) + table[seen.at.index], predictor.mask_token + table[hidden]]
        )
        goal = predictor.condition.tokens.embed(conditions["goal"][b])
        a, c, g, a2, c2, g2 = predictor.condition.parts[0].proj(F.silu(goal)).chunk(6)
        x = x + g * block.attn(block.norm1(x) * (1 + c) + a, attn_mask=IndexSet.full(1, len(x)).layout)
        x = x + g2 * block.mlp(block.norm2(x) * (1 + c2) + a2)
        expected = predictor.proj(predictor.norm(x[-len(hidden) :]))
        torch.testing.assert_close(values[plan.targets[j].samples == b], expected)


def test_at_the_start_a_modulated_block_passes_its_input_on() -> None:
    predictor, plan = guesses("adaln", "goal", nudge=0), ragged_plan(GRID, BATCH)
    table = predictor.positions(GRID)
    for values, (_, j) in zip(predict(predictor, ALL, plan), plan.pairs, strict=True):
        x = predictor.mask_token + table[plan.targets[j].index]
        torch.testing.assert_close(values, predictor.proj(predictor.norm(x)))


def test_each_frame_is_modulated_by_its_own_action() -> None:
    samples, places = torch.tensor([0, 0, 1, 1]), torch.tensor([3, 4, 0, 11])
    assert modulation_rows(IndexSet.full(2, 3), samples, places, (3, 4), "x").tolist() == [0, 1, 3, 5]
    assert modulation_rows(IndexSet.full(2, 1), samples, places, (3, 4), "x").tolist() == [0, 0, 1, 1]
    ragged = IndexSet.from_lists([[0, 1], [0, 1, 2]])
    assert modulation_rows(ragged, samples, places, (3, 4), "x").tolist() == [0, 1, 2, 4]


def test_the_same_action_in_every_frame_is_one_action_for_all() -> None:
    predictor, plan = guesses("adaln", "actions"), ragged_plan(GRID, BATCH)
    _, conditions = random_batch(plan)
    one = conditions["actions"][:, :1]
    together = predict(predictor, {"actions": one}, plan)
    for own, each in zip(together, predict(predictor, {"actions": one.repeat(1, 3, 1)}, plan), strict=True):
        torch.testing.assert_close(own, each)
    others = predict(predictor, {"actions": conditions["actions"]}, plan)
    assert not torch.allclose(together[0], others[0])


@pytest.mark.parametrize("lists", [[[0, 1]] * 3, [[0, 1, 2], [0], [0, 1, 2]], [[0, 1, 2, 3]] * 3])
def test_another_number_of_actions_is_an_error(lists: list[list[int]]) -> None:
    at = IndexSet.from_lists(lists)
    actions = Packed(torch.zeros(at.total, 5, dtype=torch.float64), at)
    message = (
        r"one vector a sample, or one for each of the 3 places along the first axis of grid \(3, 4\); got"
    )
    with pytest.raises(UserError, match=message):
        predict(guesses("adaln", "actions"), {"actions": actions})


def test_a_condition_may_come_packed_dense_as_tokens_or_without_its_name() -> None:
    predictor, plan = guesses("cross", "actions"), ragged_plan(GRID, BATCH)
    dense = random_batch(plan)[1]["actions"]
    at = IndexSet.full(BATCH, 3)
    forms: list[Any] = [{"actions": dense}, dense, Packed(dense.flatten(0, 1), at)]
    forms.append(Tokens(dense.flatten(0, 1), at, (3,)))
    results = [torch.cat(predict(predictor, form, plan)) for form in forms]
    assert all(torch.equal(results[0], result) for result in results[1:])


@pytest.mark.parametrize(("how", "name"), HOW)
def test_a_dropped_condition_is_a_missing_one(how: str, name: str) -> None:
    """In training with every sample dropped, as without a condition in evaluation; given, it is read then."""
    predictor = guesses(how, name, condition_dropout=0.999)
    given, missing = predict(predictor, ALL), predict(predictor)
    predictor.train()
    torch.manual_seed(0)
    dropped = predict(predictor, ALL)
    for own, none, without in zip(given, missing, dropped, strict=True):
        torch.testing.assert_close(none, without)
        assert not torch.isclose(own, none).all(1).any()


@pytest.mark.parametrize(("how", "name"), HOW)
def test_a_share_of_the_samples_is_dropped_and_the_null_learns(how: str, name: str) -> None:
    predictor, plan = guesses(how, name, condition_dropout=0.5), ragged_plan(GRID, BATCH)
    given, missing = predict(predictor, ALL, plan), predict(predictor, None, plan)
    predictor.train()
    torch.manual_seed(0)
    mixed, (_, j) = predict(predictor, ALL, plan)[0], plan.pairs[0]
    torch.manual_seed(0)
    dropped = torch.rand(BATCH) < 0.5
    assert dropped.any()
    assert not dropped.all()
    mine = dropped[plan.targets[j].samples]
    torch.testing.assert_close(mixed, torch.where(mine[:, None], missing[0], given[0]))
    mixed.sum().backward()
    assert predictor.condition.tokens.null.grad.abs().max() > 0


def test_dropping_draws_from_torchs_generator_alone() -> None:
    predictor = guesses("tokens", "caption", condition_dropout=0.5).train()
    results = []
    for _ in range(2):
        torch.manual_seed(1)
        results.append(torch.cat(predict(predictor, ALL)))
    assert torch.equal(*results)


@pytest.mark.parametrize(("how", "name"), HOW)
def test_recomputed_blocks_have_the_same_gradient(how: str, name: str) -> None:
    gradients = []
    for checkpoint in (False, True):
        predictor = guesses(how, name, checkpoint=checkpoint)
        sum(p.square().sum() for p in predict(predictor, ALL)).backward()
        gradients.append([p.grad for p in predictor.parameters()])
    assert all(torch.equal(*pair) for pair in zip(*gradients, strict=True))


@pytest.mark.parametrize(("how", "name"), HOW)
def test_under_autocast_it_is_close_to_full_precision(how: str, name: str) -> None:
    predictor = guesses(how, name, nudge=0.05).float()
    plan = ragged_plan(GRID, BATCH)
    contexts, conditions = random_batch(plan)
    contexts = tuple(Tokens(t.values.float(), t.at, GRID) for t in contexts)
    conditions = {k: v if isinstance(v, Packed) else v.float() for k, v in conditions.items()}
    exact = predictor(contexts, plan, GRID, conditions)[0].values
    with torch.autocast("cpu", torch.bfloat16):
        low = predictor(contexts, plan, GRID, conditions)[0].values
    assert (low.float() - exact).abs().max() < 0.05 * exact.abs().max()


@pytest.mark.slow
@pytest.mark.parametrize("how", ["cross", "adaln", "tokens"])
def test_it_is_traced_whole(how: str) -> None:
    """torch.compile keeps one graph; `eager` as backend, so that nothing is compiled."""
    predictor, plan = guesses(how, "goal"), ragged_plan(GRID, BATCH)
    contexts, conditions = random_batch(plan)
    traced = torch.compile(predictor, fullgraph=True, backend="eager")
    for own, other in zip(
        traced(contexts, plan, GRID, conditions), predictor(contexts, plan, GRID, conditions), strict=True
    ):
        torch.testing.assert_close(own.values, other.values)


def test_without_pairs_there_is_nothing_to_predict() -> None:
    assert predict(guesses("cross", "goal"), ALL, MaskPlan(ragged_plan(GRID, BATCH).contexts, ())) == []


def test_a_predictor_may_leave_conditions_unread() -> None:
    plain, ignoring = guesses("none"), guesses("ignore")
    assert torch.equal(predict(plain)[0], predict(ignoring, ALL)[0])
    message = (
        "'guesses' uses no condition; got dict; set predictor.condition to cross, adaln, tokens, or ignore"
    )
    with pytest.raises(UserError, match=message):
        predict(plain, ALL)


ONLY_TEXT = {"condition.caption": Field("text", (None,))}


@pytest.mark.parametrize(
    ("name", "fields", "message"),
    [
        (
            "",
            None,
            "predictor 'guesses' reads a condition, and the data source has none; set predictor.condition",
        ),
        ("", {"views.image": Field("image")}, "the data source has none"),
        ("", FIELDS, "reads one condition; set predictor.condition_name to one of: actions, caption, goal"),
        ("captain", FIELDS, "unknown condition 'captain'; known: .* Did you mean 'caption'?"),
        (
            "",
            ONLY_TEXT,
            "reads ids of a vocabulary, or vectors of a width; condition 'caption' is text of shape",
        ),
        ("caption", {"condition.caption": Field("ids", (None,))}, "condition 'caption' is ids"),
        ("goal", {"condition.goal": Field("vector")}, "condition 'goal' is vector"),
    ],
)
def test_a_condition_that_cannot_be_read_is_an_error_in_a_line(
    name: str, fields: Mapping[str, Field] | None, message: str
) -> None:
    with pytest.raises(UserError, match=message):
        guesses("cross", name, fields=fields)


def test_the_only_condition_need_not_be_named() -> None:
    fields = {"condition.goal": FIELDS["condition.goal"], "views.image": FIELDS["views.image"]}
    assert guesses("cross", fields=fields).condition.tokens.name == "goal"


@pytest.mark.parametrize(
    ("condition", "message"),
    [
        (
            None,
            r"predictor 'guesses' needs the condition 'actions'; the batch has: none\. With predictor.condit",
        ),
        ({"caption": 1}, "needs the condition 'actions'; the batch has: caption"),
        (torch.zeros(3, 2, 4), "predictor 'guesses', condition 'actions': 4 wide; its field says 5"),
        (torch.zeros(2, 2, 5), "condition 'actions': 2 samples; the masks speak of 3"),
        (
            torch.zeros(3, 2).long(),
            r"condition 'actions': takes vectors: .* got Tensor of torch.int64 \[3, 2\]",
        ),
        ("left", "condition 'actions': takes vectors: .* got str"),
    ],
)
def test_a_condition_that_does_not_fit_is_an_error_in_a_line(condition: Any, message: str) -> None:
    plan = ragged_plan(GRID, BATCH)
    with pytest.raises(UserError, match=message):
        guesses("cross", "actions")(random_batch(plan)[0], plan, GRID, condition)


def test_words_outside_the_vocabulary_are_an_error_in_a_line() -> None:
    with pytest.raises(UserError, match="condition 'caption': knows ids from 0 to 19; got 20 … 20"):
        predict(guesses("cross", "caption"), {"caption": torch.full((3, 2), 20)})


def test_an_odd_width_is_refused() -> None:
    with pytest.raises(UserError, match="positions of a condition need an even width; got 15"):
        guesses("cross", "caption", width=15, heads=1, positions="rope")
