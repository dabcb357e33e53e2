"""Sources with several label sets, probes that look at every token: on stand-ins whose scores are known."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from jepa_core.cli.console import whole
from jepa_core.data import TransformSettings
from jepa_core.errors import UserError
from jepa_core.evaluate import EvalResult, FeatureMap, KnownValues, LinearProbe, extract, model_features
from jepa_core.evaluate.model import evaluate_model
from jepa_core.protocols import Probe, Tasks, TokenProbe
from jepa_core.report.html import probe_table
from jepa_core.report.text import label

SHAPE = (3, 2, 8, 8)


class Model(nn.Module):
    """Two tokens, one a frame: the mean of each channel."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[object] = []
        self.encoder: Any = nn.Identity()
        self.encoder.view_shape = lambda: SHAPE

    def features(self, views: Tensor, role: str = "target", pool: str | None = "mean") -> Tensor:
        self.asked.append(pool)
        tokens = views.mean((3, 4)).transpose(1, 2)
        return tokens if pool is None else tokens.mean(1)


class FirstBrighter:
    """Knows the answer of the task `order` from the tokens alone, and remembers what it was given."""

    Config: Any = LinearProbe.Config

    def __init__(self) -> None:
        self.shapes: list[tuple[int, ...]] = []

    def on_tokens(
        self, train: tuple[Tensor, Tensor], held_out: tuple[Tensor, Tensor], classes: int
    ) -> Mapping[str, float]:
        self.shapes.append(tuple(held_out[0].shape))
        guess = (held_out[0][:, 0, 0] > held_out[0][:, -1, 0]).long()
        return {"top1": guess.eq(held_out[1]).double().mean().item()}


class Labelled:
    """Clips of two frames: `bright`, or not, in all; the `order` tells which of the two is brighter."""

    note = "made up"

    def __init__(self, task: str, count: int) -> None:
        self.task, self.count = task, count
        self.classes = ["no", "yes"]

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        bright, first = index % 2, index // 2 % 2
        clip = torch.full((2, 3, 8, 8), 60 + 100 * bright, dtype=torch.uint8)
        clip[1 - first] += 30
        return clip, (bright if self.task == "bright" else first)


class Clips:
    """Two tasks, and a control that sees nothing."""

    def tasks(self) -> Sequence[str]:
        return ["bright", "order"]

    def labelled_samples(self, task: str, split: str, view_shape: Sequence[int]) -> Labelled:
        assert tuple(view_shape) == SHAPE
        return Labelled(task, {"train": 48, "test": 32}[split])

    def split(self, name: str) -> Labelled:
        raise AssertionError("tasks have their own samples")

    def controls(self, model: Any, role: Any, tokens: bool) -> Sequence[FeatureMap]:
        return [
            FeatureMap("nothing", "a constant", lambda views: torch.ones(len(views), 2, 3), pool="flatten")
        ]


class KnownClips(Clips):
    """Clips whose brightness is known, and says nothing of their order."""

    def known_values(self, task: str, split: str) -> Mapping[str, torch.Tensor]:
        count = {"train": 48, "test": 32}[split]
        bright = torch.nn.functional.one_hot(torch.arange(count) % 2, 2).float()
        return {"the brightness": bright} if task == "order" else {"the answer": bright}


def result(probes: Mapping[str, Any]) -> EvalResult:
    return evaluate_model(Model(), Model(), Clips(), TransformSettings(), probes, batch_size=16)  # type: ignore[arg-type]


def test_each_task_has_a_table_with_the_controls_of_the_source() -> None:
    assert isinstance(Clips(), Tasks)
    made = result({"linear": LinearProbe(LinearProbe.Config(name="linear")), "tokens": FirstBrighter()})
    bright, order = made.tables
    assert [table.task for table in made.tables] == ["bright", "order"]
    names = ["trained", "random twin", "raw pixels", "nothing"]
    assert [row.name for row in bright.rows] == [row.name for row in order.rows] == names
    assert bright.row("trained").scores["linear"]["top1"] == 1
    assert order.row("trained").scores["linear"]["top1"] == 0.5, "the mean over tokens forgets the order"
    assert order.row("trained").scores["tokens"]["top1"] == 1
    assert order.row("raw pixels").scores["linear"]["top1"] == 1, "pixels of all frames stand in a row"
    assert order.row("nothing").scores["tokens"]["top1"] == 0.5
    assert bright.caption().startswith("Task bright. trained: ")
    assert "Scored on 32 clips of the test split, probes fitted on 48 training clips." in order.caption()
    assert EvalResult.model_validate_json(made.model_dump_json()) == made
    assert [probe_table(table)["task"] for table in made.tables] == ["bright", "order"]
    assert label("linear", "order") == "order, linear"


