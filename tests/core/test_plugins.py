"""Finding plugins: broken ones and clashing components are set aside, misspelt hooks are named."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from importlib.metadata import EntryPoint
from pathlib import Path
from types import SimpleNamespace

import pytest

from jepa_core import ComponentSettings, UserError, hookimpl, hookspecs, plugins
from jepa_core.cli.error_lines import error_line
from jepa_core.observers.listeners import Listeners
from jepa_core.plugins import Catalogue, Plugins, discover

Install = Callable[..., None]


class A:
    """A component."""

    class Config(ComponentSettings):
        pass


class B:
    """Another one."""

    class Config(ComponentSettings):
        pass


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Install:
    """Plugins by name: their modules' source, found as entry points beside core's own."""
    points = [EntryPoint("core", "jepa_core.builtin", "jepa")]
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(plugins, "entry_points", lambda group: list(points))

    def put(distributions: Mapping[str, str] | None = None, /, **sources: str) -> None:
        for name, source in sources.items():
            module = f"example_{name}"
            (tmp_path / f"{module}.py").write_text(source, encoding="utf-8")
            monkeypatch.delitem(sys.modules, module, raising=False)
            point = EntryPoint(name, module, "jepa")
            if name in (distributions or {}):
                point = point._for(SimpleNamespace(name=distributions[name], version="1.0"))
            points.append(point)

    return put


def offering(name: str, kind: str = "maskers", body: str = "return {'NAME': Mine}") -> str:
    return (
        "from jepa_core import ComponentSettings, hookimpl\n"
        "class Mine:\n"
        "    class Config(ComponentSettings): pass\n"
        f"@hookimpl\ndef jepa_{kind}():\n    {body.replace('NAME', name)}\n"
    )


def states(registry: Plugins) -> dict[str, str]:
    return {plugin.name: plugin.state for plugin in registry.statuses}


def maskers(registry: Plugins) -> dict[str, str]:
    """Who offers what, besides core."""
    owners = registry.catalogue("masker").owners
    return {name: owner for name, owner in owners.items() if owner != "core"}


def error_of(registry: Plugins, name: str) -> str:
    return next(plugin.error for plugin in registry.statuses if plugin.name == name)


def test_what_is_installed_here_loads() -> None:
    registry = discover()
    assert {name: state for name, state in states(registry).items() if name in ("core", "ijepa")} == {
        "core": "loaded",
        "ijepa": "loaded",
    }
    assert registry.catalogue("masker").owners["multiblock"] == "ijepa"
    assert registry.catalogue("target_update").owners["ema"] == "core"


def test_a_plugin_that_fails_to_import_is_set_aside_and_the_others_load(install: Install) -> None:
    install(bad="import no_such_module", good=offering("mine"))
    registry = discover()
    assert states(registry) == {"core": "loaded", "bad": "set aside", "good": "loaded"}
    assert error_of(registry, "bad") == "ModuleNotFoundError: No module named 'no_such_module'"
    assert "mine" in registry.catalogue("masker").classes


@pytest.mark.parametrize(
    ("body", "error"),
    [
        ("raise RuntimeError('no weights here')", "jepa_maskers: RuntimeError: no weights here"),
        ("return None", "jepa_maskers: TypeError: returned None; expected a mapping {name: masker}"),
        (
            "return {'mine': object}",
            "jepa_maskers: TypeError: the masker 'mine' (<class 'object'>) is not a class",
        ),
    ],
)
def test_a_plugin_whose_hook_fails_is_set_aside_whole(install: Install, body: str, error: str) -> None:
    other_hook = "@hookimpl\ndef jepa_encoders():\n    return {'also_mine': Mine}\n"
    install(bad=offering("mine", body=body) + other_hook, good=offering("hers"))
    registry = discover()
    assert sorted(registry.catalogue("masker").classes) == ["hers", "none"]
    assert states(registry)["bad"] == "set aside"
    assert error_of(registry, "bad").startswith(error)
    assert "also_mine" not in registry.catalogue("encoder").classes


def test_a_folder_of_recipes_that_fails_is_set_aside_too(install: Install, tmp_path: Path) -> None:
    install(
        bad=offering("", "recipes", "raise OSError('gone')"),
        good=offering("", "recipes", f"return {str(tmp_path)!r}"),
    )
    registry = discover()
    assert registry.recipe_folders() == {"good": tmp_path}
    assert error_of(registry, "bad") == "jepa_recipes: OSError: gone"


def test_a_misspelt_hook_is_named_with_those_that_are_known(install: Install) -> None:
    install(bad=offering("mine", "masker"), good=offering("hers"))
    registry = discover()
    assert states(registry)["bad"] == "set aside"
    hooks = ", ".join(sorted(hook for hook in vars(hookspecs) if hook.startswith("jepa_")))
    assert error_of(registry, "bad") == (
        f"UserError: plugin 'bad': unknown hook 'jepa_masker'; known: {hooks}. Did you mean 'jepa_maskers'?"
    )
    assert sorted(registry.catalogue("masker").classes) == ["hers", "none"]


def test_a_hook_with_an_argument_nobody_gives_leaves_nothing_behind(install: Install) -> None:
    wrong = "@hookimpl\ndef jepa_encoders(size):\n    return {}\n"
    install(bad=offering("mine") + wrong)
    registry = discover()
    assert "Argument(s) {'size'} are declared in the hookimpl but can not be found" in error_of(
        registry, "bad"
    )
    assert "mine" not in registry.catalogue("masker").classes


def clash(first: str, later: str, kind: str = "masker") -> str:
    return (
        f"the {kind} 'mine' of plugin {later!r} (example_{later}.Mine) is set aside: plugin {first!r} "
        f"(example_{first}.Mine), whose distribution comes first, offers one too; "
        "JEPA_DISABLE_PLUGINS leaves a plugin out"
    )


@pytest.mark.parametrize(
    ("distributions", "first", "later"),
    [
        ({}, "one", "two"),
        ({"one": "B", "two": "a"}, "two", "one"),
        ({"one": "jepa_b", "two": "JEPA-a"}, "two", "one"),
        ({"one": "a", "two": "jepa-core"}, "two", "one"),
    ],
)
def test_of_two_plugins_that_offer_one_name_the_first_distribution_has_it(
    install: Install, caplog: pytest.LogCaptureFixture, distributions: dict[str, str], first: str, later: str
) -> None:
    both = offering("mine") + "@hookimpl\ndef jepa_encoders():\n    return {'NAME': Mine}\n"
    install(distributions, one=both.replace("NAME", "enc1"), two=both.replace("NAME", "enc2"))
    registry = discover()
    assert maskers(registry) == {"mine": first}
    assert [record.message for record in caplog.records] == [clash(first, later)]
    status = registry.status(later)
    assert status is not None
    assert (status.state, status.notes) == ("loaded", [clash(first, later)])
    assert {"enc1", "enc2"} <= registry.catalogue("encoder").classes.keys(), "all else of it is in use"
    registry.register(SimpleNamespace(), "anything")
    registry.catalogue("masker")
    assert len(caplog.records) == 1, "said once"


def test_plugins_can_be_left_out(
    install: Install, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    install(one=offering("mine"), two=offering("mine"))
    monkeypatch.setenv("JEPA_DISABLE_PLUGINS", " two ,three")
    registry = discover()
    assert [record.message for record in caplog.records] == [
        "JEPA_DISABLE_PLUGINS names 'three', which is not installed; known: core, one, two"
    ]
    assert states(registry) == {"core": "loaded", "one": "loaded", "two": "disabled"}
    assert registry.catalogue("masker").owners == {"none": "core", "mine": "one"}
    with pytest.raises(
        UserError, match=r"unknown masker 'hers'; known: mine, none\. Plugin 'two' is disabled\.$"
    ):
        registry.catalogue("masker").find("hers")


def test_an_unknown_name_says_who_was_set_aside(install: Install) -> None:
    """The plugin that has it may be the one that failed."""
    install(bad="import no_such_module", good=offering("random"))
    with pytest.raises(UserError) as error:
        discover().catalogue("masker").find("randon")
    assert str(error.value) == (
        "unknown masker 'randon'; known: none, random. Did you mean 'random'? Plugin 'bad' is set aside: "
        "ModuleNotFoundError: No module named 'no_such_module'."
    )


def catalogue(one: Mapping[str, type], two: Mapping[str, type]) -> Catalogue:
    """Encoders of two plugins, `one` and `two`."""
    both = discover()
    for name, offered in (("one", one), ("two", two)):
        both.register(SimpleNamespace(jepa_encoders=hookimpl(lambda offered=offered: offered)), name)
    found = both.catalogue("encoder")
    mine = {name: found.classes[name] for name in found.classes if found.owners[name] in ("one", "two")}
    return Catalogue("encoder", mine, found.owners)


def test_a_plain_name_goes_before_a_pattern() -> None:
    mine = catalogue({"my_*": A}, {"my_tiny": B})
    assert (mine.find("my_tiny"), mine.find("my_base_patch16")) == (B, A)
    with pytest.raises(UserError, match=r"unknown encoder 'resnet'; known: my_\*, my_tiny\."):
        mine.find("resnet")


def test_patterns_of_two_classes_that_match_one_name_are_a_clash() -> None:
    mine = catalogue({"my_*": A, "my_b*": A}, {"*_patch16": B})
    assert mine.find("my_base") is A
    with pytest.raises(UserError) as error:
        mine.find("my_base_patch16")
    assert str(error.value) == (
        "encoder 'my_base_patch16' matches 'my_*' of one and 'my_b*' of one and '*_patch16' of two; "
        "disable one with JEPA_DISABLE_PLUGINS"
    )


def test_one_class_offered_twice_is_no_clash(caplog: pytest.LogCaptureFixture) -> None:
    assert catalogue({"x": A}, {"x": A}).find("x") is A
    assert not caplog.records


def test_an_unknown_kind_of_component() -> None:
    with pytest.raises(
        UserError, match=r"unknown kind of component 'maskers'; known: .* Did you mean 'masker'\?"
    ):
        discover().catalogue("maskers")


def test_objects_register_too_and_are_seen_at_once() -> None:
    registry = discover()
    assert "mine" not in registry.catalogue("masker").classes
    registry.register(SimpleNamespace(jepa_maskers=hookimpl(lambda: {"mine": A})), "by hand")
    assert registry.catalogue("masker").owners["mine"] == "by hand"


@pytest.mark.parametrize(
    ("kind", "hook", "base"),
    [("data", "data", "SourceSettings"), ("objective", "objectives", "ObjectiveSettings")],
)
def test_settings_that_the_engine_reads_must_be_there(
    install: Install, kind: str, hook: str, base: str
) -> None:
    install(bad=offering("mine", hook))
    registry = discover()
    assert "mine" not in registry.catalogue(kind).classes
    assert error_of(registry, "bad") == (
        f"jepa_{hook}: TypeError: example_bad.Mine.Config of the {kind} 'mine' must derive from "
        f"jepa_core.settings.{base}"
    )


class Watcher:
    """An observer that keeps what it is told, and fails where it is asked to."""

    def __init__(self, failure: Exception | None = None) -> None:
        self.failure, self.told = failure, []

    @hookimpl
    def jepa_step_ended(self, step: int, metrics: dict[str, float]) -> None:
        self.told.append((step, metrics))
        if self.failure is not None:
            raise self.failure


WATCHING = """
from jepa_core import UserError, hookimpl
told = []

