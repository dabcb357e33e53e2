"""The wheel: what is in it, and that it works in an environment that has never seen the checkout."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import pytest

from tests.fresh_environment import ROOT, FreshEnvironment

pytestmark = [pytest.mark.install, pytest.mark.slow]


@pytest.fixture(scope="module")
def fresh(core_wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> FreshEnvironment:
    """An environment with jepa-core installed from its wheel."""
    environment = FreshEnvironment(tmp_path_factory.mktemp("fresh"))
    environment.install(core_wheel)
    return environment


PLUGINS = sorted(path.parent.name for path in (ROOT / "plugins").glob("jepa_*/__init__.py"))
PACKAGES = ("jepa_core", "jepa_kernels", *PLUGINS)


def test_the_wheel_holds_the_packages_their_data_and_nothing_else(core_wheel: Path) -> None:
    names = zipfile.ZipFile(core_wheel).namelist()
    tops = {name.split("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == set(PACKAGES)
    for plugin in PLUGINS:
        recipes = {path.name for path in (ROOT / f"plugins/{plugin}/recipes").glob("*.toml")}
        assert {Path(name).name for name in names if name.startswith(f"{plugin}/recipes/")} == recipes
    assert all(f"{package}/py.typed" in names for package in PACKAGES)
    assert any(name.endswith("licenses/LICENSE") for name in names)


def test_what_runs_is_what_was_installed(fresh: FreshEnvironment) -> None:
    packages = ", ".join(PACKAGES)
    files = fresh.python(
        f"import {packages}; print(*(m.__file__ for m in ({packages})), sep='\\n')"
    ).splitlines()
    assert len(files) == len(PACKAGES)
    assert all(Path(file).is_relative_to(fresh.folder) for file in files), files


def test_its_plugins_are_found(fresh: FreshEnvironment) -> None:
    listed = json.loads(fresh.jepa("plugins", "--json"))
    states = {p["name"]: p["state"] for p in listed["plugins"]}
    assert states == dict.fromkeys(("core", *(name.removeprefix("jepa_") for name in PLUGINS)), "loaded")
    assert listed["components"]["masker"]["multiblock"] == "ijepa"


def test_two_steps_train_from_an_empty_folder(fresh: FreshEnvironment, tiny_recipe: Path) -> None:
    fresh.jepa("train", tiny_recipe, "train.steps=2", "--run", "run")
    lines = (fresh.empty / "run" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [1, 2]
    assert (fresh.empty / "run" / "checkpoints" / "step-00000002" / "model.safetensors").is_file()
