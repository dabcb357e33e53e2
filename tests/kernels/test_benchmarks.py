"""The kernel benchmarks on a CPU: every peer that runs computes attention, the others say why not."""

import hashlib
import json
from pathlib import Path

import pytest
import torch

from jepa_kernels.bench import attention, ema, load, names, shapes
from jepa_kernels.bench.ceilings import Ceilings, measure_ceilings
from jepa_kernels.bench.kernels import choose_jobs, document, jobs, limit_samples, run
from jepa_kernels.bench.rows import CannotRun, Row, Settings, Work, failed_row, time_row
from jepa_kernels.bench.shapes import MODELS, STAGES, Case, case
from jepa_kernels.bench.timing import Time, measure
from jepa_kernels.bench.waste import computed_over_useful, short_share

HALF = torch.bfloat16
CPU = Settings(torch.device("cpu"), quick=True)
RAGGED = Case("tiny", "context", 2, 16, (5, 1, 9, 3))
EQUAL = Case("tiny", "target", 2, 16, (6, 6, 6))


@pytest.mark.parametrize("tiny", [RAGGED, EQUAL], ids=["ragged", "equal"])
@pytest.mark.filterwarnings("ignore:flex_attention called without")
def test_every_peer_that_runs_computes_attention(tiny):
    results = list(attention.rows(tiny, CPU))
    assert [row.direction for row in results[:2]] == ["forward", "backward"]
    timed_rows = {row.impl: row for row in results if row.direction == "forward" and row.time is not None}
    assert {"ours: matmul", "ours: sdpa", "explicit softmax, padded"} <= set(timed_rows)
    assert {"SDPA padded, torch's choice", "FlexAttention, mask kept"} <= set(timed_rows)
    timed_rows |= {
        f"{row.impl}, backward": row for row in results if row.direction == "backward" and row.time
    }
    assert all(row.accuracy.error < 2e-2 for row in timed_rows.values()), "bf16 beside float32"
    assert all(row.accuracy.same_bits for row in timed_rows.values())
    assert timed_rows["SDPA padded, torch's choice"].accuracy.over_torch == pytest.approx(1, abs=0.3)
    assert timed_rows["ours: matmul, backward"].about == tiny.about()
    names = {row.impl for row in results}
    assert names == set(attention.peers(CPU.device)), "those that cannot run are rows too"
    assert all(row.reason for row in results if row.time is None)


def test_a_wrong_peer_shows_in_its_error(monkeypatch):
    def wrong(case, qkv):
        leaf = qkv.detach().requires_grad_(torch.is_grad_enabled())
        return attention.Ready(leaf, lambda: leaf[:, 2])

    monkeypatch.setattr(attention, "peers", lambda device: {"wrong": wrong})
    for row in attention.rows(RAGGED, CPU):
        assert row.accuracy.error > 0.1
        assert row.accuracy.over_torch > 10


@pytest.mark.skipif(torch.cuda.is_available(), reason="speaks of a machine without a GPU")
def test_reasons_are_said():
    reasons = {row.impl: row.reason for row in attention.rows(RAGGED, CPU)}
    assert reasons["SDPA padded, cuDNN"] == "needs a CUDA tensor, got cpu"
    assert reasons["ours: varlen"] == "needs CUDA tensors, got cpu"
    assert reasons["FlexAttention, mask kept"] == "has no backward on a CPU"


def test_ema_peers_all_move_the_teacher_alike():
    """One update from the same start, in float32."""
    encoder = ema.Encoder(width=16, depth=1, hidden=32, patch=4)
    torch.manual_seed(0)
    start = ema.Tensors.of(encoder, CPU.device)
    expected = [t + ema.ALPHA * (s - t) for t, s in zip(start.teacher, start.student, strict=True)]
    count = 0
    for prepare, shadowed in ema.PEERS.values():
        tensors = ema.Tensors(
            [t.clone() for t in start.teacher], start.student, [t.bfloat16() for t in start.teacher]
        )
        try:
            prepare(tensors)()
        except CannotRun:
            continue
        count += 1
        for got, exact in zip(tensors.teacher, expected, strict=True):
            torch.testing.assert_close(got, exact, rtol=1e-6, atol=1e-6)
        if shadowed:
            assert all(
                torch.equal(w, t.bfloat16()) for w, t in zip(tensors.shadow, tensors.teacher, strict=True)
            )
    assert count >= 5


