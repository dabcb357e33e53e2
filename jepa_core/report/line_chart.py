"""A line chart as inline SVG: colours from the page's style sheet, values on hover without a script.

What is unusual: over the plot lie invisible strips, each with a `<title>` that lists the value of every line
there, which browsers show as a tooltip. Coordinates are pixels of a 330 × 210 drawing that scales with its
column.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup, escape

from jepa_core.plots.curves import DASHES, SERIES

WIDTH, HEIGHT = 330.0, 210.0
TOP, RIGHT, BOTTOM = 8.0, 10.0, 34.0
STROKE = 1.6
STRIPS = 24
"""Intervals of the x-axis that have a tooltip; half as many where there are many lines."""
LISTED = 20
"""Lines that a tooltip lists."""
PREFIXES = ("", "k", "M", "G", "T", "P", "E", "Z", "Y")


@dataclass(frozen=True, eq=False)
class Line:
    """One curve: float [n] each, x increasing."""

    name: str
    style: int
    """Number of the run: it decides colour and dashes."""
    x: np.ndarray
    y: np.ndarray
    band: tuple[np.ndarray, np.ndarray] | None = None
    """The lowest and highest value over seeds."""
    raw: tuple[np.ndarray, np.ndarray] | None = None
    """(x, y) of the logged values, drawn pale behind a running mean."""


@dataclass(frozen=True)
class Frame:
    """Where values lie in the drawing."""

    x: tuple[float, float]
    y: tuple[float, float]
    left: float

    def to_x(self, values: np.ndarray) -> np.ndarray:
        """Values of the x-axis in pixels."""
        return self.left + (values - self.x[0]) / (self.x[1] - self.x[0]) * (WIDTH - RIGHT - self.left)

    def to_y(self, values: np.ndarray) -> np.ndarray:
        """Values of the y-axis in pixels from the top."""
        return HEIGHT - BOTTOM - (values - self.y[0]) / (self.y[1] - self.y[0]) * (HEIGHT - BOTTOM - TOP)


def line_chart(
    title: str,
    x_label: str,
    lines: Sequence[Line],
    from_zero: bool = False,
    chance: Line | None = None,
) -> Markup:
    """The chart as an `<svg>` element with a title, for at least one line that has points."""
    lines = [line for line in lines if len(line.x)]
    frame = _frame(lines, from_zero, chance)
    last = "; ".join(f"{line.name} {number(line.y[-1])}" for line in lines[:LISTED])
    description = f"{title} by {x_label}. Last values: {last}"
    parts = [
        f'<svg viewBox="0 0 {WIDTH:g} {HEIGHT:g}" role="img"><title>{escape(description)}</title>',
        _axes(frame, x_label),
        *(_band(line, frame) for line in lines),
        *(_raw_curve(line, frame) for line in lines),
        _chance(chance, frame) if chance is not None else "",
        *(_line(line, frame) for line in lines),
        _tooltips(lines, frame, x_label),
        "</svg>",
    ]
    return Markup("".join(parts))


def stroke(style: int) -> str:
    """Colour and dashes of a run's line, as attributes of an SVG element."""
    dashes = DASHES[style // len(SERIES) % len(DASHES)]
    pattern = " ".join(f"{STROKE * length:.3g}" for length in dashes)
    colour = f'style="stroke:var(--run{style % len(SERIES)})" stroke-width="{STROKE}" fill="none"'
    return f'{colour} stroke-dasharray="{pattern}"' if pattern else colour


def swatch(style: int) -> Markup:
    """A run's line for a legend, dashes included."""
    return Markup(
        f'<svg class="swatch" viewBox="0 0 34 8" aria-hidden="true"><path d="M0 4H34" {stroke(style)}/></svg>'
    )


def ticks(low: float, high: float, count: int) -> list[float]:
    """About `count` round values (1, 2 or 5 times a power of ten) from `low` to `high`."""
    rough = (high - low) / count
    power = 10.0 ** math.floor(math.log10(rough))
    step = power * next(factor for factor in (1, 2, 5, 10) if factor * power >= rough * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [i * step for i in range(first, math.floor(high / step + 1e-9) + 1)]


def tick_text(value: float) -> str:
    """A tick's value: `20k` for 20,000, at most four digits."""
    if abs(value) >= 10_000:
        power = min(int(math.log10(abs(value)) // 3), len(PREFIXES) - 1)
        return f"{value / 1000**power:.4g}{PREFIXES[power]}"
    return f"{value:.4g}".replace("e-0", "e-")


def number(value: float) -> str:
    """A value with four digits."""
    return f"{value:.4g}"


def _frame(lines: Sequence[Line], from_zero: bool, chance: Line | None) -> Frame:
    drawn = [*lines, chance] if chance is not None and len(chance.x) else list(lines)
    values = [array for line in drawn for array in (line.y, *(line.band or ()), *(line.raw or ())[1:])]
    low, high = min(float(v.min()) for v in values), max(float(v.max()) for v in values)
    low = min(low, 0.0) if from_zero else low
    low, high = _widen(low, high)
    margin = 0.04 * (high - low)
    y = (low if from_zero and low == 0 else low - margin, high + margin)
    x = _widen(min(float(line.x[0]) for line in drawn), max(float(line.x[-1]) for line in drawn))
    longest = max((len(tick_text(value)) for value in ticks(*y, 5)), default=1)
    return Frame(x, y, 14.0 + 5.8 * longest)


def _widen(low: float, high: float) -> tuple[float, float]:
    """The range, or one around its single value."""
    if high - low > 1e-9 * max(abs(low), abs(high)):
        return low, high
    half = abs(low) / 2 or 0.5
    return low - half, high + half


def _axes(frame: Frame, x_label: str) -> str:
    bottom, right = HEIGHT - BOTTOM, WIDTH - RIGHT
    rows = [(value, y) for value in ticks(*frame.y, 5) for y in [float(frame.to_y(np.array(value)))]]
    columns = [(value, x) for value in ticks(*frame.x, 5) for x in [float(frame.to_x(np.array(value)))]]
    grid = "".join(f"M{frame.left:.1f} {y:.1f}H{right:g}" for _, y in rows)
    marks = "".join(f"M{x:.1f} {bottom:g}v3" for _, x in columns)
    y_labels = "".join(_text(frame.left - 6, y + 3.4, tick_text(value)) for value, y in rows)
    x_labels = "".join(_text(x, bottom + 14, tick_text(value)) for value, x in columns)
    middle = (frame.left + right) / 2
    return (
        f'<path d="{grid}" style="stroke:var(--grid)" stroke-width="0.7"/>'
        f'<path d="M{frame.left:.1f} {TOP:g}V{bottom:g}H{right:g}{marks}" '
        'style="stroke:var(--faint)" stroke-width="0.8" fill="none"/>'
        '<g style="fill:var(--faint)" font-size="10">'
        f'<g text-anchor="end">{y_labels}</g>'
        f'<g text-anchor="middle">{x_labels}'
        f"{_text(middle, HEIGHT - 4, x_label)}</g></g>"
    )


def _points(x: np.ndarray, y: np.ndarray, frame: Frame) -> str:
    """The points as a relative path, in tenths of a pixel: shorter than absolute coordinates."""
    tenths = np.round(10 * np.stack([frame.to_x(x), frame.to_y(y)], 1)).astype(int)
    moves = np.diff(tenths, axis=0)
    start = f"{tenths[0, 0] / 10:g} {tenths[0, 1] / 10:g}"
    return start + (f"l{' '.join(_short(value) for value in moves.ravel().tolist())}" if len(moves) else "")


def _short(tenths: int) -> str:
    """Tenths of a pixel as pixels: `-.4` for -4."""
    return f"{tenths / 10:g}".replace("0.", ".", 1) if abs(tenths) < 10 else f"{tenths / 10:g}"


def _text(x: float, y: float, text: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}">{escape(text)}</text>'


def _raw_curve(line: Line, frame: Frame) -> str:
    if line.raw is None:
        return ""
    style = f'style="stroke:var(--run{line.style % len(SERIES)})" stroke-width="0.8" stroke-opacity="0.35"'
    return f'<path d="M{_points(*line.raw, frame)}" fill="none" {style}/>'


def _line(line: Line, frame: Frame) -> str:
    if len(line.x) == 1:
        x, y = float(frame.to_x(line.x)[0]), float(frame.to_y(line.y)[0])
        fill = f'style="fill:var(--run{line.style % len(SERIES)})"'
        return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="2.6" {fill}/>'
    return f'<path d="M{_points(line.x, line.y, frame)}" {stroke(line.style)} stroke-linejoin="round"/>'


def _band(line: Line, frame: Frame) -> str:
    if line.band is None:
        return ""
    low, high = line.band
    around = np.concatenate([line.x, line.x[::-1]]), np.concatenate([high, low[::-1]])
    fill = f'style="fill:var(--run{line.style % len(SERIES)})" fill-opacity="0.16"'
    return f'<path d="M{_points(*around, frame)}Z" {fill}/>'


def _chance(line: Line, frame: Frame) -> str:
    if not len(line.x):
        return ""
    x, y = float(frame.to_x(line.x)[-1]), float(frame.to_y(line.y)[-1])
    return (
        f'<path d="M{_points(line.x, line.y, frame)}" style="stroke:var(--faint)" fill="none" '
        'stroke-dasharray="4 3"/>'
        '<g text-anchor="end" font-size="10" style="fill:var(--faint)">'
        f"{_text(x, y - 4, 'chance')}</g>"
    )


def _tooltips(lines: Sequence[Line], frame: Frame, x_label: str) -> str:
    """Invisible strips over the plot with the values of the lines in each."""
    low, high = frame.x
    count = STRIPS if len(lines) <= 8 else STRIPS // 2
    half = (high - low) / count / 2
    width = (WIDTH - RIGHT - frame.left) / count
    strips = []
    for i in range(count):
        middle = low + (2 * i + 1) * half
        points = [(line.name, point) for line in lines if (point := _point_at(line, middle, half))]
        if not points:
            continue
        values = [f"{name}: {number(y)}" for name, (_, y) in points[:LISTED]]
        more = [f"… {len(points) - LISTED} more"] if len(points) > LISTED else []
        text = "\n".join([f"{x_label} {tick_text(points[0][1][0])}", *values, *more])
        strips.append(
            f'<rect x="{frame.left + i * width:.1f}" y="{TOP:g}" width="{width:.1f}" '
            f'height="{HEIGHT - BOTTOM - TOP:g}"><title>{escape(text)}</title></rect>'
        )
    return f'<g class="tips" fill-opacity="0">{"".join(strips)}</g>'


def _point_at(line: Line, x: float, within: float) -> tuple[float, float] | None:
    """The point (x, y) of a line that is nearest to x; None where the line does not reach."""
    if not line.x[0] - within <= x <= line.x[-1] + within:
        return None
    index = int(np.abs(line.x - x).argmin())
    return float(line.x[index]), float(line.y[index])
