"""`jepa decode`: formulas against direct evaluation, wiring of the conditions, resuming, and the command."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from jepa_core import JEPA, UserError, build_model, load_recipe
from jepa_core.assembly import build, random_batch
from jepa_core.report.saved_sections import saved_sections
from jepa_core.runs import checkpoints
from jepa_core.runs.load import open_model
from jepa_core.runtime.progress import NoProgress
from jepa_core.types import Batch, IndexSet
from jepa_decoder.conditions import CONDITIONS, Decoded, decode, make_conditions
from jepa_decoder.flow import NEAREST, add_noise, draw_times, loss_weight, sample
from jepa_decoder.hidden import HiddenSets, cut_patches, draw_masks, hidden_sets, join_patches, paste, shuffle
from jepa_decoder.measure import Group, Measured, score_group
from jepa_decoder.measures import (
    TIMES,
    composite_cosine,
    image_means,
    information,
    retrieval,
    sample_scores,
    share_kept,
    target_features,
)
from jepa_decoder.network import NOTHING, PREDICTED, TARGET, Decoder
from jepa_decoder.results import say_share
from jepa_decoder.settings import read_settings, training_settings
from jepa_decoder.sheet import GREY, draw_sheet, sheet_parts
from jepa_decoder.train_decoder import FOLDER, train_decoder
from tests.conftest import Said
from tests.made_runs import images, make_run

SMALL = ("steps=6", "batch_size=8", "draws=2", "width=16", "depth=2", "heads=2", "warmup=1", "lr=0.01")
MEASURED = ("samples=2", "euler_steps=2")
Jepa = Callable[..., Said]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, tiny_recipe: Path) -> dict[str, Path]:
    """Runs with random weights: multi-block with its ragged sets, and the union masker with batch norm."""
    place = tmp_path_factory.mktemp("runs")
    overrides = {"multiblock": (), "union": ("masker=union", "variant.target_norm=batch")}
    for name, words in overrides.items():
        (place / name).mkdir()
        make_run(place / name, tiny_recipe, *words)
    return {name: place / name for name in overrides}


@pytest.fixture(scope="module")
def model(runs: dict[str, Path]) -> JEPA:
    return open_model(runs["multiblock"])[1]


def batch_of(count: int = 5) -> Batch:
    return Batch.of(images(16, 16, batch=count))


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def small_decoder(**changes: Any) -> Decoder:
    """A decoder with random weights everywhere, of 4 × 4 patches of 12 pixels and features of width 8."""
    config = read_settings(SMALL).model_copy(update=changes)
    torch.manual_seed(0)
    network = Decoder(config, 12, 8, (4, 4))
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape))
    return network


# flow


def test_the_weighted_error_of_the_patch_is_the_error_of_the_velocity() -> None:
    x, eps, guess = noise(50, 12), noise(50, 12, seed=1), noise(50, 12, seed=2)
    t = torch.linspace(0, 0.94, 50)[:, None]
    x_t = add_noise(x, eps, t)
    torch.testing.assert_close(x_t, t * x + (1 - t) * eps)
    velocity, guessed = x - eps, (guess - x_t) / (1 - t)
    direct = (guessed - velocity).square().mean(1)
    torch.testing.assert_close(loss_weight(t[:, 0]) * (guess - x).square().mean(1), direct, rtol=2e-4, atol=0)
    assert loss_weight(torch.tensor([0.99])).item() == pytest.approx(NEAREST**-2)


def test_the_sampler_is_exact_on_straight_paths_and_converges_on_a_gaussian() -> None:
    start, goal = noise(20, 12), noise(20, 12, seed=1)
    torch.testing.assert_close(sample(lambda x, t: goal, start, 20), goal)
    std = 0.5

    def posterior_mean(x: Tensor, t: float) -> Tensor:
        return x * t * std**2 / (t**2 * std**2 + (1 - t) ** 2)

    errors = [(sample(posterior_mean, start, n) - std * start).abs().max().item() for n in (10, 20, 200)]
    assert errors[0] > errors[1] > errors[2]
    assert errors[2] < 0.02, "the flow takes N(0, 1) to N(0, .25) by scaling"


def test_times_are_a_sigmoid_of_a_normal_and_zero_in_their_share() -> None:
    times = draw_times(20_000, -0.4, 1.0, 0.1, torch.Generator().manual_seed(0))
    zero = times == 0
    assert zero.float().mean().item() == pytest.approx(0.1, abs=0.01)
    logits = times[~zero].logit()
    assert (logits.mean().item(), logits.std().item()) == pytest.approx((-0.4, 1.0), abs=0.03)


# network


def decoder_input(lengths: tuple[int, ...] = (3, 5, 2)) -> dict[str, Any]:
    at = IndexSet.from_lists([range(length) for length in lengths])
    count = len(lengths)
    return {
        "x": noise(at.total, 12),
        "t": torch.linspace(0, 0.8, count),
        "kind": torch.tensor([NOTHING, PREDICTED, TARGET])[:count],
        "features": noise(at.total, 8, seed=3),
        "at": at,
    }


def test_the_kind_nothing_sees_nothing_and_the_others_see_their_features() -> None:
    network, given = small_decoder(), decoder_input()
    before, rows = network(**given), given["at"].segments
    given["features"] = torch.where((rows == 0)[:, None], torch.nan, given["features"])
    after = network(**given)
    torch.testing.assert_close(after, before, rtol=0, atol=0)
    for number in (1, 2):
        changed = {**given, "features": given["features"] + (rows == number)[:, None] * noise(10, 8, seed=4)}
        differs = (network(**changed) != before).any(1)
        assert differs.tolist() == (rows == number).tolist(), "features reach their own set and no other"


def test_a_ragged_batch_gives_what_each_set_gives_alone() -> None:
    network, given = small_decoder(), decoder_input()
    together = network(**given).split([3, 5, 2])
    parts = [given[name].split([3, 5, 2]) for name in ("x", "features")]
    for number, (x, features) in enumerate(zip(*parts, strict=True)):
        alone = slice(number, number + 1)
        at = IndexSet.from_lists([range(len(x))])
        own = network(x, given["t"][alone], given["kind"][alone], features, at)
        torch.testing.assert_close(own, together[number], rtol=1e-4, atol=1e-5)


def test_time_kind_and_position_matter_and_a_fresh_decoder_answers_zero() -> None:
    network, given = small_decoder(), decoder_input()
    before = network(**given)
    moved = IndexSet.from_lists([range(4, 7), range(4, 9), range(4, 6)])
    for change in ({"t": given["t"] + 0.1}, {"kind": given["kind"].roll(1)}, {"at": moved}):
        assert not torch.allclose(network(**{**given, **change}), before)
    fresh = Decoder(read_settings(SMALL), 12, 8, (4, 4))
    assert not fresh(**given).any()


# what is hidden


def test_hidden_patches_are_the_image_s_and_features_are_the_stages(model: JEPA) -> None:
    batch = batch_of()
    plan = draw_masks(model, batch, 0, 0)
    sets, step = hidden_sets(model, batch, plan), model.run_stages(batch, plan)
    torch.testing.assert_close(sets.predicted, torch.cat([p.values for p in step.predictions]))
    torch.testing.assert_close(sets.target, torch.cat([t.values for t in step.targets]))
    assert sets.at.batch_size == 5 * len(plan.pairs) > 5
    view = batch.views["image"]
    for row in range(0, sets.at.total, 7):
        place, image = int(sets.at.index[row]), int(sets.image_of_patch[row])
        y, x = place // 4 * 4, place % 4 * 4
        torch.testing.assert_close(sets.pixels[row], view[image, :, y : y + 4, x : x + 4].flatten())
    torch.testing.assert_close(join_patches(cut_patches(view, (4, 4)), (4, 4), view), view)


def test_pasting_changes_hidden_patches_alone(model: JEPA) -> None:
    batch = batch_of()
    plan = draw_masks(model, batch, 0, 0)
    sets, view = hidden_sets(model, batch, plan), batch.views["image"]
    torch.testing.assert_close(paste(view, sets.pixels, sets, sets.rows_of_pairs()), view)
    pasted = paste(view, sets.pixels + 1, sets, sets.rows_of_pairs()[:1])
    changed = (cut_patches(pasted, (4, 4)) != cut_patches(view, (4, 4))).all(2)
    assert torch.equal(changed, plan.targets[0].mask(16))


def test_the_decoder_never_sees_the_context(model: JEPA) -> None:
    """Other pixels in the visible patches change what is decoded from predictions, and nothing else."""
    batch, config = batch_of(), read_settings([*SMALL, *MEASURED])
    plan = draw_masks(model, batch, 0, 0)
    view = batch.views["image"]
    sets = hidden_sets(model, batch, plan)
    hidden = paste(torch.zeros_like(view), torch.ones_like(sets.pixels), sets, sets.rows_of_pairs()) > 0
    other = Batch.of(torch.where(hidden, view, noise(*view.shape, seed=9)))
    network = Decoder(config, 48, 32, (4, 4))
    torch.nn.init.normal_(network.answer.weight, std=0.1)
    results = []
    for batch in (Batch.of(view), other):
        own = hidden_sets(model, batch, plan)
        conditions = make_conditions(model, batch, plan, own)
        results.append(
            {name: decode(network, own, conditions[name], (0.2,), config, 0) for name in conditions}
        )
    first, second = results
    assert torch.equal(first["nothing"].samples, second["nothing"].samples)
    assert torch.equal(first["nothing"].errors, second["nothing"].errors)
    assert not torch.allclose(first["predicted"].samples, second["predicted"].samples)


def test_shuffled_features_are_another_image_s_at_the_same_positions(model: JEPA) -> None:
    batch = batch_of()
    plan = draw_masks(model, batch, 0, 0)
    sets = hidden_sets(model, batch, plan)
    conditions = make_conditions(model, batch, plan, sets)
    assert tuple(conditions) == CONDITIONS
    assert [conditions[name].kind for name in CONDITIONS] == [NOTHING, PREDICTED, PREDICTED, TARGET, TARGET]
    step = model.run_stages(Batch.of(batch.views["image"].roll(1, 0)), plan)
    torch.testing.assert_close(
        conditions["predicted, shuffled"].features, torch.cat([p.values for p in step.predictions])
    )
    torch.testing.assert_close(
        conditions["target, shuffled"].features, torch.cat([t.values for t in step.targets])
    )
    assert not torch.allclose(conditions["target, shuffled"].features, sets.target)


def test_shuffling_moves_every_value_of_a_sample_together() -> None:
    numbers = torch.arange(3)
    batch = Batch({"image": numbers[:, None].float()}, {"caption": ["a", "b", "c"]}, labels=numbers)
    moved = shuffle(batch)
    assert moved.views["image"].flatten().tolist() == [2, 0, 1] == moved.labels.tolist()
    assert moved.condition == {"caption": ["c", "a", "b"]}


def test_a_predictor_s_captions_go_with_their_images() -> None:
    small = ("encoder.width=32", "encoder.depth=1", "encoder.heads=2", "variant.target_layers=1")
    recipe = load_recipe("imagetext/captioned", *small, "predictor.width=24", "predictor.depth=1")
    model = build_model(recipe).eval()
    batch = random_batch(recipe, model, 4)
    plan = draw_masks(model, batch, 0, 0)
    conditions = make_conditions(model, batch, plan, hidden_sets(model, batch, plan))
    order = [3, 0, 1, 2]
    moved = {name: caption.take(order) for name, caption in batch.condition.items()}
    step = model.run_stages(Batch({"image": batch.views["image"][order]}, moved), plan)
    shuffled = conditions["predicted, shuffled"].features
    torch.testing.assert_close(shuffled, torch.cat([p.values for p in step.predictions]))


# measures


def made_sets(pixels: Tensor, lists: list[list[int]], count: int) -> HiddenSets:
    return HiddenSets(pixels, pixels, pixels, IndexSet.from_lists(lists), count, (2, 2))


def test_sample_scores_are_those_of_two_images_by_hand() -> None:
    sets = made_sets(torch.zeros(3, 2), [[0, 1], [2]], 2)
    samples = torch.tensor([[[1.0, 1], [1, 1], [3, 3]], [[-1, -1], [3, 3], [1, 1]]])
    scores = sample_scores(Decoded(torch.zeros(1, 3), torch.zeros(3, 2), samples), sets)
    assert scores["mean"].tolist() == [(0 + 4) / 2, 4.0]
    assert scores["best"].tolist() == [1.0, 1.0]
    assert scores["spread"].tolist() == [2.0, 2.0]
    assert image_means(torch.tensor([1.0, 2, 6]), torch.tensor([0, 0, 1]), 2).tolist() == [1.5, 6.0]


def test_retrieval_names_its_own_image_and_scores_at_chance_without_content() -> None:
    candidates = noise(4, 4, 6)
    lists = [[0, 1], [1, 2], [0, 3], [2, 3], [0, 2], [1, 3], [0, 1], [2, 3]]
    at = IndexSet.from_lists(lists)
    owner = torch.arange(8) % 4
    exact = candidates[owner[at.segments], at.index]
    sets = made_sets(exact, lists, 4)
    assert retrieval(exact, candidates, sets).tolist() == [1, 1, 1, 1]
    same = candidates[:1].expand(4, -1, -1)
    assert retrieval(exact, same, sets).tolist() == [0.25] * 4
    stranger = candidates.roll(1, 0)[owner[at.segments], at.index]
    assert retrieval(stranger, candidates, sets).tolist() == [0, 0, 0, 0]
    tinted = exact + torch.tensor([5.0, 5, 5, -7, -7, -7])
    assert retrieval(tinted, candidates, sets, channels=2).tolist() == [1, 1, 1, 1]
    tone = torch.ones_like(exact) * owner[at.segments][:, None]
    flat = torch.arange(4.0)[:, None, None].expand(4, 4, 6)
    assert retrieval(tone, flat, sets).tolist() == [1, 1, 1, 1]
    assert retrieval(tone, flat, sets, channels=2).tolist() == [0.25] * 4, "tone alone is no layout"


def test_the_composite_of_the_true_patches_has_cosine_one(model: JEPA) -> None:
    batch = batch_of()
    plan = draw_masks(model, batch, 0, 0)
    sets = hidden_sets(model, batch, plan)
    truth = target_features(model, batch.views["image"], plan)
    exact = composite_cosine(model, batch, plan, sets, sets.pixels, truth)
    torch.testing.assert_close(exact, torch.ones(5))
    wrong = composite_cosine(model, batch, plan, sets, noise(*sets.pixels.shape, seed=5), truth)
    assert (wrong < 0.95).all()


def test_the_share_kept_is_the_ratio_of_gains_and_its_error_that_of_a_ratio() -> None:
    nothing = 1 + 0.3 * noise(2, 4000)
    target = 0.2 * nothing + 0.05 * noise(2, 4000, seed=1)
    for share in (0.0, 0.25, 1.0):
        predicted = nothing + share * (target - nothing)
        kept, error = share_kept({"nothing": nothing, "predicted": predicted, "target": target})
        torch.testing.assert_close(kept, torch.full((2,), share), rtol=0, atol=1e-5)
        assert (error < 1e-5).all(), "the share is the same in every image"
    predicted = nothing - 0.2 + 0.1 * noise(2, 4000, seed=2)
    kept, error = share_kept({"nothing": nothing, "predicted": predicted, "target": target})
    rows = torch.randint(4000, (300, 4000), generator=torch.Generator().manual_seed(3))
    gain, most = (nothing - predicted)[0], (nothing - target)[0]
    bootstrap = torch.stack([gain[row].mean() / most[row].mean() for row in rows])
    assert kept[0].item() == pytest.approx(0.25, abs=0.01)
    assert error[0].item() == pytest.approx(bootstrap.std().item(), rel=0.15)


def test_information_is_that_of_a_gaussian_known_exactly() -> None:
    """Of a pixel of variance s² that the condition gives away: ½ log(1 + s² γ) up to the last γ."""
    times = tuple(number / 2000 for number in range(1601))
    gamma = torch.tensor([(t / (1 - t)) ** 2 for t in times], dtype=torch.float64)
    variance = 0.7
    nothing = (variance / (1 + variance * gamma))[:, None]
    nats = information(torch.zeros_like(nothing), nothing, 12, times)
    assert nats.item() == pytest.approx(12 * 0.5 * math.log1p(variance * 16), rel=1e-3)
    assert information(nothing, nothing, 12, times).item() == 0
    assert TIMES[0] == 0
    assert TIMES[-1] == 0.8


# words and pictures


def measured_of(model: JEPA, errors: dict[str, Tensor]) -> Measured:
    """Made errors [T, n], and the rest of a group whose every condition decodes the true patches."""
    batch = batch_of()
    plan = draw_masks(model, batch, 0, 0)
    sets = hidden_sets(model, batch, plan)
    exact = Decoded(torch.zeros(1, sets.at.total), sets.pixels, sets.pixels.expand(3, -1, -1))
    group = Group(batch.views["image"], plan, sets, dict.fromkeys(CONDITIONS, exact))
    scores = score_group(model, batch, group)
    return Measured(errors, scores.values, scores.ceiling, scores.patches, group)


def test_true_patches_score_as_true_and_the_sheet_shows_the_image(model: JEPA) -> None:
    measured = measured_of(model, {})
    for values in measured.values.values():
        assert all((values[name] < 1e-12).all() for name in ("mean", "best", "spread"))
        assert values["retrieval"].tolist() == values["layout"].tolist() == [1] * 5
        torch.testing.assert_close(values["cosine"], torch.ones(5))
    group = measured.first
    parts = dict(sheet_parts(group, (0.5, 0.5, 0.5), (0.2, 0.2, 0.2)))
    assert [len(pictures) for pictures in parts.values()] == [1, 1, 1, 3, 2, 2]
    (image,), (seen,), decoded = parts["image"], parts["seen"], parts["predicted: samples"][0]
    for picture, shown in ((seen, group.seen), (decoded, group.seen | group.hidden)):
        mask = shown.view(5, 4, 4).repeat_interleave(4, 1).repeat_interleave(4, 2).numpy()
        assert (picture[mask] == image[mask]).all()
        assert (picture[~mask] == GREY).all()
    figure = draw_sheet(group, (0.5, 0.5, 0.5), (0.2, 0.2, 0.2))
    assert len(figure.axes[0].images) == 5 * 10


def test_the_sentence_says_how_much_is_kept_and_when_not_to_believe_it(model: JEPA) -> None:
    nothing = 1 + 0.1 * noise(len(TIMES), 300)
    target = nothing - 0.8
    errors = {"nothing": nothing, "target": target, "predicted": nothing - 0.2, "target, shuffled": nothing}
    reading = say_share(measured_of(model, {**errors, "predicted, shuffled": nothing + 0.1}), 1000)
    assert (
        "targets bring a decoder of 1,000 steps beyond nothing, the predictions keep 25 ± 0 % at t = 0, "
        "25 ± 0 % at t = 0.2, 25 ± 0 % at t = 0.4" in reading
    )
    assert reading.endswith("Predictions for another image are worse than nothing: the decoder reads them.")
    deaf = say_share(measured_of(model, {**errors, "predicted, shuffled": nothing}), 1000)
    assert "are no worse than nothing at t = 0.2: the decoder hardly reads them" in deaf
    short = say_share(measured_of(model, {**errors, "target": nothing}), 1000)
    assert short.startswith("With targets the decoder does no better than with nothing")


# training


class StopAt(NoProgress):
    """A progress bar that kills training after so many images."""

    def __init__(self, images: int) -> None:
        self.left = images

    def advance(self, n: int) -> None:
        self.left -= n
        if self.left <= 0:
            raise KeyboardInterrupt


def train(run: Path, place: Path, progress: Any = None, **changes: Any) -> dict[str, Tensor]:
    recipe, model, _ = open_model(run)
    config = read_settings([*SMALL, "checkpoint_every=2"]).model_copy(update=changes)
    place.mkdir(exist_ok=True)
    samples = build("data", recipe.data).split("train")
    training = train_decoder(place, recipe, model, samples, config, "hash", progress or NoProgress())
    return training.model.state_dict()


@pytest.mark.parametrize("name", ["multiblock", "union"])
def test_a_killed_training_goes_on_bit_for_bit(name: str, runs: dict[str, Path], tmp_path: Path) -> None:
    whole = train(runs[name], tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        train(runs[name], tmp_path / "killed", StopAt(5 * 8))
    steps = [checkpoints.step_of(path) for path in checkpoints.list_checkpoints(tmp_path / "killed")]
    assert steps == [2, 4]
    resumed = train(runs[name], tmp_path / "killed")
    assert all(torch.equal(resumed[key], value) for key, value in whole.items())
    logs = [(tmp_path / name / "metrics.jsonl").read_text() for name in ("whole", "killed")]
    assert logs[0].count("\n") == logs[1].count("\n") == 1
    moved = [key for key, value in whole.items() if key.startswith("average") and value.any()]
    assert "average.answer.weight" in moved, "the average follows the network"


@pytest.mark.slow
def test_training_lowers_the_error_and_logs_it(runs: dict[str, Path], tmp_path: Path) -> None:
    train(runs["union"], tmp_path / "one", steps=60, lr=3e-3, average=(0.9, 0.9))
    lines = [json.loads(line) for line in (tmp_path / "one/metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [50, 60]
    assert lines[-1]["loss"] < 0.8 * lines[0]["loss"]
    assert lines[-1].keys() == {"step", "loss", "error/nothing", "error/predicted", "error/target"}


def test_a_damaged_checkpoint_is_passed_over_and_what_belongs_elsewhere_refused(
    runs: dict[str, Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    place = tmp_path / "one"
    whole = train(runs["union"], place)
    newest = place / "checkpoints/step-00000006/model.safetensors"
    newest.write_bytes(newest.read_bytes()[:-100])
    again = train(runs["union"], place)
    assert all(torch.equal(again[key], value) for key, value in whole.items())
    assert "damaged checkpoint passed over" in caplog.text
    for changes, text in (({"width": 32}, "width=16, not 32"), ({"seed": 1}, "seed=0, not 1")):
        with pytest.raises(UserError, match=f"was begun with {text}; give the same, or --overwrite"):
            train(runs["union"], place, **changes)
    for path in place.glob("checkpoints/*/state.pt"):
        path.write_bytes(b"cut")
    with pytest.raises(UserError, match=r"every checkpoint .* is damaged: .*; --overwrite begins anew"):
        train(runs["union"], place)


def test_checkpoints_that_are_no_decoder_s_are_refused(runs: dict[str, Path], tmp_path: Path) -> None:
    weights_alone, other_state = tmp_path / "weights", tmp_path / "state"
    shutil.copytree(runs["union"] / "checkpoints", weights_alone / "checkpoints")
    with pytest.raises(UserError, match="holds weights only"):
        train(runs["union"], weights_alone)
    checkpoints.save(other_state, 3, {"x": torch.zeros(2)}, {"step": 3, "optimizer": {}}, keep=1)
    with pytest.raises(UserError, match="are not a decoder's; --overwrite begins anew"):
        train(runs["union"], other_state)
    belongs = {"weights": "hash", "settings": training_settings(read_settings(SMALL))}
    state = {"step": 4, "optimizer": {}, **belongs}
    checkpoints.save(other_state, 4, {"x": torch.zeros(2)}, state, keep=1)
    with pytest.raises(UserError, match="is of another model: missing"):
        train(runs["union"], other_state)


# the command


@pytest.mark.slow
def test_the_command_decodes_a_run_and_its_report_shows_it(
    runs: dict[str, Path], tmp_path: Path, jepa: Jepa
) -> None:
    run = tmp_path / "run"
    shutil.copytree(runs["multiblock"], run)
    first = jepa("decode", run, *SMALL, *MEASURED, "--json")
    assert first.code == 0, first.err
    record = json.loads(first.out)
    assert record == json.loads((run / "decode.json").read_text())
    assert [table["task"] for table in record["tables"]] == ["denoising", "samples"]
    assert {row["name"] for row in record["tables"][0]["rows"]} == set(CONDITIONS)
    assert len(record["share_kept"]) == len(TIMES)
    assert (record["images"], record["group"], record["step"]) == (6, 6, 7)
    assert (run / "pictures/decoder.png").stat().st_size > 10_000
    again = jepa("decode", run, *SMALL, *MEASURED)
    assert again.code == 0
    assert "training the decoder" not in again.err, "it has been trained"
    assert json.loads((run / "decode.json").read_text()) == record, "measured the same"
    assert "E(0.2)" in again.out
    assert record["says"] in again.out.replace("\n", " ")
    drawn, notes = saved_sections(run)
    assert notes == []
    assert "predicted, shuffled" in drawn["decoder"].markup
    assert record["says"] in drawn["decoder"].says


@pytest.mark.slow
def test_a_decoder_of_earlier_weights_is_refused_until_overwritten(
    runs: dict[str, Path], tmp_path: Path, jepa: Jepa, tiny_recipe: Path
) -> None:
    run = tmp_path / "run"
    shutil.copytree(runs["union"], run)
    assert jepa("decode", run, *SMALL, *MEASURED).code == 0
    make_run(run, tiny_recipe, "masker=union", "variant.target_norm=batch", "seed=8", step=9)
    refused = jepa("decode", run, *SMALL, *MEASURED)
    assert refused.code == 2
    assert "was trained on other weights of the run" in refused.err
    assert jepa("decode", run, *SMALL, *MEASURED, "--overwrite").code == 0
    assert json.loads((run / "decode.json").read_text())["step"] == 9


WRONG = {
    "nowhere": ((), (), "'nowhere' is not a run: it holds no recipe.toml"),
    "no predictor": (("masker=none", "predictor=none"), (), "has no predictor (predictor.name = none)"),
    "no masks": (("masker=none",), (), "this run's masker hides nothing, so there is nothing to decode"),
    "video": ("vjepa/selftest", (), "expected images (C, H, W) on a grid (H, W) of patches"),
    "lejepa": ("lejepa/selftest", (), "has no predictor"),
    "setting": ((), ("widht=3",), "unknown setting 'decoder.widht'; known: at_zero,"),
    "value": ((), ("depth=0",), "setting 'decoder.depth' is 0; expected"),
    "heads": ((), ("width=20", "heads=3"), "a width that divides by 4 and by heads=3; it is 20"),
    "kinds": ((), ("kinds=[0.5,0.5,0.5]",), "kinds that add up to 1"),
    "word": ((), ("fast",), "override 'fast' is not of the form setting=value"),
    "split": ((), ("--split", "all"), "'all'"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_mistake_is_one_line(
    case: str, tmp_path: Path, tiny_recipe: Path, jepa: Jepa, monkeypatch: Any
) -> None:
    made, words, text = WRONG[case]
    monkeypatch.chdir(tmp_path)
    if case != "nowhere":
        recipe, overrides = (made, ()) if isinstance(made, str) else (tiny_recipe, made)
        make_run(tmp_path / "run", recipe, *overrides)
    answer = jepa("decode", "nowhere" if case == "nowhere" else "run", *words)
    lines = [line for line in answer.err.splitlines() if line.startswith("error:")]
    assert answer.code == 2
    assert len(lines) == 1
    assert text in lines[0]
    assert not (tmp_path / "run" / FOLDER).exists()
