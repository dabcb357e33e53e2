"""Shell completion, asked as shells ask: bash with words cut at `=` and `:`, zsh and fish with whole ones."""

from __future__ import annotations

import os
import re
import resource
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from jepa_core.cli import completion as complete
from jepa_core.cli import completion_index as known
from jepa_core.errors import UserError
from jepa_core.plugins import Plugins, registry

Tab = Callable[..., list[str]]
MASKERS = sorted(registry().catalogue("masker").classes)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A user's cache with the file that completion reads, made as its own process makes it."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(folder))
        known.write()
        yield folder


@pytest.fixture
def tab(jepa, cache: Path, monkeypatch: pytest.MonkeyPatch) -> Tab:
    """What bash offers at the end of `jepa …`: the last word is the one at the cursor."""

    def press(*words: str) -> list[str]:
        cut = ["jepa", *(part for word in words for part in as_bash_cuts(word))]
        monkeypatch.setenv("_JEPA_COMPLETE", "complete_bash")
        monkeypatch.setenv("COMP_WORDS", "\n".join(cut))
        monkeypatch.setenv("COMP_CWORD", str(len(cut) - 1))
        said = jepa()
        assert (said.code, said.err) == (0, "")
        return sorted(said.out.splitlines())

    return press


def as_bash_cuts(word: str) -> list[str]:
    """`a.b=c` is three words to bash, an empty word is one."""
    return [part for part in re.split("([=:]+)", word) if part] or [""]


def test_recipes_come_first(tab: Tab, tiny_recipe: Path) -> None:
    offered = tab("train", "")
    assert {"ijepa/demo", "ijepa/in1k_vith14"} <= set(offered)
    assert tab("train", "ijepa/de") == ["ijepa/demo"]
    assert tab("train", f"{tiny_recipe.parent}/ti") == [str(tiny_recipe)]
    assert tab("recipes", "show", "ijepa/in22k_vitg") == ["ijepa/in22k_vitg16"]


def test_components_by_name_behind_the_sign(tab: Tab) -> None:
    assert tab("train", "ijepa/demo", "masker.name=") == MASKERS
    assert tab("train", "ijepa/demo", "masker.name=ra") == ["random", "rasterised"]
    assert tab("train", "ijepa/demo", "target_update.name=em") == ["ema"]
    assert tab("train", "ijepa/demo", "terms.spread.name=var") == ["variance_covariance"]
    assert "*" not in "".join(tab("train", "ijepa/demo", "encoder.name="))


def test_settings_are_those_of_the_component_that_is_chosen(tab: Tab) -> None:
    assert "masker.context=" in tab("train", "ijepa/demo", "masker.")  # union, says the recipe
    assert tab("train", "ijepa/demo", "masker.name=random", "masker.") == [
        "masker.name=",
        "masker.ratio=",
        "masker.sets=",
    ]
    assert tab("train", "ijepa/demo", "masker=random", "masker.") == [
        "masker.name=",
        "masker.ratio=",
        "masker.sets=",
    ]
    assert "terms.spread.covariance=" in tab("train", "ijepa/demo", "terms.")
    assert "encoder.width=" in tab("train", "ijepa/demo", "encoder.name=vit_tiny_patch16_224", "encoder.w")


def test_sections_then_settings_then_values(tab: Tab) -> None:
    sections = tab("train", "ijepa/demo", "")
    assert {"masker.", "train.", "optimizer.", "seed="} <= set(sections)
    assert tab("train", "ijepa/demo", "optimizer.weight") == [
        "optimizer.weight_decay=",
        "optimizer.weight_decay=0.04",
    ]
    assert tab("train", "ijepa/demo", "train.precision=") == ["auto", "bf16", "fp32"]
    assert tab("train", "ijepa/demo", "train.nonsense=") == []


def test_a_key_alone_gets_no_blank_behind_it(tab: Tab) -> None:
    """A shell puts one behind the only candidate; so there is always a second."""
    assert len(tab("train", "ijepa/demo", "masker.na")) > 1
    assert tab("train", "ijepa/demo", "optimizer.clip_g") == ["optimizer.clip_grad=", "optimizer.clip_grad=…"]