@hookimpl
def jepa_step_ended(step):
    told.append(step)
    raise ERROR
"""


def notify(watchers: Listeners, steps: int) -> None:
    for step in range(1, steps + 1):
        watchers.jepa_step_ended(run=None, step=step, metrics={"loss": 0.5})


def test_a_plugin_that_fails_while_it_watches_is_told_nothing_more(
    install: Install, caplog: pytest.LogCaptureFixture
) -> None:
    install(bad=WATCHING.replace("ERROR", "KeyError('tea')"))
    registry, mine = discover(), Watcher()
    registry.register(mine, "mine")
    notify(Listeners(registry), 3)
    assert mine.told == [(step, {"loss": 0.5}) for step in (1, 2, 3)]
    assert sys.modules["example_bad"].told == [1]
    assert error_of(registry, "bad") == "jepa_step_ended: KeyError: 'tea'"
    assert [record.message for record in caplog.records] == [
        "plugin 'bad' failed and is told nothing more of this run: jepa_step_ended: KeyError: 'tea'"
    ]


def test_a_wrapper_is_refused() -> None:
    wrapper = SimpleNamespace(jepa_run_ended=hookimpl(wrapper=True)(lambda run: (yield)))
    with pytest.raises(
        UserError, match="plugin 'mine': jepa_run_ended is a wrapper; expected a plain function"
    ):
        discover().register(wrapper, "mine")


def test_a_plugin_ends_a_run_by_a_user_error(install: Install) -> None:
    install(guard=WATCHING.replace("ERROR", "UserError('the features have collapsed')"))
    with pytest.raises(UserError, match="the features have collapsed"):
        notify(Listeners(discover()), 1)


def test_the_error_of_an_observer_that_the_caller_brought_is_raised() -> None:
    registry = discover()
    registry.register(Watcher(ValueError("mine")), "mine")
    with pytest.raises(ValueError, match="mine"):
        notify(Listeners(registry), 1)


def test_who_came_last_is_told_first() -> None:
    registry, order = discover(), []
    for name in ("first", "last"):
        registry.register(
            SimpleNamespace(jepa_run_ended=hookimpl(lambda run, name=name: order.append(name))), name
        )
    Listeners(registry).jepa_run_ended(run=None)
    assert order == ["last", "first"]


def test_the_trace_prints_hook_calls(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("JEPA_TRACE_PLUGINS", "1")
    registry = discover()
    registry.catalogue("objective")
    registry.manager.hook.jepa_run_ended(run=None)
    printed = capsys.readouterr().err
    assert "jepa_objectives core [hook]" in printed
    assert "jepa_run_ended" in printed


RAISES = """
from jepa_core import ComponentSettings, UserError, hookimpl
class Mine:
    class Config(ComponentSettings): pass
    def __init__(self, config): raise ERROR
@hookimpl
def jepa_maskers():
    return {"mine_*": Mine}
"""


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (
            "KeyError('tea')",
            "plugin 'bad': masker 'mine_1' cannot be built: KeyError: 'tea', raised in example_bad.py:5",
        ),
        ("UserError('lower masker.tea')", "lower masker.tea"),
        (
            "MemoryError()",
            "there is not enough memory\ntry train.micro_batch, a smaller train.batch_size or a smaller "
            "encoder; encoder.checkpoint=true trades time for memory",
        ),
        ("FileNotFoundError(2, 'No such file', 'tea.txt')", "tea.txt: No such file"),
    ],
)
def test_a_constructor_that_raises_is_one_line(install: Install, error: str, said: str) -> None:
    install(bad=RAISES.replace("ERROR", error))
    catalogue = discover().catalogue("masker")
    with pytest.raises(UserError) as refused:
        catalogue.construct("mine_1", catalogue.find("mine_1").Config(name="mine_1"))
    assert error_line(refused.value) == said
