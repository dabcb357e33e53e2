"""docs/tutorial.md, done as it says: every file written, every command run, in an environment of its own.

The page becomes one shell script. Only the training is cut short: a few steps on a handful of small images.
"""

from __future__ import annotations

import re
from pathlib import Path
from zipfile import ZipFile

import pytest

from tests.fresh_environment import ROOT, FreshEnvironment

PAGE = (ROOT / "docs/tutorial.md").read_text(encoding="utf-8")
FENCES = re.findall(r"^```(\w+)\n(.*?)^```", PAGE, re.M | re.S)
FILES = re.findall(r"`([\w/]+\.(?:py|toml))`[^\n]*:\n\n```(?:python|toml)\n(.*?)^```", PAGE, re.M | re.S)
BY_TEXT = {text: path for path, text in FILES}


def script(images: Path) -> str:
    """The page's fences in order: files are written, commands run."""
    shorter = f"data.name=npz data.path={images} train.steps=4 train.batch_size=16 optimizer.warmup_steps=1"
    lines = ["set -e"]
    for language, text in FENCES:
        if language == "sh":
            lines += [re.sub("^(jepa train .*)", rf"\1 {shorter}", line) for line in text.splitlines()]
        else:
            lines += [f"cat > {BY_TEXT[text]} <<'END OF FILE'", text.rstrip("\n"), "END OF FILE"]
    return "\n".join(lines)


def lines_of_code(text: str) -> int:
    return sum(bool(line.strip()) and not line.strip().startswith("#") for line in text.splitlines())


def test_the_plugin_is_under_sixty_lines_of_code() -> None:
    """All that is typed: term, recipes and test, without blank lines and comments."""
    assert {Path(path).name for path in BY_TEXT.values()} == {
        "objective.py", "selftest.toml", "cifar10.toml", "test_cjepa.py",
    }  # fmt: skip
    assert sum(lines_of_code(text) for text in BY_TEXT) < 60
    assert len(FENCES) == len(BY_TEXT) + PAGE.count("```sh\n"), "no fence is left out"


@pytest.mark.install
@pytest.mark.timeout(900)
@pytest.mark.slow
def test_the_page_works_as_it_stands(core_wheel: Path, tiny_images: Path, tmp_path: Path) -> None:
    fresh = FreshEnvironment(tmp_path)
    fresh.install(core_wheel)
    said = fresh.shell(script(tiny_images))
    first, second = re.findall(r"plugin cjepa: (\d+) properties hold, 0 fail", said)
    assert int(second) > int(first), "the second recipe is asked too"
    assert "2 passed" in said
    assert "4 steps done" in said
    assert re.search(r"trained +128 .* \([+-]", said), "beside its twin"
    made = fresh.empty / "jepa-cjepa"
    assert (made / "runs/cjepa/report.html").stat().st_size > 10_000
    (wheel,) = (made / "dist").glob("*.whl")
    assert {"jepa_cjepa/objective.py", "jepa_cjepa/recipes/cifar10.toml"} <= set(ZipFile(wheel).namelist())
