"""Tuning without a GPU: the winning candidate, the file that is written, and that it can be read."""

import json

import pytest
import torch

from jepa_kernels import triton_attention_table as table
from jepa_kernels.bench import candidates, tune
from jepa_kernels.bench.rows import Row, Work
from jepa_kernels.bench.timing import Time
from jepa_kernels.bench.tuning_items import items
from jepa_kernels.triton_attention_table import Tiles

ITEM = items(2)[1]  # the backward of 65 to 128 keys at D = 64
OWN = ITEM.tiles(90)
FAST, FASTER, WRONG, UNSTEADY = (Tiles(queries, 128, 4) for queries in (16, 32, 64, 128))
SECONDS = {OWN: 2.0, FAST: 1.5, FASTER: 1.0, WRONG: 0.5, UNSTEADY: 0.4}


class Machine:
    """Stands in for a GPU: times are known; one candidate is wrong, one never takes the same time."""

    def __init__(self):
        self.out, self.calls = torch.zeros(4), 0

    def launches(self, item, device):
        def make(tiles):
            def call():
                self.out.copy_(torch.arange(4.0) + (tiles == WRONG))

            call.tiles = tiles
            return call

        return make, self.out

    def time(self, calls, seconds):
        self.calls += 1
        tiles = calls[0].tiles
        return SECONDS[tiles] * (1 + 0.1 * (self.calls % 2) * (tiles == UNSTEADY))


@pytest.fixture
def record(monkeypatch):
    before = dict(table.TABLE)
    machine = Machine()
    monkeypatch.setattr(tune, "launches", machine.launches)
    yield tune.Record(
        json.loads(table.FILE.read_text()),
        90,
        torch.device("cpu"),
        machine.time,
        listed={ITEM.name: [OWN, WRONG, UNSTEADY, FASTER, FAST]},
    )
    table.TABLE.clear()
    table.TABLE.update(before)


def test_the_fastest_that_is_right_and_steady_wins(record, tmp_path):
    (line,) = tune.tune_items(record, [ITEM])
    assert f"D 64 short backward 128: {FASTER}, 1000000.0 us, 2.00 times as fast as {OWN}" in line
    record.write(tmp_path / "table.json")
    written = json.loads((tmp_path / "table.json").read_text())
    assert written == record.document
    row = written["rows"]["90"]["64 x 2"]
    assert row["classes"]["128"][1] == str(FASTER)
    times = row["times"][ITEM.name]
    assert (times["seconds"], times["before"]) == ([1.0, 1.0], [2.0, 2.0])
    assert len(times["date"]) == len("2026-11-29")
    assert table.row_for(64, torch.bfloat16).classes[1].backward == FASTER, "the operations take it at once"
    assert table.read_table((tmp_path / "table.json").read_text()) == table.TABLE


def test_the_tables_own_stays_where_nothing_is_faster(record):
    record.listed = {ITEM.name: [WRONG, UNSTEADY]}
    (line,) = tune.tune_items(record, [ITEM])
    assert f"{OWN}, 2000000.0 us, 1.00 times" in line


def test_a_card_that_is_not_in_the_table_gets_rows_of_its_own(record):
    record.capability = 100
    list(tune.tune_items(record, [ITEM]))
    assert record.document["rows"]["100"]["64 x 2"]["classes"]["128"][1] == str(FASTER)
    assert record.document["rows"]["90"]["64 x 2"]["classes"]["128"][1] == str(OWN)


@pytest.mark.parametrize(
    ("our_times", "up_to"), [([0.5, 0.9, 1.2, 0.5], 128), ([2] * 4, 0), ([0.5] * 4, 512)]
)
def test_auto_is_chosen_by_measurement(record, monkeypatch, our_times, up_to):
    """The longest bound up to which every measurement beats the best peer."""

    def rows(case, settings, only):
        bound = int(case.stage.rpartition(" ")[2])
        assert max(case.lengths) <= bound < 2 * min(case.lengths)
        seconds = {
            "ours: triton": our_times[tune.BOUNDS.index(bound)],
            "ours: varlen": 1.0,
            tune.PEERS[1]: 3.0,
        }
        for name, time in seconds.items():
            for direction in ("forward", "backward"):
                yield Row("attention", case.name, direction, name, Work(1), Time(time, time, time))
        yield Row("attention", case.name, "forward", tune.PEERS[2], Work(1), reason="takes no mask")

    monkeypatch.setattr(tune.attention, "rows", rows)
    (line,) = tune.choose_bounds(record, (64,))
    assert f"D 64: auto takes triton up to {up_to} keys" in line
    assert record.row(64)["taken_up_to"] == up_to


def test_the_file_is_written_as_it_is_kept():
    assert tune.format_table(json.loads(table.FILE.read_text())) == table.FILE.read_text()


def test_every_item_has_candidates_that_were_compiled_and_the_tables_own_among_them():
    listed = candidates.read()
    for item in items():
        assert item.tiles(90) in listed[item.name]
        assert 1 < len(listed[item.name]) <= candidates.KEPT


def test_items_are_of_sequences_that_come_to_their_class():
    for item in items():
        classes = table.row_for(item.width, torch.bfloat16).classes
        over = next((c.over for c in classes if c.keys == item.keys), classes[-1].keys)
        assert all(over < length <= (item.keys or length) for length in item.lengths), item.name


def test_what_spills_is_no_candidate(monkeypatch):
    pytest.importorskip("triton")
    few = [OWN, Tiles(128, 128, 4)]
    monkeypatch.setattr(candidates, "list_tiles", lambda item: few)
    assert candidates.best_tiles(ITEM) == [OWN], "128 x 128 on four warps spills"
