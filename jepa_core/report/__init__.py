"""`jepa report`: what runs learned, as one page that opens anywhere and can be sent to a colleague.

What is unusual: the page is one file without a script and fetches nothing; its figures follow the reader's
light or dark style; the same runs give the same page, bit for bit, for it says when a run was made and not
when the page was. Beside it every picture lies as a PNG.

    writing.py      from folders to files: start here      shown.py        a run's pictures, or why none
    story.py        what a run's files tell                looks.py        features and thumbnails
    choices.py      settings beside their defaults         patches.py      PCA as colours, similarity
    cost.py         hours and FLOPs                        neighbours.py   nearest images, the map
    comparison.py   several runs side by side              charts.py       curves and the map, drawn
    words.py        numbers as people read them            sections.py     what plugins add
    page.py, html.py, templates/: the page
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jepa_core.report.writing import gather as gather
    from jepa_core.report.writing import write_report as write_report

IMAGES = 2000
"""Images of each split that are looked at, unless somebody asks for more or fewer."""

__all__ = ["IMAGES", "gather", "write_report"]


def __getattr__(name: str) -> Any:
    """The functions load when first used: they need torch and matplotlib, the command's help does not."""
    if name not in __all__:
        raise AttributeError(f"module 'jepa_core.report' has no attribute {name!r}")
    from jepa_core.report import writing

    return getattr(writing, name)
