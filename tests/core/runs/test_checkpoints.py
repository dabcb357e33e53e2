"""Checkpoints: what is saved comes back, and what does not fit is named."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from jepa_core import UserError, build_model, load_recipe, sample_masks, training_step
from jepa_core.runs import checkpoints
from jepa_core.runs.checkpoint_writer import CheckpointWriter
from jepa_core.training.step import TrainingStep


def training(recipe: Path, *overrides: str) -> TrainingStep:
    resolved = load_recipe(recipe, *overrides)
    return training_step(build_model(resolved), resolved)


def save(folder: Path, step: TrainingStep, keep: int = 1) -> Path:
    state = {"training": step.state_dict()}
    return checkpoints.save(folder, step.done, step.model.state_dict(), state, keep)


def go_on(step: TrainingStep, count: int) -> list[float]:
    losses = []
    for _ in range(count):
        images = torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(step.done))
        losses.append(step(images, sample_masks(step.model, 4, 0, step.done)).loss.item())
    return losses


def test_a_loaded_run_goes_on_bit_for_bit(tiny_recipe: Path, tmp_path: Path) -> None:
    first, second = training(tiny_recipe), training(tiny_recipe, "seed=99")
    go_on(first, 2)
    saved = save(tmp_path, first)
    assert saved == tmp_path / "checkpoints" / "step-00000002"
    checkpoints.load_weights(saved, second.model)
    second.load_state_dict(checkpoints.load_state(saved)["training"])
    assert second.done == 2
    assert go_on(first, 3) == go_on(second, 3)
    for (name, mine), theirs in zip(
        first.model.state_dict().items(), second.model.state_dict().values(), strict=True
    ):
        assert torch.equal(mine, theirs), name


def test_only_the_newest_are_kept(tiny_recipe: Path, tmp_path: Path) -> None:
    step = training(tiny_recipe)
    for done in (9, 10, 100):
        step.done = done
        save(tmp_path, step, keep=2)
    assert [p.name for p in checkpoints.list_checkpoints(tmp_path)] == ["step-00000010", "step-00000100"]
    assert checkpoints.latest_checkpoint(tmp_path)[0].name == "step-00000100"


def test_saving_a_step_again_replaces_it(tiny_recipe: Path, tmp_path: Path) -> None:
    step = training(tiny_recipe)
    save(tmp_path, step)
    with torch.no_grad():
        step.model.predictor.mask_token.fill_(7.0)  # type: ignore[union-attr, attr-defined]
    other = training(tiny_recipe)
    checkpoints.load_weights(save(tmp_path, step), other.model)
    assert (other.model.predictor.mask_token == 7).all()  # type: ignore[attr-defined]


def test_a_checkpoint_whose_writing_was_cut_off_is_none(tiny_recipe: Path, tmp_path: Path) -> None:
    step = training(tiny_recipe)
    (tmp_path / "checkpoints" / "step-00000009.partial").mkdir(parents=True)
    assert checkpoints.newest_good(tmp_path) == (None, [])
    with pytest.raises(UserError) as error:
        checkpoints.latest_checkpoint(tmp_path)
    assert str(error.value) == f"run {str(tmp_path)!r} has no checkpoint in {tmp_path / 'checkpoints'}"
    step.done = 9
    assert (save(tmp_path, step), []) == checkpoints.latest_checkpoint(tmp_path)


def test_tied_weights_can_be_saved(tmp_path: Path) -> None:
    """safetensors refuses tensors that share memory; a run must not end on that."""
    module = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    module[1].weight = module[0].weight
    saved = checkpoints.save(tmp_path, 1, module.state_dict(), None, keep=1)
    fresh = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    fresh[1].weight = fresh[0].weight
    checkpoints.load_weights(saved, fresh)
    assert torch.equal(fresh[1].weight, module[0].weight)


def spoil(path: Path, how: str) -> str:
    """Damages a file and says what `verify` should make of it."""
    whole = path.read_bytes()
    if how == "missing":
        path.unlink()
        return f"{path}: No such file or directory"
    if how == "flipped":
        middle = len(whole) // 2
        path.write_bytes(whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :])
        return f"{path} is not what was written: its SHA-256 differs"
    path.write_bytes(whole[:100] if how == "cut" else b"")
    return f"{path} has {100 if how == 'cut' else 0} bytes; {len(whole):,} were written"


@pytest.mark.parametrize("how", ["cut", "empty", "missing", "flipped"])
@pytest.mark.parametrize("file", [checkpoints.WEIGHTS, checkpoints.STATE])
def test_one_wrong_bit_is_found_and_the_checkpoint_before_is_taken(
    tiny_recipe: Path, tmp_path: Path, file: str, how: str
) -> None:
    step = training(tiny_recipe)
    older = save(tmp_path, step, keep=2)
    step.done = 5
    newer = save(tmp_path, step, keep=2)
    assert checkpoints.newest_good(tmp_path) == (newer, [])
    said = spoil(newer / file, how)
    assert checkpoints.newest_good(tmp_path) == (older, [said])


@pytest.mark.parametrize("manifest", [None, "", "[]", '{"step": 1}', '{"files": {"model.safetensors": 3}}'])
def test_a_checkpoint_without_a_manifest_is_damaged(
    tiny_recipe: Path, tmp_path: Path, manifest: str | None
) -> None:
    path = save(tmp_path, training(tiny_recipe)) / checkpoints.MANIFEST
    path.unlink() if manifest is None else path.write_text(manifest)
    with pytest.raises(UserError) as error:
        checkpoints.newest_good(tmp_path)
    what = (
        f"{path}: No such file or directory" if manifest is None else f"{path} is not a checkpoint's manifest"
    )
    assert str(error.value) == f"every checkpoint of run {str(tmp_path)!r} is damaged: {what}"


def test_damaged_checkpoints_do_not_push_whole_ones_out(tiny_recipe: Path, tmp_path: Path) -> None:
    step = training(tiny_recipe)
    for step.done in (1, 2):
        save(tmp_path, step, keep=2)
    spoil(tmp_path / "checkpoints/step-00000002" / checkpoints.STATE, "cut")
    checkpoints.set_aside(tmp_path, newer_than=1)
    assert [p.name for p in checkpoints.list_checkpoints(tmp_path)] == ["step-00000001"]
    step.done = 2
    assert checkpoints.latest_checkpoint(tmp_path)[0].name == "step-00000001"
    save(tmp_path, step, keep=1)
    assert checkpoints.latest_checkpoint(tmp_path) == (tmp_path / "checkpoints/step-00000002", [])


def test_weights_alone_are_no_training_to_go_on_with(tiny_recipe: Path, tmp_path: Path) -> None:
    saved = checkpoints.save(tmp_path, 0, training(tiny_recipe).model.state_dict(), None, keep=1)
    assert checkpoints.newest_good(tmp_path) == (saved, [])
    with pytest.raises(UserError) as error:
        checkpoints.load_state(saved)
    assert str(error.value) == (
        f"checkpoint {saved} holds weights only, no state of a training that could go on"
    )


def full_disk(*_: object, **__: object) -> None:
    raise OSError(28, "No space left on device")


@pytest.mark.parametrize("where", ["save_file", "flush"])
def test_a_full_disk_leaves_the_last_checkpoint_and_no_litter(
    tiny_recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    step = training(tiny_recipe)
    older = save(tmp_path, step)
    monkeypatch.setattr(checkpoints, where, full_disk)
    step.done = 7
    with pytest.raises(UserError) as error:
        save(tmp_path, step)
    assert str(error.value) == (
        f"the checkpoint of step 7 cannot be written to {tmp_path / 'checkpoints/step-00000007'}: "
        "[Errno 28] No space left on device"
    )
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == [older.name]
    assert checkpoints.latest_checkpoint(tmp_path) == (older, [])


class Held:
    """A disk that writes nothing until it is let go."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.go = threading.Event()
        self.write = checkpoints.save
        monkeypatch.setattr(checkpoints, "save", self)

    def __call__(self, *arguments: Any) -> Path:
        assert self.go.wait(30)
        return self.write(*arguments)


