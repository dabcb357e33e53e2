"""Recipes: overrides, chains of `extends`, swapped components, error lines, and every shipped recipe."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import ClassVar

import pytest

from jepa_core import ComponentSettings, UserError, hookimpl, load_recipe, plugins
from jepa_core.recipes import Recipe, names, read
from jepa_core.recipes.annotate import Head, to_commented_toml
from jepa_core.recipes.toml_text import TooDeep, parse

Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Writes `NAME.toml` and gives its path."""

    def to_file(text: str, name: str = "mine") -> Path:
        path = tmp_path / f"{name}.toml"
        path.write_text(text, encoding="utf-8")
        return path

    return to_file


def refusal(recipe: Path | str, *overrides: str) -> str:
    with pytest.raises(UserError) as error:
        load_recipe(recipe, *overrides)
    return str(error.value)


def test_every_section_is_the_settings_of_the_component_it_names(tiny_recipe: Path) -> None:
    recipe = load_recipe(tiny_recipe)
    assert type(recipe.masker).__qualname__ == "Multiblock.Config"
    assert (recipe.encoder.width, recipe.seed, recipe.train.steps) == (32, 3, 6)  # type: ignore[attr-defined]
    assert (recipe.variant.name, recipe.target_update.name, recipe.objective.name) == (
        "jepa",
        "ema",
        "smooth_l1",
    )


@pytest.mark.parametrize(
    ("override", "value"),
    [
        ("optimizer.lr=3e-4", 3e-4),
        ("optimizer.lr = 1", 1.0),
        ("train.steps=12", 12),
        ("masker.last_row=false", False),
        ("masker.target_scale=[0.15, 0.3]", (0.15, 0.3)),
        ("train.precision=bf16", "bf16"),
        ('train.precision="bf16"', "bf16"),
        ("data.path=/images/of=mine.npz", Path("/images/of=mine.npz")),
        ("data.path=2024-05-01", Path("2024-05-01")),
        ("seed=11", 11),
        ("name=other", "other"),
    ],
)
def test_an_override_is_toml_and_otherwise_text(tiny_recipe: Path, override: str, value: object) -> None:
    found: object = load_recipe(tiny_recipe, override)
    for part in override.partition("=")[0].strip().split("."):
        found = getattr(found, part)
    assert found == value
    assert type(found) is type(value)


def test_the_last_override_of_a_setting_counts(tiny_recipe: Path) -> None:
    assert load_recipe(tiny_recipe, "train.steps=3", "train.steps=4").train.steps == 4


def test_a_swapped_component_starts_from_its_own_defaults(tiny_recipe: Path) -> None:
    swapped = load_recipe(tiny_recipe, "masker=random", "predictor.depth=2")
    assert swapped.masker.model_dump() == {"name": "random", "ratio": (0.6, 0.6), "sets": 1}
    assert (swapped.predictor.width, swapped.predictor.depth) == (24, 2)  # type: ignore[attr-defined]


def test_a_setting_of_the_old_component_beside_the_swap_is_refused(tiny_recipe: Path) -> None:
    said = refusal(tiny_recipe, "masker.target_scale=[0.15, 0.3]", "masker.name=random")
    assert said == "unknown setting 'masker.target_scale'; known: name, ratio, sets."


class Old:
    """A masker with a task setting and one of its own."""

    class Config(ComponentSettings):
        carried: ClassVar[frozenset[str]] = frozenset({"image_size"})
        image_size: int = 224
        own: int = 1


class New:
    """Another one, which carries over what it declares."""

    class Config(ComponentSettings):
        carried: ClassVar[frozenset[str]] = frozenset({"image_size"})
        image_size: int = 224
        other: int = 2


@pytest.fixture
def two_maskers() -> object:
    """Maskers `old` and `new` for the length of a test."""

    class Plugin:
        @hookimpl
        def jepa_maskers(self) -> dict[str, type]:
            return {"old": Old, "new": New}

    plugin, found = Plugin(), plugins.registry()
    found.register(plugin, "two maskers")
    yield plugin
    found.manager.unregister(plugin)
    found._catalogues.clear()


