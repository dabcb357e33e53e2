"""Views cut into patches: the token grid of an image (C, H, W) or a clip (C, T, H, W), and its kept tokens.

Axes: B samples, C channels, T frames, N tokens of the grid.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from jepa_core.errors import UserError
from jepa_core.types.index_set import Grid, IndexSet, grid_size

_WORDS = {
    2: ("images", ("height", "width"), "an image of {} pixels"),
    3: ("clips", ("frames", "height", "width"), "a clip of {} (frames x height x width)"),
}
"""By the rank of the grid: the views, the names of their sides, and one view of a size, for errors."""


def patch_grid(
    encoder: str, view_shape: Sequence[int], channels: int, patch: Sequence[int], settings: str
) -> Grid:
    """Patches along each side of a view of shape (channels, *sides), for patches with these sides.

    `encoder` and `settings` are for the error: its name, and which settings change the sizes.
    Raises UserError for another rank or number of channels, and for sides that the patch does not divide.
    """
    views, names, view = _WORDS[len(patch)]
    if len(view_shape) != 1 + len(patch) or view_shape[0] != channels:
        expected = ", ".join([str(channels), *names])
        raise UserError(f"encoder {encoder!r} takes {views} ({expected}); got {tuple(view_shape)}")
    sides = tuple(view_shape[1:])
    if min(sides) < 1 or any(side % cut for side, cut in zip(sides, patch, strict=True)):
        first, *others = (f"{name} by {cut}" for name, cut in zip(names, patch, strict=True))
        needed = ", ".join([first.replace(" by", " must divide by"), *others[:-1]]) + f" and {others[-1]}"
        raise UserError(
            f"{view.format(_size_text(sides))} cannot be cut into patches of {_size_text(patch)}; "
            f"{needed}: set {settings}"
        )
    return tuple(side // cut for side, cut in zip(sides, patch, strict=True))


def kept_tokens(keep: IndexSet | None, view: Tensor, grid: Grid) -> IndexSet:
    """The tokens that an encoder computes of views [B, C, *sides]: those of `keep`, or all N of each sample.

    Raises UserError for views that are no floats, and for another number of index sets than of samples.
    """
    views = _WORDS[len(grid)][0]
    if not view.is_floating_point():
        axes = "[B, C, H, W]" if len(grid) == 2 else "[B, C, T, H, W]"
        raise UserError(f"{views} are normalised floats {axes}; got {view.dtype}")
    if keep is None:
        return IndexSet.full(view.shape[0], grid_size(grid), view.device)
    if keep.batch_size != view.shape[0]:
        singular = {"images": "an image", "clips": "a clip"}[views]
        raise UserError(f"{keep.batch_size} index sets for {view.shape[0]} {views}; expected one {singular}")
    return keep


def image_sides(size: int | Sequence[int]) -> tuple[int, int]:
    """(H, W) of a setting that is one number for both, or the two."""
    height, width = (size, size) if isinstance(size, int) else size
    return height, width


def _size_text(sides: Sequence[int]) -> str:
    return "x".join(map(str, sides))
