"""Sections that commands leave in a run's folder: read back as they were, limited, damaged ones left out."""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from jepa_core import UserError
from jepa_core.report import save_section
from jepa_core.report.picture_grid import Line, Picture, TextTable
from jepa_core.report.saved_sections import read_section, saved_sections
from jepa_core.report.sections import Section
from jepa_core.report.write import write_report
from tests.made_runs import make_run

NOISE = np.random.default_rng(0).integers(0, 256, (3, 80, 100, 3), np.uint8)
SECTION = Section(
    "What a <decoder> drew",
    "Rows of `samples`.",
    draw=lambda: Figure(figsize=(2, 1)),
    pictures=[Picture(NOISE, ["film", Line("a <b>", right=True)], rate=5), Picture(NOISE[0])],
    columns=2,
    table=TextTable(["a", "b"], [["1", "<2>"]]),
)


def test_a_section_is_read_back_as_it_was(tmp_path: Path) -> None:
    save_section(tmp_path, "decoder", SECTION)
    section, figure = read_section(tmp_path / "sections/decoder.json")
    assert (section.title, section.says, section.columns) == (SECTION.title, SECTION.says, 2)
    assert section.table == TextTable(["a", "b"], [["1", "<2>"]])
    film, picture = section.pictures
    assert np.array_equal(film.pixels, NOISE)
    assert np.array_equal(picture.pixels, NOISE[0])
    assert (film.rate, film.lines) == (5, [Line("film"), Line("a <b>", right=True)])
    assert Image.open(io.BytesIO(figure)).format == "PNG"
    assert (tmp_path / "pictures/decoder.png").stat().st_size > 100


def test_it_stands_on_the_page_of_the_run(tmp_path: Path, tiny_recipe: Path) -> None:
    run = tmp_path / "run"
    make_run(run, tiny_recipe)
    save_section(run, "decoder", SECTION)
    page = write_report([run], probes=False, images=8).read_text(encoding="utf-8")
    assert "<h2>What a &lt;decoder&gt; drew</h2>" in page
    assert "<td>&lt;2&gt;</td>" in page
    assert (run / "report/decoder.png").is_file()


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (b"{", "is no section of a report"),
        (b"[1]", "is no section of a report"),
        ({"pictures": [{"png": "AAAA", "film": False, "rate": 1, "lines": []}]}, "is no section of a report"),
        ({"figure": base64.b64encode(b"<svg onload=x>").decode()}, "is no section of a report"),
        ({"columns": 99}, "in 99 columns"),
        ({"table": {"head": ["a"], "rows": [["1", "2"]]}}, "expected at most 500, each of 1 cells"),
    ],
    ids=["cut", "list", "no picture", "figure of markup", "columns", "table"],
)
def test_a_damaged_one_is_left_out_with_a_line(
    tmp_path: Path, change: bytes | dict[str, object], says: str
) -> None:
    save_section(tmp_path, "decoder", SECTION)
    save_section(tmp_path, "planner", Section("t", "s", table=TextTable(["a"], [])))
    file = tmp_path / "sections/decoder.json"
    whole = json.loads(file.read_bytes())
    file.write_bytes(change if isinstance(change, bytes) else json.dumps({**whole, **change}).encode())
    drawn, notes = saved_sections(tmp_path)
    assert list(drawn) == ["planner"]
    assert len(notes) == 1
    assert notes[0].startswith("The section decoder is left out: ")
    assert says in notes[0]


def test_a_large_picture_is_refused_before_it_is_read(tmp_path: Path) -> None:
    save_section(tmp_path, "decoder", SECTION)
    file, large = tmp_path / "sections/decoder.json", io.BytesIO()
    Image.new("RGB", (20_000, 20_000)).save(large, "PNG")
    table = json.loads(file.read_bytes())
    table["pictures"][0]["png"] = base64.b64encode(large.getvalue()).decode()
    file.write_text(json.dumps(table))
    with pytest.raises(UserError, match=r"is no section of a report .*400000000 pixels"):
        read_section(file)


def test_an_unusable_section_or_folder_is_refused_at_once(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="neither a figure"):
        save_section(tmp_path, "decoder", Section("t", "s"))
    with pytest.raises(UserError, match="cannot be written"):
        save_section(tmp_path / "missing", "decoder", SECTION)
