"""`evaluate_run`: what is written and kept, what is shared and cached, what is refused before any work."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from jepa_core.errors import UserError
from jepa_core.evaluate import model as evaluation
from jepa_core.evaluate.evaluations import (
    check_run_writable,
    latest_table,
    read_evaluations,
    read_table,
    why_incomparable,
)
from jepa_core.evaluate.predictions import compare_runs, read_predictions
from jepa_core.evaluate.row_cache import FOLDER, RowCache
from jepa_core.evaluate.run import evaluate_run, evaluate_runs
from jepa_core.evaluate.scoring import NOT_FINITE
from jepa_core.evaluate.table import NOT_COMPUTED
from tests.made_runs import make_run


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data folder of its own for each test; the rows in it."""
    monkeypatch.setenv("JEPA_DATA", str(tmp_path / "data"))
    return tmp_path / "data" / FOLDER


@pytest.fixture
def run(tmp_path: Path, tiny_recipe: Path) -> Path:
    make_run(tmp_path / "run", tiny_recipe)
    return tmp_path / "run"


def passes(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, list[str]]]:
    """Fills with (split, names of the rows) for each pass over the data."""
    made: list[tuple[str, list[str]]] = []
    real = evaluation.split_features

    def watched(maps, *arguments):  # type: ignore[no-untyped-def]
        made.append((arguments[3], [feature_map.name for feature_map in maps]))
        return real(maps, *arguments)

    monkeypatch.setattr(evaluation, "split_features", watched)
    return made


def test_tables_of_other_splits_roles_and_steps_are_kept(run: Path, tiny_recipe: Path) -> None:
    evaluate_run(run, [], "test")
    evaluate_run(run, [], "val")
    evaluate_run(run, [], "val", "context")
    evaluate_run(run, [], "val")  # again: replaces its own
    make_run(run, tiny_recipe, step=9)
    newest = evaluate_run(run, [], "test")
    facts = [(table.split, table.role, table.step) for table in read_evaluations(run)]
    assert facts == [
        ("test", "target", 7),
        ("val", "context", 7),
        ("val", "target", 7),
        ("test", "target", 9),
    ]
    assert read_table(run / "eval.json") == newest
    assert latest_table(run) == newest
    assert (found := latest_table(run, split="val")) is not None
    assert (found.split, found.role) == ("val", "target")
    assert latest_table(run, role="context", step=7) is not None
    assert latest_table(run, role="context", step=9) is None


def test_a_table_of_an_earlier_version_is_read_and_kept(run: Path) -> None:
    evaluate_run(run, [], "val")
    old = json.loads((run / "eval.json").read_text())
    new_fields = ("role", "samples", "guessable", "of_images", "left_out", "data", "data_hash", "train_hash")
    for name in (*new_fields, "probe_settings", "time"):
        del old[name]
    for row in old["rows"]:
        del row["failures"]
    shutil.rmtree(run / "evaluations")
    (run / "eval.json").write_text(json.dumps(old))
    (table,) = read_evaluations(run)
    assert (table.split, table.unit, table.role) == ("val", "images", None)
    evaluate_run(run, [], "test")
    assert [table.split for table in read_evaluations(run)] == ["val", "test"]


@pytest.mark.parametrize("content", ["", "[]", '{"rows": 3}', '{"rows": []}', "{" * 3000, "\xff\xfe"])
def test_a_damaged_table_is_passed_over_and_made_anew(
    run: Path, content: str, caplog: pytest.LogCaptureFixture
) -> None:
    evaluate_run(run, [], "val")
    (run / "eval.json").write_bytes(content.encode("latin-1"))
    assert [table.split for table in read_evaluations(run)] == ["val"]
    assert "is no probe table" in caplog.text
    assert evaluate_run(run, [], "test").split == latest_table(run, split="test").split  # type: ignore[union-attr]


def test_scores_of_other_conditions_are_not_comparable(run: Path, tmp_path: Path, tiny_images: Path) -> None:
    arrays = dict(np.load(tiny_images))
    np.savez(tmp_path / "other.npz", images=arrays["images"][::-1], labels=arrays["labels"])
    test = evaluate_run(run, [], "test")
    assert why_incomparable(test, evaluate_run(run, [], "test", "context")) is None
    assert why_incomparable(test, evaluate_run(run, [], "val")) == "another split: test and val"
    few = evaluate_run(run, [], "test", images=4)
    assert why_incomparable(test, few) == "scored on 6 and on 4 images"
    other = evaluate_run(run, [], "test", overrides=[f"data.path={tmp_path}/other.npz"])
    reason = why_incomparable(test, other)
    assert reason is not None
    assert reason.startswith("scored on other images: npz: ")
    k5 = evaluate_run(run, [], "test", overrides=["probes.knn.k=5"])
    assert why_incomparable(test, k5) == "the probe knn has other settings"


