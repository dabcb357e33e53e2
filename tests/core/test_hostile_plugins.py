"""Plugins that misbehave in every way thought of: the commands go on, and say which plugin did what.

The rule for each: `jepa plugins`, `jepa recipes`, a training run of two steps and `jepa report` end with exit
code 0, the run has its checkpoint and its metrics, the plugin is named with what it did, and nothing that
steers a terminal is printed.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from jepa_core import plugins
from jepa_core.errors import printable
from jepa_core.runtime import plugin_calls
from tests.conftest import Said

BEGIN = "import os, sys, time\nfrom jepa_core import ComponentSettings, UserError, hookimpl\n"
MINE = "class Mine:\n    class Config(ComponentSettings): pass\n"
MUTE = "class Mute(Exception):\n    def __str__(self): raise SystemExit(0)\n"


class Hostile(NamedTuple):
    """What a plugin's module contains, and what must be said of it."""

    source: str
    said: str


def at_import(code: str, said: str) -> Hostile:
    return Hostile(f"{BEGIN}{MUTE}{code}\n", said)


def in_hook(hook: str, code: str, said: str, before: str = "") -> Hostile:
    return Hostile(f"{BEGIN}{MUTE}{MINE}{before}\n@hookimpl\ndef {hook}():\n    {code}\n", said)


def in_observer(hook: str, code: str, said: str) -> Hostile:
    return Hostile(f"{BEGIN}{MUTE}@hookimpl\ndef {hook}(run):\n    {code}\n", said)


IMPORTS = {
    "exits with 0": at_import("sys.exit(0)", "SystemExit: 0"),
    "exits with a text": at_import("sys.exit('bye \\x1b[31m')", r"SystemExit: bye \x1b[31m"),
    "raises KeyboardInterrupt": at_import("raise KeyboardInterrupt", "KeyboardInterrupt"),
    "raises GeneratorExit": at_import("raise GeneratorExit", "GeneratorExit"),
    "raises what has no text": at_import("raise Mute", "Mute (its message cannot be shown: SystemExit)"),
    "raises what is no Exception": at_import("class Odd(BaseException): pass\nraise Odd('x')", "Odd: x"),
    "recurses": at_import("def f(): f()\nf()", "RecursionError: maximum recursion depth exceeded"),
    "is no Python": at_import("def", "SyntaxError: invalid syntax"),
    "misspells a hook": in_hook("jepa_masker", "return {}", "unknown hook 'jepa_masker'"),
}

QUIET_IMPORTS = {
    "prints escapes": at_import("print('\\x1b[2J\\x1b]0;title\\x07')", r"\x1b[2J\x1b]0;title\x07"),
    "closes stdout": at_import("sys.stdout.close()\nsys.stderr.close()\nprint('still')", "still"),
    "empties sys.argv": at_import("sys.argv.clear()", "changed sys.argv, which is set back"),
    "leaves the folder": at_import("os.chdir('/')", "changed the working folder, which is set back"),
    "ignores Ctrl-C": at_import("import signal\nsignal.signal(signal.SIGINT, signal.SIG_IGN)", ""),
}

