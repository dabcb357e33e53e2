"""`jepa report`: what runs learned, as one page that opens anywhere and can be sent to a colleague.

What is unusual: the page is one file without a script and fetches nothing; its figures follow the reader's
light or dark style; the same runs give the same page, bit for bit, for it says when a run was made and not
when the page was. Beside it every picture lies as a PNG.

    write           from folders to files: start here      figures         a run's pictures, or why none
    summary         what a run's files tell                embeddings      features and thumbnails
    settings_table  settings beside their defaults         patch_maps      PCA as colours, similarity
    cost            hours and FLOPs                        neighbours      nearest images, the map
    comparison      several runs side by side              charts          curves and the map, drawn
    text            numbers as people read them            sections        what plugins add
    page, html, templates/: the page
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from jepa_core.report.defaults import IMAGES as IMAGES

if TYPE_CHECKING:
    from jepa_core.report.write import gather as gather
    from jepa_core.report.write import write_report as write_report

__all__ = ["IMAGES", "gather", "write_report"]


def __getattr__(name: str) -> Any:
    """The functions load when first used: they need torch and matplotlib, the command's help does not."""
    if name not in __all__:
        raise AttributeError(f"module 'jepa_core.report' has no attribute {name!r}")
    from jepa_core.report import write

    return getattr(write, name)
