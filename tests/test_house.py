"""The house rules that a reader relies on: who may import whom, what is documented, how long a file is."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PLUGINS = sorted(path.name for path in (ROOT / "plugins").iterdir() if (path / "__init__.py").is_file())
HOUSES = {"jepa_core": ROOT / "jepa_core", "jepa_kernels": ROOT / "kernels/jepa_kernels"}
HOUSES |= {plugin: ROOT / "plugins" / plugin for plugin in PLUGINS}
FILES = [
    pytest.param(package, path, id=str(path.relative_to(ROOT)))
    for package, folder in HOUSES.items()
    for path in sorted(folder.rglob("*.py"))
]

MAY_IMPORT = {"jepa_kernels": {"jepa_kernels"}, "jepa_core": {"jepa_core", "jepa_kernels"}}
MAY_IMPORT |= {plugin: {plugin, "jepa_core", "jepa_kernels"} for plugin in PLUGINS}

Documented = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef


def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


ORDER = """
    errors  _version  schedules
    runtime/
    types/
    settings/
    protocols
    hookspecs
    plugins
    recipes/
    nn/
    maskers/
    objectives/  target_updates  optimizers/
    jepa
    data/
    planning/
    assembly
    training/
    runs/  formats/
    evaluate/
    plots/
    report/
    observers/
    trainer
    bench/  doctor/  scaffold/  study/  testing/
    builtin
    __init__
    cli/  __main__
"""
"""The flow, downwards: a file of core imports from lines above its own, or from its own line."""

LINE = {name.strip("/"): number for number, line in enumerate(ORDER.splitlines()) for name in line.split()}
CORE = ROOT / "jepa_core"
CORE_FILES = [pytest.param(path, id=str(path.relative_to(CORE))) for path in sorted(CORE.rglob("*.py"))]


def core_imports(path: Path, tree: ast.Module) -> Iterator[str]:
    """`jepa_core.x.y` for every import of core in any form: at the top, in a function, under TYPE_CHECKING.

    `from jepa_core.x import y` is `jepa_core.x.y` where y is a file or a folder, and a name of x elsewhere.
    """
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names if name.name.split(".")[0] == "jepa_core")
        elif isinstance(node, ast.ImportFrom) and (
            node.level or (node.module or "").split(".")[0] == "jepa_core"
        ):
            assert not node.level, f"{path}: relative imports hide where a name comes from"
            yield from (f"{node.module}.{name.name}" for name in node.names)


def is_module(dotted: str) -> bool:
    """Whether there is such a file or package of core."""
    place = CORE.joinpath(*dotted.split(".")[1:])
    return place.with_suffix(".py").is_file() or place.is_dir()


def against_the_order(path: Path, tree: ast.Module) -> list[str]:
    """The imports of a file of core that point up."""
    own = LINE[path.relative_to(CORE).with_suffix("").parts[0]]
    below = (name for name in core_imports(path, tree) if is_module(".".join(name.split(".")[:2])))
    return [name for name in below if LINE[name.split(".")[1]] > own]


def faces_imported(path: Path, tree: ast.Module) -> list[str]:
    """Names that a file of core takes from a package's `__init__` and not from the file that defines them."""
    found = []
    for name in core_imports(path, tree):
        package = name.rpartition(".")[0]
        own_face = path.name == "__init__.py" and path.parent == CORE.joinpath(*package.split(".")[1:])
        if CORE.joinpath(*package.split(".")[1:]).is_dir() and not is_module(name) and not own_face:
            found.append(name)
    return found


