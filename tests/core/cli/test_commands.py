"""The command line: what it prints, what it refuses in one line, and every component by its name."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import jepa_core
from jepa_core import UserError, hookimpl, observers, plugins
from jepa_core.protocols import ReadsKinds
from jepa_core.runs.metrics_file import read_metrics

PATTERNS = {
    "aimv2_*": "aimv2_large_patch14_224",
    "beit3_*": "beit3_base_patch16_224",
    "deit*": "deit_tiny_patch16_224",
    "eva_*": "eva_large_patch14_196",
    "flexivit_*": "flexivit_small",
    "test_vit*": "test_vit",
    "vit_*": "vit_tiny_patch16_224",
}
"""A name for each pattern an encoder is registered under."""


def registered(kind: str) -> list[str]:
    return sorted(plugins.registry().catalogue(kind).classes)


def python(code: str) -> str:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True
    )
    return done.stdout


@pytest.mark.parametrize(
    "code",
    [
        "import jepa_core",
        "from jepa_core.cli import app; from typer.testing import CliRunner; "
        "assert CliRunner().invoke(app, ['--help']).exit_code == 0",
        "from jepa_core.cli import app; from typer.testing import CliRunner; "
        "assert CliRunner().invoke(app, ['train', '--help']).exit_code == 0",
    ],
)
def test_help_and_the_bare_import_load_nothing_heavy(code: str) -> None:
    heavy = {"torch", "timm", "triton", "torchvision", "numpy", "matplotlib", "tensorboard"}
    loaded = python(f"{code}\nimport sys; print(' '.join(m for m in sys.modules if m in {heavy!r}))")
    assert loaded.split() == []


@pytest.fixture
def done(jepa, tiny_recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Trains two steps of the tiny recipe with overrides and gives the run's folder; draws no pictures."""
    monkeypatch.setattr(observers, "standard", lambda: [observers.MetricsWriter()])

    def train(*overrides: str, below: float = 10) -> Path:
        said = jepa("train", tiny_recipe, "train.steps=2", *overrides, "--run", tmp_path / "run")
        assert said.code == 0, said.err
        assert f"2 steps done; the run is in {tmp_path / 'run'}" in said.out
        losses = [line["loss"] for line in read_metrics(tmp_path / "run/metrics.jsonl")]
        assert len(losses) == 2
        assert all(0 <= loss < below for loss in losses)
        return tmp_path / "run"

    return train


def of_images(kind: str) -> list[str]:
    """Those registered; those for clips alone are trained on clips, in tests/plugins/test_vjepa_run.py, those
    for frames of films in test_world.py and test_stacked.py, and those for texts and vectors in
    tests/core/nn."""
    classes = plugins.registry().catalogue(kind).classes
    of_clips = ("vjepa_", "causal", "tube", "frame_")
    return [n for n in registered(kind) if not (n.startswith(of_clips) or isinstance(classes[n], ReadsKinds))]


@pytest.mark.parametrize("name", of_images("masker"))
def test_every_masker_trains_by_name(done, name: str) -> None:
    """Without masks nothing is predicted: the loss is then one that asks for no prediction."""
    done(f"masker.name={name}", *(["objective.name=variance_covariance"] if name == "none" else []))


@pytest.mark.parametrize("name", registered("target_update"))
def test_every_target_update_trains_by_name(done, name: str) -> None:
    done(f"target_update.name={name}")


WITHOUT = tuple(f"{part}.name=none" for part in ("masker", "predictor", "target_update"))
OF_LABELS = (*WITHOUT, "variant.name=classifier", "variant.classes=2")
"""What predicts shares of classes, which cross-entropy takes."""


