"""`jepa report`: what runs learned, as one page that opens anywhere and can be sent to a colleague.

What is unusual: the page is one file without a script that fetches nothing, which its Content-Security-Policy
enforces; its figures follow the reader's light or dark style; the same runs give the same page, bit for bit,
as it has no date of its own. Beside it every picture lies as a PNG.

    write           from folders to files: start here      figures         pictures of a run, or why none
    summary         one run, read from its files           embeddings      features and thumbnails
    run_files       files, however damaged they are        patch_maps      PCA as colours, similarity
    settings_table  settings beside their defaults         neighbours      nearest images, the map
    cost            hours and FLOPs                        sections        what plugins add
    saved_sections  what commands left in the folder
    configurations  runs grouped by recipe                 charts          the map; matplotlib as SVG
    scores          which scores may be compared           curves          panels on a choice of x-axes
    intervals       mean and interval over seeds           line_chart      one panel as SVG
    comparison      the tables of several runs             dot_plot        scores as dots
    text            numbers as text                        page, html, templates/: the page
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from jepa_core.report.defaults import IMAGES as IMAGES

if TYPE_CHECKING:
    from jepa_core.report.saved_sections import save_section as save_section
    from jepa_core.report.write import gather as gather
    from jepa_core.report.write import write_report as write_report

__all__ = ["IMAGES", "gather", "save_section", "write_report"]


def __getattr__(name: str) -> Any:
    """Loads the functions when first used: they need torch and matplotlib, the command's help does not."""
    if name not in __all__:
        raise AttributeError(f"module 'jepa_core.report' has no attribute {name!r}")
    from jepa_core.report import saved_sections, write

    return getattr(saved_sections if name == "save_section" else write, name)