def test_training_does_not_wait_for_the_disk_and_may_change_the_weights_meanwhile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk, weights = Held(monkeypatch), {"w": torch.ones(3)}
    with CheckpointWriter(tmp_path, keep=2) as writer:
        writer.save(1, weights, {"moments": [weights["w"]]})
        assert checkpoints.list_checkpoints(tmp_path) == [], "save came back before anything was written"
        weights["w"].fill_(5)
        disk.go.set()
        writer.wait()
    saved, _ = checkpoints.latest_checkpoint(tmp_path)
    assert torch.equal(checkpoints.load_state(saved)["moments"][0], torch.ones(3))
    layer = nn.ParameterDict({"w": nn.Parameter(torch.zeros(3))})
    checkpoints.load_weights(saved, layer)
    assert torch.equal(layer["w"], torch.ones(3))


def test_what_went_wrong_while_writing_is_said_at_the_next_look(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoints, "flush", full_disk)
    with (  # noqa: PT012
        pytest.raises(UserError, match="the checkpoint of step 1 cannot be written"),
        CheckpointWriter(tmp_path, keep=2) as writer,
    ):
        writer.save(1, {"w": torch.ones(3)}, {})
        writer.wait()
    with (
        pytest.raises(UserError, match="the checkpoint of step 1 cannot be written"),
        CheckpointWriter(tmp_path, keep=2) as writer,
    ):
        writer.save(1, {"w": torch.ones(3)}, {})  # the end of the context looks too


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (
            ["encoder.depth=1"],
            "unexpected encoder.blocks.1.attn.proj.bias; unexpected encoder.blocks.1.attn.proj.weight; "
            "unexpected encoder.blocks.1.attn.qkv.bias; and 21 more",
        ),
        (["predictor.width=48"], "predictor.mask_token is [1, 1, 24], the model has [1, 1, 48]; "),
        (["predictor.depth=2"], "missing predictor.blocks.1.norm1.weight; "),
    ],
)
def test_weights_of_another_model_are_named(
    tiny_recipe: Path, tmp_path: Path, overrides: list[str], said: str
) -> None:
    saved = save(tmp_path, training(tiny_recipe))
    other = training(tiny_recipe, *overrides)
    before = {name: value.clone() for name, value in other.model.state_dict().items()}
    with pytest.raises(UserError) as error:
        checkpoints.load_weights(saved, other.model)
    path = saved / checkpoints.WEIGHTS
    assert str(error.value).startswith(f"checkpoint {path} is of another model: {said}")
    assert all(torch.equal(before[name], value) for name, value in other.model.state_dict().items())