def module_of(path: Path) -> str:
    parts = path.relative_to(CORE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def circles(edges: dict[str, set[str]]) -> list[set[str]]:
    """Sets of more than one module, each of which reaches all others of its set."""

    def reach(start: str) -> set[str]:
        seen, ahead = set(), [start]
        while ahead:
            for following in edges.get(ahead.pop(), set()) - seen:
                seen.add(following)
                ahead.append(following)
        return seen

    reached = {name: reach(name) for name in edges}
    return [
        {other for other in edges if other in reached[name] and name in reached[other]}
        for name in edges
        if name in reached[name]
    ]


@pytest.mark.parametrize("path", CORE_FILES)
def test_imports_of_core_follow_the_flow(path: Path) -> None:
    assert against_the_order(path, parsed(path)) == []


@pytest.mark.parametrize("path", CORE_FILES)
def test_inner_code_imports_the_file_that_defines(path: Path) -> None:
    assert faces_imported(path, parsed(path)) == []


@pytest.mark.parametrize(
    "text",
    [
        "from jepa_core.trainer import train",
        "import jepa_core.trainer",
        "def late():\n    from jepa_core import trainer",
        "if TYPE_CHECKING:\n    from jepa_core.runs.run import Run",
    ],
    ids=["from", "import", "in a function", "for types"],
)
def test_a_wrong_import_is_found_in_every_form(text: str) -> None:
    assert against_the_order(CORE / "types/tokens.py", ast.parse(text))
    assert against_the_order(CORE / "cli/train.py", ast.parse(text)) == []


def test_an_imported_face_is_found() -> None:
    wrong = ast.parse("from jepa_core.types import Tokens\nfrom jepa_core import UserError")
    assert faces_imported(CORE / "jepa.py", wrong) == ["jepa_core.types.Tokens", "jepa_core.UserError"]
    right = ast.parse("from jepa_core.types.tokens import Tokens\nfrom jepa_core.runs import checkpoints")
    assert faces_imported(CORE / "jepa.py", right) == []


def test_a_face_offers_no_name_that_is_a_file_of_its_package() -> None:
    """Importing the file would put it in the place of the name, depending on who came first."""
    for face in CORE.rglob("*/__init__.py"):
        late = {name for node in parsed(face).body for name in _late_names(node)}
        assert not [name for name in late if (face.parent / f"{name}.py").is_file()], face


def _late_names(node: ast.stmt) -> Iterator[str]:
    """The keys of `_HOMES`: names that a face loads when they are first used."""
    if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "_HOMES":
        yield from ast.literal_eval(node.value)


def test_core_has_no_circle_of_imports() -> None:
    edges = {}
    for path in CORE.rglob("*.py"):
        names = core_imports(path, parsed(path))
        edges[module_of(path)] = {name if is_module(name) else name.rpartition(".")[0] for name in names} - {
            module_of(path)
        }
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}})[0] == {"a", "b", "c"}
    assert circles(edges) == []


def test_the_top_of_core_is_short() -> None:
    assert len(list(CORE.glob("*.py"))) <= 13
    assert {path.stem for path in CORE.glob("*.py")} <= LINE.keys()
    assert {path.name for path in CORE.iterdir() if (path / "__init__.py").is_file()} <= LINE.keys()


def imported(tree: ast.Module) -> Iterator[str]:
    """Top-level packages of every import, those inside functions and under TYPE_CHECKING as well."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (name.name.partition(".")[0] for name in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield (node.module or "").partition(".")[0]


@pytest.mark.parametrize(("package", "path"), FILES)
def test_imports_point_down_only(package: str, path: Path) -> None:
    """jepa_kernels ← jepa_core ← each plugin; no plugin imports another."""
    ours = {name for name in imported(parsed(path)) if name.startswith("jepa_") or name == "tests"}
    assert ours <= MAY_IMPORT[package]


def test_the_import_rule_sees_every_form_of_import() -> None:
    tree = ast.parse("import a.b\nfrom c.d import e\ndef f():\n    from g import h\n    import i as j")
    assert set(imported(tree)) == {"a", "c", "g", "i"}


@pytest.mark.parametrize("folder", ["plugins", "kernels"])
def test_plugins_and_kernels_are_folders_and_no_import_names(folder: str) -> None:
    assert not (ROOT / folder / "__init__.py").exists()


def shown(body: list[ast.stmt], prefix: str = "") -> Iterator[tuple[str, Documented]]:
    """Public functions and classes, and the public methods of public classes."""
    for node in body:
        if isinstance(node, Documented) and not node.name.startswith("_"):
            yield prefix + node.name, node
            if isinstance(node, ast.ClassDef):
                yield from shown(node.body, f"{prefix}{node.name}.")


OF_A_PROTOCOL = {"Config", "forward", "make_target", "update", "device"}
"""What a member of a family must have is described once, where the family is."""


@pytest.mark.parametrize(("package", "path"), FILES)
def test_what_is_public_says_what_it_is(package: str, path: Path) -> None:
    silent = [
        name
        for name, node in shown(parsed(path).body)
        if not ast.get_docstring(node)
        and not node.name.startswith("jepa_")
        and not ("." in name and node.name in OF_A_PROTOCOL)
    ]
    assert silent == []


@pytest.mark.parametrize(("package", "path"), FILES)
def test_a_file_says_what_it_is_and_ends_before_line_300(package: str, path: Path) -> None:
    assert path.name != "utils.py"
    assert ast.get_docstring(parsed(path)), "the head of a file says what it is"
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 300


def test_functions_are_short() -> None:
    """Nine of ten under 45 lines; the training loop may be longer."""
    lengths = sorted(
        (node.end_lineno or 0) - node.lineno + 1
        for parameter in FILES
        for node in ast.walk(parsed(parameter.values[1]))  # type: ignore[arg-type]
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    )
    assert lengths[len(lengths) // 2] <= 12
    assert lengths[len(lengths) * 9 // 10] < 45


NAMED = [
    pytest.param(path, id=str(path.relative_to(ROOT)))
    for folder in ("jepa_core", "plugins", "kernels")
    for path in sorted((ROOT / folder).rglob("*.py"))
]

EMPTY_WORDS = {"found", "said", "kept", "came", "met", "told"}
"""A local or argument of such a name does not say what it holds."""

PARTICIPLES = """
    allowed begun cached captured changed checked chosen composed connected counted damaged disabled
    documented drawn dropped escaped evaluated expected extended failed finished gathered guarded
    imported installed judged known labelled listed locked marked masked measured named nested offered
    packed padded paired pinned pooled removed repeated resampled resumed shared shown shuffled sized
    smoothed stopped timed trained tried tuned unfinished unpaired vanished widened written