HOOKS = {
    "exits": in_hook("jepa_maskers", "sys.exit(0)", "jepa_maskers: SystemExit: 0"),
    "exits when asked for encoders": in_hook("jepa_encoders", "sys.exit()", "jepa_encoders: SystemExit"),
    "exits when asked for formats": in_hook("jepa_formats", "sys.exit(0)", "jepa_formats: SystemExit: 0"),
    "raises KeyboardInterrupt": in_hook("jepa_probes", "raise KeyboardInterrupt", "KeyboardInterrupt"),
    "raises what has no text": in_hook("jepa_data", "raise Mute", "jepa_data: Mute (its message cannot"),
    "returns None": in_hook("jepa_maskers", "return None", "returned None; expected a mapping"),
    "returns a list": in_hook("jepa_objectives", "return [Mine]", "; expected a mapping"),
    "names with a number": in_hook("jepa_maskers", "return {7: Mine}", "the masker 7 has a name of type int"),
    "names with nothing": in_hook("jepa_maskers", "return {'': Mine}", "the masker '': expected a name"),
    "names with a line end": in_hook("jepa_maskers", "return {'a\\nb': Mine}", r"the masker 'a\nb': "),
    "names with an escape": in_hook("jepa_maskers", "return {'\\x1b[31m': Mine}", r"'\x1b[31m': expected"),
    "offers a function": in_hook("jepa_maskers", "return {'mine': len}", "is not a class with a nested"),
    "has no Config": in_hook("jepa_maskers", "return {'mine': object}", "is not a class with a nested"),
    "has a Config that is no class": in_hook(
        "jepa_maskers", "Mine.Config = {}\n    return {'mine': Mine}", "is not a class with a nested"
    ),
    "has a Config of its own": in_hook(
        "jepa_maskers",
        "Mine.Config = dict\n    return {'mine': Mine}",
        "must derive from jepa_core.",
    ),
    "has a Config that exits": in_hook(
        "jepa_maskers",
        "return {'mine': Mine}",
        "jepa_maskers: SystemExit: 0",
        "class Meta(type):\n    Config = property(lambda cls: sys.exit(0))\nclass Mine(metaclass=Meta): pass",
    ),
    "has a docstring that is a number": in_hook(
        "jepa_maskers", "Mine.__doc__ = 7\n    return {'mine': Mine}", "the docstring of jepa_hostile"
    ),
    "has a repr that exits": in_hook(
        "jepa_maskers",
        "return Odd()",
        "jepa_maskers: SystemExit: 0",
        "class Odd:\n    def __repr__(self): sys.exit(0)",
    ),
    "takes a name of core's": in_hook("jepa_maskers", "return {'none': Mine}", "the masker 'none' of plugin"),
}

RECIPES = {
    "exits": in_hook("jepa_recipes", "sys.exit(0)", "jepa_recipes: SystemExit: 0"),
    "returns a number": in_hook("jepa_recipes", "return 7", "returned 7; expected the path of a folder"),
    "returns a file": in_hook("jepa_recipes", "return __file__", "which is not a folder"),
    "returns a folder that is missing": in_hook(
        "jepa_recipes", "return '/no/such'", "returned '/no/such', which"
    ),
    "returns a NUL": in_hook("jepa_recipes", "return 'a\\0b'", "jepa_recipes: ValueError: "),
}

OBSERVERS = {
    f"{hook} {name}": in_observer(hook, code, f"{hook}: {said}")
    for hook in ("jepa_run_started", "jepa_step_ended", "jepa_run_ended")
    for name, code, said in (
        ("exits", "sys.exit(0)", "SystemExit: 0"),
        ("raises KeyboardInterrupt", "raise KeyboardInterrupt", "KeyboardInterrupt"),
        ("raises GeneratorExit", "raise GeneratorExit", "GeneratorExit"),
        ("raises what has no text", "raise Mute", "Mute (its message cannot be shown: SystemExit)"),
    )
}

SECTIONS = {
    "raises": in_hook("jepa_sections", "return {'mine': lambda *_: 1 / 0}", "division by zero"),
    "exits": in_hook("jepa_sections", "return {'mine': lambda *_: sys.exit(0)}", "SystemExit: 0"),
    "returns a list": in_hook("jepa_sections", "return [1]", "returned [1]; expected a mapping"),
    "offers no function": in_hook("jepa_sections", "return {'mine': 7}", "'mine' is 7; expected a function"),
    "is no section": in_hook("jepa_sections", "return {'mine': lambda *_: [7]}", ""),
    "fails when it draws": in_hook(
        "jepa_sections",
        "return {'mine': lambda *_: Section('a', 'b', lambda: sys.exit(0))}",
        "SystemExit: 0",
        "from jepa_core.report.sections import Section",
    ),
}


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Callable[..., Path]]:
    """Installs a distribution with one plugin as pip would, found beside those that are there."""
    site = tmp_path / "site"
    site.mkdir()
    monkeypatch.syspath_prepend(site)
    plugins.registry.cache_clear()

    def put(source: str, name: str = "hostile") -> Path:
        (site / f"jepa_{name}.py").write_text(source, encoding="utf-8")
        monkeypatch.delitem(sys.modules, f"jepa_{name}", raising=False)
        info = site / f"jepa_{name}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: jepa-{name}\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(f"[jepa]\n{name} = jepa_{name}\n")
        return site

    yield put
    plugins.registry.cache_clear()


