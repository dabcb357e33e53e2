"""What a resumed run checks before it goes on: lost checkpoints, other data, states of other shapes."""

from __future__ import annotations

import io
import json
import os
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from jepa_core import UserError, load_recipe, train
from jepa_core.data.sources.webdataset import WebDatasetSource
from jepa_core.observers.standard import Journal, MetricsWriter
from jepa_core.runs import checkpoints
from jepa_core.runs.data_hash import data_hash, same_data

Change = Callable[[dict[str, Any]], object]


@pytest.fixture(scope="module")
def finished(tiny_recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of 2 steps."""
    folder = tmp_path_factory.mktemp("finished") / "run"
    train(load_recipe(tiny_recipe, "train.steps=2"), folder, watch=[MetricsWriter(), Journal()])
    return folder


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    shutil.copytree(finished, tmp_path / "run")
    return tmp_path / "run"


def go_on(recipe: Path, run: Path, *overrides: str, **named: Any) -> int:
    longer = load_recipe(recipe, "train.steps=3", *overrides)
    allowed = ["train.steps", *named.pop("allow", ())]
    return train(longer, run, "auto", [MetricsWriter()], allow_change=allowed, **named).step


def refusal(recipe: Path, run: Path, *overrides: str, **named: Any) -> str:
    before = (run / "metrics.jsonl").read_bytes()
    with pytest.raises(UserError) as error:
        go_on(recipe, run, *overrides, **named)
    assert (run / "metrics.jsonl").read_bytes() == before
    assert not list(run.glob("lock-*"))
    assert "\n" not in str(error.value)
    return str(error.value)


def test_a_run_whose_checkpoints_are_gone_is_not_begun_again(tiny_recipe: Path, run: Path) -> None:
    shutil.rmtree(run / "checkpoints")
    place = run / "checkpoints"
    hint = "is a disk not mounted, or was it removed? Bring it back, or start the run anew with --overwrite"
    expected = f"{place} holds no checkpoint, though events.jsonl tells of one of step 2: {hint}"
    assert refusal(tiny_recipe, run) == expected
    place.mkdir()
    assert refusal(tiny_recipe, run) == expected
    (run / "events.jsonl").unlink()
    place.rmdir()
    assert (
        refusal(tiny_recipe, run)
        == f"there is no folder {place}, though metrics.jsonl goes up to step 2: {hint}"
    )
    (run / "checkpoints").symlink_to("/no/such/disk")
    assert refusal(tiny_recipe, run).endswith(hint)
    fresh = load_recipe(tiny_recipe, "train.steps=1")
    (run / "checkpoints").unlink()
    assert train(fresh, run, watch=[], overwrite=True).step == 1


def test_a_run_without_events_or_metrics_and_checkpoints_begins(tiny_recipe: Path, run: Path) -> None:
    for name in ("metrics.jsonl", "events.jsonl"):
        (run / name).unlink()
    shutil.rmtree(run / "checkpoints")
    assert go_on(tiny_recipe, run) == 3


def spoil_state(run: Path, change: Change) -> None:
    """Changes the newest checkpoint's state, and its hash in the manifest."""
    (checkpoint,) = checkpoints.list_checkpoints(run)
    path = checkpoint / checkpoints.STATE
    state = torch.load(path, weights_only=True)
    change(state)
    torch.save(state, path)
    manifest = json.loads((checkpoint / checkpoints.MANIFEST).read_text())
    manifest["files"][path.name] = {"bytes": path.stat().st_size, "sha256": checkpoints.sha256(path)}
    (checkpoint / checkpoints.MANIFEST).write_text(json.dumps(manifest))


def put(*keys: Any, value: Any) -> Change:
    def change(state: dict[str, Any]) -> None:
        for key in keys[:-1]:
            state = state[key]
        state[keys[-1]] = value

    return change


def change_moment(change: Callable[[torch.Tensor], torch.Tensor]) -> Change:
    """Changes a moment of the first parameter."""

    def of_state(state: dict[str, Any]) -> None:
        entry = state["training"]["optimizer"]["state"][0]
        entry["exp_avg"] = change(entry["exp_avg"])

    return of_state


FIRST = ("training", "optimizer", "state", 0)
GROUPS = ("training", "optimizer", "param_groups")

STATES: dict[str, tuple[Change, str]] = {
    "no training": (lambda state: state.pop("training"), "'training' is None; expected a dictionary"),
    "training a list": (put("training", value=[]), "'training' is []"),
    "no inputs": (lambda state: state.pop("inputs"), "'inputs' is None"),
    "inputs without kinds": (put("inputs", value={}), "no counts of corrupt and odd ones"),
    "counts that are texts": (put("inputs", "corrupt", value={"a": "b"}), "counts 'b' of kind 'a'"),
    "negative counts": (put("inputs", "odd", value={"a": -1}), "counts -1"),
    "no images": (lambda state: state.pop("images"), "but None when the run began"),
    "images a list": (put("images", value=[52]), "but [52] when the run began"),
    "step a text": (put("training", "step", value="2"), "step is '2'"),
    "step negative": (put("training", "step", value=-2), "step is -2"),
    "step huge": (put("training", "step", value=10**30), "expected a whole number"),
    "another step": (put("training", "step", value=1), "it is of step 1, and the checkpoint of step 2"),
    "no guard": (lambda state: state["training"].pop("guard"), "no lists of losses and skipped steps"),
    "guard a number": (put("training", "guard", value=3), "no lists of losses"),
    "losses texts": (put("training", "guard", "losses", value=["a"]), "losses of the step guard"),
    "skipped texts": (put("training", "guard", "skipped", value="ab"), "skipped steps of the step guard"),
    "no optimizer": (put("training", "optimizer", value=None), "no groups and entries"),
    "groups null": (put(*GROUPS, value=None), "no groups and entries"),
    "no groups": (put(*GROUPS, value=[]), "is of groups of [] parameters"),
    "groups of numbers": (put(*GROUPS, value=[1, 2]), "no groups and entries"),
    "a parameter twice": (put(*GROUPS, 0, "params", 0, value=1), "does not number its parameters"),
    "a parameter too few": (
        lambda state: state["training"]["optimizer"]["param_groups"][0]["params"].pop(),
        "is of groups of",
    ),
    "entries a list": (put("training", "optimizer", "state", value=[1]), "no groups and entries"),
    "an entry too many": (put("training", "optimizer", "state", 999, value={}), "does not number"),
    "an entry of a text key": (put("training", "optimizer", "state", "0", value={}), "does not number"),
    "an entry null": (put(*FIRST, value=None), "parameter 0 is not AdamW's"),
    "an entry empty": (put(*FIRST, value={}), "parameter 0 is not AdamW's"),
    "an entry without step": (put(*FIRST, "step", value=None), "parameter 0 has no number of steps"),
    "steps a vector": (put(*FIRST, "step", value=torch.ones(3)), "parameter 0 has no number of steps"),
    "moment of another shape": (
        put(*FIRST, "exp_avg", value=torch.ones(1)),
        "parameter 0: exp_avg is torch.float32 [1], the parameter torch.float32 [",
    ),
    "moment transposed": (put(*FIRST, "exp_avg_sq", value=torch.ones(2, 3)), "exp_avg_sq is"),
    "moment of another type": (change_moment(lambda moment: moment.half()), "exp_avg is torch.float16"),
    "moment a number": (put(*FIRST, "exp_avg", value=1.0), "exp_avg is no tensor"),
    "moment without data": (change_moment(lambda moment: moment.to("meta")), "exp_avg is no tensor"),
    "moment expanded": (
        change_moment(lambda moment: torch.zeros(()).expand(moment.shape)),
        "exp_avg does not lie in one piece",
    ),
}


@pytest.mark.parametrize("case", STATES)
def test_a_state_of_another_shape_is_one_line(tiny_recipe: Path, run: Path, case: str) -> None:
    change, expected = STATES[case]
    spoil_state(run, change)
    said = refusal(tiny_recipe, run)
    assert expected in said
    if "images" not in case:
        assert said.startswith(f"{run / 'checkpoints/step-00000002/state.pt'} is not this run's state: ")
    assert [path.name for path in (run / "checkpoints").iterdir()] == ["step-00000002"]


def test_the_recipes_settings_of_the_optimizer_count_not_the_states(tiny_recipe: Path, run: Path) -> None:
    spoil_state(run, put(*GROUPS, 0, "betas", value="nonsense"))
    assert go_on(tiny_recipe, run) == 3


def test_another_optimizer_cannot_go_on_from_the_state_of_this_one(tiny_recipe: Path, run: Path) -> None:
    said = refusal(tiny_recipe, run, "optimizer=sgd", allow=["optimizer"])
    assert said.endswith(
        "state.pt is not this run's state: its optimizer is 'adamw'; the recipe's is 'sgd', which cannot go "
        "on from it"
    )
    faster = ("optimizer.groups.p={match='predictor', lr_scale=2.0}",)
    assert "is of groups of" in refusal(tiny_recipe, run, *faster, allow=["optimizer"])


def test_a_state_of_old_has_no_hash_of_the_data(tiny_recipe: Path, run: Path) -> None:
    spoil_state(run, lambda state: (state.pop("data"), state.pop("format")))
    assert go_on(tiny_recipe, run) == 3


def test_other_images_in_memory_are_other_data(tiny_recipe: Path, run: Path, tmp_path: Path) -> None:
    images = np.random.default_rng(9).integers(0, 255, (64, 16, 16, 3), dtype=np.uint8)
    np.savez(tmp_path / "others.npz", images=images, labels=np.arange(64) % 2)
    other = f"data.path={tmp_path / 'others.npz'}"
    assert refusal(tiny_recipe, run, other) == (
        "the training split has 52 images as when the run began, but others (their names, sizes or contents "
        "differ); give it the same data, or --allow-change data"
    )
    assert go_on(tiny_recipe, run, other, allow=["data"]) == 3


def change_a_size(folder: Path) -> None:
    with (folder / "7.png").open("ab") as file:
        file.write(b"more")


@pytest.mark.parametrize(
    ("change", "accepted"),
    [
        (lambda folder: None, True),
        (change_a_size, False),
        (lambda folder: (folder / "7.png").rename(folder / "x.png"), False),
    ],
    ids=["moved", "a file of another size", "a file of another name"],
)
def test_files_are_known_by_names_and_sizes_wherever_they_lie(
    tiny_recipe: Path, tmp_path: Path, change: Callable[[Path], object], accepted: bool
) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    for number, pixels in enumerate(np.random.default_rng(0).integers(0, 255, (20, 16, 16, 3), np.uint8)):
        Image.fromarray(pixels).save(folder / f"{number}.png")
    shares = ("data.name=folder", "data.val_share=0", "data.test_share=0")
    recipe = load_recipe(tiny_recipe, *shares, f"data.path={folder}", "train.steps=1")
    train(recipe, tmp_path / "run", watch=[MetricsWriter()])
    moved = folder.rename(tmp_path / "elsewhere")
    change(moved)
    words = (*shares, f"data.path={moved}")
    if accepted:
        assert go_on(tiny_recipe, tmp_path / "run", *words) == 3
    else:
        assert "20 images as when the run began, but others" in refusal(tiny_recipe, tmp_path / "run", *words)


def test_images_in_shards_are_known_by_names_and_sizes(tmp_path: Path) -> None:
    hashes = []
    for number, name in enumerate(("a", "a", "b")):
        folder = tmp_path / str(number)
        folder.mkdir()
        with tarfile.open(folder / "x.tar", "w") as archive:
            for image in range(12):
                info = tarfile.TarInfo(f"{name}{image}.png")
                info.size = 100 + (number == 1 and image == 5)
                archive.addfile(info, io.BytesIO(bytes(info.size)))
        for _ in range(2):
            config = WebDatasetSource.Config(name="webdataset", path=str(folder), val_share=0.2, test_share=0)
            hashes.append(data_hash(WebDatasetSource(config).split("train")))
    assert all(text.startswith("files:") for text in hashes)
    assert hashes[::2] == hashes[1::2]
    assert len(set(hashes)) == 3


def test_samples_of_a_plugins_own_class_have_no_hash() -> None:
    assert data_hash([]) == ""  # type: ignore[arg-type]


def test_hashes_of_different_kinds_cannot_be_compared() -> None:
    assert same_data("files:1", "files:1")
    assert not same_data("files:1", "files:2")
    assert same_data("files:1", "contents:2")
    assert same_data("files:1", "")


EVENTS = [
    *(
        "null",
        "[]",
        "3",
        '"x"',
        "{}",
        "{",
        "\0",
        "[" * 99999,
        '{"kind": 3, "step": 1}',
        '{"kind": "started"}',
    ),
    *('{"kind": "alarm", "step": "x"}', '{"kind": "alarm", "step": ' + "9" * 5000 + "}"),
]


def test_lines_that_are_no_events_are_passed_over(tiny_recipe: Path, run: Path) -> None:
    with (run / "events.jsonl").open("ab") as file:
        file.write("\n".join(EVENTS).encode() + b"\n\xff\xfe\n")
    assert go_on(tiny_recipe, run) == 3


METRICS = [
    *("null", "[]", "3", "{", "\0", "[" * 99999, '{"step": null}', '{"step": true}', '{"step": -1}'),
    *('{"step": 1.5}', '{"step": "x"}', '{"step": 1' + "0" * 30 + "}", '{"step": 1, "loss": "x"}'),
    *('{"step": 1, "loss": [1]}', '{"step": 1, "loss": {"a": 1}}', '{"step": 1, "loss": 1' + "0" * 400 + "}"),
    '{"step": 1, "loss": ' + "9" * 5000 + "}",
]


@pytest.mark.parametrize("line", METRICS, ids=range(len(METRICS)))
def test_a_line_that_is_no_metrics_is_named(tiny_recipe: Path, run: Path, line: str) -> None:
    path = run / "metrics.jsonl"
    path.write_text(line + "\n" + path.read_text())
    assert refusal(tiny_recipe, run).startswith(f"{path}, line 1")


def test_numbers_that_are_not_finite_are_read_as_null(tiny_recipe: Path, run: Path) -> None:
    from jepa_core.runs.metrics_file import read_metrics

    path = run / "metrics.jsonl"
    path.write_text('{"step": 1, "a": NaN, "b": -Infinity, "c": 1e999, "d": 2}\n')
    assert read_metrics(path) == [{"step": 1, "a": None, "b": None, "c": None, "d": 2}]


@pytest.mark.parametrize("name", ["events.jsonl", "metrics.jsonl", "corrupt_files.tsv", "curves.png"])
@pytest.mark.parametrize(
    ("make", "kind"),
    [
        (os.mkfifo, "a pipe"),
        (Path.mkdir, "a folder"),
        (lambda path: path.symlink_to("/dev/zero"), "a device"),
    ],
    ids=["pipe", "folder", "device"],
)
def test_a_file_of_the_run_that_is_none_is_refused_and_not_waited_for(
    tiny_recipe: Path, run: Path, name: str, make: Callable[[Path], object], kind: str
) -> None:
    (run / name).unlink(missing_ok=True)
    make(run / name)
    with pytest.raises(UserError) as error:
        go_on(tiny_recipe, run)
    assert str(error.value) == f"{run / name} is {kind}; expected a regular file"
