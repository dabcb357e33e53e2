"""Feature extraction and the probe table, on stand-ins whose scores are known."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from rich.console import Console
from torch import Tensor, nn

from jepa_core.data import TransformSettings
from jepa_core.errors import UserError
from jepa_core.evaluate import (
    KNN,
    EvalResult,
    FeatureMap,
    LinearProbe,
    ProbeScores,
    evaluate,
    extract,
    model_features,
    raw_pixels,
)
from jepa_core.evaluate.model import evaluate_model

CLASSES = 4


class Model(nn.Module):
    """Stands in for the engine: features are the channel means, plus one for the context encoder."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(3)
        self.asked: list[tuple[bool, bool, object]] = []

    def features(self, images: Tensor, role: str = "target", pool: str | None = "mean") -> Tensor:
        self.asked.append((self.training, torch.is_autocast_enabled("cpu"), pool))
        return self.norm(images.mean((2, 3))) + (role == "context")


class Counted:
    """A progress bar that remembers."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, int | None] | int] = []

    def begin(self, what: str, total: int | None) -> None:
        self.seen.append((what, total))

    def advance(self, n: int) -> None:
        self.seen.append(n)


def loader(count: int, seed: int) -> list[tuple[Tensor, Tensor]]:
    """Images [B, 3, 8, 8] whose first channel tells the class, in batches of 32."""
    random = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % CLASSES
    images = torch.randn(count, 3, 8, 8, generator=random)
    images[:, 0] += 3 * labels[:, None, None]
    return list(zip(images.split(32), labels.split(32), strict=True))


def maps(names: tuple[str, ...] = ("trained", "random twin")) -> list[FeatureMap]:
    """The first gives the class away, the second nothing."""
    told = FeatureMap(
        names[0], "first channel", lambda x: x[:, 0].mean((1, 2))[:, None] * torch.tensor([1.0, 0]) + 1
    )
    blind = FeatureMap(names[1], "a constant", lambda x: torch.ones(len(x), 2))
    return [told, blind]


def table(**more: object) -> EvalResult:
    probes = {
        "knn": KNN(KNN.Config(name="knn", k=5)),
        "linear": LinearProbe(LinearProbe.Config(name="linear")),
    }
    settings = {"classes": CLASSES, "split": "val", **more}
    return evaluate(maps(), loader(100, 0), loader(80, 1), probes, **settings)  # type: ignore[arg-type]


def test_extract_keeps_order_and_asks_every_map_about_every_image() -> None:
    batches = loader(70, 0)
    told, _ = extract(maps(), batches)
    images = torch.cat([images for images, _ in batches])
    torch.testing.assert_close(told.values[:, 0], images[:, 0].mean((1, 2)) + 1)
    assert told.labels.tolist() == [i % CLASSES for i in range(70)]
    assert told.values.dtype == torch.float32


def test_extract_evaluates_and_puts_every_module_back() -> None:
    model = Model().train()
    model.norm.eval()
    extract([model_features(model, "trained")], loader(40, 0))
    assert model.asked == [(False, False, "mean")] * 2
    assert model.training
    assert not model.norm.training


def test_extract_puts_modules_back_after_an_error() -> None:
    model = Model().train()
    broken = FeatureMap("broken", "", lambda x: x, model)
    wanted = r"features \[B, D\] or \[B, N, D\], B = 32; got \[32, 3, 8, 8\]"
    with pytest.raises(UserError, match=f"'broken' must give {wanted}"):
        extract([broken], loader(40, 0))
    assert model.training


def test_extract_autocasts_where_it_is_asked_to() -> None:
    model = Model()
    features = extract([model_features(model, "trained")], loader(32, 0), dtype=torch.bfloat16)
    assert model.asked == [(False, True, "mean")]
    assert features[0].values.dtype == torch.float32


def test_extracted_features_can_be_trained_on() -> None:
    features = extract([model_features(Model(), "trained")], loader(32, 0))[0]
    head = nn.Linear(3, CLASSES)
    nn.functional.cross_entropy(head(features.values), features.labels).backward()
    assert not features.values.requires_grad


def test_an_empty_loader_is_an_error() -> None:
    with pytest.raises(UserError, match="the split is empty"):
        extract(maps(), [])


def test_the_role_is_asked_for_and_named() -> None:
    model = Model()
    target, context = (model_features(model, "m", role) for role in ("target", "context"))
    images = torch.randn(4, 3, 8, 8)
    assert (target.description, context.description) == (
        "target encoder, mean over tokens",
        "context encoder, mean over tokens",
    )
    model.eval()
    torch.testing.assert_close(context.encode(images), target.encode(images) + 1)


def test_raw_pixels_of_small_images_are_the_pixels() -> None:
    pixels = raw_pixels((3, 8, 6))
    images = torch.randn(2, 3, 8, 6)
    torch.testing.assert_close(pixels.encode(images), images.flatten(1))
    assert pixels.description == "8×6×3 pixels"


def test_raw_pixels_of_large_images_are_area_means_and_say_so() -> None:
    pixels = raw_pixels((3, 64, 16))
    images = torch.randn(2, 3, 64, 16)
    means = images.unflatten(2, (32, 2)).mean(3)
    torch.testing.assert_close(pixels.encode(images), means.flatten(1))
    assert pixels.description == "32×16×3 pixels, averaged down from 64×16"


def test_raw_pixels_of_clips_are_a_token_a_frame_in_few_places() -> None:
    """4 frames of at most 16 × 16 are as many places as an image of 32 × 32 has."""
    pixels = raw_pixels((3, 4, 32, 8))
    clips = torch.randn(2, 3, 4, 32, 8)
    means = clips.unflatten(3, (16, 2)).mean(4)
    found = pixels.encode(clips)
    torch.testing.assert_close(found, means.transpose(1, 2).flatten(2))
    torch.testing.assert_close(pixels.pool_tokens(found), means.transpose(1, 2).flatten(1))
    assert pixels.description == "4×16×8×3 pixels, averaged down from 32×8"
    with pytest.raises(UserError, match=r"images \(C, H, W\) and clips \(C, T, H, W\); got views \(3, 9\)"):
        raw_pixels((3, 9))


def test_the_table_scores_each_row_and_compares_with_the_twin() -> None:
    result = table()
    assert result.row("trained").scores["linear"]["top1"] > 0.95
    assert result.row("random twin").scores["linear"]["top1"] == pytest.approx(1 / CLASSES)
    gain = result.gain("trained", "linear")
    assert gain == pytest.approx(100 * (result.row("trained").scores["linear"]["top1"] - 1 / CLASSES))
    assert result.gain("random twin", "linear") is None
    assert (result.train_images, result.held_out_images, result.chance, result.majority) == (
        100,
        80,
        0.25,
        0.25,
    )
    assert result.row("random twin").feature_std == pytest.approx(0, abs=1e-9)
    assert result.row("random twin").rankme == pytest.approx(1, abs=1e-3)


def test_the_caption_says_what_the_numbers_stand_on() -> None:
    assert table().caption() == (
        "trained: first channel; random twin: a constant. "
        "Scored on 80 images of the val split, probes fitted on 100 training images. "
        "Scores in % ± one standard error (in brackets: points over the random twin); "
        "chance 25.0%, largest class 25.0%."
    )


def fixed() -> EvalResult:
    """A table with known numbers."""
    scores = {"trained": 0.3694, "random twin": 0.282}
    rows = [
        {
            "name": name,
            "description": "target encoder",
            "width": 128,
            "scores": {"knn": {"top1": top1, "top1_se": 0.0048, "k": 20.0}, "depth": {"r2": top1 / 2}},
            "rankme": 30.25,
            "feature_std": 0.5,
        }
        for name, top1 in scores.items()
    ]
    return EvalResult.model_validate(
        {
            "rows": rows,
            "baseline": "random twin",
            "split": "test",
            "train_images": 20000,
            "held_out_images": 10000,
            "classes": 10,
            "majority": 0.1,
        }
    )


def test_text_is_aligned_and_complete() -> None:
    lines = fixed().text().splitlines()
    assert lines[:3] == [
        "features     width  knn top1           depth r2     RankMe   std",
        "trained        128  36.9 ± 0.5 (+8.7)  18.5 (+4.4)    30.2  0.50",
        "random twin    128  28.2 ± 0.5         14.1           30.2  0.50",
    ]
    assert lines[3] == fixed().caption()


def test_markdown_is_a_table_with_the_caption_under_it() -> None:
    lines = fixed().markdown().splitlines()
    assert lines[1] == "| --- | ---: | --- | --- | ---: | ---: |"
    assert lines[2] == "| trained | 128 | 36.9 ± 0.5 (+8.7) | 18.5 (+4.4) | 30.2 | 0.50 |"
    assert lines[-1] == fixed().caption()


def test_the_rich_table_holds_the_same_cells() -> None:
    console = Console(width=160, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(fixed().table())
    said = console.export_text()
    for cell in (cell for line in fixed().cells() for cell in line):
        assert cell in said
    assert "chance 10.0%" in said


def test_json_is_read_back_equal() -> None:
    assert EvalResult.model_validate_json(fixed().model_dump_json()) == fixed()


def test_progress_is_told_of_every_image() -> None:
    bar = Counted()
    table(progress=bar, images=(100, 80))
    names = [entry for entry in bar.seen if isinstance(entry, tuple)]
    assert names == [
        ("features of the val split", 80),
        ("features of the training split", 100),
        ("probes on trained", None),
        ("probes on random twin", None),
    ]
    assert sum(entry for entry in bar.seen if isinstance(entry, int)) == 180


def test_without_probes_no_labels_are_needed() -> None:
    unlabelled = [(images, torch.full_like(labels, -1)) for images, labels in loader(40, 0)]
    result = evaluate(maps(), [], unlabelled, {}, classes=0, split="test")
    assert result.caption().endswith("a constant. Scored on 40 images of the test split; no probes.")
    assert result.row("trained").feature_std > 0
    assert "RankMe" in result.text()


def test_unknown_rows_are_errors_with_a_suggestion() -> None:
    with pytest.raises(UserError, match=r"unknown baseline 'twin'; known: random twin, trained\."):
        table(baseline="twin")
    with pytest.raises(UserError, match=r"unknown row 'traind'; .* Did you mean 'trained'\?"):
        fixed().row("traind")


class Pictures:
    """A source whose first channel's brightness is the class; `labelled` says whether it tells."""

    note = "made up"

    def __init__(self, labelled: bool) -> None:
        self.classes = ["dark", "bright"] if labelled else None
        self.asked: list[str] = []

    def split(self, name: str) -> Pictures:
        self.asked.append(name)
        return self

    def __len__(self) -> int:
        return 60

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        image = torch.full((3, 8, 8), 100, dtype=torch.uint8)
        image[0] += 100 * (index % 2) + index
        return image, index % 2 if self.classes else -1


