"""Reports of runs whose files are missing, damaged or hostile: each costs its own part, with a line."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from jepa_core import UserError
from jepa_core.report import write as write_module
from jepa_core.report import write_report
from jepa_core.report.page import POLICY
from jepa_core.report.run_files import read_run_events
from jepa_core.report.summary import read
from tests.conftest import Said
from tests.core.report.made_studies import make_study_run, probe_table
from tests.core.report.test_report import headings, text


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A made-up run without a checkpoint."""
    return make_study_run(tmp_path / "run", steps=30)


def page_of(folder: Path) -> str:
    return write_report([folder], probes=False, images=4).read_text(encoding="utf-8")


WHOLE = ["What the features know", "How it went", "What happened", "The recipe"]


def test_a_whole_run_has_these_parts(run: Path) -> None:
    assert headings(page_of(run)) == WHOLE


@pytest.mark.parametrize(
    "content",
    [
        b'{"rows": 3}',
        b'{"rows": []}',
        b"[]",
        b"",
        b"null",
        b"\xff\xfe\x00",
        b'{"rows": [{"scores": {"knn": {}}}]}',
        b"[" * 100_000,
        json.dumps({**probe_table(0.4), "baseline": "nobody"}).encode(),
        json.dumps({**probe_table(0.4), "rows": [{**probe_table(0.4)["rows"][0], "scores": 1}]}).encode(),
    ],
    ids=["rows 3", "no rows", "list", "empty", "null", "bytes", "no score", "deep", "baseline", "scores 1"],
)
def test_an_eval_json_that_is_no_table_costs_the_scores(run: Path, content: bytes) -> None:
    (run / "eval.json").write_bytes(content)
    page = page_of(run)
    assert headings(page) == WHOLE[1:]
    assert re.search(
        r"eval\.json is left out: .* is no probe table .*`?jepa eval`? writes it anew", text(page)
    )
    assert (run / "eval.json").read_bytes() == content, "it is the user's to replace"


def test_a_pipe_or_a_folder_in_a_files_place_is_not_waited_for(run: Path) -> None:
    for name in ("eval.json", "metrics.jsonl", "events.jsonl"):
        (run / name).unlink()
        os.mkfifo(run / name)
    page = page_of(run)
    assert headings(page) == ["The recipe"]
    assert text(page).count("is no regular file") + text(page).count("not a regular file") == 3


def test_null_scores_are_read_and_said(run: Path) -> None:
    table = probe_table(0.4)
    table["rows"][0]["scores"]["knn"] = {"top1": None, "top1_se": None}
    table["rows"][1]["rankme"] = None
    table["rows"][0]["failures"] = {"linear": "unused", "knn": "the features of step 30 are not finite"}
    (run / "eval.json").write_text(json.dumps(table))
    page = text(page_of(run))
    assert "kNN not computed on 10,000 test images" in page
    assert "the features of step 30 are not finite" in page
    assert "(nan" not in page


METRICS: dict[str, bytes] = {
    "not JSON in the middle": b'{"step": 1, "loss": 1}\n{"step": 2, "lo\n{"step": 3, "loss": 1}\n',
    "a list": b"[1, 2]\n[3]\n",
    "text for a number": b'{"step": 1, "loss": "low"}\n{"step": 2, "loss": 1}\n',
    "bytes": b"\xff\xfe\x00\n\xff\n",
    "a huge step": b'{"step": 1, "loss": 1}\n{"step": 1' + b"0" * 400 + b', "loss": 1}\n',
    "step as text": b'{"step": "one"}\n{"step": 2}\n',
}


@pytest.mark.parametrize("content", METRICS.values(), ids=METRICS.keys())
def test_a_damaged_log_costs_the_curves(run: Path, content: bytes) -> None:
    (run / "metrics.jsonl").write_bytes(content)
    page = page_of(run)
    assert set(WHOLE) - set(headings(page)) <= {"How it went"}
    assert "metrics.jsonl" in text(page)


ODD_NUMBERS: dict[str, bytes] = {
    "overflowing": b'{"step": 1, "loss": 1e308, "images_per_s": 1e-300}\n{"step": 2, "loss": -1e308}\n',
    "NaN": b'{"step": 1, "loss": NaN}\n{"step": 2, "loss": Infinity}\n',
    "far apart": b'{"step": 1, "loss": 1}\n{"step": 9007199254740991, "loss": 1e99, "images_per_s": 1e99}\n',
    "one value": b'{"step": 0, "loss": 0}\n{"step": 0, "loss": 0}\n',
    "tiny": b'{"step": 1, "loss": 1e-320}\n{"step": 2, "loss": 2e-320}\n',
    "null": b'{"step": 1, "loss": null}\n{"step": 2, "rankme": null}\n',
    "true": b'{"step": 1, "loss": true}\n{"step": 2, "loss": false}\n',
}