def held(said: Said) -> str:
    """What a command printed, after the checks that hold for each command."""
    printed = said.out + said.err
    assert said.code == 0, printed
    assert "Traceback" not in printed
    assert printable(printed, keep="\n") == printed
    return printed


def trained(jepa: Callable[..., Said], recipe: Path, folder: Path) -> str:
    """What a training run of two steps printed; it has its checkpoint and its metrics."""
    said = jepa("train", recipe, "train.steps=2", "--run", folder)
    assert "2 steps done" in said.out, said.err
    assert (folder / "checkpoints/step-00000002").is_dir()
    assert len((folder / "metrics.jsonl").read_text().splitlines()) == 2
    return held(said)


def reported(jepa: Callable[..., Said], folder: Path) -> str:
    printed = held(jepa("report", folder, "--no-probes", "--images", "8"))
    assert (folder / "report.html").stat().st_size > 1000
    return printed


def named(hostiles: dict[str, Hostile]) -> list[object]:
    return [pytest.param(hostile, id=name) for name, hostile in hostiles.items()]


@pytest.mark.parametrize("hostile", named(IMPORTS | QUIET_IMPORTS | HOOKS))
def test_a_plugin_cannot_stop_a_command(jepa, install, hostile: Hostile) -> None:
    install(hostile.source)
    printed = held(jepa("plugins"))
    assert "hostile" in printed
    assert hostile.said in printed
    assert "multiblock" in printed


@pytest.mark.parametrize("hostile", named(RECIPES))
def test_its_recipes_cannot_hide_the_others(jepa, install, hostile: Hostile) -> None:
    install(hostile.source)
    printed = held(jepa("recipes"))
    assert hostile.said in printed
    assert "ijepa/demo" in printed


def test_all_of_them_together_cannot_stop_training_and_its_report(
    jepa, install, tiny_recipe: Path, tmp_path: Path
) -> None:
    """Each is named in what is printed, and an observer that fails is called once."""
    hostiles = list((IMPORTS | QUIET_IMPORTS | HOOKS | RECIPES | OBSERVERS).values())
    for number, hostile in enumerate(hostiles):
        install(hostile.source.replace("'mine'", f"'mine{number}'"), f"hostile{number}")
    printed = trained(jepa, tiny_recipe, tmp_path / "run")
    for number, hostile in enumerate(hostiles):
        if not any(hook in hostile.source for hook in ("jepa_recipes", "jepa_formats")):  # not asked
            assert hostile.said in printed, hostile
        if hostile in OBSERVERS.values():
            failed = f"plugin 'hostile{number}' failed and is told nothing more of this run: {hostile.said}"
            assert printed.count(failed) == 1
    reported(jepa, tmp_path / "run")


def test_a_folder_of_recipes_may_hold_anything(jepa, install, tmp_path: Path) -> None:
    folder = tmp_path / "recipes"
    (folder / "folder.toml").mkdir(parents=True)
    (folder / "good.toml").write_text("# hostile/good: a recipe\nextends = 'ijepa/demo'\n")
    (folder / "dangling.toml").symlink_to("nowhere")
    (folder / "loop.toml").symlink_to("loop.toml")
    (folder / "esc\x1b[31m.toml").write_text("seed = 1\n")
    (folder / "two\nlines.toml").write_text("seed = 1\n")
    Path(os.fsdecode(os.fsencode(folder) + b"/caf\xe9.toml")).write_text("seed = 1\n")
    (folder / "binary.toml").write_bytes(bytes(range(256)))
    os.mkfifo(folder / "pipe.toml")
    install(in_hook("jepa_recipes", f"return {str(folder)!r}", "").source)
    printed = held(jepa("recipes"))
    assert "hostile/good" in printed
    assert "hostile/folder" not in printed
    assert "hostile/pipe" not in printed
    assert jepa("train", "hostile/folder").code == 2
    assert "unknown recipe 'hostile/pipe'" in jepa("train", "hostile/pipe").err