@pytest.mark.parametrize("name", registered("objective"))
def test_every_objective_trains_by_name_and_as_a_further_term(done, name: str) -> None:
    below = 100 if name == "vicreg" else 10  # whose own factors are 25
    more = OF_LABELS if name == "cross_entropy" else ()
    terms = (f"objective.name={name}", f"terms.also.name={name}", "terms.also.weight=0.5")
    folder = done(*terms, *more, below=below)
    line = read_metrics(folder / "metrics.jsonl")[0]
    assert line["loss"] == pytest.approx(line["loss/prediction"] + 0.5 * line["loss/also"], rel=1e-5)
    assert line["loss/prediction"] == line["loss/also"]


@pytest.mark.parametrize("name", [PATTERNS.get(name, name) for name in of_images("encoder")])
def test_every_encoder_trains_by_name(done, name: str) -> None:
    """At a small size, so that giant is one too."""
    sizes = {"width": 8, "depth": 1, "heads": 2, "image_size": 16, "patch_size": 4}
    if name == "timm_vit":
        arguments = "{patch_size=4,embed_dim=8,depth=1,num_heads=2}"
        sizes = {"model": "vit_tiny_patch16_224", "image_size": 16, "arguments": arguments}
    done(f"encoder.name={name}", *(f"encoder.{key}={value}" for key, value in sizes.items()))


VARIANTS = plugins.registry().catalogue("variant")
OF_FILMS = ("stacked", "world")
"""Variants that are trained on films, in tests/plugins."""
OF_IMAGES = [
    name
    for name in registered("variant")
    if name not in OF_FILMS and not VARIANTS.find(name).Config.named_encoders
]


@pytest.mark.parametrize("name", OF_IMAGES)
def test_every_variant_of_images_trains_by_name(done, name: str) -> None:
    """One without masks takes no masker, predictor or target encoder, and says so."""
    parts = {"lejepa": WITHOUT, "classifier": OF_LABELS}.get(name, ())
    done(f"variant.name={name}", *parts, "objective.name=mse")


def test_train_then_evaluate_then_go_on(jepa, tiny_recipe: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    trained = jepa("train", tiny_recipe, "train.steps=2", "--run", folder)
    assert "training: 2 of 2, 0:00 left  loss " in trained.err, "plain lines where there is no terminal"
    table = jepa("eval", folder, "--probe", "knn")
    assert table.code == 0, table.err
    assert all(row in table.out for row in ("trained", "random twin", "raw pixels"))
    assert "target" in table.out, "it says which encoder it judged"
    told = json.loads(jepa("eval", folder, "--probe", "knn", "--json").out)
    assert told == json.loads((folder / "eval.json").read_text())
    again = jepa("train", "--resume", folder)
    assert (again.code, len(read_metrics(folder / "metrics.jsonl"))) == (0, 2)


def test_a_run_in_the_way_is_refused_until_overwritten(jepa, done, tiny_recipe: Path) -> None:
    folder = done()
    refused = jepa("train", tiny_recipe, "--run", folder)
    assert (refused.code, "holds a run already" in refused.err) == (2, True)
    assert jepa("train", tiny_recipe, "train.steps=1", "--run", folder, "--overwrite").code == 0
    assert len(read_metrics(folder / "metrics.jsonl")) == 1


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["train", "RECIPE", "masker.name=multiblok"], "Did you mean 'multiblock'?"),
        (["train", "ijepa/dem0"], "Did you mean 'ijepa/demo'?"),
        (["train", "RECIPE", "encoder.name=official_tinny"], "Did you mean 'official_tiny'?"),
        (["train", "RECIPE", "target_update.name=emma"], "Did you mean 'ema'?"),
        (["train", "RECIPE", "objective.name=smoth_l1"], "Did you mean 'smooth_l1'?"),
        (["train", "RECIPE", "data.name=fodler"], "Did you mean 'folder'?"),
        (
            ["train", "RECIPE", "optimizer.learning_rate=1"],
            "unknown setting 'optimizer.learning_rate'; known: ",
        ),
        (["train"], "error: which recipe? `jepa recipes` lists them"),
        (["train", "--resume", "nowhere"], "error: 'nowhere' is not a run: it holds no recipe.toml"),
        (
            ["train", "RECIPE", "--resume", "."],
            "error: --resume takes the recipe from the run; give no recipe",
        ),
        (["eval", "nowhere"], "error: 'nowhere' is not a run: it holds no recipe.toml"),
        (["eval", "nowhere", "--role", "contxt"], "error: 'nowhere' is not a run: it holds no recipe.toml"),
        (
            ["eval", "nowhere", "--split", "tset"],
            "unknown split 'tset'; known: test, train, val. Did you mean 'test'?",
        ),
        (["recipes", "show", "ijepa/x"], "unknown recipe 'ijepa/x'; known: finetune/"),
        (["plugins", "show", "multiblok"], "unknown plugin or component 'multiblok'; known: "),
    ],
)
def test_what_the_user_got_wrong_is_one_line_and_exit_code_2(
    jepa, tiny_recipe: Path, words: list[str], said: str
) -> None:
    result = jepa(*(str(tiny_recipe) if word == "RECIPE" else word for word in words))
    assert result.code == 2
    assert said in result.err
    assert result.err.startswith("error: ")
    assert len(result.err.splitlines()) == 1
    assert result.out == ""


