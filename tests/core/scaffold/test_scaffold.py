"""`jepa plugins new` and `check`: what is written works as it is, what is wrong is one line."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
import tomllib
from pathlib import Path
from zipfile import ZipFile

import pytest
from PIL import Image

from jepa_core import load_recipe, plugins
from jepa_core.scaffold.kinds import MADE
from jepa_core.scaffold.new import new_plugin
from jepa_core.testing import examine
from tests.fresh_environment import ROOT, FreshEnvironment, build_wheel

EXPECTED = "expected lower-case letters, digits and underscores between them, a letter first"
FULL = "and not an empty folder; choose another with --folder"
KINDS = f"known: {', '.join(sorted(MADE))}"


NOT_ASKED = {
    "data": {("not asked", "behaviour")},  # that takes --data
    "encoder": {("not asked", "ragged views")},
    "predictor": {("not asked", "condition matters"), ("not asked", "empty plan")},
    "optimizer": {("not asked", "rate on the device")},
}
"""Properties that do not apply to the component of a template."""


def put(jepa, folder: Path, name: str, kind: str) -> Path:
    place = folder / f"jepa-{name}"
    said = jepa("plugins", "new", name, "--kind", kind, "--folder", place)
    assert (said.code, said.err) == (0, "")
    return place


def photos_in(folder: Path) -> Path:
    """A folder of 20 images, each of one colour."""
    (place := folder / "photos").mkdir()
    for number in range(20):
        Image.new("RGB", (16, 16), (12 * number, 0, 0)).save(place / f"{number}.png")
    return place


@pytest.fixture
def installed(jepa, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Writes a plugin and makes it known by its entry point, in this process and in those it starts."""

    def install(name: str, kind: str) -> Path:
        place = put(jepa, tmp_path, name, kind)
        (info := place / f"jepa_{name}-0.1.0.dist-info").mkdir()
        (info / "METADATA").write_text(f"Name: jepa-{name}\nVersion: 0.1.0\n", encoding="utf-8")
        (info / "entry_points.txt").write_text(f"[jepa]\n{name} = jepa_{name}\n", encoding="utf-8")
        monkeypatch.syspath_prepend(place)
        plugins.registry.cache_clear()
        return place

    before = set(sys.modules)
    yield install
    plugins.registry.cache_clear()
    for module in set(sys.modules) - before:
        if module.startswith(("jepa_stripes", "jepa_leaky")):
            del sys.modules[module]