@pytest.fixture
def place(tiny_recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with two runs, one of which has a masker of its own, and a recipe that extends another."""
    for name, masker in (("runs/one", "random"), ("two", "multiblock")):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "recipe.toml").write_text(f'[masker]\nname = "{masker}"\n')
    (tmp_path / "runs/notes").mkdir()
    (tmp_path / "base.toml").write_text('extends = "ijepa/demo"\nmasker = "block"\n')
    (tmp_path / "mine.toml").write_text('extends = "base.toml"\n[probes.again]\nname = "knn"\n')
    (tmp_path / "circle.toml").write_text('extends = "circle.toml"\n')
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_run_folders(tab: Tab, place: Path) -> None:
    for words in (["eval"], ["report"], ["export"], ["train", "--resume"]):
        assert set(tab(*words, "")) - {"auto"} == {"runs/one", "two"}
        assert tab(*words, "runs/") == ["runs/one"]
        assert tab(*words, "ru") == ["runs/one"]
    assert tab("train", "--resume", "a") == ["auto"]
    assert tab("eval", f"{place}/tw") == [f"{place}/two"]


def test_overrides_behind_a_run_that_is_evaluated(tab: Tab, place: Path) -> None:
    assert "probes.knn.k=" in tab("eval", "two", "probes.knn.")
    assert tab("eval", "two", "runs/") == ["runs/one"]
    assert "masker.ratio=" in tab("eval", "runs/one", "masker.")


def test_files_that_cannot_be_read_offer_nothing_and_hang_nothing(tab: Tab, place: Path) -> None:
    os.mkfifo(place / "pipe.toml")
    (place / "deep.toml").write_text(f"a = {'[' * 5000}")
    for recipe in ("pipe.toml", "deep.toml"):
        assert "masker.name=" in tab("train", recipe, "masker.")


def test_without_a_home_nothing_is_offered(jepa, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A uid without passwd entry, and no HOME."""
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)
    monkeypatch.setattr(known.subprocess, "run", lambda *_, **__: pytest.fail("nowhere to write to"))
    monkeypatch.chdir(tmp_path)
    assert known.load_known() is None
    known.write()
    assert complete.complete_names("") == []
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("content", ["", "{", "[]", '{"state": 1, "known": {}}', "[" * 9999, '{"known": 3}'])
def test_a_damaged_cache_is_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(known.subprocess, "run", lambda *_, **__: known.write())
    monkeypatch.setattr(known.subprocess, "Popen", lambda *_, **__: pytest.fail("it is not old but damaged"))
    known.write()
    (file,) = tmp_path.rglob("*.json")
    file.write_text(content)
    assert ("ijepa", "plugin") in complete.complete_names("")


def test_a_run_and_a_file_say_which_components_are_chosen(tab: Tab, place: Path) -> None:
    assert tab("train", "--resume", "runs/one", "masker.") == [
        "masker.name=",
        "masker.ratio=",
        "masker.sets=",
    ]
    assert "masker.scale=" in tab("train", "mine.toml", "masker.")
    assert {"probes.again.", "probes.knn."} <= set(tab("train", "mine.toml", "probes."))
    assert "variant.name=" in tab("train", "circle.toml", "variant.")
    assert tab("train", "nowhere.toml", "masker.") == ["masker.name=", *(f"masker.name={m}" for m in MASKERS)]


def test_probes_roles_plugins_and_keys(tab: Tab) -> None:
    assert tab("eval", "--probe", "") == ["attentive", "knn", "linear"]
    assert tab("eval", "--probe", "knn,") == ["knn,attentive", "knn,linear"]
    assert tab("eval", "--role", "c") == tab("report", "--role", "c") == ["context"]
    assert "safetensors" in tab("export", "--to", "")
    shown = set(tab("plugins", "show", ""))
    assert {"core", "ijepa", "multiblock", "knn", "timm"} <= shown
    assert not {"train", "kernels"} & shown, "sections of the engine are no components"
    assert "train.steps=" in tab("train", "ijepa/demo", "train.")
    assert "train.name=" not in tab("train", "ijepa/demo", "train.")
    assert tab("train", "--resume", "auto", "--allow-change", "train.st") == ["train.steps"]


def test_zsh_and_fish_hand_over_whole_words(jepa, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("_TYPER_COMPLETE_ARGS", "jepa train ijepa/demo masker.name=ra")
    monkeypatch.setenv("_JEPA_COMPLETE", "complete_zsh")
    assert jepa().out.count('"masker.name=random"') == 1
    monkeypatch.setenv("_JEPA_COMPLETE", "complete_fish")
    monkeypatch.setenv("_TYPER_COMPLETE_FISH_ACTION", "get-args")
    assert jepa().out.split() == ["masker.name=random", "masker.name=rasterised"]


def test_bash_itself(cache: Path) -> None:
    """The script that `--install-completion` writes, run by bash with the words as it cuts them."""
    jepa = Path(sys.executable).with_name("jepa")
    script = """
    eval "$(_JEPA_COMPLETE=source_bash jepa)"
    COMP_WORDS=(jepa train ijepa/demo masker.name = ra) COMP_CWORD=5
    _jepa_completion jepa
    echo "${COMPREPLY[*]}"
    """
    path = f"{jepa.parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-c", script], capture_output=True, text=True, check=True, env={**os.environ, "PATH": path}
    )
    assert done.stdout.split() == ["random", "rasterised"]