@pytest.mark.parametrize(
    ("model", "millions"),
    [("I-JEPA B/16", 85.6), ("I-JEPA L/16", 303.1), ("I-JEPA H/14", 630.4), ("CIFAR T/4", 5.35)],
)
def test_encoders_have_their_published_sizes(model, millions):
    """Sizes of a vision transformer without class token, position table and head."""
    numbers = sum(torch.Size(shape).numel() for shape in ema.ENCODERS[model].shapes())
    assert numbers / 1e6 == pytest.approx(millions, rel=0.003)


def test_lengths_are_those_of_the_masks():
    """14x14 tokens, 128 samples: about 82 visible, 30 to 40 in a target; four sequences a sample."""
    context, predictor = case("I-JEPA B/16", "context"), case("I-JEPA B/16", "predictor")
    assert len(context.lengths) == 128
    assert 70 < sum(context.lengths) / 128 < 95
    assert len(set(context.lengths)) > 20
    assert len(predictor.lengths) == 4 * 128
    assert {p - c for p, c in zip(predictor.lengths, context.lengths, strict=False)} <= set(range(30, 41))
    assert case("I-JEPA H/14", "target").lengths == (256,) * 128
    assert case("V-JEPA L/16", "target", samples=2).lengths == (1568, 1568)
    assert all(case(model, stage).numbers() for model in MODELS for stage in STAGES)


def test_the_drawn_lengths_can_be_drawn_again():
    """The checked-in file is what its command gives."""
    from jepa_ijepa import draw_lengths

    written = json.loads(draw_lengths.FILE.read_text(encoding="utf-8"))
    assert written.pop("command").endswith("jepa_ijepa.draw_lengths")
    assert written["8x8"] == draw_lengths.draw(*draw_lengths.SETS["8x8"])
    assert set(written) == set(draw_lengths.SETS)


def test_cases_are_loaded_by_name():
    exact, equal = load("I-JEPA B/16 context"), load("I-JEPA B/16 context, equal")
    assert exact == case("I-JEPA B/16", "context")
    assert equal.lengths == (min(exact.lengths),) * 128
    assert (equal.name, equal.uniform) == ("I-JEPA B/16 context, equal", True)
    assert len(load("I-JEPA H/14 predictor").lengths) == 512
    assert [load(name).name for name in names()] == names()
    with pytest.raises(
        ValueError, match=r"unknown case 'I-JEPA B/16 contxt'; .*Did you mean 'I-JEPA B/16 context'"
    ):
        load("I-JEPA B/16 contxt")


def test_the_cases_have_a_version():
    """Results name the version; a change of the data needs a new version and a new sum here."""
    folder = Path(shapes.__file__).parent
    data = b"".join((folder / name).read_bytes() for name in ("shapes.json", "lengths.json"))
    assert (shapes.VERSION, hashlib.sha256(data).hexdigest()[:16]) == (1, "e94df5088386bbb6")


def test_most_sequences_of_real_batches_take_the_short_path():
    share = {name: short_share(load(name)) for name in names()}
    for model in ("I-JEPA B/16", "I-JEPA L/16"):
        assert share[f"{model} context"] == share[f"{model} predictor"] == 1
    assert share["I-JEPA H/14 context"] >= 0.6
    assert share["I-JEPA H/14 predictor"] == 1
    assert share["I-JEPA H/14 target"] == 0