def test_an_observer_may_end_a_run_by_a_user_error(jepa, install, tiny_recipe: Path, tmp_path: Path) -> None:
    install(
        in_observer("jepa_step_ended", "raise UserError('the features\\n\\x1b have collapsed')", "").source
    )
    said = jepa("train", tiny_recipe, "train.steps=2", "--run", tmp_path / "run")
    assert (said.code, r"stopped at step 1: the features \x1b have collapsed; " in said.err) == (2, True)


@pytest.fixture
def with_sections(jepa, install, tiny_recipe: Path, tmp_path: Path) -> tuple[Path, str]:
    """A run that was trained with every hostile section, and what was printed."""
    for number, hostile in enumerate(SECTIONS.values()):
        install(hostile.source.replace("'mine'", f"'mine{number}'"), f"hostile{number}")
    return tmp_path / "run", trained(jepa, tiny_recipe, tmp_path / "run")


def test_sections_cannot_cost_the_run(with_sections: tuple[Path, str]) -> None:
    printed = with_sections[1]
    assert "jepa_sections: TypeError: returned [1]; expected a mapping" in printed
    assert "division by zero" in printed


def test_sections_cannot_cost_the_report(jepa, with_sections: tuple[Path, str]) -> None:
    reported(jepa, with_sections[0])


COMPONENT = """
from jepa_core.settings import MaskerSettings
class Mine:
    "A masker."
    class Config(MaskerSettings):
        "Settings."
        def check(self): CHECK
    def __init__(self, config): INIT
    def check(self, grid): pass
    def __call__(self, *_): CALL
@hookimpl
def jepa_maskers():
    return {"mine": Mine}
"""


@pytest.mark.parametrize("place", ["CHECK", "INIT", "CALL"])
@pytest.mark.parametrize("code", ["sys.exit(0)", "raise GeneratorExit"])
def test_a_component_cannot_end_the_program_in_silence(
    jepa, install, tiny_recipe: Path, tmp_path: Path, place: str, code: str
) -> None:
    source = COMPONENT.replace(place, code)
    for other in ("CHECK", "INIT", "CALL"):
        source = source.replace(other, "pass")
    install(BEGIN + source)
    said = jepa("train", tiny_recipe, "masker.name=mine", "train.steps=2", "--run", tmp_path / "run")
    (line,) = [line for line in said.err.splitlines() if "error:" in line]
    assert said.code == 2
    assert "was raised in jepa_hostile (jepa_hostile.py:" in line
    assert line.endswith("); a component must not end the program")


@pytest.mark.slow
@pytest.mark.parametrize("place", ["CHECK", "INIT", "CALL"])
def test_a_component_that_exits_fails_its_checks(jepa, install, place: str) -> None:
    source = COMPONENT.replace(place, "sys.exit(0)")
    for other in ("CHECK", "INIT", "CALL"):
        source = source.replace(other, "pass")
    install(BEGIN + source)
    said = jepa("plugins", "check", "hostile")
    assert (said.code, "SystemExit: 0" in said.out) == (1, True)


def test_what_a_plugin_prints_does_not_spoil_json(jepa, install) -> None:

    install(
        f"{BEGIN}{MINE}print('hello')\n@hookimpl\ndef jepa_maskers():\n    print('hi')\n    return {{}}\n"
    )
    said = jepa("plugins", "--json")
    assert json.loads(said.out)["plugins"]
    assert "hello" in said.err


def test_a_component_that_is_set_aside_is_listed(jepa, install) -> None:
    install(in_hook("jepa_maskers", "return {'none': Mine, 'mine': Mine}", "").source)
    said = jepa("plugins")
    note = "hostile: the masker 'none' of plugin 'hostile' (jepa_hostile.Mine) is set aside: plugin 'core'"
    assert note in said.out
    listed = json.loads(jepa("plugins", "--json").out)
    assert listed["components"]["masker"]["none"] == "core"
    assert listed["components"]["masker"]["mine"] == "hostile"
    assert next(p for p in listed["plugins"] if p["name"] == "hostile")["notes"]


