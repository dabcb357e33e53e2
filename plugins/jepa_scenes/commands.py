"""`jepa scenes`: look at scenes, and render them before they are needed."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from jepa_scenes.source import ScenesSource

app = typer.Typer(no_args_is_help=True)

Settings = Annotated[
    list[str] | None,
    typer.Argument(metavar="[SETTING=VALUE]...", help="Of the source, such as size=128", show_default=False),
]


@app.callback()
def scenes() -> None:
    """Look at the scenes of data.name=scenes, or render them before they are needed."""


@app.command()
def preview(
    settings: Settings = None,
    out: Annotated[Path, typer.Option(help="The PNG to write")] = Path("scenes.png"),
    count: Annotated[int, typer.Option(min=1, max=100, help="Number of scenes")] = 12,
    seed: Annotated[int | None, typer.Option(min=0, help="Other scenes of the same kind")] = None,
) -> None:
    """Draw a sheet of scenes: image, depth, objects, with count and distance under each."""
    from jepa_scenes.sheet import preview as draw

    config = _read_settings([*(settings or []), *([] if seed is None else [f"seed={seed}"])])
    typer.echo(draw(out, count, config.size, config.field_of_view, config.seed))


@app.command()
def render(settings: Settings = None) -> None:
    """Render the scenes of all splits into the data folder; what is there already stays."""
    from jepa_scenes.source import ScenesSource

    source = ScenesSource(_read_settings(settings or []))
    typer.echo(f"{source.render():,} scenes in {source.folder / source.look.key}")


def _read_settings(texts: list[str]) -> ScenesSource.Config:
    """The source's settings from `size=128`, or `data.size=128` as in a recipe."""
    from jepa_core.recipes.load import with_overrides
    from jepa_core.settings.parse import parse
    from jepa_scenes.source import ScenesSource

    overrides = [f"data.{text.removeprefix('data.')}" for text in texts]
    table = with_overrides({"data": {"name": "scenes"}}, overrides)
    return parse(ScenesSource.Config, table["data"], "data")