@pytest.mark.parametrize("content", ODD_NUMBERS.values(), ids=ODD_NUMBERS.keys())
def test_odd_numbers_in_the_log_are_drawn_or_left_out(run: Path, content: bytes) -> None:
    (run / "metrics.jsonl").write_bytes(content)
    page = page_of(run)
    assert set(WHOLE) - set(headings(page)) <= {"How it went"}
    drawn = "".join(re.findall(r"<svg viewBox.*?</svg>", page))
    assert not re.search(r"[ \"M](nan|inf|-inf)", drawn)


EVENTS: dict[str, bytes] = {
    "no kind": b'{"step": 1}\n',
    "list": b"[1]\n",
    "cut": b'{"kind": "started", "st',
    "bytes": b"\xff\xfe\n",
    "kind 3": b'{"kind": 3, "step": 1}\n',
    "step text": b'{"kind": "stopped", "step": "last", "seconds": 1}\n',
    "environment list": b'{"kind": "started", "step": 0, "environment": [1]}\n',
    "environment without cpu": b'{"kind": "started", "step": 0, "environment": {"versions": {}}}\n',
    "seconds text": b'{"kind": "started", "step": 0}\n{"kind": "stopped", "step": 30, "seconds": "long"}\n',
    "no why": b'{"kind": "stopped", "step": 3}\n',
    "alarm without text": b'{"kind": "alarm", "step": 3}\n',
    "facts of any type": b'{"kind": "started", "step": 0, "total_steps": "x", "images": 0, "command": [1], '
    b'"parameters": null, "device": 3, "processes": -1, "data": {}, "precision": 8, "time": 3}\n',
    "huge numbers": b'{"kind": "started", "step": 0, "images": 1' + b"0" * 400 + b"}\n",
    "deep": b'{"kind": "note", "step": 1, "x": ' + b"[" * 900 + b"]" * 900 + b"}\n",
}


@pytest.mark.parametrize("content", EVENTS.values(), ids=EVENTS.keys())
def test_odd_events_cost_themselves(run: Path, content: bytes) -> None:
    (run / "events.jsonl").write_bytes(content)
    assert set(WHOLE) - set(headings(page_of(run))) <= {"What happened"}


def test_facts_of_an_unexpected_type_are_said_to_be_left_out(run: Path) -> None:
    (run / "events.jsonl").write_bytes(EVENTS["seconds text"])
    assert read_run_events(run)[1] == ["events.jsonl: facts of an unexpected type are left out."]


def test_what_comes_from_files_is_escaped_and_has_no_control_characters(run: Path) -> None:
    evil = "</style><script>alert(1)</script><img src=x onerror=alert(1)>\x00\x1b[31m\u202e\"'"
    lines = [{"kind": "alarm", "step": 3, "text": evil}, {"kind": evil, "step": 4, evil: evil}]
    lines += [{"kind": "started", "step": 0, "command": evil, "data": evil}]
    raw = "".join(json.dumps(line) + "\n" for line in lines) + '{"kind": "note", "step": 5, "x": "\\ud800"}\n'
    (run / "events.jsonl").write_text(raw)
    metric = {evil: 1.0, "loss/" + evil: 2.0, "loss/b": 3.0}
    log = "".join(json.dumps({"step": i, **{k: v + i for k, v in metric.items()}}) + "\n" for i in (1, 2))
    (run / "metrics.jsonl").write_text(log)
    table = probe_table(0.4)
    table |= {"task": evil, "split": evil}
    for row in table["rows"]:
        row["description"] = row["name"] + evil
        row["scores"] = {evil: row["scores"]["knn"]}
    (run / "eval.json").write_text(json.dumps(table))
    other = make_study_run(run.parent / "<b>bold</b> & 'x'", "optimizer.lr=1", steps=3)
    pages = [
        page_of(run),
        write_report([run, other], run.parent / "both.html", probes=False).read_text("utf-8"),
    ]
    for page in pages:
        assert "<script" not in page
        assert "<img src=x" not in page
        assert "<b>bold" not in page
        assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202e\ud800-\udfff]", page)
        assert page.count("</style>") == 1


def test_the_page_has_a_policy_before_anything_it_governs(run: Path) -> None:
    page = page_of(run)
    policy = re.search(r'<meta http-equiv="Content-Security-Policy" content="(.*?)">', page)
    assert policy
    assert policy[1].replace("&#39;", "'") == POLICY
    assert POLICY.startswith("default-src 'none'; img-src data:; style-src 'unsafe-inline'")
    assert "script" not in POLICY
    assert page.index(policy[0]) < min(page.index("<style"), page.index("<title"), page.index("<body"))


