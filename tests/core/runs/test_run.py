"""Whole runs on tiny images: the folder, resuming bit for bit, observers, and refusals."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from jepa_core import Run, UserError, hookimpl, load_recipe, train
from jepa_core.observers.standard import MetricsWriter, Terminal
from jepa_core.runs import checkpoints
from jepa_core.runs import folder as run_folder
from jepa_core.runs.events_file import read_events
from jepa_core.runs.load import open_model
from jepa_core.runs.metrics_file import read_metrics


class Watcher:
    """Writes down what it is told; at step `stops` the power fails."""

    def __init__(self, stops: int | None = None) -> None:
        self.stops = stops
        self.told: list[tuple[str, int]] = []
        self.metrics: list[Mapping[str, Any]] = []

    @hookimpl
    def jepa_run_started(self, run: Run) -> None:
        self.told.append(("started", run.step))

    @hookimpl
    def jepa_step_ended(self, run: Run, step: int, metrics: Mapping[str, Any]) -> None:
        assert step == run.step
        self.told.append(("step", step))
        self.metrics.append(metrics)
        if step == self.stops:
            raise KeyboardInterrupt

    @hookimpl
    def jepa_run_ended(self, run: Run) -> None:
        self.told.append(("ended", run.step))


class Poison:
    """After step `after`, until step `until`, every prediction is NaN."""

    def __init__(self, after: int, until: int = 99) -> None:
        self.after, self.until = after, until

    @hookimpl
    def jepa_step_ended(self, run: Run, step: int) -> None:
        predictor = run.model.predictor
        assert predictor is not None
        if step == self.after:
            self.handle = predictor.norm.register_forward_hook(lambda *call: call[2] * math.nan)  # type: ignore[union-attr]
        if step == self.until:
            self.handle.remove()


class Removes:
    """Takes the images away after step 2."""

    def __init__(self, images: Path) -> None:
        self.images = images

    @hookimpl
    def jepa_step_ended(self, run: Run, step: int) -> None:
        if step == 2:
            shutil.rmtree(self.images)


def many_files(folder: Path, count: int) -> Path:
    """A folder of small PNG files."""
    folder.mkdir()
    for number, image in enumerate(np.random.default_rng(0).integers(0, 255, (count, 16, 16, 3), np.uint8)):
        Image.fromarray(image).save(folder / f"{number}.png")
    return folder


@pytest.fixture(scope="module")
def whole(tiny_recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Six steps without a pause, core's observers watching."""
    return train(load_recipe(tiny_recipe), tmp_path_factory.mktemp("runs") / "whole")


def quiet(recipe: Path, folder: Path, *overrides: str, resume: bool = False, watch: object = None) -> Run:
    """A run that writes metrics and draws nothing."""
    watchers = [MetricsWriter(), *([watch] if watch else [])]
    return train(load_recipe(recipe, *overrides), folder, resume=resume, watch=watchers)


def interrupted(recipe: Path, folder: Path, *overrides: str) -> None:
    """The same run, stopped at step 4 with a checkpoint of step 3."""
    with pytest.raises(KeyboardInterrupt):
        quiet(recipe, folder, "train.checkpoint_every=3", *overrides, watch=Watcher(stops=4))


def losses(folder: Path) -> dict[int, float]:
    return {line["step"]: line["loss"] for line in read_metrics(folder / "metrics.jsonl")}


def refusal(*arguments: object, **named: Any) -> str:
    with pytest.raises(UserError) as error:
        quiet(*arguments, **named)  # type: ignore[arg-type]
    return str(error.value)


def test_a_run_is_a_folder_with_everything_in_it(whole: Run) -> None:
    written = {path.name for path in whole.folder.iterdir()}
    assert written == {
        "recipe.toml",
        "fields.json",
        "metrics.jsonl",
        "events.jsonl",
        "checkpoints",
        "tensorboard",
        "masks.png",
        "curves.png",
    }
    assert load_recipe(whole.folder / "recipe.toml") == whole.recipe
    assert [p.name for p in (whole.folder / "checkpoints").iterdir()] == ["step-00000006"]
    assert list((whole.folder / "tensorboard").glob("events.*"))
    assert (whole.step, whole.total_steps) == (6, 6)


