"""The measurements of `gpu.py`: kernels beside peers, steps, tuning; tiny ones in a dry run on a CPU."""

import json
import sys
import tempfile
import tomllib
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from importlib.metadata import distributions
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from jepa_kernels.bench import attention
from jepa_kernels.bench import ema as ema_rows
from jepa_kernels.bench import tune as tuning
from jepa_kernels.bench.rows import PROBLEMS
from jepa_kernels.bench.shapes import case
from jepa_kernels.bench.tuning_items import Item, items, launches
from jepa_kernels.triton_attention_table import CAPABILITIES, FILE, Tiles
from kernels.benchmarks.gpu_checks import run_once

if TYPE_CHECKING:
    from kernels.benchmarks.gpu import Run

Facts = dict[str, Any]
ROOT = Path(__file__).parents[2]
PROCESSES = 14
MODELS = ("I-JEPA B/16", "I-JEPA L/16", "I-JEPA H/14")
STAGES = ("context", "predictor", "target")
FIRST_PEERS = (
    "ours: triton",
    "ours: varlen",
    "SDPA padded, cuDNN",
    "SDPA padded, flash",
    "explicit softmax, padded",
)
FIRST_INPUTS = [(width, length) for width in (64, 80, 24, 32) for length in (60, 120, 250, 400)]


def compile_in_parallel(inputs: Sequence[tuple[int, int]]) -> list["Future[None]"]:
    """Starts processes that run attention once for each (head width, length); what they compile is kept."""
    pool = ProcessPoolExecutor(PROCESSES, mp_context=get_context("spawn"))
    started = [pool.submit(run_once, width, length) for width, length in inputs]
    pool.shutdown(wait=False)
    return started


def wait_for(started: Sequence["Future[Any]"]) -> int:
    """Waits for all; returns their number. Raises the first error among them."""
    for future in started:
        future.result()
    return len(started)


def attention_first(run: "Run") -> Iterator[Facts]:
    """The stages of three models beside FIRST_PEERS."""
    if run.dry:
        yield run.take(list(attention.rows(case("CIFAR T/4", "context", 2), run.settings, FIRST_PEERS)))
        return
    for model in MODELS:
        for stage in STAGES:
            yield run.take(list(attention.rows(case(model, stage), run.settings, FIRST_PEERS)))


def attention_rest(run: "Run") -> Iterator[Facts]:
    """With the tuned table: equal masks, then FlexAttention and the remaining peers on two cases."""
    if run.dry:
        return
    for model in MODELS:
        yield run.take(list(attention.rows(case(model, "context", equal=True), run.settings, FIRST_PEERS)))
        yield run.take(list(attention.rows(case(model, "context"), run.settings, FIRST_PEERS)))
    rest = tuple(name for name in attention.peers(run.device) if name not in FIRST_PEERS)
    for stage in ("context", "predictor"):
        yield run.take(list(attention.rows(case("I-JEPA B/16", stage), run.settings, rest)))


def ema(run: "Run") -> Iterator[Facts]:
    """The EMA update of the two encoders that matter most."""
    if run.dry:  # interpreted, a whole encoder takes minutes
        yield run.take(list(ema_rows.rows("CIFAR T/4", run.settings, ("ours: foreach", "_foreach_lerp_"))))
        return
    for model in ("I-JEPA B/16", "I-JEPA H/14"):
        yield run.take(list(ema_rows.rows(model, run.settings)))


def steps(run: "Run") -> Iterator[Facts]:
    """B/16 and H/14: equal masks beside the released code's way, exact ones eager and captured."""
    make_discoverable(ROOT)
    try:
        import jepa_core
        from jepa_core.bench.step import measure_step
    except ImportError as problem:
        yield {"say": f"passed over: {problem}"}
        return
    size = 2 if run.dry else 128
    small = ["encoder.name=official_tiny", "predictor.depth=1"] if run.dry else []
    for model in ("vitb16",) if run.dry else ("vitb16", "vith14"):
        for masks, recipe in (("equal", f"ijepa/official_in1k_{model}"), ("exact", f"ijepa/in1k_{model}")):
            graph = [] if run.dry or masks == "equal" else ["train.cuda_graph=true"]
            words = [f"train.batch_size={size}", f"train.micro_batch={size}", *small, *graph]
            resolved = jepa_core.load_recipe(recipe, *words)
            report = measure_step(resolved, run.ceilings, 1 if run.dry else 8, official=masks == "equal")
            ways = "; ".join(_way(way) for way in report.ways)
            yield {"say": f"{model}, {masks} masks: {ways}", "report": report.facts()}