@pytest.mark.usefixtures("two_maskers")
def test_a_swap_keeps_what_the_new_component_carries_and_drops_the_rest(
    tiny_recipe: Path, write: Write
) -> None:
    base = write(f'extends = "{tiny_recipe}"\nmasker = {{name = "old", image_size = 32, own = 5}}')
    swapped = load_recipe(base, "masker.name=new").masker
    assert swapped.model_dump() == {"name": "new", "image_size": 32, "other": 2}
    same = load_recipe(base, "masker.name=old").masker
    assert same.model_dump() == {"name": "old", "image_size": 32, "own": 5}


def test_another_optimizer_keeps_what_all_have(
    tiny_recipe: Path, write: Write, caplog: pytest.LogCaptureFixture
) -> None:
    """Also where the recipe names none, and in a recipe that extends one that names none."""
    own = "optimizer = { betas = [0.8, 0.9], lr = 0.5, layer_decay = 0.7, groups.a.match = 'predictor' }"
    base = write(f'extends = "{tiny_recipe}"\n{own}', "base")
    swapped = load_recipe(base, "optimizer=sgd").optimizer
    assert (swapped.name, swapped.lr, swapped.layer_decay, list(swapped.groups)) == ("sgd", 0.5, 0.7, ["a"])
    assert "optimizer adamw → sgd without betas = [0.8, 0.9]" in caplog.text
    child = write('extends = "base.toml"\n[optimizer]\nname = "sgd"\nmomentum = 0.5', "child")
    assert load_recipe(child).optimizer == swapped.model_copy(update={"momentum": 0.5})
    assert load_recipe(base).optimizer.name == "adamw"
    short = write(f'extends = "{tiny_recipe}"\noptimizer = "sgd"', "short")
    assert load_recipe(short).optimizer.lr == load_recipe(tiny_recipe).optimizer.lr


def test_extends_runs_down_a_chain_and_keeps_the_name_asked_for(tiny_recipe: Path, write: Write) -> None:
    write(f'extends = "{tiny_recipe}"\n[train]\nsteps = 8\nbatch_size = 4\n', "middle")
    top = write('extends = "middle.toml"\n[train]\nsteps = 9\n[masker]\nname = "random"\n', "top")
    recipe = load_recipe(top)
    assert (recipe.name, recipe.train.steps, recipe.train.batch_size) == ("top", 9, 4)
    assert (recipe.masker.name, recipe.encoder.width) == ("random", 32)  # type: ignore[attr-defined]


def test_extends_takes_a_registered_recipe_too(write: Write) -> None:
    recipe = load_recipe(write('extends = "ijepa/in1k_vitb16"\n[data]\npath = "/x"\n'))
    assert recipe.optimizer == load_recipe("ijepa/in1k_vitb16", "data.path=/x").optimizer


def test_a_circle_of_extends_is_an_error_that_draws_it(write: Write) -> None:
    write('extends = "b.toml"', "a")
    b = write('extends = "a.toml"', "b")
    assert refusal(b) == "recipes extend each other in a circle: b.toml → a.toml → b.toml"


def test_terms_and_probes_are_named_entries(tiny_recipe: Path) -> None:
    recipe = load_recipe(
        tiny_recipe, "terms.spread.name=variance_covariance", "terms.spread.weight=0.1", "probes.knn.k=5",
        "probes.again=linear",
    )  # fmt: skip
    assert recipe.terms["spread"].weight == 0.1
    assert recipe.probes["knn"].k == 5  # type: ignore[attr-defined]
    assert set(recipe.probes) == {"knn", "linear", "again"}


