"""`jepa doctor`: what it finds in good order, and that each thing that is not gets said."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from jepa_core import UserError, plugins
from jepa_core.doctor import examine, extensions, kernels, machine, selftest, storage
from jepa_core.doctor.check import Check
from jepa_core.plugins import PluginStatus
from jepa_core.runtime.machine_load import Load
from jepa_kernels import EMA_IMPLS, EmaPlan, block_attention, explain_ema

CPU = torch.device("cpu")
TWO_CORES = {"model": "Example", "cores": 2, "threads": 2}


def only(checks: Iterator[Check], name: str) -> Check:
    return next(check for check in checks if check.name == name)


def test_a_sound_machine_is_ok_in_every_topic(jepa, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JEPA_DATA", str(tmp_path))
    said = jepa("doctor")
    assert said.code == 0, said.out
    assert all(f"\n{topic}\n" in said.out for topic in examine.TOPICS)
    assert "2 steps of ijepa/selftest on " in said.out
    assert "written, and read back bit for bit" in said.out


def test_as_json_it_is_all_there(jepa, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JEPA_DATA", str(tmp_path))
    told = json.loads(jepa("doctor", "--json").out)
    assert told["ok"] is True
    assert {check["topic"] for check in told["checks"]} == set(examine.TOPICS)
    assert told["environment"]["versions"]["torch"] == torch.__version__.partition("+")[0]
    context = next(check for check in told["checks"] if check["name"] == "ViT-S/16 at 224, context")
    assert sum(choice["chosen"] for choice in context["details"]["choices"]) == 1
    trained = next(check for check in told["checks"] if check["name"] == "training")
    assert len(trained["details"]["losses"]) == 2


@pytest.mark.parametrize(
    ("error", "described"),
    [
        (RuntimeError("the disk is on fire"), "RuntimeError: the disk is on fire"),
        (SystemExit(0), "SystemExit: 0"),
        (KeyboardInterrupt(), "KeyboardInterrupt"),
        (GeneratorExit(), "GeneratorExit"),
        (UserError("no disk"), "no disk"),
    ],
)
def test_a_look_that_fails_is_a_problem_and_the_others_go_on(
    jepa, monkeypatch: pytest.MonkeyPatch, error: BaseException, described: str
) -> None:
    def failing() -> Iterator[Check]:
        yield Check("disk", "first", "ok", "is said before it fails")
        raise error

    monkeypatch.setattr(storage, "disk", failing)
    monkeypatch.setattr(examine, "TOPICS", {key: examine.TOPICS[key] for key in ("disk", "plugins")})
    said = jepa("doctor")
    assert said.code == 1
    assert "is said before it fails" in said.out
    assert described in said.out
    assert "jepa_ijepa" in said.out
    assert said.out.endswith("1 problem; see → above.\n")


def test_a_package_that_cannot_be_imported_is_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(examine, "TOPICS", {"kernels": ("nowhere", "choices")})
    (check,) = examine.examine()
    assert (check.state, check.topic) == ("problem", "kernels")
    assert check.said == "ModuleNotFoundError: No module named 'jepa_core.doctor.nowhere'"


@pytest.mark.parametrize(
    ("cores", "threads", "asked", "state", "advice"),
    [
        (2, 2, None, "ok", ""),
        (8, 1, "1", "warning", "OMP_NUM_THREADS is 1; unset it to use all of them"),
        (8, 4, None, "warning", "set OMP_NUM_THREADS=8 to use all of them"),
        (2, 16, "16", "warning", "set OMP_NUM_THREADS=2: more threads than cores wait for each other"),
    ],
)
def test_threads_and_cores(
    monkeypatch: pytest.MonkeyPatch, cores: int, threads: int, asked: str | None, state: str, advice: str
) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if asked:
        monkeypatch.setenv("OMP_NUM_THREADS", asked)
    cpu = {"model": "Example", "cores": cores, "threads": threads}
    monkeypatch.setattr(machine, "environment", lambda: {"cpu": cpu, "memory_gib": 4.0})
    check = only(machine.devices(), "CPU")
    assert (check.state, check.advice.startswith(advice)) == (state, True)
    assert check.said.startswith(f"Example: {cores} cores, {threads} thread")


def test_a_gpu_that_torch_does_not_see_is_a_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert only(machine.devices(), "GPU").said == "none; training runs on the CPU"
    monkeypatch.setattr(machine, "DRIVER", tmp_path)
    monkeypatch.setattr(torch.version, "cuda", "13.2")
    assert "built for CUDA 13.2, finds no GPU" in only(machine.devices(), "GPU").said
    monkeypatch.setattr(torch.version, "cuda", None)
    assert "built for the CPU alone" in only(machine.devices(), "GPU").said


def test_a_gpu_is_named_with_its_compute_capability(monkeypatch: pytest.MonkeyPatch) -> None:
    properties = SimpleNamespace(name="Example", major=7, minor=5, total_memory=16 * 2**30)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: properties)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (7, 5))
    monkeypatch.setattr(machine, "environment", lambda: {"cpu": TWO_CORES, "memory_gib": None})
    checks = list(machine.devices())
    assert only(iter(checks), "cuda:0").said == "Example, 16 GiB, compute capability 7.5"
    assert only(iter(checks), "bf16 on cuda:0").said == "slow here, so auto takes fp32"
    assert not [check for check in checks if check.name == "GPU"]


def test_little_shared_memory_is_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    class Space:
        f_bavail, f_frsize = 16384, 4096  # 64 MiB, as containers have it

    monkeypatch.setattr(machine.os, "statvfs", lambda _: Space)
    check = only(machine.devices(), "shared memory")
    assert (check.state, "--shm-size" in check.advice) == ("warning", True)


@pytest.mark.parametrize("case", kernels.CASES, ids=lambda case: case.name)
def test_cases_are_the_layers_they_name(case: kernels.Case) -> None:
    layout, qkv = case.layout(CPU), case.qkv(CPU)
    lengths = layout.seg[:, 1].tolist()
    assert (min(lengths), max(lengths), len(lengths)) == (case.shortest, case.longest, kernels.SAMPLES)
    assert (layout.uniform is None) == (case.shortest != case.longest)
    assert qkv.shape == (sum(lengths), 3, case.heads, case.width)
    assert torch.equal(qkv, case.qkv(CPU))


def test_ema_is_explained_by_what_it_runs() -> None:
    lines = explain_ema(EmaPlan([torch.zeros(2)], [torch.ones(2)]))
    assert tuple(line.impl for line in lines) == EMA_IMPLS
    assert [line.impl for line in lines if line.chosen] == ["foreach"]


def test_plugins_in_trouble_are_problems(monkeypatch: pytest.MonkeyPatch) -> None:
    broken = PluginStatus(
        "broken", "broken (broken 0.1)", "set aside", "ImportError: no module named 'nothing'"
    )
    monkeypatch.setattr(plugins.registry(), "statuses", [*plugins.registry().statuses, broken])
    monkeypatch.setenv("JEPA_DISABLE_PLUGINS", "ijep")
    checks = list(extensions.check_plugins())
    assert only(iter(checks), "ijepa").state == "ok"
    bad = only(iter(checks), "broken")
    assert (bad.state, bad.said) == ("problem", f"set aside: {broken.error}")
    assert bad.advice.endswith("or leave it out: JEPA_DISABLE_PLUGINS=broken")
    assert "names 'ijep', which is not installed" in only(iter(checks), "disabled").said


def test_a_component_that_is_set_aside_is_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    text = "the masker 'random' of plugin 'mine' is set aside"
    status = PluginStatus("mine", "mine (mine 0.1)", "loaded", notes=[text])
    monkeypatch.setattr(plugins.registry(), "statuses", [*plugins.registry().statuses, status])
    checks = list(extensions.check_plugins())
    assert only(iter(checks), "mine").state == "ok"
    check = only(iter(checks), "names")
    assert (check.state, check.said) == ("warning", text)


@pytest.mark.parametrize(
    ("load", "state", "said"),
    [
        (Load(0.1, 2), "ok", "other processes use 0.1 of 2 cores"),
        (
            Load(1.5, 2),
            "warning",
            "the machine is busy: other processes use 1.5 of 2 cores, and torch computes with 2 threads",
        ),
    ],
)
def test_a_busy_machine_is_a_warning(
    monkeypatch: pytest.MonkeyPatch, load: Load, state: str, said: str
) -> None:
    monkeypatch.setattr(machine, "environment", lambda: {"cpu": TWO_CORES, "memory_gib": 4.0})
    monkeypatch.setattr(machine, "measure_load", lambda cores: load)
    check = only(machine.devices(), "load")
    assert (check.state, check.said) == (state, said)
    assert check.advice.endswith("train with OMP_NUM_THREADS=1") is (state == "warning")
    assert check.details == {"others": load.others, "cores": 2}


def test_without_counters_the_average_of_the_system_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "LOAD_SECONDS", 0)
    monkeypatch.setattr(machine.os, "getloadavg", lambda: (5.5, 1.0, 1.0))
    assert machine.measure_load(4) == Load(4.0, 4)
    monkeypatch.delattr(machine.os, "getloadavg")
    assert machine.measure_load(4) is None
    assert not list(machine._load(4, 4))


def test_the_data_folder_is_looked_at_and_not_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JEPA_DATA", str(tmp_path / "data"))
    folder, cifar = storage.data()
    assert (folder.state, folder.said.endswith("is not there yet; the first fetch makes it")) == ("ok", True)
    assert "fetches it (139 MB)" in cifar.said
    assert not (tmp_path / "data").exists()


def test_what_is_in_the_data_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JEPA_DATA", str(tmp_path))
    (tmp_path / "sets").mkdir()
    (tmp_path / "cifar10.npz").write_bytes(b"half a file")
    folder, cifar = storage.data()
    assert folder.said == f"{tmp_path} (JEPA_DATA) holds cifar10.npz (11 bytes), sets/"
    (tmp_path / "zz\x1b[31m").symlink_to("nowhere")
    assert next(storage.data()).said.endswith(r"sets/, zz\x1b[31m")
    assert (cifar.state, cifar.advice) == ("problem", "delete it, and it is made anew")
    with zipfile.ZipFile(tmp_path / "cifar10.npz", "w") as arrays:
        arrays.writestr("train_images.npy", "")
    assert only(storage.data(), "CIFAR-10").said.endswith(
        "has no test_images.npy, test_labels.npy, train_labels.npy"
    )
    with zipfile.ZipFile(tmp_path / "cifar10.npz", "w") as arrays:
        for name in storage.CIFAR10:
            arrays.writestr(name, "")
    assert only(storage.data(), "CIFAR-10").state == "ok"


def test_a_data_folder_that_is_a_file_or_out_of_reach(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("JEPA_DATA", str(tmp_path / "file"))
    assert next(storage.data()).said == f"{tmp_path}/file (JEPA_DATA) is a file"
    monkeypatch.setenv("JEPA_DATA", str(tmp_path / "new"))
    monkeypatch.setattr(storage.os, "access", lambda *_: False)
    assert next(storage.data()).said.endswith("is not there and cannot be made")


@pytest.mark.parametrize(("free", "state"), [(2**29, "problem"), (2**32, "warning"), (2**40, "ok")])
def test_a_full_disk(monkeypatch: pytest.MonkeyPatch, free: int, state: str) -> None:
    monkeypatch.setattr(storage.shutil, "disk_usage", lambda _: SimpleNamespace(free=free))
    check = only(storage.disk(), "space")
    assert (check.state, bool(check.advice)) == (state, state != "ok")


def test_attention_that_is_wrong_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def off(qkv: torch.Tensor, layout: object, impl: str = "auto") -> torch.Tensor:
        exact = block_attention(qkv, layout, impl="reference")  # type: ignore[arg-type]
        return exact if impl == "reference" else exact * 1.1

    assert selftest._check_attention(CPU).state == "ok"
    monkeypatch.setattr(selftest, "block_attention", off)
    check = selftest._check_attention(CPU)
    assert (check.state, "is expected" in check.said) == ("problem", True)


def test_a_loss_that_is_not_finite_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(selftest, "train", lambda *_: [0.5, float("nan")])
    checks = list(selftest._check_recipe("ijepa/selftest", CPU))
    assert [(check.name, check.state) for check in checks] == [("training", "problem")]
    assert json.dumps(checks[0].facts(), allow_nan=False)


def test_a_checkpoint_that_comes_back_different_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(selftest.checkpoints, "load_weights", lambda *_: None)
    checks = list(selftest._check_recipe("ijepa/selftest", CPU))
    assert [(check.name, check.state) for check in checks] == [("training", "ok"), ("checkpoint", "problem")]


def test_a_recipe_that_fails_does_not_stop_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    def check(name: str, device: torch.device) -> list[Check]:
        if name == "a/selftest":
            raise SystemExit(0)
        return [Check("self-test", "training", "ok", name)]

    monkeypatch.setattr(selftest, "names", lambda: {"a/selftest": Path(), "b/selftest": Path()})
    monkeypatch.setattr(selftest, "_check_recipe", check)
    bad, good = list(selftest.run())[1:]
    assert (bad.state, bad.said, good.state) == ("problem", "a/selftest: SystemExit: 0", "ok")
    assert bad.advice.endswith("JEPA_DISABLE_PLUGINS=a")


def test_without_a_recipe_of_that_name_it_says_that_nothing_was_trained(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(selftest, "names", dict)
    assert only(selftest.run(), "training").state == "warning"


def test_the_self_test_leaves_the_random_state_alone() -> None:
    before = torch.get_rng_state()
    list(selftest.run())
    assert torch.equal(torch.get_rng_state(), before)