def of_model(source: Any) -> EvalResult:
    model, twin = Model(), Model()
    for each in (model, twin):
        each.encoder = nn.Identity()
        each.encoder.view_shape = lambda: (3, 8, 8)  # type: ignore[assignment]
    probes: Any = {"knn": KNN(KNN.Config(name="knn", k=3))}
    more: Any = {"split": "val", "role": "context", "limits": (50, 40), "batch_size": 16}
    return evaluate_model(model, twin, source, TransformSettings(), probes, **more)


def test_a_model_stands_beside_its_twin_and_the_pixels() -> None:
    source = Pictures(labelled=True)
    result = of_model(source)
    assert [(row.name, row.description) for row in result.rows] == [
        ("trained", "context encoder, mean over tokens"),
        ("random twin", "context encoder, mean over tokens"),
        ("raw pixels", "8×8×3 pixels"),
    ]
    assert source.asked == ["train", "val"]
    assert (result.train_images, result.held_out_images, result.classes, result.split) == (50, 40, 2, "val")
    assert result.row("raw pixels").scores["knn"]["top1"] > 0.9


def test_a_source_without_labels_gives_a_table_without_probes() -> None:
    result = of_model(Pictures(labelled=False))
    assert result.rows[0].scores == {}
    assert result.held_out_images == 40