def test_defaults_need_no_name_in_a_file_and_in_an_override_alike(tiny_recipe: Path, write: Write) -> None:
    in_file = load_recipe(write(f'extends = "{tiny_recipe}"\n[objective]\nbeta = 2.0\n'))
    assert in_file.objective == load_recipe(tiny_recipe, "objective.beta=2.0").objective
    assert in_file.objective.name == "smooth_l1"


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("masker.name=multiblok", "unknown masker 'multiblok'; known: {maskers}. Did you mean 'multiblock'?"),
        ("maskr.name=random", "unknown section 'maskr'; known: {sections}. Did you mean 'masker'?"),
        ("train.step=3", "unknown setting 'train.step'; known: {train}. Did you mean 'steps'?"),
        ("train.steps=many", "setting 'train.steps' is 'many'; expected a whole number from 1"),
        ("train.steps=0", "setting 'train.steps' is 0; expected a whole number from 1"),
        ("train.precision=fp8", "setting 'train.precision' is 'fp8'; expected auto, fp32 or bf16"),
        ("train=3", "section 'train' is 3; expected a table of settings"),
        ("seed=-1", "setting 'seed' is -1; expected a whole number from 0, below 2^63"),
        ("seed=true", "setting 'seed' is true; expected a whole number from 0, below 2^63"),
        ("train.steps", "override 'train.steps' is not of the form section.setting=value"),
        ("=3", "override '=3' is not of the form section.setting=value"),
        ("terms.x.weight=2", "section [terms.x] has no name; known: {objectives}"),
        ("terms.prediction=l1", "[terms.prediction]: this name is that of [objective]; choose another"),
        ("terms.a-b=l1", "[terms.'a-b']: expected a name of letters, digits and underscores"),
    ],
)
def test_what_is_wrong_is_one_exact_line(tiny_recipe: Path, override: str, said: str) -> None:
    from jepa_core.settings import TrainSettings

    known = {
        "maskers": ", ".join(sorted(plugins.registry().catalogue("masker").classes)),
        "objectives": ", ".join(sorted(plugins.registry().catalogue("objective").classes)),
        "sections": ", ".join(sorted(Recipe.__dataclass_fields__)),
        "train": ", ".join(sorted(TrainSettings.model_fields)),
    }
    assert refusal(tiny_recipe, override) == said.format(**known)


@pytest.mark.parametrize(
    "overrides", [("masker=random", "masker.ratio=0.5"), ("masker.ratio=0.5", "masker=random")]
)
def test_the_short_form_goes_beside_settings_in_any_order(
    tiny_recipe: Path, overrides: tuple[str, ...]
) -> None:
    masker = load_recipe(tiny_recipe, *overrides).masker
    assert masker.model_dump() == {"name": "random", "ratio": (0.5, 0.5), "sets": 1}


def test_overrides_that_contradict_each_other(tiny_recipe: Path) -> None:
    part = refusal(tiny_recipe, "train.steps=3", "train.steps.x=1")
    assert part == "override 'train.steps.x=1' sets a part of something that another override sets whole"
    whole = refusal(tiny_recipe, "train.steps=3", "train={batch_size=1}")
    assert whole == (
        "override 'train={batch_size=1}' sets the whole of something that another override sets a part of"
    )


def test_a_missing_section_says_what_it_needs(write: Write) -> None:
    assert refusal(write("[train]\nsteps = 1\n")).startswith(
        "the recipe has no section [data]; it needs data.name, one of: cifar10, clevr, clips, drawings, "
    )


def test_a_recipe_that_is_not_there() -> None:
    assert refusal("nowhere.toml") == "recipe file 'nowhere.toml' does not exist"
    assert refusal("ijepa/in1k_vitb61").endswith(". Did you mean 'ijepa/in1k_vitb16'?")


def test_a_file_that_is_no_toml_says_where(write: Write) -> None:
    path = write("seed = = 3")
    assert refusal(path).startswith(f"recipe {path} is not valid TOML: Invalid value (at line 1, column 8)")


def test_what_is_written_is_what_is_read(tiny_recipe: Path, write: Write) -> None:
    recipe = load_recipe(
        tiny_recipe, "terms.spread=variance_covariance", "optimizer.clip_grad=0.5", "data.val_share=0.2"
    )
    assert load_recipe(write(recipe.to_toml())) == recipe