def test_a_page_is_replaced_whole_or_not_at_all(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = write_report([run], probes=False, images=4)
    before = page.read_bytes()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", full)
    with pytest.raises(UserError, match=r"the report '.*' cannot be written: No space left on device"):
        write_report([run], probes=False, images=4)
    assert page.read_bytes() == before
    assert not list(run.glob("*.partial"))


@pytest.mark.parametrize(
    "place", ["{run}/eval.json/x/page.html", "/proc/nobody/page.html", "/dev/null/page.html"]
)
def test_a_place_that_cannot_be_written_is_found_before_any_work(
    run: Path, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(write_module, "_parts", lambda *_: pytest.fail("work was done"))
    with pytest.raises(UserError, match="cannot be written"):
        write_report([run], Path(place.format(run=run)))


def test_a_file_in_the_place_of_the_pictures_is_found_before_any_work(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (run / "report").write_text("a file")
    monkeypatch.setattr(write_module, "_parts", lambda *_: pytest.fail("work was done"))
    with pytest.raises(UserError, match="cannot be written"):
        write_report([run])


def test_an_imported_run_is_headed_as_imported(run: Path) -> None:
    (run / "metrics.jsonl").unlink()
    imported = {"kind": "imported", "step": 0, "file": "vit_tiny_patch16_224", "format": "timm"}
    (run / "events.jsonl").write_text(json.dumps(imported) + "\n")
    page = text(page_of(run))
    assert "imported from vit_tiny_patch16_224, not trained here." in page.partition("State")[0]
    assert "State imported from vit_tiny_patch16_224" in page
    assert "0 steps" not in page
    assert "without a word" not in page
    started = {"kind": "started", "step": 0, "total_steps": 30}
    with (run / "events.jsonl").open("a") as file:
        file.write(json.dumps(started) + "\n")
    assert read(run, "run").state.startswith("running"), "trained further"


def test_after_a_resume_the_scores_are_of_the_step_they_were_taken_at(run: Path) -> None:
    (run / "eval.json").write_text(json.dumps(probe_table(0.4, step=20)))
    lead = text(page_of(run)).partition("State")[0]
    assert "these scores are of step 20, older than the run's step 30" in lead
    (run / "eval.json").write_text(json.dumps(probe_table(0.4, step=30)))
    assert "older" not in text(page_of(run)).partition("State")[0]


def test_earlier_evaluations_stand_below_the_newest(run: Path) -> None:
    (run / "evaluations").mkdir()
    earlier = {**probe_table(0.37, step=20), "role": "target"}
    (run / "evaluations/test-target-step20-0.json").write_text(json.dumps(earlier))
    context = {**probe_table(0.33, step=30), "role": "context"}
    (run / "evaluations/test-context-step30-0.json").write_text(json.dumps(context))
    (run / "evaluations/broken.json").write_text("{")
    (run / "eval.json").write_text(json.dumps({**probe_table(0.4, step=30), "role": "target"}))
    page = text(page_of(run))
    assert "kNN 40.0 %" in page.partition("State")[0]
    assert "2 other evaluations" in page
    assert "test split, 10,000 images, context encoder, step 30" in page
    assert "test split, 10,000 images, target encoder, step 20" in page
    assert "broken.json is left out" in page
    of_context = write_report([run], run / "context.html", role="context", probes=False)
    assert "kNN 33.0 %" in text(of_context).partition("State")[0]


def test_names_tags_and_notes_are_shown(run: Path) -> None:
    labels = {"name": "the best", "tags": ["baseline", "long"], "note": "with <b>care</b>"}
    (run / "run.json").write_text(json.dumps(labels))
    page = text(page_of(run))
    assert "Name the best Tags baseline, long Note with <b>care</b> State finished" in page


def test_times_are_those_of_the_wall_clock_with_cpu_time_beside(run: Path) -> None:
    def with_facts(**facts: Any) -> str:
        lines = [json.loads(line) for line in (run / "events.jsonl").read_text().splitlines()]
        lines[-1] |= facts
        (run / "events.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        return text(page_of(run))

    plain = with_facts()
    assert "Time 3 min wall clock, 4 s of training steps, " in plain
    assert "images/s by the wall clock" in plain
    assert "core-hours by the wall clock" in plain
    assert "busy" not in plain.partition("What the features know")[0]
    busy = with_facts(cpu_seconds=95.0, other_cores=2.6)
    assert "3 min wall clock, 1 min 35 s CPU time, " in busy
    assert "the machine was busy: other processes use 2.6 of 4 cores" in busy
    assert "the machine was busy" not in with_facts(other_cores=0.3)


def test_a_damaged_run_does_not_end_a_comparison(jepa: Callable[..., Said], run: Path) -> None:
    other = make_study_run(run.parent / "other", "optimizer.lr=1", steps=3)
    (other / "metrics.jsonl").write_bytes(METRICS["a list"])
    (other / "eval.json").write_text("{")
    (other / "events.jsonl").write_bytes(EVENTS["facts of any type"])
    answer = jepa("report", run, other, "--comparison-only")
    assert answer.code == 0, answer.err
    page = text(run / "report.html")
    assert "other: There are no curves: " in page
    assert "other: eval.json is left out: " in page
