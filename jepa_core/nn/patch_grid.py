"""Views cut into patches: the token grid that an image (C, H, W) or a clip (C, T, H, W) gives."""

from __future__ import annotations

from collections.abc import Sequence

from jepa_core.errors import UserError
from jepa_core.types.index_set import Grid

_SAID = {
    2: ("images", ("height", "width"), "an image of {} pixels"),
    3: ("clips", ("frames", "height", "width"), "a clip of {} (frames x height x width)"),
}


def patch_grid(
    encoder: str, view_shape: Sequence[int], channels: int, patch: Sequence[int], settings: str
) -> Grid:
    """Patches along each side of a view of shape (channels, *sides), for patches with these sides.

    `encoder` and `settings` are for the error: its name, and which settings change the sizes.
    Raises UserError for another rank or number of channels, and for sides that the patch does not divide.
    """
    views, names, a_view = _SAID[len(patch)]
    if len(view_shape) != 1 + len(patch) or view_shape[0] != channels:
        expected = ", ".join([str(channels), *names])
        raise UserError(f"encoder {encoder!r} takes {views} ({expected}); got {tuple(view_shape)}")
    sides = tuple(view_shape[1:])
    if min(sides) < 1 or any(side % cut for side, cut in zip(sides, patch, strict=True)):
        first, *others = (f"{name} by {cut}" for name, cut in zip(names, patch, strict=True))
        needed = ", ".join([first.replace(" by", " must divide by"), *others[:-1]]) + f" and {others[-1]}"
        raise UserError(
            f"{a_view.format(_by(sides))} cannot be cut into patches of {_by(patch)}; {needed}: "
            f"set {settings}"
        )
    return tuple(side // cut for side, cut in zip(sides, patch, strict=True))


def _by(sides: Sequence[int]) -> str:
    return "x".join(map(str, sides))