def test_a_limit_on_images_is_a_fixed_draw_that_the_table_states(run: Path) -> None:
    table = evaluate_run(run, [], "test", images=5, cache=False)
    assert (table.held_out_images, table.train_images, table.of_images) == (5, 5, (52, 6))
    assert "Scored on 5 of 6 images of the test split" in table.caption()
    assert "fitted on 5 of 52 training images (a seeded draw)" in table.caption()
    again = evaluate_run(run, [], "test", images=5, cache=False)
    assert again.data_hash == table.data_hash
    with pytest.raises(UserError, match="takes 2 images or more; got 1"):
        evaluate_run(run, [], images=1)


def test_overrides_reach_probes_and_no_model(run: Path) -> None:
    table = evaluate_run(run, [], overrides=["probes.knn.k=5"])
    assert table.probe_settings["knn"]["k"] == 5
    with pytest.raises(
        UserError, match=r"takes overrides of data, probes, transform, train, evaluations; others would"
    ):
        evaluate_run(run, [], overrides=["encoder.depth=3"])


def test_twin_and_pixels_come_from_the_cache(
    run: Path, tmp_path: Path, tiny_recipe: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another run of the study: other weights and steps, the same data, encoder and seed."""
    made = passes(monkeypatch)
    first = evaluate_run(run, [], "val")
    make_run(tmp_path / "second", tiny_recipe, "optimizer.lr=0.1", "masker.name=union", step=9)
    second = evaluate_run(tmp_path / "second", [], "val")
    assert [names for _, names in made] == [
        ["trained", "raw pixels", "random twin"],
        ["trained", "raw pixels"],
    ]
    for name in ("random twin", "raw pixels"):
        assert second.row(name) == first.row(name)
        assert second.row(name).model_dump_json() == first.row(name).model_dump_json(), "in the same order"
    kept, own = (read_predictions(folder / "predictions.npz")[0] for folder in (run, tmp_path / "second"))
    assert torch.equal(kept.of("random twin", "knn"), own.of("random twin", "knn"))
    evaluate_run(run, [], "val", cache=False)
    assert made[-1][1] == ["trained", "raw pixels", "random twin"]


@pytest.mark.parametrize(
    "change",
    ["seed=4", "encoder.depth=1", "encoder.heads=4", "transform.eval_crop=0.9", "probes.knn.k=2"],
)
def test_what_a_row_depends_on_makes_it_anew(
    run: Path, tmp_path: Path, tiny_recipe: Path, change: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    evaluate_run(run, [], "val")
    made = passes(monkeypatch)
    make_run(tmp_path / "other", tiny_recipe, change)
    evaluate_run(tmp_path / "other", [], "val")
    assert "random twin" in made[0][1]


def test_data_that_changed_under_their_name_make_the_rows_anew(
    run: Path, tmp_path: Path, tiny_images: Path
) -> None:
    shutil.copy(tiny_images, tmp_path / "data.npz")
    place = [f"data.path={tmp_path}/data.npz"]
    before = evaluate_run(run, [], "val", overrides=place)
    arrays = dict(np.load(tiny_images))
    np.savez(tmp_path / "data.npz", images=arrays["images"] // 2, labels=arrays["labels"])
    after = evaluate_run(run, [], "val", overrides=place)
    assert after.row("raw pixels").feature_std != before.row("raw pixels").feature_std
    fresh = evaluate_run(run, [], "val", overrides=place, cache=False)
    assert after.rows == fresh.rows


@pytest.mark.parametrize("damage", ["cut", "empty", "flipped", "folder", "other"])
def test_a_damaged_entry_of_the_cache_is_made_anew(
    run: Path, cache: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    expected = evaluate_run(run, [], "val")
    for file in cache.glob("*.json"):
        content = file.read_bytes()
        if damage == "folder":
            file.unlink()
            file.mkdir()
        else:
            middle = len(content) // 2
            flipped = content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]
            new = {"cut": content[:middle], "empty": b"", "flipped": flipped, "other": b'{"checksum": 1}'}
            file.write_bytes(new[damage])
    assert evaluate_run(run, [], "val").rows == expected.rows
    if damage != "folder":
        assert "is damaged" in caplog.text
        assert evaluate_run(run, [], "val").rows == expected.rows


def test_a_cache_that_cannot_be_written_costs_nothing(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JEPA_DATA", "/dev/null/data")
    assert RowCache.standard() is None
    assert len(evaluate_run(run, [], "val").rows) == 3


def test_several_runs_share_one_pass(
    run: Path, tmp_path: Path, tiny_recipe: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_run(tmp_path / "b", tiny_recipe, "seed=5")
    make_run(tmp_path / "c", tiny_recipe, "encoder.depth=1", "masker.name=union")
    folders = [run, tmp_path / "b", tmp_path / "c"]
    alone = [evaluate_run(folder, [], "val", cache=False) for folder in folders]
    made = passes(monkeypatch)
    together = evaluate_runs(folders, [], "val", cache=False)
    assert len(made) == 1
    for one, other in zip(alone, together, strict=True):
        assert [row.name for row in one.rows] == [row.name for row in other.rows]
        for row in one.rows:
            assert row.scores == other.row(row.name).scores
            assert row.rankme == pytest.approx(other.row(row.name).rankme, rel=1e-4)
    assert [latest_table(folder) for folder in folders] == together


def test_runs_on_other_data_are_evaluated_by_themselves(
    run: Path, tmp_path: Path, tiny_recipe: Path, tiny_images: Path
) -> None:
    shutil.copy(tiny_images, tmp_path / "copy.npz")
    make_run(tmp_path / "b", tiny_recipe, f"data.path={tmp_path}/copy.npz")
    first, second = evaluate_runs([run, tmp_path / "b"], [], "val")
    assert why_incomparable(first, second) is None, "the same samples at another place"


def test_a_table_goes_to_another_file(run: Path, tmp_path: Path, tiny_recipe: Path) -> None:
    file = tmp_path / "new" / "table.json"
    table = evaluate_run(run, [], "val", out=file)
    assert read_table(file) == table
    assert read_predictions(file.with_name("table.predictions.npz"))[0].task is None
    assert not (run / "eval.json").exists()
    make_run(tmp_path / "b", tiny_recipe)
    evaluate_runs([run, tmp_path / "b"], [], "val", out=tmp_path / "tables")
    assert sorted(file.name for file in (tmp_path / "tables").glob("*.json")) == ["b.json", "run.json"]


@pytest.mark.parametrize("place", ["{run}/recipe.toml/x.json", "/proc/x.json", "{run}"])
def test_what_cannot_be_written_is_found_before_any_work(
    run: Path, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("jepa_core.evaluate.run.open_model", None)
    with pytest.raises(UserError, match="cannot be written: "):
        evaluate_run(run, [], out=Path(place.format(run=run)))


PLACES: dict[str, Any] = {
    "folder": Path.mkdir,
    "file": Path.touch,
    "pipe": os.mkfifo,
    "link": lambda path: path.symlink_to("/no/place"),
}


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        *(("eval.json", kind) for kind in ("folder", "pipe", "link")),
        *(("predictions.npz", kind) for kind in ("folder", "pipe", "link")),
        *(("evaluations", kind) for kind in ("file", "pipe", "link")),
    ],
)
def test_a_place_that_cannot_be_written_to_is_found_before_any_work(
    run: Path, name: str, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    PLACES[kind](run / name)
    monkeypatch.setattr("jepa_core.evaluate.run.open_model", None)
    with pytest.raises(UserError, match="cannot be written: "):
        evaluate_run(run, [])


@pytest.mark.skipif(os.getuid() != 0, reason="gives up the rights of root")
def test_a_folder_of_somebody_else_is_found_before_any_work(run: Path) -> None:
    child = os.fork()
    if child == 0:
        os.setuid(65534)
        code = 1
        try:
            check_run_writable(run)
        except UserError as error:
            code = 0 if "Permission denied" in str(error) else 2
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_a_diverged_encoder_is_a_row_without_scores(tmp_path: Path, tiny_recipe: Path) -> None:
    from jepa_core.runs import checkpoints

    folder = tmp_path / "diverged"
    model = make_run(folder, tiny_recipe)
    state = {
        name: torch.full_like(v, torch.nan) if v.is_floating_point() else v
        for name, v in model.state_dict().items()
    }
    checkpoints.save(folder, 8, state, None, keep=1)
    table = evaluate_run(folder, [], "val")
    assert "NaN" not in (folder / "eval.json").read_text()
    for found in (table, read_table(folder / "eval.json")):
        trained = found.row("trained")
        assert np.isnan([trained.rankme, trained.feature_std, trained.scores["knn"]["top1"]]).all()
        assert trained.failures == dict.fromkeys(("features", *trained.scores), NOT_FINITE)
        assert found.row("random twin").scores["knn"]["top1"] >= 0
        assert found.cells()[1][2:] == [NOT_COMPUTED] * 4
        assert f"Not computed, trained: {NOT_FINITE}." in found.caption()
        assert np.isnan(found.gain("trained", "knn"))


def test_two_runs_are_compared_image_by_image(run: Path, tmp_path: Path, tiny_recipe: Path) -> None:
    make_run(tmp_path / "b", tiny_recipe, "seed=8")
    tables = evaluate_runs([run, tmp_path / "b"], [], "val")
    found = compare_runs(run, tmp_path / "b")[None, "knn"]
    shares = [table.row("trained").scores["knn"]["top1"] for table in tables]
    assert found.samples == tables[0].held_out_images
    assert found.difference == pytest.approx(100 * (shares[1] - shares[0]))
    evaluate_run(run, [], "test")
    with pytest.raises(UserError, match="scored on other samples"):
        compare_runs(run, tmp_path / "b")
