"""Line charts: where points lie, round ticks, and values that browsers show on hover."""

from __future__ import annotations

import re
from html import unescape

import numpy as np
import pytest

from jepa_core.plots.curves import DASHES, SERIES, STYLES, line_style
from jepa_core.report.line_chart import Line, line_chart, swatch, tick_text, ticks


def line(name: str = "a", style: int = 0, count: int = 5) -> Line:
    x = np.arange(1.0, count + 1)
    return Line(name, style, x, x**2)


def positions(path: str) -> list[tuple[float, float]]:
    """The absolute points of a path of one start and relative moves."""
    start, _, moves = path.removeprefix("M").partition("l")
    numbers = [float(number) for number in moves.split()]
    points = np.cumsum([[float(n) for n in start.split()], *zip(numbers[::2], numbers[1::2], strict=True)], 0)
    return [tuple(point) for point in points.tolist()]


def test_points_lie_where_their_values_are() -> None:
    svg = line_chart("loss", "step", [line()])
    path = re.findall(r'<path d="(M[^"]*l[^"]*)"', svg)[-1]
    points = positions(path)
    heights = np.array([y for _, y in points])
    assert len(points) == 5
    assert np.allclose(np.diff([x for x, _ in points]), points[1][0] - points[0][0], atol=0.11)
    values = np.arange(1.0, 6) ** 2
    expected = heights[0] + (heights[-1] - heights[0]) * (values - 1) / 24
    assert np.allclose(heights, expected, atol=0.11), "the tenth of a pixel that is written"
    assert heights[0] > heights[-1], "larger values lie higher"


def test_rounding_does_not_add_up_along_a_line() -> None:
    x = np.linspace(0, 1, 301)
    svg = line_chart("loss", "step", [Line("a", 0, x, np.sin(9 * x))])
    points = positions(re.findall(r'<path d="(M[^"]*l[^"]*)"', svg)[-1])
    left, right = points[0][0], points[-1][0]
    assert right == pytest.approx(320, abs=0.06)
    assert np.allclose([p[0] for p in points], left + (right - left) * x, atol=0.11)


def test_values_are_shown_on_hover() -> None:
    svg = line_chart("loss", "step", [line("one <b>", 0), line("two", 1, 3)])
    titles = [unescape(title) for title in re.findall(r"<title>(.*?)</title>", svg, re.DOTALL)]
    assert titles[0] == "loss by step. Last values: one <b> 25; two 9"
    assert "step 1\none <b>: 1\ntwo: 1" in titles
    assert "step 5\none <b>: 25" in titles, "where the second line has ended"
    assert 'role="img"' in svg


def test_many_lines_are_listed_up_to_twenty() -> None:
    svg = line_chart("loss", "step", [line(f"run{i}", i) for i in range(30)])
    assert "… 10 more" in svg


@pytest.mark.parametrize(
    "values", [[0.0, 0.0], [5.0, 5.0], [-1e100, 1e100], [1e-320, 2e-320], [1e16, 1e16 + 2]]
)
@pytest.mark.parametrize("from_zero", [True, False])
def test_every_range_can_be_drawn(values: list[float], from_zero: bool) -> None:
    svg = line_chart("x", "step", [Line("a", 0, np.array([0.0, 1]), np.array(values))], from_zero)
    assert not re.search(r"nan|inf", svg.partition("</title>")[2])


def test_one_point_is_a_dot() -> None:
    assert "<circle" in line_chart("x", "step", [Line("a", 0, np.array([3.0]), np.array([2.0]))])


def test_ticks_are_round() -> None:
    assert ticks(0.03, 0.97, 5) == pytest.approx([0.2, 0.4, 0.6, 0.8])
    assert ticks(0, 20_000, 5) == pytest.approx([0, 5000, 10_000, 15_000, 20_000])
    assert [tick_text(value) for value in (0, 0.002, 20_000, 1.5e6, 2e-5, -3e12)] == [
        *("0", "0.002", "20k", "1.5M", "2e-5", "-3T")
    ]


def test_forty_eight_runs_have_a_style_each() -> None:
    styles = [line_style(number) for number in range(STYLES)]
    assert STYLES == len(SERIES) * len(DASHES) == 48
    assert len(set(styles)) == 48
    assert len({swatch(number) for number in range(STYLES)}) == 48
    assert [dashes for _, dashes in styles[:9]] == [*[()] * 8, DASHES[1]]
