"""What is fuzzed: each kind of file that the program reads, where it lies, and what reads it.

A reader is called in this process. It may return, or say no as the command line does: with a UserError of
one line, or exit code 0 or 2.
"""

from __future__ import annotations

import contextlib
import io
import shutil
import sys
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from jepa_core import load_recipe, train
from jepa_core.data import CorruptSample
from jepa_core.errors import UserError
from jepa_core.formats.exporting import export_run
from jepa_core.formats.importing import import_run
from jepa_core.plugins import registry
from jepa_core.runs.events_file import read_events
from jepa_core.runs.load import open_model
from jepa_core.runs.metrics_file import read_metrics
from jepa_core.settings.parse import parse
from tests.conftest import TINY
from tests.fuzz import damage


@dataclass(frozen=True)
class Kind:
    """A file of the workspace, how it is damaged, and what reads it then."""

    path: str
    damage: damage.Damage
    read: Callable[[Path], None]


def samples(name: str) -> Callable[[Path], None]:
    """Reads every sample of a source's training split."""

    def read(path: Path) -> None:
        source = registry().catalogue("data").find(name)
        given = {"name": name, "path": str(path), "val_share": 0, "test_share": 0}
        split = source(parse(source.Config, given, "data")).split("train")
        for index in range(min(len(split), 50)):
            with contextlib.suppress(CorruptSample):
                split[index]

    return read


def command(*words: str) -> Callable[[Path], None]:
    """A command line; `{}` in it is the file, `{run}` the run's folder."""

    def read(path: Path) -> None:
        run = next((parent for parent in path.parents if parent.name == "run"), path.parent)
        jepa(*(word.format(path, run=run) for word in words))

    return read


def imported(*overrides: str, folder: bool = False) -> Callable[[Path], None]:
    """Imports weights into a folder of the workspace."""

    def read(path: Path) -> None:
        made = path.parents[1] / "run" / "imported"
        shutil.rmtree(made, ignore_errors=True)
        import_run(str(path.parent if folder else path), made, overrides=overrides)

    return read


def checkpoint(path: Path) -> None:
    """The run's model, as every command opens it; a damaged checkpoint must not be renamed."""
    open_model(path.parents[2])


def resumed(path: Path) -> None:
    """Goes on with a copy of the run, whose manifest has the damaged file's hash."""
    run = path.parents[2]
    files = {name: (path.parent / name).read_bytes() for name in ("model.safetensors", "state.pt")}
    (path.parent / "manifest.json").write_bytes(damage.manifest(files, 2))
    jepa("train", "--resume", str(run), "train.steps=3", "--allow-change", "train.steps")


def jepa(*words: str) -> None:
    """The command line. Raises UserError with what it printed, where it exits with 2."""
    from jepa_core.cli import main

    out, err, argv = io.StringIO(), io.StringIO(), sys.argv
    code: object = 0
    try:
        sys.argv = ["jepa", *words]
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            main()
    except SystemExit as end:
        code = end.code or 0
    finally:
        sys.argv = argv
    errors = [line for line in err.getvalue().splitlines() if line.startswith("error: ")]
    assert "Traceback" not in err.getvalue(), err.getvalue()
    assert code in (0, 2), (code, err.getvalue())
    assert len(errors) == (code == 2), err.getvalue()
    if errors:
        raise UserError(errors[0])


KINDS = {
    "recipe": Kind("recipe.toml", damage.changed_toml, command("recipes", "show", "{}")),
    "npz": Kind("tiny.npz", damage.changed_npz, samples("npz")),
    "tar": Kind("shard.tar", damage.changed_tar, samples("webdataset")),
    "image": Kind("images/a/0.png", damage.changed_bytes, lambda path: samples("folder")(path.parents[1])),
    "manifest": Kind("run/checkpoints/step-00000002/manifest.json", damage.changed_json, checkpoint),
    "state": Kind("run/checkpoints/step-00000002/state.pt", damage.changed_state, resumed),
    "safetensors": Kind("weights/a.safetensors", damage.changed_safetensors, imported()),
    "official": Kind("weights/a.pth.tar", damage.changed_state, imported()),
    "config": Kind("timm/config.json", damage.changed_json, imported(folder=True)),
    "metrics": Kind("run/metrics.jsonl", damage.changed_lines, lambda path: void(read_metrics(path))),
    "events": Kind("run/events.jsonl", damage.changed_lines, lambda path: void(read_events(path.parent))),
    "eval": Kind("run/eval.json", damage.changed_json, command("report", "{run}")),
}
"""Each kind by its name."""


def void(_: object) -> None:
    """Nothing is done with what was read."""


def write_workspace(folder: Path) -> None:
    """A file of every kind, whole, in an empty folder."""
    random = np.random.default_rng(0)
    pixels = random.integers(0, 256, (64, 16, 16, 3)).astype(np.uint8)
    np.savez(folder / "tiny.npz", images=pixels, labels=np.arange(64) % 2)
    (folder / "tiny.toml").write_text(TINY.format(path=folder / "tiny.npz"), encoding="utf-8")
    (folder / "recipe.toml").write_bytes((folder / "tiny.toml").read_bytes())
    for label in "ab":
        (folder / "images" / label).mkdir(parents=True)
        for number in range(3):
            Image.fromarray(pixels[number]).save(folder / "images" / label / f"{number}.png")
    with tarfile.open(folder / "shard.tar", "w") as archive:
        for path in sorted((folder / "images/a").iterdir()):
            archive.add(path, f"set/{path.name}")
    train(load_recipe(folder / "tiny.toml", "train.steps=2"), folder / "run")
    jepa("eval", str(folder / "run"), "--probe", "knn")
    (folder / "weights").mkdir()
    export_run(folder / "run", "safetensors", folder / "weights/a.safetensors")
    export_run(folder / "run", "official", folder / "weights/a.pth.tar")
    export_run(folder / "run", "timm", folder / "timm")


def outside_the_run(folder: Path) -> Iterator[tuple[str, bytes]]:
    """Every file of the workspace that a command must leave as it is, with its content."""
    for path in sorted(folder.rglob("*")):
        if path.is_file() and "run" not in path.relative_to(folder).parts and "cache" not in path.parts:
            yield str(path.relative_to(folder)), path.read_bytes()
