"""Sections that plugins add to a report; clips shown as images, a time step each."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from html import unescape
from pathlib import Path
from typing import Any

import pytest
import torch
from matplotlib.figure import Figure

from jepa_core import UserError, hookimpl, load_recipe, plugins, train
from jepa_core.observers.standard import MetricsWriter, Pictures
from jepa_core.plots.clips import by_step, masks_over, middle_frames, plan_by_step
from jepa_core.plots.curves import SERIES
from jepa_core.report.embeddings import _thumbs
from jepa_core.report.sections import Section, figure_markup, file_name, sections
from jepa_core.report.write import write_report
from jepa_core.runs.load import open_model
from jepa_core.types import IndexSet, MaskPlan


class Sectioned:
    """A plugin whose section draws one point at the number of parameters; another has nothing to show."""

    def __init__(self) -> None:
        self.seen: list[tuple[bool, bool]] = []

    @hookimpl
    def jepa_sections(self) -> dict[str, Any]:
        return {"size": self.size, "nothing": lambda *_: None, "broken": self.broken}

    def size(self, recipe: Any, model: torch.nn.Module, source: Any) -> Section:
        self.seen.append((model.training, torch.is_grad_enabled()))
        assert len(source.split("train")) > 0
        count = sum(p.numel() for p in model.parameters())

        def draw() -> Figure:
            figure = Figure(figsize=(3, 2))
            figure.subplots().plot([count], [1], "o", color=SERIES[0])
            return figure

        return Section("How large it is", f"`{recipe.encoder.name}` has {count} numbers.", draw)

    def broken(self, recipe: Any, model: Any, source: Any) -> Section:
        raise UserError("no film was given")


@pytest.fixture
def plugin() -> Iterator[Sectioned]:
    mine, found = Sectioned(), plugins.registry()
    found.register(mine, "sectioned")
    yield mine
    found.manager.unregister(mine)


def trained(recipe: Path, folder: Path, *watch: object) -> Path:
    train(
        load_recipe(recipe, "data.test_share=0.3", "train.steps=2"), folder, watch=[MetricsWriter(), *watch]
    )
    return folder


def test_a_section_stands_on_the_page_in_the_pages_colours(tiny_recipe, tmp_path: Path, plugin) -> None:
    run = trained(tiny_recipe, tmp_path / "run")
    page = write_report([run], probes=False, images=8).read_text(encoding="utf-8")
    assert "<h2>How large it is</h2>" in page
    assert "<code>official_tiny</code> has" in page
    section = page.partition('<figure class="drawn">')[2].partition("</figure>")[0]
    assert section.startswith("<svg")
    assert "var(--run0)" in section
    assert "The section broken is left out: no film was given." in page
    assert 'id="run0-nothing"' not in page
    assert plugin.seen == [(False, False)]
    assert (run / "report" / "size.png").stat().st_size > 1000
    assert not (run / "report" / "broken.png").exists()


def test_what_is_drawn_lies_with_the_run_when_training_ends(
    tiny_recipe, tmp_path: Path, plugin, caplog
) -> None:
    run = trained(tiny_recipe, tmp_path / "run", Pictures())
    assert [path.name for path in (run / "pictures").iterdir()] == ["size.png"]
    assert "The section broken is left out: no film was given." in caplog.text
    train(load_recipe(tiny_recipe, "train.steps=1"), run, watch=[], overwrite=True)
    assert not (run / "pictures").exists()


class Unprintable(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no message")


def drawing(**size: Any) -> Any:
    """A section that draws a figure of this size."""
    return lambda *_: Section("title", "text", lambda: Figure(**size))


def raising(error: BaseException) -> Any:
    def make(*_: Any) -> Section:
        raise error

    return make


def drawing_with(draw: Any) -> Any:
    return lambda *_: Section("title", "text", draw)


BROKEN: dict[str, tuple[Any, str]] = {
    "raises": (raising(RuntimeError("it broke\nbadly")), "RuntimeError: it broke badly."),
    "exits": (raising(SystemExit(0)), "SystemExit: 0."),
    "unprintable": (raising(Unprintable()), "Unprintable (its message cannot be shown: RuntimeError)."),
    "memory": (raising(MemoryError()), "MemoryError."),
    "no-section": (lambda *_: "a text", "ValueError: it is of the type str; expected a Section, or None."),
    "draw-raises": (drawing_with(raising(ValueError("no points"))), "ValueError: no points."),
    "draw-exits": (drawing_with(raising(SystemExit(1))), "SystemExit: 1."),
    "draw-text": (
        drawing_with(lambda: "x"),
        "ValueError: its `draw` gives str; expected a matplotlib Figure.",
    ),
    "wide": (drawing(figsize=(1000, 3)), "ValueError: its figure is 1000 × 3 inches"),
    "fine": (drawing(figsize=(30, 30), dpi=1200), "ValueError: its figure is 30 × 30 inches at 1200 dpi"),
}


class Hostile:
    """A plugin with every broken section, and a good one."""

    def __init__(self, made: dict[str, Any]) -> None:
        self.made = made

    @hookimpl
    def jepa_sections(self) -> dict[str, Any]:
        return self.made


@contextmanager
def registered(made: dict[str, Any]) -> Iterator[None]:
    """A plugin with these sections, for as long as it is entered."""
    plugin, registry = Hostile(made), plugins.registry()
    registry.register(plugin, "hostile")
    try:
        yield
    finally:
        registry.manager.unregister(plugin)


def test_a_section_that_fails_costs_itself_alone(tiny_recipe, tmp_path: Path, caplog) -> None:
    made = {name: make for name, (make, _) in BROKEN.items()} | {"good": drawing(figsize=(3, 2))}
    with registered(made):
        run = trained(tiny_recipe, tmp_path / "run", Pictures())
        assert [path.name for path in (run / "pictures").iterdir()] == ["good.png"]
        page = write_report([run], probes=False, images=8).read_text(encoding="utf-8")
    assert 'id="run0-good"' in page
    assert "How it went" in page
    plain = unescape(re.sub("</?code>", "`", page))
    for name, (_, reason) in BROKEN.items():
        assert f"The section {name} is left out: {reason}" in plain, name
        assert f"The section {name} is left out" in caplog.text, "training ends with a warning"


def test_ctrl_c_ends_the_report_and_a_section_that_raises_it_does_not(tiny_recipe, tmp_path: Path) -> None:
    recipe, model, _ = open_model(trained(tiny_recipe, tmp_path / "run"))

    def press(*_: object) -> None:
        os.kill(os.getpid(), signal.SIGINT)

    with registered({"x": press}), pytest.raises(KeyboardInterrupt):
        sections(recipe, model)
    with registered({"x": raising(KeyboardInterrupt())}):
        sections(recipe, model)


def test_a_figure_of_very_many_points_is_an_image() -> None:
    figure = Figure(figsize=(3, 2))
    figure.subplots().scatter(range(50_000), range(50_000))
    markup = figure_markup(figure, "x")
    assert markup.startswith('<img src="data:image/png;base64,')
    assert len(markup) < 500_000
    few = Figure(figsize=(3, 2))
    few.subplots().plot(range(10))
    assert figure_markup(few, "x").startswith("<svg")


@pytest.mark.parametrize(
    ("name", "expected"),
    [("size", "size"), ("../../etc/x", "_.._etc_x"), ("a b/c", "a_b_c"), ("", "_"), ("x" * 300, "x" * 80)],
)
def test_a_sections_name_never_leaves_its_folder(name: str, expected: str) -> None:
    assert file_name(name) == expected


def test_a_model_is_left_in_the_mode_it_was_in(tiny_recipe, tmp_path: Path, plugin) -> None:
    recipe, model, _ = open_model(trained(tiny_recipe, tmp_path / "run"))
    for mode in (True, False):
        model.train(mode)
        sections(recipe, model)
        assert model.training is mode


def test_clips_are_cut_into_the_middle_frames_of_time_steps() -> None:
    clips = torch.arange(8.0).view(1, 1, 8, 1, 1).expand(2, 3, 8, 4, 4)
    assert middle_frames(clips, 4)[:, 0, 0, 0].tolist() == [1, 3, 5, 7] * 2
    assert middle_frames(clips, 1)[:, 0, 0, 0].tolist() == [4, 4]
    assert middle_frames(clips, 8).shape == (16, 3, 4, 4)
    features = torch.randn(2, 4 * 6, 5)
    torch.testing.assert_close(by_step(features, (4, 2, 3))[5], features[1, 6:12])
    assert (_thumbs(clips / 8)[1].unique() == 128).all()


def test_masks_of_clips_are_drawn_step_by_step() -> None:
    grid = (2, 2, 2)
    plan = MaskPlan((IndexSet.from_lists([[0, 1, 6], [2]]),), (IndexSet.from_lists([[3, 4, 5], [7]]),))
    cut = plan_by_step(plan, grid)
    assert [rows.tolist() for rows in cut.contexts[0].split()] == [[0, 1], [2], [2], []]
    assert [rows.tolist() for rows in cut.targets[0].split()] == [[3], [0, 1], [], [3]]
    sheet = masks_over(torch.rand(2, 3, 4, 8, 8), plan, grid, 3)
    assert len(sheet.groups) == 2, "one clip of two steps fits into three columns"
    assert sheet.title.endswith("2×2×2 tokens, time to the right")
    images = MaskPlan((IndexSet.from_lists([[0]]),), (IndexSet.from_lists([[1]]),))
    assert "2×2 patches" in masks_over(torch.rand(1, 3, 8, 8), images, (2, 2), 8).title
