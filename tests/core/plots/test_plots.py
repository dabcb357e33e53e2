"""The PNGs are read back: visible patches are the image, hidden ones are not, lines are drawn."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from jepa_core.errors import UserError
from jepa_core.plots.curves import constants, draw_curves, known_panels, panels, thin
from jepa_core.plots.masks import draw_masks, outline
from jepa_core.plots.sheets import Cell, Sheet, draw_sheet, unnormalise
from jepa_core.types import IndexSet, MaskPlan

GRID = (4, 4)
ORANGE, BLUE = (213, 94, 0), (0, 114, 178)


def plan(batch: int, contexts: int = 1) -> MaskPlan:
    """The top half is seen; two targets in the lower half."""
    top = IndexSet.from_dense(torch.arange(8).expand(batch, 8))
    left, right = (
        IndexSet.from_dense(torch.tensor(rows).expand(batch, 4))
        for rows in ([8, 9, 12, 13], [10, 11, 14, 15])
    )
    return MaskPlan((top,) * contexts, (left, right))


def red_images(batch: int) -> Tensor:
    return torch.tensor([1.0, 0.0, 0.0]).view(1, 3, 1, 1).expand(batch, 3, 16, 16)


def pixels(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path).convert("RGB")).astype(int)


def share(picture: np.ndarray, colour: tuple[int, int, int], within: int = 12) -> float:
    """Share of pixels of this colour."""
    return float((np.abs(picture - np.array(colour)).max(-1) <= within).mean())


def test_masks_show_the_image_the_context_and_the_targets(tmp_path: Path) -> None:
    draw_masks(red_images(3), plan(3), GRID, tmp_path / "masks.png")
    picture = pixels(tmp_path / "masks.png")
    red, hidden, faded = (share(picture, c) for c in ((255, 0, 0), (156, 125, 125), (255, 128, 128)))
    # a cell of the figure: image all red; context half red, half hidden; targets half red, half faded
    assert red == pytest.approx(4 * hidden, rel=0.15)
    assert hidden == pytest.approx(faded, rel=0.15)
    assert hidden > 0.03
    assert share(picture, ORANGE) > 0.001
    assert share(picture, BLUE) > 0.001


def test_masks_of_many_images_and_several_contexts_are_a_larger_picture(tmp_path: Path) -> None:
    sizes = []
    for name, batch, contexts in (("a", 2, 1), ("b", 2, 2), ("c", 12, 1)):
        draw_masks(red_images(batch), plan(batch, contexts), GRID, tmp_path / name, max_images=5)
        sizes.append(pixels(tmp_path / name).shape)
    assert sizes[1][0] > sizes[0][0]
    assert sizes[2][1] > sizes[0][1]


def test_masks_take_grey_and_uint8_images(tmp_path: Path) -> None:
    draw_masks(torch.full((2, 1, 16, 16), 200, dtype=torch.uint8), plan(2), GRID, tmp_path / "grey.png")
    assert share(pixels(tmp_path / "grey.png"), (200, 200, 200)) > 0.1


def test_unnormalise_is_the_inverse(tmp_path: Path) -> None:
    images, mean, std = torch.rand(2, 3, 4, 4), (0.4, 0.5, 0.6), (0.2, 0.3, 0.25)
    normal = (images - torch.tensor(mean).view(1, 3, 1, 1)) / torch.tensor(std).view(1, 3, 1, 1)
    torch.testing.assert_close(unnormalise(normal, mean, std), images)


@pytest.mark.parametrize(
    ("images", "batch", "grid", "says"),
    [
        (red_images(2), 3, GRID, "a plan for 2 images is needed; got one for 3"),
        (red_images(2), 2, (2, 2, 4), r"grids \(H, W\); got \(2, 2, 4\)"),
        (red_images(2), 2, (3, 4), r"grid \(3, 4\) does not divide images of 16×16 pixels"),
        (red_images(2) * 2 - 1, 2, GRID, r"float from 0 to 1; got -1.00 … 1.00. unnormalise"),
    ],
)
def test_masks_that_cannot_be_drawn_are_errors(
    tmp_path: Path, images: Tensor, batch: int, grid: tuple[int, ...], says: str
) -> None:
    with pytest.raises(UserError, match=says):
        draw_masks(images, plan(batch), grid, tmp_path / "masks.png")


def test_the_outline_of_a_block_is_its_border() -> None:
    keep = np.zeros((4, 4), bool)
    keep[1:3, 1:4] = True
    edges = {frozenset(edge) for edge in outline(keep)}
    across = {frozenset({(x, y), (x + 1, y)}) for x in (1, 2, 3) for y in (1, 3)}
    down = {frozenset({(x, y), (x, y + 1)}) for x in (1, 4) for y in (1, 2)}
    assert edges == across | down


def test_an_inset_outline_is_closed_and_inside() -> None:
    keep = np.zeros((3, 3), bool)
    keep[:2, :2] = True
    ends = [end for edge in outline(keep, 0.25) for end in edge]
    assert all(ends.count(end) == 2 for end in ends)
    assert {end for end in ends if 1 not in end} == {(0.25, 0.25), (0.25, 1.75), (1.75, 0.25), (1.75, 1.75)}


def test_a_sheet_of_rows_is_wider_than_one_of_columns(tmp_path: Path) -> None:
    cell = Cell(np.full((4, 4, 3), (213, 94, 0), np.uint8), "x")
    sizes = {}
    for flow in ("down", "across"):
        draw_sheet(Sheet("s", "title", [[cell] * 5, [cell] * 3], flow), tmp_path / f"{flow}.png")  # type: ignore[arg-type]
        sizes[flow] = pixels(tmp_path / f"{flow}.png").shape
        assert share(pixels(tmp_path / f"{flow}.png"), ORANGE) > 0.2, "eight cells of ten are filled"
    assert sizes["across"][1] > sizes["down"][1]
    assert sizes["across"][0] < sizes["down"][0]


def write(path: Path, lines: list[dict[str, float]]) -> Path:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def test_curves_have_a_panel_for_each_known_metric(tmp_path: Path) -> None:
    few = [{"step": s, "loss": 1 / (1 + s)} for s in range(100)]
    many = [
        {**line, "retrieval": 0.1, "retrieval_chance": 0.01, "rankme": 9.0, "lr": 1e-3, "val_knn": 0.3}
        for line in few
    ]
    sizes = []
    for name, lines in (("few", few), ("many", many)):
        draw_curves(write(tmp_path / f"{name}.jsonl", lines), tmp_path / f"{name}.png")
        picture = pixels(tmp_path / f"{name}.png")
        assert share(picture, BLUE, 60) > 0.001
        sizes.append(picture.shape)
    assert sizes[1][0] == 2 * sizes[0][0]
    assert sizes[1][1] == 3 * sizes[0][1]


def test_curves_draw_the_chance_line_of_the_log(tmp_path: Path) -> None:
    lines = [{"step": s, "retrieval": 0.9 - s / 100} for s in range(5)]
    with_chance = [{**line, "retrieval_chance": 0.4} for line in lines]
    for name, log in (("without", lines), ("with", with_chance)):
        draw_curves(write(tmp_path / f"{name}.jsonl", log), tmp_path / f"{name}.png")
    assert (pixels(tmp_path / "with.png") != pixels(tmp_path / "without.png")).any()
    faint = (107, 114, 128)
    assert share(pixels(tmp_path / "with.png"), faint) > share(pixels(tmp_path / "without.png"), faint)


def test_two_runs_have_a_colour_each(tmp_path: Path) -> None:
    logs = {
        name: [{"step": s, "loss": top - s / 50} for s in range(40)] for name, top in (("a", 2), ("b", 3))
    }
    draw_curves(logs, tmp_path / "both.png")
    assert share(pixels(tmp_path / "both.png"), BLUE, 30) > 0.001
    assert share(pixels(tmp_path / "both.png"), ORANGE, 30) > 0.001


def test_what_a_log_says_is_what_is_drawn() -> None:
    """The loss first, its terms where there are several, known metrics in their order, others by name."""
    log = [
        {"step": s, "zebra": s, "loss": s, "loss/a": s, "loss/b": -s, "lr": s, "rankme": s, "colour": "red"}
        | {"weight_decay": 0.1, "corrupt_images": 0, "retrieval_chance": 0.1, "odd": None}
        for s in (1, 2)
    ]
    assert [panel.key for panel in panels([log])] == ["loss", "loss/a", "loss/b", "rankme", "lr", "zebra"]
    assert constants([log]) == {"weight_decay": 0.1, "corrupt_images": 0}
    assert [p.key for p in known_panels([log])] == ["loss", "rankme", "lr", "weight_decay"]
    once = [panel.key for panel in panels([log[:1]])]
    assert "weight_decay" in once, "one line alone is no constant"
    assert "corrupt_images" not in once
    assert "loss/a" not in [panel.key for panel in panels([[{"step": 1, "loss": 1, "loss/a": 1}]])]


def test_a_long_series_keeps_its_extremes_and_its_ends() -> None:
    steps, values = np.arange(10_000.0), np.zeros(10_000)
    values[1234], values[8765] = 5.0, -7.0
    kept_steps, kept = thin(steps, values, 100)
    assert len(kept) <= 102
    assert {5.0, -7.0} <= set(kept)
    assert (kept_steps[0], kept_steps[-1]) == (0, 9999)
    assert kept_steps[kept == 5.0] == [1234]
    assert (np.diff(kept_steps) > 0).all()


def test_values_that_are_not_finite_are_left_out(tmp_path: Path) -> None:
    lines = [{"step": 0, "loss": 1.0}, {"step": 1, "loss": float("nan")}, {"step": 2, "loss": 0.5}]
    draw_curves(write(tmp_path / "m.jsonl", lines), tmp_path / "m.png")
    assert share(pixels(tmp_path / "m.png"), BLUE, 60) > 0.001


def test_a_log_with_nothing_to_draw_is_an_error(tmp_path: Path) -> None:
    path = write(tmp_path / "m.jsonl", [{"step": 1, "colour": 3.0}])
    with pytest.raises(UserError, match=r"holds nothing to draw; .* some of: loss, retrieval, val_knn"):
        draw_curves(path, tmp_path / "m.png")