def test_what_a_source_knows_of_its_samples_is_a_row_of_its_task_alone() -> None:
    assert isinstance(KnownClips(), KnownValues)
    assert not isinstance(Clips(), KnownValues)
    probes = {"linear": LinearProbe(LinearProbe.Config(name="linear")), "tokens": FirstBrighter()}
    made = evaluate_model(
        Model(), Model(), KnownClips(), TransformSettings(), probes, batch_size=16, images=30
    )  # type: ignore[arg-type]
    bright, order = made.tables
    assert [row.name for row in bright.rows][-2:] == ["nothing", "the answer"]
    assert [row.name for row in order.rows][-2:] == ["nothing", "the brightness"]
    assert bright.row("the answer").scores["linear"]["top1"] == 1, "rows stand in the order of the draw"
    assert order.row("the brightness").scores["linear"]["top1"] < 0.7
    assert order.row("the brightness").width == 2


def test_known_values_are_one_row_for_each_sample() -> None:
    class Short(KnownClips):
        def known_values(self, task: str, split: str) -> Mapping[str, torch.Tensor]:
            return {"short": torch.ones(3, 2)}

    linear = {"linear": LinearProbe(LinearProbe.Config(name="linear"))}
    with pytest.raises(
        UserError, match=r"'short' of the train split are torch.float32 \[3, 2\]; expected float"
    ):
        evaluate_model(Model(), Model(), Short(), TransformSettings(), linear)  # type: ignore[arg-type]


def test_tokens_are_taken_only_where_a_probe_wants_them() -> None:
    assert isinstance(FirstBrighter(), TokenProbe)
    assert not isinstance(FirstBrighter(), Probe)
    assert not isinstance(LinearProbe(LinearProbe.Config(name="linear")), TokenProbe)
    model, twin, probe = Model(), Model(), FirstBrighter()
    linear = LinearProbe(LinearProbe.Config(name="linear"))
    evaluate_model(model, twin, Clips(), TransformSettings(), {"linear": linear})  # type: ignore[arg-type]
    assert set(model.asked) == {"mean"}
    evaluate_model(model, twin, Clips(), TransformSettings(), {"tokens": probe})  # type: ignore[arg-type]
    assert model.asked[-1] is None
    assert probe.shapes[:4] == [(32, 2, 3), (32, 2, 3), (32, 2, 3 * 64), (32, 2, 3)]


@pytest.mark.parametrize("tokens", [False, True])
def test_vectors_are_means_of_tokens_or_all_of_them(tokens: bool) -> None:
    views = torch.randn(6, *SHAPE)
    rows = [
        model_features(Model(), "mean", tokens=tokens),
        FeatureMap("row", "", lambda x: x.mean((3, 4)).transpose(1, 2), pool="flatten"),
        FeatureMap("vector", "", lambda x: x.mean((2, 3, 4))),
    ]
    mean, row, vector = extract(rows, [(views, torch.zeros(6))], tokens=tokens)
    each = views.mean((3, 4)).transpose(1, 2)
    torch.testing.assert_close(mean.values, each.mean(1))
    torch.testing.assert_close(row.values, each.flatten(1))
    torch.testing.assert_close(vector.values, each.mean(1))
    if tokens:
        assert [part.tokens.shape for part in (mean, row, vector)] == [(6, 2, 3), (6, 2, 3), (6, 1, 3)]
    else:
        assert mean.tokens is row.tokens is vector.tokens is None


def test_a_forward_pass_has_as_many_frames_as_of_images() -> None:
    model, sizes = Model(), []
    encode = model.features
    model.features = lambda views, **kw: sizes.append(len(views)) or encode(views, **kw)  # type: ignore[method-assign]
    evaluate_model(model, Model(), Clips(), TransformSettings(), {"t": FirstBrighter()}, batch_size=20)  # type: ignore[arg-type]
    assert max(sizes) == 10


def test_scores_stay_whole_in_a_narrow_terminal(monkeypatch, capsys) -> None:
    monkeypatch.setenv("COLUMNS", "50")
    table = result({f"probe_{i}": LinearProbe(LinearProbe.Config(name="linear")) for i in range(4)})
    whole(table.table())
    said = capsys.readouterr().out
    assert all(cell in said for line in table.cells() for cell in line)
    assert said.startswith("bright")