def test_completing_is_quick_and_loads_nothing_heavy(cache: Path) -> None:
    """Less than .8 s of the processor (measured: .4; torch alone takes 2), whatever else the machine does."""
    code = (
        "import sys\nfrom jepa_core.cli import main\ntry:\n    main()\nexcept SystemExit:\n"
        "    print(sorted({'torch', 'timm', 'numpy', 'jepa_ijepa'} & set(sys.modules)))"
    )
    words = "jepa\ntrain\nijepa/demo\nmasker.name\n=\n"
    asked = {"_JEPA_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": "4"}
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env={**os.environ, **asked}
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    *offered, heavy = done.stdout.splitlines()
    assert sorted(offered) == MASKERS
    assert heavy == "[]"
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 0.8


def test_what_was_kept_serves_until_a_changed_plugin_is_read_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[list[str]] = []
    state = [["ijepa", "jepa_ijepa", "1", "2"]]
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(known, "_state", lambda: state)
    monkeypatch.setattr(known.subprocess, "Popen", lambda command, **_: started.append(command))
    known.write()
    before = known.load_known()
    assert started == [], "nothing has changed"
    state[0][2] = "1.1"
    assert known.load_known() == before
    assert known.load_known() == before
    assert started == [[sys.executable, "-m", "jepa_core.cli.completion_index"]], (
        "once, while it is under way"
    )
    known.write()
    assert known.load_known() == before
    assert len(started) == 1


def test_a_changed_file_of_a_plugin_changes_the_state(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "jepa_new/recipes").mkdir(parents=True)
    (tmp_path / "jepa_new/__init__.py").touch()
    (tmp_path / "jepa_alone.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    points = [EntryPoint(name, f"jepa_{name}.{name}", "jepa") for name in ("new", "alone", "gone")]
    monkeypatch.setattr(known, "entry_points", lambda group: points)
    before = known._state()
    assert known._state() == before
    assert "jepa_new" not in sys.modules
    (tmp_path / "jepa_new/recipes/demo.toml").touch()
    changed = [new[0] for new, old in zip(known._state(), before, strict=True) if new != old]
    assert changed == ["new"]
    assert before[1][3] == "", "what is not importable has no files"


def test_without_a_cache_it_is_made_and_where_that_fails_nothing_is_offered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    made: list[bool] = []
    monkeypatch.setattr(known.subprocess, "run", lambda *_, **__: made.append(True))
    assert known.load_known() is None
    assert made == [True]
    assert complete.complete_names("") == []
    monkeypatch.setattr(known.subprocess, "run", lambda *_, **__: known.write())
    assert ("ijepa", "plugin") in complete.complete_names("")


def test_plugins_at_odds_are_asked_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def clash(self: object, kind: str) -> None:
        raise UserError("two plugins offer the masker 'random'")

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(known, "_state", list)
    monkeypatch.setattr(Plugins, "catalogue", clash)
    known.write()
    monkeypatch.setattr(known.subprocess, "run", lambda *_, **__: pytest.fail("asked again"))
    assert known.load_known() is None


@pytest.mark.parametrize(
    ("words", "at", "joined"),
    [
        (["jepa", "train", "a.b", "=", "c"], 4, (["jepa", "train", "a.b=c"], 2, "a.b=")),
        (["jepa", "train", "a.b", "="], 3, (["jepa", "train", "a.b="], 2, "a.b=")),
        (["jepa", "a.b", "=", "c", "x"], 4, (["jepa", "a.b=c", "x"], 2, "")),
        (["jepa", "d", "=", "cuda", ":", "1"], 5, (["jepa", "d=cuda:1"], 1, "d=cuda:")),
        (["jepa", "train", ""], 2, (["jepa", "train", ""], 2, "")),
    ],
)
def test_words_are_joined_where_bash_cuts_them(words: list[str], at: int, joined: object) -> None:
    assert complete.join(words, at) == joined