def rewrite_manifest(checkpoint: Path, **changes: Any) -> None:
    path = checkpoint / checkpoints.MANIFEST
    manifest = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({key: value for key, value in manifest.items() if value is not None}))


ENTRY = {"bytes": 1, "sha256": "0" * 64}

WRONG_MANIFESTS: list[dict[str, Any]] = [
    {"files": {}},
    {"files": {"state.pt": ENTRY}},
    {"files": {"model.safetensors": ENTRY, "../../recipe.toml": ENTRY}},
    {"files": {"model.safetensors": ENTRY, "/dev/zero": {"bytes": 0, "sha256": ""}}},
    {"files": {"model.safetensors": {"bytes": "1", "sha256": ""}}},
    {"files": {"model.safetensors": {"bytes": True, "sha256": ""}}},
    {"files": {"model.safetensors": {"bytes": 1, "sha256": None}}},
    {"files": ["model.safetensors"]},
    {"step": 4},
    {"step": "3"},
    {"step": True},
    {"step": 10**400},
    {"format": "one"},
    {"format": 0},
    {"format": []},
]


@pytest.mark.parametrize("changes", WRONG_MANIFESTS, ids=range(len(WRONG_MANIFESTS)))
def test_a_manifest_that_does_not_fit_its_folder_is_damaged(
    tiny_recipe: Path, tmp_path: Path, changes: dict[str, Any]
) -> None:
    step = training(tiny_recipe)
    step.done = 3
    saved = save(tmp_path, step)
    rewrite_manifest(saved, **changes)
    with pytest.raises(checkpoints.DamagedCheckpoint):
        checkpoints.verify(saved)