"""
"""Not the whole name of a function: that is a verb, or the noun of what it returns."""

PRINTED = {
    "changed": "a key of `jepa recipes show --json`",
    "documented": "the name of a check in the answers of `jepa plugins check`",
    "packed": "a constructor of the layout, `Layout.packed`, which plugins call",
    "told": "the name of a check in the answers of `jepa plugins check`",
}
"""Participles that stay names of functions, and where a user meets them."""

FORBIDDEN = {*EMPTY_WORDS, *PARTICIPLES.split()} - PRINTED.keys()


def empty_names(tree: ast.Module) -> Iterator[str]:
    """Locals, arguments and functions whose names say nothing; the fields of a class are left alone."""
    fields = {
        target
        for node in ast.walk(tree)
        if isinstance(node, ast.ClassDef)
        for line in node.body
        for target in (getattr(line, "target", None), *getattr(line, "targets", ()))
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.arg):
            name, words = node.arg, EMPTY_WORDS
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store) and node not in fields:
            name, words = node.id, EMPTY_WORDS
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            name, words = node.name.strip("_"), FORBIDDEN
        else:
            continue
        if name in words:
            yield f"{name} in line {node.lineno}"


@pytest.mark.parametrize("path", NAMED)
def test_names_say_what_they_hold_or_do(path: Path) -> None:
    assert list(empty_names(parsed(path))) == []


def test_an_empty_name_is_seen_in_every_place() -> None:
    text = "class A:\n    said: str\n    def _timed(self, told): ...\n    def told(self): ...\n"
    text += "met = [x for kept in y if (came := kept)]\nfor found in y: ...\nasync def paired(): ..."
    names = [name.partition(" ")[0] for name in empty_names(ast.parse(text))]
    assert sorted(names) == ["came", "found", "kept", "met", "paired", "timed", "told"]


@pytest.mark.parametrize(("package", "path"), FILES)
def test_nothing_is_left_to_do_in_the_code(package: str, path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert not [word for word in ("TODO", "FIXME", "XXX", "NotImplementedError") if word in text]


@pytest.mark.parametrize(("package", "path"), FILES)
def test_importing_a_file_runs_nothing(package: str, path: Path) -> None:
    """No bare call at the top of a module but in a decorator's or assignment's service."""
    loose = [
        ast.unparse(node)
        for node in parsed(path).body
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call)
    ]
    assert all(call.startswith(("app.add_typer(", "app.command(")) for call in loose), loose


def test_the_version_is_written_alike_everywhere() -> None:
    import tomllib

    import jepa_core

    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["version"] == jepa_core.__version__


def test_every_public_name_loads_and_a_wrong_one_says_so() -> None:
    import jepa_core

    for name in jepa_core.__all__:
        assert getattr(jepa_core, name) is not None
    assert set(jepa_core.__all__) <= set(dir(jepa_core))
    with pytest.raises(AttributeError, match="module 'jepa_core' has no attribute 'JEPPA'"):
        jepa_core.JEPPA  # noqa: B018