def both_probes() -> dict[str, Any]:
    return {"knn": KNN(KNN.Config(name="knn", k=5)), "linear": LinearProbe(LinearProbe.Config(name="linear"))}


class Retrieval:
    """A probe whose headline is not its first score, with a chance level of its own."""

    Config: Any = KNN.Config
    headline = "recall"

    def __call__(
        self, train: tuple[Tensor, Tensor], held_out: tuple[Tensor, Tensor], classes: int
    ) -> dict[str, float]:
        return {"rank": 12.0, "recall": 0.5, "recall_se": 0.01, "chance": 1 / 189}


def probed(*probes: Any) -> EvalResult:
    named = {type(probe).__name__.lower(): probe for probe in probes}
    return evaluate(maps(), loader(60, 0), loader(40, 1), named, classes=CLASSES, split="val")


def test_a_probe_names_its_headline_and_its_chance_level() -> None:
    result = probed(Retrieval(), KNN(KNN.Config(name="knn", k=5)))
    scores = result.row("trained").scores["retrieval"]
    assert list(scores) == ["recall", "rank", "recall_se", "chance"], "all of them, the headline first"
    assert result.cells()[0][2] == "retrieval recall"
    assert result.cells()[1][2] == "50.0 ± 1.0 (+0.0)"
    assert "chance 0.5% (retrieval), 25.0% (knn), largest class" in result.caption()
    assert EvalResult.model_validate_json(result.model_dump_json()) == result


