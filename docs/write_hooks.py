"""Writes docs/hooks.md from the code: the hooks, what their classes must do, and an example of each.

    make docs      or      python docs/write_hooks.py

What is unusual: nothing is written twice. Signatures and docstrings are copied from hookspecs.py,
protocols.py and jepa.py, and examples from the plugins of this repository. tests/test_hooks_page.py compares
the page with the output of this script.
"""

from __future__ import annotations

import ast
import inspect
import re
import textwrap
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from types import ModuleType

from jepa_core import builtin as components
from jepa_core import hookspecs, jepa, plugins

PAGE = Path(__file__).with_name("hooks.md")
ROOT = PAGE.parents[1]

HEAD = """# Hooks

<!-- written by docs/write_hooks.py (`make docs`); change the code, not this page -->

{intro}

Hooks are functions of a module that `pyproject.toml` names under `[project.entry-points.jepa]`, marked with
`@jepa_core.hookimpl`; [plugins.md](plugins.md) shows a whole one. A hook names only the arguments it wants,
without defaults. An unknown name that begins with `jepa_` is an error, and so is a class whose `Config` does
not derive from jepa-core's base class of that kind.

| hook | is called | what it offers, or is told |
| --- | --- | --- |
{rows}
"""

STAGES = (
    "run_stages",
    "views",
    "encode_target",
    "make_targets",
    "normalise",
    "encode_context",
    "predict",
    "update_target",
)
"""The methods of the engine that a variant overrides, in the order of a step."""


CONTRACTS = (
    "protocols",
    "formats.base",
    "optimizers.base",
    "evaluate.pair_protocols",
    "data.field_transforms.base",
)
"""Files of core with the protocols that hooks name."""


def page() -> str:
    """The whole page."""
    intro = inspect.cleandoc(hookspecs.__doc__ or "").partition("\n\n")[2]
    hooks = specifications()
    rows = "\n".join(_row(name, node) for name, node in hooks.items())
    sections = "\n".join(_section(name, node) for name, node in hooks.items())
    return HEAD.format(intro=intro, rows=rows) + "\n" + sections


def specifications() -> dict[str, ast.FunctionDef]:
    """Every hook by name, as it is written."""
    return {node.name: node for node in _tree(hookspecs).body if isinstance(node, ast.FunctionDef)}


def _row(name: str, node: ast.FunctionDef) -> str:
    what = (
        re.sub(r" \(`[^`]*`\)", "", _first(node))
        if not _observes(name)
        else f"told `{ast.unparse(node.args)}`"
    )
    return f"| [`{name}`](#{name}) | {_when(name)} | {what} |"


def _when(name: str) -> str:
    if _observes(name):
        return "while a run trains"
    return "once, when the first of them is looked up" if name in plugins.KINDS.values() else "see below"


def _observes(name: str) -> bool:
    return bool(specifications()[name].args.args)


def _section(name: str, node: ast.FunctionDef) -> str:
    """One hook: its signature, its words, what its classes must do, and who implements it."""
    text = inspect.cleandoc(ast.get_docstring(node) or "")
    parts = [
        f"## {name}",
        f"`{name}({ast.unparse(node.args)}) -> {ast.unparse(node.returns or ast.Name('None'))}`",
    ]
    parts += [text, *_contracts(name, text), *_example(name)]
    return "\n\n".join(parts) + "\n"


def _contracts(name: str, text: str) -> Iterator[str]:
    """The protocols that the hook's words name, with those that their methods return; the engine's stages."""
    if name == "jepa_variants":
        yield _stages()
    for file, protocol in re.findall(
        r"`(protocols|formats\.base|optimizers\.base|evaluate\.pair_protocols|data\.field_transforms\.base)\.(\w+)`",
        text,
    ):
        module = import_module(f"jepa_core.{file}")
        classes = {node.name: node for node in _tree(module).body if isinstance(node, ast.ClassDef)}
        returned = [class_name for class_name in classes if _returns(classes[protocol], class_name)]
        for class_name in (protocol, *returned):
            yield _fence(_source(module, classes[class_name]))


def _returns(protocol: ast.ClassDef, name: str) -> bool:
    methods = [node for node in protocol.body if isinstance(node, ast.FunctionDef)]
    return any(method.returns is not None and ast.unparse(method.returns) == name for method in methods)


def _stages() -> str:
    """A table of the engine's stages."""
    engine = next(n for n in _tree(jepa).body if isinstance(n, ast.ClassDef) and n.name == "JEPA")
    methods = {node.name: node for node in engine.body if isinstance(node, ast.FunctionDef)}
    rows = [
        f"| `{name}({', '.join(a.arg for a in methods[name].args.args[1:])})` | {_first(methods[name])} |"
        for name in STAGES
    ]
    return "\n".join(["| stage | by default |", "| --- | --- |", *rows])


def _first(node: ast.FunctionDef) -> str:
    return " ".join((ast.get_docstring(node) or "").partition("\n\n")[0].split())


def _example(name: str) -> Iterator[str]:
    """The shortest implementation in this repository, a plugin's before core's own."""
    examples = [
        (module is components, len(source), file, source)
        for module in _modules()
        for file, source in _implementations(module, name)
    ]
    if examples:
        _, _, file, source = min(examples)
        yield f"In [`{file}`](../{file}):"
        yield _fence(source)
    elif source := _in_plugins_page(name):
        yield "In [plugins.md](plugins.md), which shows the whole of it:"
        yield _fence(source)


def _in_plugins_page(name: str) -> str:
    """The implementation that docs/plugins.md shows, "" where it has none."""
    for code in re.findall(
        r"^```python\n(.*?)^```", PAGE.with_name("plugins.md").read_text("utf-8"), re.M | re.S
    ):
        for node in ast.parse(code).body:
            if isinstance(node, ast.FunctionDef) and node.name == name:
                first = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
                return "\n".join(code.splitlines()[first - 1 : node.end_lineno])
    return ""


def _modules() -> list[ModuleType]:
    """Core's observers, and the modules of the loaded plugins that live in this repository."""
    registered = [plugin for _, plugin in plugins.registry().manager.list_name_plugin()]
    local = [m for m in registered if isinstance(m, ModuleType) and ROOT in Path(m.__file__ or "").parents]
    return [import_module("jepa_core.observers.standard"), *local]


def _implementations(module: ModuleType, name: str) -> Iterator[tuple[str, str]]:
    """(file, source) of each function of this name, at the top of a module or in a class of it."""
    file = str(Path(module.__file__ or "").relative_to(ROOT))
    for node in ast.walk(_tree(module)):
        if isinstance(node, ast.FunctionDef) and node.name == name:
            yield file, _source(module, node)


def _tree(module: ModuleType) -> ast.Module:
    return ast.parse(inspect.getsource(module))


def _source(module: ModuleType, node: ast.FunctionDef | ast.ClassDef) -> str:
    """Its lines with its decorators, at the margin."""
    lines = inspect.getsource(module).splitlines()
    first = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
    return textwrap.dedent("\n".join(lines[first - 1 : node.end_lineno]))


def _fence(source: str) -> str:
    return f"```py\n{source}\n```"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