def test_what_is_written(jepa, tmp_path: Path) -> None:
    said = jepa("plugins", "new", "stripes", "--folder", tmp_path / "new")
    written = sorted(
        str(p.relative_to(tmp_path / "new")) for p in (tmp_path / "new").rglob("*") if p.is_file()
    )
    assert written == [
        "README.md",
        "jepa_stripes/__init__.py",
        "jepa_stripes/masker.py",
        "jepa_stripes/recipes/selftest.toml",
        "pyproject.toml",
        "tests/test_stripes.py",
    ]
    assert all(name in said.out for name in written)
    assert "pip install --editable" in said.out
    project = tomllib.loads((tmp_path / "new/pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert (project["name"], project["entry-points"]["jepa"]) == ("jepa-stripes", {"stripes": "jepa_stripes"})


def test_the_folder_is_called_as_the_distribution(jepa, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert jepa("plugins", "new", "stripes", "--kind", "variant").code == 0
    assert (tmp_path / "jepa-stripes/jepa_stripes/variant.py").is_file()


@pytest.mark.parametrize("kind", MADE)
def test_what_is_written_reads_as_our_own_code(jepa, tmp_path: Path, kind: str) -> None:
    place = put(jepa, tmp_path, "two_words", kind)
    for path in place.rglob("*.py"):
        assert ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))), path
    assert not [
        path for path in place.rglob("*") if path.is_file() and "$" in path.read_text(encoding="utf-8")
    ]
    ruff = ["check", "--isolated", "--select", "E,F,I,B,UP", "--line-length", "110", "."]
    pytest.importorskip("ruff")
    done = subprocess.run(
        [sys.executable, "-m", "ruff", *ruff], cwd=place, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["My Plugin"], f"plugin name 'My Plugin': {EXPECTED}; my_plugin would do"),
        (["3d"], f"plugin name '3d': {EXPECTED}"),
        (["class"], f"plugin name 'class': {EXPECTED}"),
        (["../up"], f"plugin name '../up': {EXPECTED}; up would do"),
        (["jepa_mine"], "plugin name 'jepa_mine': leave the jepa out, the package will be called jepa_NAME"),
        (["ijepa"], "plugin name 'ijepa' is taken: a package jepa_ijepa is installed; choose another"),
        (["kernels"], "plugin name 'kernels' is taken: a package jepa_kernels is installed; choose another"),
        (["café"], f"plugin name 'café': {EXPECTED}; cafe would do"),
        (["stripes_"], f"plugin name 'stripes_': {EXPECTED}; stripes would do"),
        (["random"], "plugin 'ijepa' already has the masker 'random'; choose another name"),
        (["l1", "--kind", "objective"], "plugin 'core' already has the objective 'l1'; choose another name"),
        (["mine", "--kind", "maskr"], f"unknown kind of plugin 'maskr'; {KINDS}. Did you mean 'masker'?"),
        (["mine", "--folder", "."], f". is there already {FULL}"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_name_that_cannot_be_is_one_line(jepa, tmp_path: Path, monkeypatch, words, said: str) -> None:
    (tmp_path / "something.txt").touch()
    monkeypatch.chdir(tmp_path)
    done = jepa("plugins", "new", *words)
    assert (done.code, done.out, done.err) == (2, "", f"error: {said}\n")
    assert [path.name for path in tmp_path.iterdir()] == ["something.txt"], "nothing is written"


@pytest.mark.parametrize("kind", ["data", "transform", "encoder", "predictor", "probe", "optimizer"])
def test_a_new_component_keeps_the_contract(installed, tmp_path: Path, kind: str) -> None:
    """In this process; the plugins' own tests run where they are installed."""
    installed("stripes", kind)
    settings = {"path": str(photos_in(tmp_path))} if kind == "data" else {}
    outcomes = examine(kind, "stripes", **settings)
    assert [(o.property, o.said) for o in outcomes if o.state == "fails"] == []
    assert {o.state for o in outcomes[:2]} == {"holds"}
    assert "stripes" in load_recipe("stripes/selftest").to_toml()


@pytest.mark.parametrize("kind", MADE)
@pytest.mark.slow
def test_a_new_plugin_holds_all_that_is_asked(jepa, installed, kind: str) -> None:
    installed("stripes", kind)
    said = jepa("plugins", "check", "stripes", "--json")
    properties = json.loads(said.out)["properties"]
    assert [(o["property"], o["said"]) for o in properties if o["state"] == "fails"] == []
    assert said.code == 0
    states = {(o["state"], o["property"]) for o in properties if o["state"] != "holds"}
    assert states == NOT_ASKED.get(kind, set())
    assert {(o["kind"], o["name"]) for o in properties} == {
        (kind, "stripes"),
        ("recipe", "stripes/selftest"),
    }
    assert "goes on" in {o["property"] for o in properties}, "its recipe was trained"


def test_a_plugin_that_was_broken_fails_the_check(jepa, installed) -> None:
    module = installed("leaky", "masker") / "jepa_leaky/masker.py"
    text = module.read_text(encoding="utf-8")
    module.write_text(text.replace("IndexSet.from_mask(~visible)", "IndexSet.from_mask(visible)"))
    said = jepa("plugins", "check", "leaky")
    assert said.code == 1
    table, _, fails = said.out.partition("\nfails\n")
    assert "7 of 8" in next(line for line in table.splitlines() if line.startswith("masker  leaky "))
    assert "tokens are both visible and to be predicted" in fails
    assert said.out.splitlines()[-1].endswith("1 fail")


def test_a_selftest_that_is_wrong_fails_and_the_component_is_still_asked(jepa, installed) -> None:
    recipe = installed("stripes", "masker") / "jepa_stripes/recipes/selftest.toml"
    recipe.write_text(recipe.read_text(encoding="utf-8").replace("visible =", "visibl ="), encoding="utf-8")
    said = jepa("plugins", "check", "stripes", "--json")
    fails = [o for o in json.loads(said.out)["properties"] if o["state"] == "fails"]
    assert {(o["kind"], o["property"]) for o in fails} == {("recipe", "resolves"), ("recipe", "fits")}
    assert "unknown setting" in fails[0]["said"]
    assert said.code == 1


def test_check_says_what_was_not_asked_and_why(jepa) -> None:
    said = jepa("plugins", "check", "core")
    assert said.code == 0
    assert "setting 'encoder.model' is required" in said.out.partition("\nnot asked\n")[2]


def test_a_plugin_that_cannot_be_checked_is_one_line(jepa, monkeypatch) -> None:
    found = plugins.PluginStatus("broken", "broken", "set aside", "ImportError: no module named 'nothing'")
    monkeypatch.setattr(plugins.registry(), "statuses", [*plugins.registry().statuses, found])
    done = jepa("plugins", "check", "broken")
    assert (done.code, done.err) == (
        2,
        "error: plugin 'broken' is set aside: ImportError: no module named 'nothing'\n",
    )
    done = jepa("plugins", "check", "ijep")
    assert done.code == 2
    assert done.err.startswith("error: unknown plugin 'ijep'; known: ")
    assert done.err.endswith("Did you mean 'ijepa'?\n")


@pytest.mark.install
@pytest.mark.timeout(900)
@pytest.mark.slow
def test_new_plugins_install_train_and_pass_their_own_tests(
    core_wheel: Path, tiny_images: Path, tmp_path: Path
) -> None:
    """One of each kind, in an environment with nothing of this checkout; the wheel has all templates."""
    packed = {name for name in ZipFile(core_wheel).namelist() if name.endswith(".template")}
    assert packed == {str(path.relative_to(ROOT)) for path in (ROOT / "jepa_core").rglob("*.template")}
    places = {kind: tmp_path / f"jepa-new_{kind}" for kind in MADE}
    for kind, place in places.items():
        new_plugin(f"new_{kind}", kind, place)
    photos = photos_in(tmp_path)
    fresh = FreshEnvironment(tmp_path)
    fresh.install(core_wheel, *(build_wheel(place, place / "dist") for place in places.values()))
    for kind in MADE:
        data = [f"data.path={photos}"] if kind == "data" else ["data.name=npz", f"data.path={tiny_images}"]
        own = ["encoder.image_size=16", *data, "train.log_every=1"]
        fresh.jepa("train", f"new_{kind}/selftest", *own, "--run", kind)
        lines = (fresh.empty / kind / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
        assert len(lines) == 2, "a step each"
        assert "\nplugin new_" in (said := fresh.jepa("plugins", "check", f"new_{kind}"))
        assert said.rstrip().endswith("properties hold, 0 fail")
    tests = ["-q", "-p", "no:cacheprovider", *(str(place / "tests") for place in places.values())]
    assert "34 passed" in fresh.python(f"import pytest; raise SystemExit(pytest.main({tests!r}))")