def test_chance_is_among_the_classes_that_occur() -> None:
    """A data set of 1,922 classes of which 4 are there."""
    probes: Any = {"knn": KNN(KNN.Config(name="knn", k=5))}
    result = evaluate(maps(), loader(60, 0), loader(40, 1), probes, classes=1922, split="val")
    assert (result.classes, result.guessable, result.chance) == (1922, CLASSES, 1 / CLASSES)
    assert "chance 25.0%" in result.caption()


class Odd:
    """A probe that returns what it is given."""

    Config: Any = KNN.Config

    def __init__(self, scores: Any, headline: str | None = None) -> None:
        self.scores = scores
        if headline:
            self.headline = headline

    def __call__(self, train: Any, held_out: Any, classes: int) -> Any:
        return self.scores


@pytest.mark.parametrize("score", [float("nan"), float("inf"), torch.tensor(torch.nan)])
def test_a_score_that_is_no_number_is_not_computed(score: Any) -> None:
    result = probed(Odd({"top1": score, "more": 0.5}), KNN(KNN.Config(name="knn", k=5)))
    again = EvalResult.model_validate_json(result.model_dump_json())
    for table_read in (result, again):
        row = table_read.row("trained")
        assert str(row.scores["odd"]["top1"]) == "nan"
        assert (row.scores["odd"]["more"], row.failures) == (0.5, {"odd": "the probe odd gave no number"})
        assert table_read.cells()[1][2] == "not computed"
        assert row.scores["knn"]["top1"] > 0.9
        assert "Not computed, trained: the probe odd gave no number." in table_read.caption()


def test_the_table_says_what_a_probe_notes() -> None:
    """Of each row: a cached one may come from a slower hour than the others."""
    guesses = torch.zeros(40, dtype=torch.int64)
    result = probed(Odd(ProbeScores({"top1": 0.5}, guesses, "solved less exactly, with 7 iterations")))
    again = EvalResult.model_validate_json(result.model_dump_json())
    assert again.row("trained").notes == {"odd": "solved less exactly, with 7 iterations"}
    assert "odd of trained: solved less exactly, with 7 iterations; odd of " in again.caption()
    assert probed(Odd(ProbeScores({"top1": 0.5}, guesses))).row("trained").notes == {}


def test_a_probe_without_scores_is_not_computed() -> None:
    assert probed(Odd({})).row("trained").failures == {"odd": "the probe odd gave no number"}


@pytest.mark.parametrize(
    ("probe", "message"),
    [
        (Odd(None), "the probe odd returns scores by name; got NoneType"),
        (Odd([0.5]), "the probe odd returns scores by name; got list"),
        (Odd(ProbeScores({"top1": 0.5}, torch.zeros(7))), r"int64 \[40\]; got torch.float32 \[7\]"),
        (Odd({"top1": "high"}), "the probe odd gives a score that is no number: could not convert"),
        (Odd({"top1": None}), "the probe odd gives a score that is no number"),
        (
            Odd({"top1": 0.5}, "recall"),
            "the probe odd names 'recall' as its headline, but its scores are top1",
        ),
    ],
)
def test_what_is_no_score_is_a_line(probe: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        probed(probe)


def test_features_that_are_not_finite_cost_their_row_only() -> None:
    broken = FeatureMap("trained", "diverged", lambda x: torch.full((len(x), 2), torch.nan))
    rows = [broken, maps()[1]]
    result = evaluate(rows, loader(60, 0), loader(40, 1), both_probes(), classes=CLASSES, split="val")
    names = {probe: list(scores) for probe, scores in result.row("trained").scores.items()}
    assert names == {"knn": ["top1", "top1_se"], "linear": ["top1", "top1_se", "l2"]}
    assert result.cells()[1][2:] == ["not computed"] * 4
    assert result.cells()[2][2] == "25.0 ± 6.8"


def test_samples_that_probes_were_fitted_on_are_left_out_or_said() -> None:
    images = loader(100, 0)
    result = evaluate(maps(), images, images, both_probes(), classes=CLASSES, split="train")
    assert result.left_out == ("knn",)
    assert "Scored on the 100 training images that the probes were fitted on; " in result.caption()
    assert "knn: each is left out of its own answer; linear: fitted on these labels" in result.caption()


@pytest.mark.parametrize(
    "change",
    [
        {"rows": []},
        {"baseline": "nobody"},
        {"rows": [{"name": "a", "scores": {"knn": {}}}]},
        {"held_out_images": "many"},
        {"others": [{"rows": 3}]},
    ],
)
def test_a_table_with_holes_is_refused(change: dict[str, Any]) -> None:
    content = {**json.loads(fixed().model_dump_json()), **change}
    with pytest.raises(ValueError, match="validation error"):
        EvalResult.model_validate_json(json.dumps(content))