@pytest.mark.parametrize(
    "text", [b"[" * 100_000, b"\xff\xfe", b"\0", b'{"step": ' + b"9" * 5000 + b"}", b"null"]
)
def test_a_manifest_that_is_none_is_damaged(tiny_recipe: Path, tmp_path: Path, text: bytes) -> None:
    saved = save(tmp_path, training(tiny_recipe))
    (saved / checkpoints.MANIFEST).write_bytes(text)
    with pytest.raises(checkpoints.DamagedCheckpoint, match="is not a checkpoint's manifest"):
        checkpoints.verify(saved)


def test_a_later_format_is_refused_and_none_is_read(tiny_recipe: Path, tmp_path: Path) -> None:
    step = training(tiny_recipe)
    saved = save(tmp_path, step)
    assert json.loads((saved / checkpoints.MANIFEST).read_text())["format"] == 1
    rewrite_manifest(saved, format=None)
    checkpoints.verify(saved)
    rewrite_manifest(saved, format=2)
    with pytest.raises(
        UserError, match=r"a later version of jepa-core \(format 2; this one reads up to 1\)"
    ) as e:
        checkpoints.newest_good(tmp_path)
    assert not isinstance(e.value, checkpoints.DamagedCheckpoint)
    torch.save({"format": 7}, saved / checkpoints.STATE)
    with pytest.raises(UserError, match="a later version of jepa-core"):
        checkpoints.load_state(saved)
    torch.save({"training": {}}, saved / checkpoints.STATE)
    assert checkpoints.load_state(saved) == {"training": {}}


def test_a_state_that_the_manifest_does_not_name_is_not_trusted(tiny_recipe: Path, tmp_path: Path) -> None:
    step = training(tiny_recipe)
    saved = checkpoints.save(tmp_path, 1, step.model.state_dict(), None, keep=1)
    torch.save({}, saved / checkpoints.STATE)
    with pytest.raises(checkpoints.DamagedCheckpoint, match=r"does not name 'state.pt', which is there"):
        checkpoints.verify(saved)


def test_weights_of_another_type_are_refused_and_not_cast(tiny_recipe: Path, tmp_path: Path) -> None:
    step = training(tiny_recipe)
    weights = {name: value.bfloat16() for name, value in step.model.state_dict().items()}
    saved = checkpoints.save(tmp_path, 1, weights, None, keep=1)
    with pytest.raises(UserError, match=r"is torch.bfloat16, the model has torch.float32"):
        checkpoints.load_weights(saved, step.model)


STATE_FILES = [b"", b"PK\3\4", b"\x80\x05.", b"\x80\x02cos\nsystem\n(S'true'\ntR.", b"x" * 1000]


@pytest.mark.parametrize("content", STATE_FILES, ids=range(len(STATE_FILES)))
def test_a_state_that_torch_cannot_read_is_damaged(tiny_recipe: Path, tmp_path: Path, content: bytes) -> None:
    saved = save(tmp_path, training(tiny_recipe))
    (saved / checkpoints.STATE).write_bytes(content)
    with pytest.raises(checkpoints.DamagedCheckpoint) as error:
        checkpoints.load_state(saved)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("value", [[], None, 3, torch.ones(2), "text"])
def test_a_state_that_is_no_dictionary_is_damaged(tiny_recipe: Path, tmp_path: Path, value: Any) -> None:
    saved = save(tmp_path, training(tiny_recipe))
    torch.save(value, saved / checkpoints.STATE)
    with pytest.raises(checkpoints.DamagedCheckpoint, match="holds no state"):
        checkpoints.load_state(saved)