@pytest.mark.parametrize("name", sorted(names()))
def test_every_shipped_recipe_resolves_and_survives_being_written(name: str, write: Write) -> None:
    data = read(name)["data"]
    settings = plugins.registry().catalogue("data").find(data["name"]).Config.model_fields
    missing = [key for key, field in settings.items() if field.is_required() and key not in data]
    assert missing in ([], ["path"]), "only the place of the data may be left to the user"
    recipe = load_recipe(name, *(f"data.{key}=/data" for key in missing))
    assert recipe.name == name
    assert load_recipe(write(recipe.to_toml())) == recipe
    head = names()[name].read_text(encoding="utf-8").splitlines()[0]
    assert head.startswith(f"# {name}: "), "the first line says what the recipe is: `jepa recipes` shows it"


@pytest.mark.parametrize("where", ["file", "override", "base", "two below"])
def test_a_probe_that_is_there_by_default_can_be_taken_out(
    tiny_recipe: Path, write: Write, where: str
) -> None:
    text = f'extends = "{tiny_recipe}"\n'
    removed = text + "probes.linear = false\n"
    recipe = {
        "file": lambda: load_recipe(write(removed)),
        "override": lambda: load_recipe(write(text), "probes.linear=false"),
        "base": lambda: (write(removed, "base"), load_recipe(write('extends = "base.toml"\n')))[1],
        "two below": lambda: (
            write(removed, "base"),
            write('extends = "base.toml"\n', "middle"),
            load_recipe(write('extends = "middle.toml"\n[probes.knn]\nk = 4\n')),
        )[-1],
    }[where]()
    assert set(recipe.probes) == {"knn"}
    assert load_recipe(write(recipe.to_toml(), "written")) == recipe, "it stays out when it is read again"
    commented = to_commented_toml(recipe, Head())
    assert load_recipe(write(commented, "commented")).probes == recipe.probes


def test_a_probe_comes_back_and_a_term_goes(tiny_recipe: Path, write: Write) -> None:
    base = write(f'extends = "{tiny_recipe}"\nprobes.linear = false\nterms.spread = "l1"\n', "base")
    assert set(load_recipe(base, "probes.linear=linear").probes) == {"knn", "linear"}
    assert load_recipe(base, "terms.spread=false").terms == {}
    assert "spread" in load_recipe(base).terms


def test_what_a_swap_drops_is_logged_once_with_what_was_set(
    tiny_recipe: Path, write: Write, caplog: pytest.LogCaptureFixture
) -> None:
    base = write(
        f'extends = "{tiny_recipe}"\n[masker]\ntargets = 3\nmin_keep = 0\n[terms.a]\nname = "smooth_l1"\n'
        "beta = 2.0\nweight = 0.5\n"
    )
    with caplog.at_level("WARNING", "jepa.recipes"):
        load_recipe(base, "masker=random", "terms.a.name=l1", "terms.a.weight=1.0")
        assert [record.message for record in caplog.records] == [
            "a swapped component starts from its own defaults: masker multiblock → random without "
            "targets = 3; terms.a smooth_l1 → l1 without beta = 2.0"
        ], "min_keep is the default, weight is set anew"
        caplog.clear()
        load_recipe(base, "masker.targets=2", "objective=l1")
        load_recipe(base, "masker.name=multiblock")
        load_recipe(tiny_recipe, "masker=random")
        assert caplog.records == []


@pytest.mark.usefixtures("two_maskers")
def test_what_a_swap_carries_is_not_dropped(
    tiny_recipe: Path, write: Write, caplog: pytest.LogCaptureFixture
) -> None:
    base = write(f'extends = "{tiny_recipe}"\nmasker = {{name = "old", image_size = 32}}')
    with caplog.at_level("WARNING", "jepa.recipes"):
        load_recipe(base, "masker.name=new")
    assert caplog.records == []


@pytest.mark.parametrize(
    "text",
    ["a = " + "[" * 40 + "]" * 40, "a = " + "{b = " * 40 + "1" + "}" * 40, ".".join("abc" * 20) + " = 1"],
)
def test_what_nests_too_deep_is_refused_before_it_costs_anything(text: str) -> None:
    with pytest.raises(TooDeep):
        parse(text)


@pytest.mark.parametrize(
    "text", ["x = [" + "0.5, " * 200 + "]", 'x = "' + "word " * 99 + '"', "[a.b.c.d]\ne=1"]
)
def test_long_lists_and_texts_are_not_deep(text: str) -> None:
    assert parse(text)