def test_what_is_computed_over_what_is_needed():
    """Lengths 10 and 70, heads of 24 as 32; classes of 64 and 128 keys, the second with 16 queries."""
    tiny = Case("tiny", "context", 2, 24, (10, 70))
    needed = 24 * (10**2 + 70**2)
    forward = computed_over_useful("ours: triton", "forward", tiny, HALF)
    assert forward == pytest.approx(32 * (64 * 64 + 128 * 128) / needed)
    backward = computed_over_useful("ours: triton", "backward", tiny, HALF)
    assert backward == pytest.approx(32 * (64 * 64 + 80 * 128) / needed)
    assert computed_over_useful("SDPA padded, cuDNN", "forward", tiny, HALF) == 2 * 70**2 / (10**2 + 70**2)
    assert computed_over_useful("ours: varlen", "forward", tiny, HALF) is None


def test_attention_counts_operations_and_bytes_once():
    tiny = Case("tiny", "context", heads=3, width=8, lengths=(2, 5))
    assert tiny.operations() == 2 * 2 * (4 + 25) * 24
    forward, backward = list(attention.rows(tiny, CPU))[:2]
    assert forward.work == Work(2 * 4 * 7 * 24, tiny.operations())
    assert backward.work == Work(2 * 7 * 7 * 24, 2.5 * tiny.operations())


def test_a_row_is_a_fraction_of_the_roofline():
    machine = Ceilings(copy=100.0, matmul=1000.0)
    row = Row(
        "op", "case", "forward", "impl", Work(moved=200, operations=500), Time(4.0, 3.0, 5.0, graph=2.5)
    )
    facts = row.facts(machine)
    assert (facts["gb_s"], facts["tflop_s"]) == (50e-9, 125e-12)
    assert (facts["least_s"], facts["bound"]) == (2.0, "memory")
    assert (facts["roofline"], facts["graph_roofline"]) == (0.5, 0.8)
    assert Row("op", "case", "forward", "impl", Work(0, 5000)).facts(machine)["bound"] == "math"


def test_what_goes_wrong_becomes_the_rows_reason():
    row = Row("op", "case", "forward", "impl", Work(1))

    def raise_error():
        raise RuntimeError("no kernel\nat all")

    assert time_row(row, raise_error, CPU).reason == "RuntimeError: no kernel"
    assert failed_row(row, CannotRun("not here")).facts(Ceilings(1, 1))["reason"] == "not here"


def test_a_time_is_of_the_call():
    import time

    duration = measure(lambda: time.sleep(0.004), torch.device("cpu"), 0.02)
    assert 0.004 <= duration.low <= duration.median <= duration.high < 0.1
    assert duration.graph is duration.launched is duration.peak is None


def test_ceilings_are_of_this_machine():
    ceilings = measure_ceilings(torch.device("cpu"), 0.01, quick=True)
    assert 1e8 < ceilings.copy < 1e13
    assert 1e8 < ceilings.matmul < 1e15


def test_choosing_jobs():
    assert {job.op for job in jobs()} == {"attention", "ema", "loss", "masks"}
    assert [job.name for job in choose_jobs(["attention"], ["h/14"])] == [f"I-JEPA H/14 {s}" for s in STAGES]
    assert len(choose_jobs()) == len(jobs())
    with pytest.raises(ValueError, match=r"unknown operation 'atention'; known: .*Did you mean 'attention'"):
        choose_jobs(["atention"])
    with pytest.raises(ValueError, match="unknown shape 'B/17'; known: I-JEPA B/16, "):
        choose_jobs(shapes=["B/17"])


def test_a_cpu_takes_few_samples():
    assert limit_samples(CPU).samples == 2
    assert limit_samples(Settings(torch.device("cpu"))).samples == 8
    assert limit_samples(Settings(torch.device("cuda"))).samples is None
    assert limit_samples(Settings(torch.device("cpu"), samples=3)).samples == 3


def test_the_document_is_plain_json():
    results = list(run(choose_jobs(["loss", "masks"], ["CIFAR", "exact"]), CPU))
    written = json.loads(json.dumps(document(results, Ceilings(1e9, 1e12), CPU, {"date": "today"})))
    assert written["ceilings"] == {"copy_bytes": 1e9, "matmul_operations": 1e12}
    assert (written["date"], written["device"], written["samples"]) == ("today", "cpu", 2)
    assert {row["op"] for row in written["rows"]} == {"loss", "masks"}
    assert written["rows"][0]["median_s"] > 0
