"""Pictures with captions and tables in sections of a report: escaped, marked, limited, kept as files."""

from __future__ import annotations

import base64
import io
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image, ImageSequence

from jepa_core.report.picture_grid import (
    LONGEST,
    Line,
    Picture,
    TextTable,
    grid_markup,
    read_lines,
    table_markup,
)
from jepa_core.report.sections import Section, draw_section, save_sections

PIXELS = np.zeros((8, 12, 3), np.uint8)
HOSTILE = "<b onclick='x'>a red & $x$ dress</b>"


def test_captions_are_escaped_and_marked() -> None:
    picture = Picture(PIXELS, ["shown", Line(HOSTILE, right=True), Line("a cat", right=False)])
    markup = grid_markup([picture], 3)
    assert 'style="--columns:3"' in markup
    assert "<b onclick" not in markup
    assert (
        '<p class="right"><span aria-hidden="true">✓ </span><span class="unseen">right: </span>&lt;b onclick'
        in (markup)
    )
    assert '<p class="wrong">' in markup
    assert "<p>shown</p>" in markup
    assert 'alt="shown; ✓ &lt;b onclick' in markup
    assert 'width="12" height="8"' in markup
    assert 'src="data:image/png;base64,' in markup


def test_a_film_plays_on_the_page_and_stands_still_in_a_file() -> None:
    film = np.stack([np.full((8, 12, 3), value, np.uint8) for value in (0, 100, 200)])
    source = Picture(film, rate=4).source()
    played = Image.open(io.BytesIO(base64.b64decode(source.partition("base64,")[2])))
    frames = [np.asarray(frame.convert("RGB"))[0, 0, 0] for frame in ImageSequence.Iterator(played)]
    assert (frames, played.info["duration"], played.info["loop"]) == ([0, 100, 200], 250, 0)
    assert 'width="12" height="8"' in grid_markup([Picture(film)], 1)
    drawn = draw_section(Section("t", "s", pictures=[Picture(film)], columns=1), "salt")
    pixels = np.asarray(Image.open(io.BytesIO(drawn.png)).convert("RGB"))
    assert {100} == set(pixels[20:60, 40:80].flatten())


@pytest.mark.parametrize(
    ("film", "says"),
    [
        (Picture(np.zeros((301, 2, 2, 3), np.uint8)), "at most 300 frames"),
        (Picture(np.zeros((2, 2, 2, 3), np.uint8), rate=0), "0 frames a second"),
        (Picture(np.zeros((2, 2, 2), np.uint8)), r"a picture is ndarray \[2, 2, 2\]"),
    ],
    ids=["long", "no rate", "grey"],
)
def test_films_are_limited(film: Picture, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        draw_section(Section("t", "s", pictures=[film]), "salt")


def test_a_long_caption_is_cut() -> None:
    (line,) = read_lines(Picture(PIXELS, ["word " * 1000]))
    assert len(line.text) == LONGEST + 2
    assert line.text.endswith(" …")


def test_a_table_is_escaped() -> None:
    markup = table_markup(TextTable(["query", "nearest"], [[HOSTILE, "a"], ["b", "c"]]))
    assert markup.count("<tr>") == 3
    assert "<b onclick" not in markup
    assert '<th scope="col">query</th>' in markup


def test_pictures_a_table_and_a_figure_stand_in_one_section(tmp_path: Any) -> None:
    pictures = [Picture(PIXELS, [f"caption {i}", Line("猫 $\\frac$", right=bool(i % 2))]) for i in range(5)]
    table = TextTable(["a"], [["1"]])
    drawn = draw_section(Section("t", "s", lambda: Figure(figsize=(2, 1)), pictures, 2, table), "salt")
    places = [drawn.markup.index(part) for part in ("<svg", 'class="pictures"', "<table>")]
    assert places == sorted(places)
    of_pictures = draw_section(Section("t", "s", pictures=pictures), "salt")
    assert of_pictures.png.startswith(b"\x89PNG")
    of_table = draw_section(Section("t", "s", table=table), "salt")
    assert of_table.png == b""
    save_sections({"pictures": of_pictures, "table": of_table}, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["pictures.png"]


@pytest.mark.parametrize(
    ("section", "said"),
    [
        (Section("t", "s"), "neither a figure, nor pictures, nor a table"),
        (
            Section("t", "s", pictures=[Picture(PIXELS)] * 201),
            "201 pictures in 4 columns; expected at most 200",
        ),
        (Section("t", "s", pictures=[Picture(PIXELS)], columns=0), "in 0 columns"),
        (Section("t", "s", pictures=[Picture(PIXELS.astype(float))]), r"expected a uint8 array \[h, w, 3\]"),
        (Section("t", "s", pictures=[Picture(PIXELS[..., 0])]), r"ndarray \[8, 12\]"),
        (
            Section("t", "s", pictures=[Picture(np.zeros((2000, 3, 3), np.uint8))]),
            "at most 1024 pixels a side",
        ),
        (Section("t", "s", table=TextTable(["a", "b"], [["1"]])), "its table has 1 rows; .* each of 2 cells"),
    ],
    ids=["empty", "many", "no columns", "floats", "grey", "large", "uneven"],
)
def test_what_cannot_be_shown_is_one_line(section: Section, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        draw_section(section, "salt")