class CtrlC:
    """Stops the run at step 4."""

    @hookimpl
    def jepa_step_ended(self, step: int) -> None:
        if step == 4:
            raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("every", "said"),
    [
        (0, "stopped by Ctrl-C before the first checkpoint; --resume starts again from the beginning"),
        (3, "stopped by Ctrl-C; jepa train --resume RUN goes on from step-00000003"),
    ],
)
def test_ctrl_c_says_how_to_go_on(
    jepa, tiny_recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, every: int, said: str
) -> None:
    monkeypatch.setattr(observers, "standard", lambda: [CtrlC()])
    run = tmp_path / "run"
    result = jepa("train", tiny_recipe, f"train.checkpoint_every={every}", "--run", run)
    assert result == (130, "", said.replace("RUN", str(run)) + "\n")


def test_what_the_library_logs_is_said(jepa, done) -> None:
    folder = done()
    for _ in range(2):
        said = jepa("eval", folder, "--probe", "knn").err
        assert said.count("data: images of ") == 1, "each line once, however often the command runs"


def test_resume_stays_in_its_folder(jepa, done, tmp_path: Path) -> None:
    refused = jepa("train", "--resume", done(), "--run", tmp_path / "elsewhere")
    assert refused.err == "error: --resume goes on in the run's own folder; leave out --run\n"


def test_debug_shows_the_traceback(jepa, tiny_recipe: Path) -> None:
    with pytest.raises(UserError, match="unknown masker 'x'"):
        jepa("train", tiny_recipe, "masker.name=x", "--debug")


@pytest.mark.parametrize("words", [(), ("bench",)])
def test_a_command_that_needs_another_word_shows_its_help(jepa, words: tuple[str, ...]) -> None:
    shown = jepa(*words)
    assert (shown.code, shown.err) == (0, "")
    assert f"Usage: {' '.join(('jepa', *words))}" in shown.out


def test_the_version_is_said(jepa) -> None:
    assert jepa("--version") == (0, f"jepa-core {jepa_core.__version__}\n", "")


def test_the_first_help_names_every_command_and_how_to_begin(jepa) -> None:
    said = jepa("--help").out
    commands = {word for word in said.split() if word in ("train", "eval", "recipes", "plugins", "doctor")}
    assert commands == {"train", "eval", "recipes", "plugins", "doctor"}
    assert "--debug" in said
    assert "jepa train ijepa/demo" in said


def test_a_reader_that_goes_away_is_no_error() -> None:
    command = [sys.executable, "-c", "from jepa_core.cli import main; main()", "recipes"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()  # as `| head -0` does
        assert process.stderr.read() == ""


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="/dev/full is Linux's")
def test_a_full_disk_under_what_is_printed_is_one_line() -> None:
    command = [sys.executable, "-c", "from jepa_core.cli import main; main()", "recipes"]
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert (done.returncode, done.stderr) == (2, "error: No space left on device\n")