def make_discoverable(root: Path) -> bool:
    """Makes the project's plugins discoverable without an installation; False where it is installed.

    Entry points are read from a distribution's metadata, which is written from pyproject.toml here.
    """
    if any(distribution.name == "jepa-core" for distribution in distributions()):
        return False
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    folder = Path(tempfile.mkdtemp())
    info = folder / f"jepa_core-{project['version']}.dist-info"
    info.mkdir()
    about = f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n"
    (info / "METADATA").write_text(about, encoding="utf-8")
    lines = [f"{name} = {module}\n" for name, module in project["entry-points"]["jepa"].items()]
    (info / "entry_points.txt").write_text("".join(["[jepa]\n", *lines]), encoding="utf-8")
    sys.path.insert(0, str(folder))
    return True


def _way(way: Any) -> str:
    peak = "" if way.peak is None else f", {way.peak / 2**30:.1f} GiB"
    return f"{way.name} {1e3 * way.seconds:.1f} ms, {100 * way.utilisation:.0f} % of matmul{peak}"


def _record(run: "Run") -> tuning.Record:
    """The table under tuning, shared by the parts."""
    if run.record is None:
        document = json.loads(FILE.read_text(encoding="utf-8"))
        if run.dry:
            run.record = tuning.Record(document, CAPABILITIES[0], run.device, tuning.on_cpu, samples=2)
        else:
            major, minor = torch.cuda.get_device_capability(run.device)
            run.record = tuning.Record(document, 10 * major + minor, run.device)
    return run.record


def compile_candidates(run: "Run") -> Iterator[Facts]:
    """Compiles every candidate, in processes: a part of an item's candidates each."""
    record = _record(run)
    if run.dry:
        yield {"say": f"{sum(map(len, record.listed.values()))} candidates to compile"}
        return
    unique = {item.name: item for item in items()}
    jobs = [
        (item, record.listed.get(name, [])[part::3]) for name, item in unique.items() for part in range(3)
    ]
    with ProcessPoolExecutor(PROCESSES, mp_context=get_context("spawn")) as pool:
        counts = list(pool.map(_launch_all, *zip(*jobs, strict=True)))
    yield {"say": f"compiled {sum(counts)} candidates"}


def _launch_all(item: Item, candidates: Sequence[Tiles]) -> int:
    """The number of candidates that could be launched on two sequences."""
    few = Item(item.kernel, item.keys, item.width, item.heads, item.lengths[:2])
    make, _ = launches(few, torch.device("cuda"))
    fine = 0
    for tiles in candidates:
        try:
            make(tiles)()
            fine += 1
        except PROBLEMS:
            continue
    return fine


def tune(run: "Run") -> Iterator[Facts]:
    """Every item's tiles; the table is written after each."""
    record = _record(run)
    chosen = items(record.samples)[:2] if run.dry else items()
    for line in tuning.tune_items(record, chosen):
        yield {"say": line}
        _write(run, record)


def bounds_of_auto(run: "Run") -> Iterator[Facts]:
    """Measures up to how many keys `auto` takes Triton."""
    record = _record(run)
    for line in tuning.choose_bounds(record, (24,) if run.dry else (64, 80, 24), 2 if run.dry else 16):
        yield {"say": line}
        _write(run, record)


def _write(run: "Run", record: tuning.Record) -> None:
    """Writes the table into the results, and except in a dry run into the package."""
    environment = run.about["environment"]
    device = environment["gpus"][0]["name"] if not run.dry else "no GPU: a dry run"
    record.document["source"] = "kernels/benchmarks/gpu.sh --tune; rows without times: compiled, not measured"
    versions = {name: environment["versions"][name] for name in ("torch", "triton")}
    record.document["measured"] = {"date": run.about["date"], "device": device, **versions}
    record.write(run.out / FILE.name)
    if not run.dry:
        record.write(FILE)