def test_two_plugins_of_one_name(jepa, install, tmp_path: Path) -> None:
    site = install(BEGIN)
    other = site / "jepa_other-1.0.dist-info"
    other.mkdir()
    (other / "METADATA").write_text("Metadata-Version: 2.1\nName: jepa-other\nVersion: 1.0\n")
    (other / "entry_points.txt").write_text("[jepa]\nhostile = json\nnothing = json:__name__.nothing\n")
    printed = held(jepa("plugins"))
    assert "another plugin is called 'hostile' and comes first" in printed
    assert "plugin 'nothing' is set aside: AttributeError" in printed


@pytest.mark.parametrize(
    ("points", "said"),
    [
        (b"[jepa]\nhostile\n", "are left out: TypeError: "),
        (b"[jepa]\n\xff\xfe = jepa_hostile\n", "are left out: UnicodeDecodeError: "),
        (b"[jepa]\nhostile = a b c\n", "its entry point is 'a b c'; expected package.module or"),
        (b"[jepa]\nhostile =\n", "its entry point is ''; expected package.module or"),
        (b"[jepa]\nhostile = jepa_hostile:\n", "its entry point is 'jepa_hostile:'; expected"),
        (b"[jepa]\nhostile\x1b[31m = jepa_hostile\n", "expected a name without blanks, commas, slashes"),
        (b"[jepa]\n = jepa_hostile\n", "expected a name without blanks, commas, slashes"),
        (b"[jepa]\nho/stile = jepa_hostile\n", "expected a name without blanks, commas, slashes"),
        (b"[jepa]\ncore = jepa_hostile\n", "another plugin is called 'core' and comes first"),
        (b"hostile = jepa_hostile\n", ""),
        (b"\x00\x01", ""),
    ],
)
def test_entry_points_that_are_damaged(jepa, install, points: bytes, said: str) -> None:
    site = install(BEGIN)
    (site / "jepa_hostile-1.0.dist-info/entry_points.txt").write_bytes(points)
    printed = held(jepa("plugins"))
    assert said in printed
    assert "multiblock" in printed
    plugins.registry.cache_clear()
    assert "ijepa/demo" in held(jepa("recipes"))


def test_a_distribution_that_was_cut_off(jepa, install) -> None:
    site = install(BEGIN)
    (site / "jepa_hostile-1.0.dist-info/METADATA").unlink()
    assert "hostile" in held(jepa("plugins"))


def test_an_import_that_takes_long_is_named(jepa, install, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plugin_calls, "SLOW_SECONDS", 0.2)
    install(f"{BEGIN}time.sleep(1)\n")
    lines = held(jepa("plugins")).splitlines()
    line = "still importing plugin 'hostile' from jepa_hostile (jepa-hostile 1.0) after 0.2 s"
    assert lines.count(line) == 1


def process(site: Path, *words: str) -> subprocess.Popen[str]:
    """`jepa WORDS` in a process of its own."""
    return subprocess.Popen(
        [sys.executable, "-c", "from jepa_core.cli import main; main()", *words],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(site), *sys.path])},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_a_real_ctrl_c_ends_an_import_that_never_returns(install, tmp_path: Path) -> None:
    site = install(f"{BEGIN}open({str(tmp_path / 'there')!r}, 'w')\ntime.sleep(600)\n")
    command = process(site, "plugins")
    while not (tmp_path / "there").exists():
        time.sleep(0.1)
    command.send_signal(signal.SIGINT)
    out, _ = command.communicate(timeout=60)
    assert command.returncode not in (0, 2)
    assert "multiblock" not in out


def test_a_process_whose_plugin_exits_at_import_goes_on(install) -> None:
    site = install(f"{BEGIN}sys.exit(0)\n")
    out, err = (command := process(site, "plugins")).communicate(timeout=120)
    assert command.returncode == 0
    assert "multiblock" in out
    assert "plugin 'hostile' is set aside: SystemExit: 0\n" in err