def test_metrics_are_one_json_object_a_logged_step(whole: Run) -> None:
    lines = [json.loads(line) for line in (whole.folder / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2, 3, 4, 5, 6]
    for line in lines:
        assert 0 < line["loss"] < 2
        assert line["loss"] == pytest.approx(line["loss/prediction"])
        assert line["retrieval_chance"] == 1 / 8
        assert 0 <= line["retrieval"] <= 1
        assert 1 <= line["rankme"] <= 8.01
        assert line["context_tokens"] + line["target_tokens"] <= 16
        assert line["images_per_s"] > 0
    assert whole.metrics() == lines


@pytest.mark.parametrize("workers", [0, 2])
def test_a_resumed_run_is_the_uninterrupted_one_bit_for_bit(
    whole: Run, tiny_recipe: Path, tmp_path: Path, workers: int
) -> None:
    interrupted(tiny_recipe, tmp_path)
    assert losses(tmp_path).keys() == {1, 2, 3, 4}
    watcher = Watcher()
    overrides = ("train.checkpoint_every=3", f"data.workers={workers}")
    resumed = quiet(tiny_recipe, tmp_path, *overrides, resume=True, watch=watcher)
    assert watcher.told[:2] == [("started", 3), ("step", 4)]
    assert losses(tmp_path) == losses(whole.folder)
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 6, "step 4 stands there once"
    theirs = whole.model.state_dict()
    assert all(torch.equal(value, theirs[name]) for name, value in resumed.model.state_dict().items())


def test_a_line_that_was_cut_off_does_not_keep_a_run_from_going_on(
    whole: Run, tiny_recipe: Path, tmp_path: Path
) -> None:
    interrupted(tiny_recipe, tmp_path)
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 5, "lo')
    quiet(tiny_recipe, tmp_path, "train.checkpoint_every=3", resume=True)
    assert losses(tmp_path) == losses(whole.folder)


def test_probes_may_change_when_a_run_goes_on(tiny_recipe: Path, tmp_path: Path) -> None:
    interrupted(tiny_recipe, tmp_path)
    changed = ("train.checkpoint_every=3", "probes.knn.k=5", "probes.wide.name=knn")
    assert quiet(tiny_recipe, tmp_path, *changed, resume=True).step == 6


def test_resuming_a_finished_run_takes_no_step(tiny_recipe: Path, tmp_path: Path) -> None:
    quiet(tiny_recipe, tmp_path, "train.steps=1")
    watcher = Watcher()
    assert quiet(tiny_recipe, tmp_path, "train.steps=1", resume=True, watch=watcher).step == 1
    assert watcher.told == [("started", 1), ("ended", 1)]
    assert losses(tmp_path).keys() == {1}


def test_resuming_another_recipe_names_what_changed(tiny_recipe: Path, tmp_path: Path) -> None:
    interrupted(tiny_recipe, tmp_path)
    said = refusal(tiny_recipe, tmp_path, "optimizer.lr=0.5", "train.keep=7", "masker.targets=2", resume=True)
    assert said == (
        "the recipe is not the run's: masker.targets (4 → 2), optimizer.lr (0.001 → 0.5). "
        "Resume it unchanged, start a new run, or name what may change with --allow-change"
    )


def test_what_may_change_is_named_and_stays_written(whole: Run, tiny_recipe: Path, tmp_path: Path) -> None:
    interrupted(tiny_recipe, tmp_path)
    asked = load_recipe(tiny_recipe, "train.checkpoint_every=3", "train.steps=8", "optimizer.lr=0.002")
    allowed = ["train.steps", "optimizer"]
    longer = train(asked, tmp_path, True, [MetricsWriter()], allow_change=allowed)
    assert (longer.step, list(losses(tmp_path))) == (8, [1, 2, 3, 4, 5, 6, 7, 8])
    assert losses(tmp_path)[3] == losses(whole.folder)[3]
    assert losses(tmp_path)[6] != losses(whole.folder)[6]
    assert run_folder.read_run_recipe(tmp_path) == asked
    assert read_events(tmp_path, "recipe_changed")[0]["what"] == [
        "optimizer.lr (0.001 → 0.002)",
        "train.steps (6 → 8)",
    ]
    with pytest.raises(UserError) as error:
        train(asked, tmp_path, True, [], allow_change=["train.stepz"])
    assert str(error.value).startswith("unknown setting 'train.stepz'; known: ")
    assert str(error.value).endswith("Did you mean 'train.steps'?")


def test_other_data_than_the_runs_is_refused(tiny_recipe: Path, tmp_path: Path) -> None:
    interrupted(tiny_recipe, tmp_path / "run")
    images = np.zeros((70, 16, 16, 3), dtype=np.uint8)
    np.savez(tmp_path / "more.npz", images=images)
    said = refusal(
        *(tiny_recipe, tmp_path / "run", "train.checkpoint_every=3", f"data.path={tmp_path / 'more.npz'}"),
        resume=True,
    )
    assert said == (
        "the training split has 56 images, but 52 when the run began; give it the same data, or "
        "--allow-change data"
    )


def test_a_run_stopped_before_its_first_checkpoint_starts_again(
    whole: Run, tiny_recipe: Path, tmp_path: Path
) -> None:
    with pytest.raises(KeyboardInterrupt):
        quiet(tiny_recipe, tmp_path, watch=Watcher(stops=2))
    quiet(tiny_recipe, tmp_path, resume=True)
    assert losses(tmp_path) == losses(whole.folder)


def test_a_run_that_is_killed_while_its_folder_is_made_starts_again(
    tiny_recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whichever of its files is the last that is there: the folder is a run, or empty."""
    whole_mkdir, folder = Path.mkdir, tmp_path / "run"

    def die(path: Path, *arguments: Any, **named: Any) -> None:
        if path == folder / "checkpoints":
            raise KeyboardInterrupt
        whole_mkdir(path, *arguments, **named)

    recipe = load_recipe(tiny_recipe, "train.steps=1")
    with monkeypatch.context() as patch:
        patch.setattr(Path, "mkdir", die)
        with pytest.raises(KeyboardInterrupt):
            train(recipe, folder, "auto", [])
    with pytest.raises(KeyboardInterrupt):
        train(load_recipe(tiny_recipe, "train.steps=3"), folder, "auto", [MetricsWriter(), Watcher(stops=2)],
              allow_change=["train.steps"])  # fmt: skip
    assert losses(folder).keys() == {1, 2}
    recipe = load_recipe(tiny_recipe, "train.steps=3")
    assert train(recipe, folder, "auto", [MetricsWriter()]).step == 3, (
        "it had no checkpoint yet, none is lost"
    )


def test_auto_starts_or_goes_on(whole: Run, tiny_recipe: Path, tmp_path: Path) -> None:
    recipe, folder = load_recipe(tiny_recipe, "train.checkpoint_every=2"), tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        train(recipe, folder, "auto", [MetricsWriter(), Watcher(stops=5)])
    watcher = Watcher()
    train(recipe, folder, "auto", [MetricsWriter(), watcher])
    assert watcher.told[0] == ("started", 4)
    assert losses(folder) == losses(whole.folder)


def test_what_cannot_be_resumed_says_why(tiny_recipe: Path, tmp_path: Path) -> None:
    nowhere = tmp_path / "nowhere"
    assert (
        refusal(tiny_recipe, nowhere, resume=True)
        == f"{str(nowhere)!r} is not a run: it holds no recipe.toml"
    )


def test_a_damaged_checkpoint_is_passed_over_set_aside_and_told(
    whole: Run, tiny_recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(KeyboardInterrupt):
        quiet(tiny_recipe, tmp_path, "train.checkpoint_every=2", watch=Watcher(stops=5))
    newest = tmp_path / "checkpoints/step-00000004/state.pt"
    newest.write_bytes(newest.read_bytes()[:-5])
    resumed = quiet(
        *(tiny_recipe, tmp_path, "train.checkpoint_every=2", "train.keep=1"), resume=True, watch=Terminal()
    )
    assert f"damaged checkpoint passed over: {newest} has " in capsys.readouterr().err
    assert losses(tmp_path) == losses(whole.folder)
    (event,) = read_events(tmp_path, "checkpoint_damaged")
    assert event["step"] == 2
    assert event["what"].startswith(f"{newest} has ")
    assert resumed.notes["damaged"] == [event["what"]]
    left = sorted(path.name for path in (tmp_path / "checkpoints").iterdir())
    assert left == ["step-00000004.damaged", "step-00000006"]


def test_a_step_that_is_not_finite_ends_the_run_and_names_the_last_checkpoint(
    tiny_recipe: Path, tmp_path: Path
) -> None:
    said = refusal(tiny_recipe, tmp_path, "train.checkpoint_every=2", watch=Poison(after=3))
    assert said == (
        "stopped at step 3: step 4: the loss is nan (term prediction is nan); the last good checkpoint is "
        f"{tmp_path / 'checkpoints/step-00000002'}"
    )


def test_skipped_steps_are_counted_in_metrics_and_events(tiny_recipe: Path, tmp_path: Path) -> None:
    quiet(tiny_recipe, tmp_path, "train.on_nonfinite=skip", watch=Poison(after=3, until=5))
    lines = read_metrics(tmp_path / "metrics.jsonl")
    assert [line["skipped_steps"] for line in lines] == [0, 0, 0, 1, 2, 2]
    assert [line["loss"] is None for line in lines] == [False, False, False, True, True, False]
    events = read_events(tmp_path, "step_skipped")
    assert [(e["step"], e["why"]) for e in events] == [
        (4, "the loss is nan (term prediction is nan)"),
        (5, "the loss is nan (term prediction is nan)"),
    ]


class FullDisk:
    """The disk is full from a step on."""

    @hookimpl
    def jepa_step_ended(self, run: Run, step: int) -> None:
        if step == 3:
            raise OSError(28, "No space left on device", str(run.folder / "metrics.jsonl"))


def test_a_full_disk_ends_the_run_in_one_line(tiny_recipe: Path, tmp_path: Path) -> None:
    said = refusal(tiny_recipe, tmp_path, "train.checkpoint_every=2", watch=FullDisk())
    assert said == (
        f"stopped at step 3: No space left on device: {tmp_path / 'metrics.jsonl'}; the last good checkpoint "
        f"is {tmp_path / 'checkpoints/step-00000002'}"
    )


def test_a_checkpoint_that_cannot_be_written_ends_the_run_in_one_line(
    tiny_recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = checkpoints.save

    def fails_later(folder: Path, step: int, *rest: Any) -> Path:
        if step > 2:
            raise UserError(f"the checkpoint of step {step} cannot be written")
        return written(folder, step, *rest)

    monkeypatch.setattr(checkpoints, "save", fails_later)
    said = refusal(tiny_recipe, tmp_path, "train.checkpoint_every=2")
    assert said.startswith("stopped at step ")
    assert said.endswith(
        "the checkpoint of step 4 cannot be written; the last good checkpoint is "
        f"{tmp_path / 'checkpoints/step-00000002'}"
    )


def test_a_folder_that_cannot_be_made_is_one_line(tiny_recipe: Path) -> None:
    assert refusal(tiny_recipe, Path("/proc/run")) == (
        "the run's folder '/proc/run' cannot be written: No such file or directory"
    )


def test_data_that_goes_away_ends_the_run_in_one_line(tiny_recipe: Path, tmp_path: Path) -> None:
    images = many_files(tmp_path / "images", 130)
    folder = ("data.name=folder", f"data.path={images}", "data.val_share=0", "data.test_share=0")
    said = refusal(tiny_recipe, tmp_path / "run", *folder, "train.checkpoint_every=1", watch=Removes(images))
    assert said.startswith(
        "stopped at step 2: 100 of 100 samples cannot be read (100%; data.max_corrupt allows"
    )
    assert "No such file or directory" in said
    assert said.endswith(f"the last good checkpoint is {tmp_path / 'run/checkpoints/step-00000002'}")


def test_a_folder_in_use_is_not_overwritten(whole: Run, tiny_recipe: Path, tmp_path: Path) -> None:
    before = (whole.folder / "metrics.jsonl").read_text()
    assert refusal(tiny_recipe, whole.folder) == (
        f"{str(whole.folder)!r} holds a run already; resume it, overwrite it, or name another folder"
    )
    assert (whole.folder / "metrics.jsonl").read_text() == before
    (tmp_path / "file").touch()
    assert refusal(tiny_recipe, tmp_path / "file") == (
        f"the run's folder {str(tmp_path / 'file')!r} is a file; name another"
    )


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_folder_with_other_files_is_used_unless_a_run_would_mix_with_them(
    tiny_recipe: Path, tmp_path: Path, overwrite: bool
) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / "checkpoints").mkdir()
    with pytest.raises(UserError) as error:
        train(load_recipe(tiny_recipe), tmp_path, watch=[], overwrite=overwrite)
    assert str(error.value) == (
        f"{str(tmp_path)!r} is not a run (it holds no recipe.toml), but has checkpoints, which a run "
        "would write to; name another folder"
    )
    (tmp_path / "checkpoints").rmdir()
    assert train(load_recipe(tiny_recipe, "train.steps=1"), tmp_path, watch=[], overwrite=overwrite).step == 1
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_overwriting_removes_the_old_run_only_when_the_new_one_can_start(
    tiny_recipe: Path, tmp_path: Path
) -> None:
    quiet(tiny_recipe, tmp_path, "train.steps=2")
    before = losses(tmp_path)
    with pytest.raises(UserError, match="does not exist"):
        train(load_recipe(tiny_recipe, "data.path=/no/such.npz"), tmp_path, watch=[], overwrite=True)
    assert losses(tmp_path) == before
    train(load_recipe(tiny_recipe, "train.steps=1"), tmp_path, watch=[MetricsWriter()], overwrite=True)
    assert losses(tmp_path) == {1: before[1]}


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_run_of_a_gpu_opens_where_there_is_none(whole: Run, caplog: pytest.LogCaptureFixture) -> None:
    recipe = whole.folder / "recipe.toml"
    before = recipe.read_text()
    recipe.write_text(before.replace('device = "cpu"', 'device = "cuda"'))
    _, model, step = open_model(whole.folder)
    recipe.write_text(before)
    assert (next(model.parameters()).device.type, step) == ("cpu", 6)
    assert "sees no GPU here; taking cpu" in caplog.text


def test_clear_removes_a_runs_files_and_nothing_else(tiny_recipe: Path, tmp_path: Path) -> None:
    train(load_recipe(tiny_recipe, "train.steps=2"), tmp_path)
    (tmp_path / "notes.txt").write_text("mine")
    run_folder.remove_run_files(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_an_observer_hears_every_step_and_metrics_at_logged_ones(tiny_recipe: Path, tmp_path: Path) -> None:
    watcher = Watcher()
    quiet(tiny_recipe, tmp_path, "train.log_every=4", watch=watcher)
    assert watcher.told == [("started", 0), *(("step", s) for s in range(1, 7)), ("ended", 6)]
    assert [bool(m) for m in watcher.metrics] == [False, False, False, True, False, True]


def test_observers_are_called_in_the_order_they_are_listed(tiny_recipe: Path, tmp_path: Path) -> None:
    """So that one that reads metrics.jsonl stands behind the one that writes it."""

    class Reader:
        def __init__(self) -> None:
            self.read: list[int] = []

        @hookimpl
        def jepa_step_ended(self, run: Run, step: int) -> None:
            self.read.append(run.metrics()[-1]["step"])

    reader = Reader()
    quiet(tiny_recipe, tmp_path, "train.steps=2", watch=reader)
    assert reader.read == [1, 2]


def test_an_observer_is_told_of_the_end_after_an_error_and_hears_no_later_run(
    tiny_recipe: Path, tmp_path: Path
) -> None:
    watcher = Watcher(stops=2)
    with pytest.raises(KeyboardInterrupt):
        quiet(tiny_recipe, tmp_path / "a", watch=watcher)
    assert watcher.told[-1] == ("ended", 2)
    heard = len(watcher.told)
    quiet(tiny_recipe, tmp_path / "b", "train.steps=1")
    assert len(watcher.told) == heard


def test_an_observer_with_a_misspelt_hook_is_refused(tiny_recipe: Path, tmp_path: Path) -> None:
    class Typo:
        @hookimpl
        def jepa_step_end(self, run: Run) -> None: ...

    said = refusal(tiny_recipe, tmp_path, watch=Typo())
    assert "unknown hook 'jepa_step_end'" in said
    assert said.endswith("Did you mean 'jepa_step_ended'?")


def test_the_small_knn_is_logged_where_it_is_asked_for(tiny_recipe: Path, tmp_path: Path) -> None:
    quiet(tiny_recipe, tmp_path, "train.steps=4", "train.log_every=3", "train.eval_every=2")
    scores = {line["step"]: line.get("val_knn") for line in read_metrics(tmp_path / "metrics.jsonl")}
    assert scores.keys() == {2, 3, 4}
    assert scores[3] is None
    assert all(0.5 <= scores[step] <= 1 for step in (2, 4)), "bright left or right is easily told apart"


def test_images_without_labels_train_without_the_small_knn(
    tiny_recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images = np.random.default_rng(0).integers(0, 255, (40, 16, 16, 3), dtype=np.uint8)
    np.savez(tmp_path / "bare.npz", images=images)
    recipe = load_recipe(
        tiny_recipe, f"data.path={tmp_path / 'bare.npz'}", "train.steps=2", "train.eval_every=1"
    )
    train(recipe, tmp_path / "run", watch=[MetricsWriter(), Terminal()])
    assert all("val_knn" not in line for line in read_metrics(tmp_path / "run/metrics.jsonl"))
    assert "the images have no labels: the small kNN evaluations are left out" in capsys.readouterr().err


def test_corrupt_and_odd_images_are_counted_by_kind_and_listed(
    tiny_recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images = many_files(tmp_path / "images", 17)
    (images / "3.png").write_bytes(b"no image")
    (images / "8.png").write_bytes((images / "8.png").read_bytes()[:100])
    Image.open(images / "5.png").convert("L").save(images / "5.png")
    folder = ("data.name=folder", f"data.path={images}", "data.val_share=0", "data.test_share=0")
    asked = (*folder, "seed=1", "train.steps=2", "train.batch_size=15", "train.checkpoint_every=1")
    watchers = [MetricsWriter(), Terminal(), Watcher(stops=1)]
    with pytest.raises(KeyboardInterrupt):
        train(load_recipe(tiny_recipe, *asked), tmp_path / "run", watch=watchers)
    train(load_recipe(tiny_recipe, *asked), tmp_path / "run", True, watch=watchers[:2])
    first, second = read_metrics(tmp_path / "run/metrics.jsonl")
    assert first["corrupt_images"] == 2
    assert first["corrupt_images/not_an_image"] == first["corrupt_images/truncated"] == 1
    assert first["odd_images/grey"] == 1
    assert second["corrupt_images"] == 4, "a resumed run goes on counting"
    assert "4 corrupt images skipped" in capsys.readouterr().err
    listed = sorted((tmp_path / "run/corrupt_files.tsv").read_text().splitlines())
    assert [line.split("\t")[:2] for line in listed] == [
        ["not_an_image", str(images / "3.png")],
        ["truncated", str(images / "8.png")],
    ], "each file once"
