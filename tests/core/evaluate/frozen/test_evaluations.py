"""Evaluations of frozen features on a small model: what is read, chosen, drawn, shared and said."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from jepa_core.errors import UserError
from jepa_core.evaluate import EvaluationContext, EvaluationTable, LinearProbe
from jepa_core.evaluate.frozen import bank as banks
from jepa_core.evaluate.frozen.bank import Bank, bank_of, labelled_bank
from jepa_core.evaluate.frozen.class_retrieval import ClassRetrieval
from jepa_core.evaluate.frozen.label_free import LabelFree
from jepa_core.evaluate.frozen.layers import HEADS, Layers
from jepa_core.evaluate.frozen.low_shot import LowShot
from jepa_core.evaluate.frozen.many_heads import Choice, ManyHeads, choose_rates
from jepa_core.evaluate.frozen.parallel_heads import ParallelHeads
from jepa_core.evaluate.frozen.shift import Shift
from jepa_core.evaluate.model_evaluations import choose_evaluations, evaluate_with
from tests.core.evaluate.frozen.stand_ins import CLASSES, ShadeSource, TwoTasks, make_context

NAMES = ("layers", "low_shot", "many_heads", "class_retrieval", "shift", "label_free")
FITTED = ("layers", "low_shot", "many_heads", "shift")
LABELLED = (*FITTED, "class_retrieval")


@pytest.fixture
def context(tiny_recipe: Path) -> EvaluationContext:
    return make_context(tiny_recipe)


def make(name: str, context: EvaluationContext) -> list[EvaluationTable]:
    return evaluate_with(choose_evaluations(context.recipe, [name]), context)


def values(table: EvaluationTable, row: str) -> dict[str, float]:
    return {name: s.value for r in table.rows if r.name == row for name, s in r.scores.items()}


@torch.no_grad()
def call(evaluation: Any, context: EvaluationContext, **settings: Any) -> list[EvaluationTable]:
    made = evaluation(evaluation.Config(**settings))(context)
    return made if isinstance(made, list) else [made]


def test_features_are_taken_once_for_all_evaluations(
    context: EvaluationContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    take = banks._take_features
    monkeypatch.setattr(
        banks, "_take_features", lambda c, split, task: asked.append(split) or take(c, split, task)
    )
    tables = evaluate_with(
        choose_evaluations(context.recipe, ["layers", "low_shot", "class_retrieval"]), context
    )
    assert [table.error for table in tables] == [""] * 5
    assert sorted(asked) == ["test", "train"]


def test_a_bank_has_the_features_of_the_probe_table_and_the_last_blocks(context: EvaluationContext) -> None:
    with torch.no_grad():
        bank = bank_of(context, "test")
        views = torch.cat([views for views, _ in banks.read_split(context, "test", None)])
        encoder = context.model.encoder_of("target")
        tokens = encoder(views, layers=(1, 2))
        expected = [F.layer_norm(v, v.shape[-1:]).unflatten(0, (60, 16)).mean(1) for v in tokens.layers]
    assert [row.name for row in bank.rows] == ["trained", "random twin", "raw pixels"]
    assert torch.allclose(bank.rows[0].values, context.model.features(views), atol=1e-5)
    assert bank.rows[0].blocks is not None
    assert torch.allclose(bank.rows[0].blocks, torch.cat(expected, 1), atol=1e-5)
    assert bank.rows[2].blocks is None
    assert bank.rows[2].values.shape == (60, 3 * 16 * 16)
    assert bank.labels.tolist() == [i % 3 for i in range(60)]
    few = bank.take(torch.tensor([3, 1]))
    assert torch.equal(few.rows[0].values, bank.rows[0].values[[3, 1]])


def test_the_weights_that_a_run_started_with_are_a_row(context: EvaluationContext) -> None:
    started = replace(context, initial=context.twin)
    rows = [row.name for row in call(Layers, started)[0].rows]
    assert rows == ["trained", "initial weights", "random twin", "raw pixels"]


@pytest.mark.parametrize("name", NAMES)
def test_each_makes_a_table_with_its_controls_and_says_how(name: str, context: EvaluationContext) -> None:
    for table in make(name, context):
        assert table.error == ""
        assert [row.name for row in table.rows] == ["trained", "random twin", "raw pixels"]
        assert table.note
        for row in table.rows:
            for score in row.scores.values():
                assert score.unit != "share" or 0 <= score.value <= 1
                assert (score.chance is not None) == (name != "label_free")


@pytest.mark.parametrize("name", LABELLED)
def test_without_labels_one_line_says_so(name: str, tiny_recipe: Path) -> None:
    (table,) = make(name, make_context(tiny_recipe, ShadeSource(None)))
    assert table.error == "it needs labels of two classes or more; 'npz' has none"
    assert make("label_free", make_context(tiny_recipe, ShadeSource(None)))[0].rows


@pytest.mark.parametrize("name", FITTED)
def test_what_is_fitted_on_train_is_not_scored_there(name: str, context: EvaluationContext) -> None:
    (table,) = make(name, replace(context, split="train"))
    assert table.error == "it is fitted on the train split; score it on another one (--split test or val)"


@pytest.mark.parametrize("name", LABELLED)
def test_each_set_of_labels_has_a_table(name: str, tiny_recipe: Path) -> None:
    tables = make(name, make_context(tiny_recipe, TwoTasks()))
    methods = ("class_mean", "logistic", "knn") if name == "low_shot" else ("",)
    expected = [", ".join(filter(None, (task, method))) for task in ("shade", "side") for method in methods]
    assert [table.task for table in tables] == expected
    assert [row.name for row in tables[0].rows][-1] == "nothing"
    first = next(iter(values(tables[0], "nothing").values()))
    assert first <= 0.5, "a constant tells nothing"


def test_samples_without_a_label_are_left_out(context: EvaluationContext) -> None:
    bank = bank_of(context, "test")
    labels = bank.labels.clone()
    labels[:10] = -1
    context.memory["bank", "test", None] = Bank(bank.rows, labels, CLASSES, "images")
    assert len(labelled_bank(context, "test")) == 50
    assert call(Layers, context)[0].count == 50
    context.memory["bank", "test", None] = Bank(bank.rows, labels.fill_(7), CLASSES, "images")
    with pytest.raises(UserError, match="a label of the test split is 7; expected 0 … 2"):
        labelled_bank(context, "test")


def test_the_choice_of_a_head_never_sees_what_is_scored(context: EvaluationContext) -> None:
    (before,) = call(Layers, context)
    held_out = bank_of(context, "test")
    broken = tuple(replace(row, values=1e3 * torch.randn_like(row.values)) for row in held_out.rows)
    context.memory["bank", "test", None] = Bank(broken, held_out.labels.flip(0), CLASSES, "images")
    (after,) = call(Layers, context)
    assert before.note == after.note
    assert values(before, "trained") != values(after, "trained")
    chosen = values(before, "trained")
    assert chosen["chosen"] in [chosen[name] for name in HEADS]
    assert "L2 and head chosen on 10% of them" in before.note


def test_the_head_with_batch_norm_is_the_linear_probe(
    context: EvaluationContext,
) -> None:
    scores = values(call(Layers, context)[0], "random twin")
    train, test = labelled_bank(context, "train"), labelled_bank(context, "test")
    probe = LinearProbe(LinearProbe.Config(name="linear", l2=Layers.Config().l2))
    same = probe((train.rows[1].values, train.labels), (test.rows[1].values, test.labels), 3)
    assert scores["last_bn"] == same["top1"]
    pixels = values(call(Layers, context)[0], "raw pixels")
    assert pixels["last4"] == pixels["last"]
    assert pixels["last4_bn"] == pixels["last_bn"] > 0.9


def test_a_budget_that_does_not_do_is_told(context: EvaluationContext) -> None:
    (table,) = call(Layers, context, budget=1e-9)
    assert "Solved less exactly, as the fits would have taken over 1e-09 s (evaluations.layers.budget)" in (
        table.note
    )
    assert "Solved less exactly" not in call(Layers, context, budget=1e6)[0].note


def test_draws_are_shared_by_all_rows(context: EvaluationContext) -> None:
    alike = replace(context, twin=context.model, memory={})
    for table in call(LowShot, alike, draws=2, l2=(0.1,)):
        assert table.rows[0].scores == table.rows[1].scores
        assert list(values(table, "trained")) == ["n1", "n5", "n12", "percent1"]
        assert all(score.sd is not None and score.se is None for score in table.own.values())
    text = call(LowShot, context, draws=2, shots=(1,))[0].caption()
    assert "± one standard deviation over draws" in text
    assert "nN: N labels a class; 0.01 of train: 1), 2 seeded draws, the same for all rows" in text


def test_more_labels_find_more_and_the_numbers_repeat(context: EvaluationContext) -> None:
    settings: Any = {"shots": (1, 30), "share": None, "draws": 2, "l2": (0.1,)}
    tables = call(LowShot, context, **settings)
    for table in tables:
        pixels = values(table, "raw pixels")
        assert list(pixels) == ["n1", "n30"]
        assert pixels["n30"] >= pixels["n1"]
        assert pixels["n30"] > 0.9
    assert call(LowShot, replace(context, memory={}), **settings) == tables


def test_more_labels_than_images_are_one_line(context: EvaluationContext) -> None:
    with pytest.raises(UserError) as raised:
        call(LowShot, context, shots=(1, 41))
    assert str(raised.value) == (
        "evaluations.low_shot.shots asks for 41 labels a class; the class 'dark' has 40 training images"
    )


def test_parallel_heads_are_heads_that_torch_trains_alone() -> None:
    draw = torch.Generator().manual_seed(0)
    x, y = torch.randn(40, 5, generator=draw), torch.randint(3, (40,), generator=draw)
    rates = (0.1, 0.5)
    heads = ParallelHeads(5, 3, rates, torch.Generator().manual_seed(1))
    singles = []
    for number in range(2):
        linear = torch.nn.Linear(5, 3)
        linear.weight.data = heads.weight.unflatten(1, (2, 3))[:, number].T.clone()
        linear.bias.data.zero_()
        singles.append(linear)
    optimizers = [torch.optim.SGD(m.parameters(), lr=1.0, momentum=0.9) for m in singles]
    for factor in (1.0, 0.7, 0.2):
        heads.step(x, y, factor)
        for rate, linear, optimizer in zip(rates, singles, optimizers, strict=True):
            optimizer.param_groups[0]["lr"] = rate * factor
            optimizer.zero_grad()
            F.cross_entropy(linear(x), y).backward()
            optimizer.step()
    expected = torch.stack([linear(x) for linear in singles], 1)
    assert torch.allclose(heads(x), expected, atol=1e-5)
    heads.weight[:, :3] = torch.nan
    assert not heads.right(x, y)[:, 0].any(), "a head that diverged is never right"
    assert torch.equal(heads.right(x, y)[:, 1], expected[:, 1].argmax(1).eq(y))


def test_the_best_rate_of_each_layers_and_the_best_layers() -> None:
    last = torch.tensor([[1, 1, 0], [0, 1, 1], [0, 0, 0]]).bool()
    last4 = torch.tensor([[1, 0, 1], [1, 0, 1], [0, 0, 1]]).bool()
    assert choose_rates({"last": last, "last4": last4}) == Choice({"last": 1, "last4": 2}, "last4")
    assert choose_rates({"last": last}) == Choice({"last": 1}, "last")


def test_many_heads_learn_and_choose_without_the_scored_split(context: EvaluationContext) -> None:
    settings: Any = {"rates": (1e-6, 0.01), "epochs": 15, "batch_size": 16}
    (table,) = call(ManyHeads, context, **settings)
    assert values(table, "raw pixels")["chosen"] > 0.9
    assert "15 epochs of 108 training images in batches of 16" in table.note
    assert "chosen on 12 others of the train split" in table.note
    other = replace(context, split="val", memory={})
    assert call(ManyHeads, other, **settings)[0].note == table.note


def test_a_clean_head_loses_by_corruption(context: EvaluationContext) -> None:
    (table,) = call(Shift, context, images=40)
    scores = values(table, "raw pixels")
    assert list(scores) == ["clean", "noise", "blur", "contrast", "brightness", "jpeg", "mean"]
    assert table.count == 40
    assert scores["clean"] > 0.9
    assert scores["brightness"] < scores["clean"], "brightness is what the classes differ in"
    assert scores["mean"] == pytest.approx(sum(list(scores.values())[1:-1]) / 5)
    assert call(Shift, replace(context, memory={}), images=40) == [table]


def test_retrieval_in_the_split_or_in_train(context: EvaluationContext) -> None:
    own, train = (call(ClassRetrieval, context, in_train=choice)[0] for choice in (False, True))
    assert "among 60 candidates, the query left out" in own.note
    assert "among 120 candidates, of the train split" in train.note
    few = call(ClassRetrieval, context, images=30)[0]
    assert few.count == 30
    assert values(own, "raw pixels")["r1"] > own.own["r1"].chance  # type: ignore[operator]


def test_label_free_scores_say_what_they_depend_on(context: EvaluationContext) -> None:
    (table,) = call(LabelFree, context, lidar_images=20, lidar_views=4)
    scores = values(table, "trained")
    assert scores["clid"] == pytest.approx(
        scores["cluster_learnability"] + scores["intrinsic_dimension"] / 32
    )
    assert scores["lidar"] <= 19 + 1e-3
    assert "20 images × 4 random crops of 30% to 100% of the area, at most min(width, 19)" in table.note
    assert "eigenvalues 1 to 16 of 60 samples" in table.note
    assert call(LabelFree, replace(context, memory={}), lidar_images=20, lidar_views=4) == [table]


def test_features_that_are_not_finite_are_one_line(context: EvaluationContext) -> None:
    parameter: Tensor = next(context.model.encoder_of("target").parameters())
    parameter.data.fill_(torch.nan)
    (table,) = make("class_retrieval", context)
    assert table.error == "the features of 'trained' are not finite: the encoder has diverged"
