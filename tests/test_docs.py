"""Every Python fence of the documentation runs; every path and recipe it names exists."""

import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from jepa_core.recipes import names

ROOT = Path(__file__).parent.parent
PAGES = [
    "README.md",
    "kernels/README.md",
    "plugins/jepa_ijepa/README.md",
    "plugins/jepa_scenes/README.md",
    "docs/data.md",
    "docs/design.md",
    "docs/evaluations.md",
    "docs/exchange.md",
    "docs/finetuning.md",
    "docs/hooks.md",
    "docs/own_images.md",
    "docs/plugins.md",
    "docs/results.md",
    "docs/studies.md",
    "docs/trials.md",
    "docs/tutorial.md",
    "docs/variants.md",
    "docs/worlds.md",
]


def fences(page: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", (ROOT / page).read_text(encoding="utf-8"), re.M | re.S)


@pytest.mark.parametrize("page", [page for page in PAGES if "tutorial" not in page])  # it has its own test
@pytest.mark.slow
def test_python_fences_run(page, tmp_path):
    for code in fences(page, "python"):
        (file := tmp_path / "fence.py").write_text(code, encoding="utf-8")
        done = subprocess.run(
            [sys.executable, file], capture_output=True, text=True, cwd=tmp_path, check=False
        )
        assert done.returncode == 0, f"{page}:\n{code}\n{done.stderr}"


def test_the_readmes_plugin_masks_halves(tmp_path):
    """The plugin of the README, registered as it would be, in a training step."""
    import torch

    import jepa_core
    from jepa_core import plugins

    code = next(c for c in fences("README.md", "python") if "jepa_maskers" in c)
    assert len([line for line in code.splitlines() if line.strip()]) <= 22
    (tmp_path / "jepa_halves.py").write_text(code)
    sys.path.insert(0, str(tmp_path))
    try:
        import jepa_halves  # type: ignore[import-not-found]
    finally:
        sys.path.pop(0)
    plugins.registry().register(jepa_halves, "halves")
    try:
        recipe = jepa_core.load_recipe("ijepa/demo", "masker.name=halves", "train.steps=1")
        model = jepa_core.build_model(recipe)
        plan = jepa_core.sample_masks(model, 4)
        assert plan.contexts[0].dense().tolist()[0] in (
            [0, 1, 4, 5, 8, 9, 12, 13],
            [2, 3, 6, 7, 10, 11, 14, 15],
        )
        assert jepa_core.training_step(model, recipe)(torch.randn(4, 3, 32, 32), plan).loss.isfinite()
    finally:
        plugins.registry().manager.unregister(name="halves")
        plugins.registry().register(object(), "nothing")


def test_the_command_of_the_plugins_page_runs(tmp_path, jepa, tiny_recipe):
    """The command of docs/plugins.md, registered as it would be, on a run."""
    from jepa_core import plugins
    from tests.made_runs import make_run

    code = next(c for c in fences("docs/plugins.md", "python") if "jepa_commands" in c)
    module = ModuleType("jepa_weights")
    exec(code, vars(module))  # what the page says, and nothing else
    registry = plugins.registry()
    registry.register(module, "weights")
    try:
        model = make_run(tmp_path / "run", tiny_recipe)
        count = sum(p.numel() for p in model.target_encoder.parameters())
        assert jepa("weigh", tmp_path / "run").out == f"{count:,} parameters at step 7\n"
        assert "Count the parameters of a run's encoder (plugin weights)" in jepa("--help").out
    finally:
        registry.manager.unregister(name="weights")


def test_the_evaluation_of_the_plugins_page_is_short(tmp_path):
    code = next(c for c in fences("docs/plugins.md", "python") if "jepa_evaluations" in c)
    function = code.partition("def mirror")[2].partition("check_evaluation(")[0]
    assert len([line for line in function.splitlines() if line.strip()]) <= 15


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page):
    text = (ROOT / page).read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)#]+)", text):
        if not target.startswith("http"):
            assert ((ROOT / page).parent / target).exists(), f"{page} links to {target}"


@pytest.mark.parametrize("page", PAGES)
def test_recipes_that_are_named_exist(page):
    for name in re.findall(r"\bijepa/[a-z0-9_]+", (ROOT / page).read_text(encoding="utf-8")):
        assert name.endswith("_") or name in names() or any(n.startswith(name) for n in names()), name


def test_the_annotated_tree_is_the_tree():
    house = (ROOT / "README.md").read_text(encoding="utf-8").partition("## The house")[2]
    tree = house.split("```")[1].strip()
    folder = ""
    for line in tree.splitlines():
        if not line.startswith(" "):
            folder = line.split()[0]
            assert (ROOT / folder).is_dir(), folder
        else:
            for name in re.findall(r"\b[a-z_]+(?:\.py|/)", line):
                assert (ROOT / folder / name).exists(), f"{folder}{name}"
