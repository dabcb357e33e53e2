"""Frames that belong to no film, by a run's transform of films."""

from __future__ import annotations

import torch
from torch import Tensor

from jepa_core.data.field_transforms.pipeline import FieldTransforms


def transform_frames(transforms: FieldTransforms, frames: Tensor) -> Tensor:
    """Frames uint8 [N, 3, h, w] as an encoder takes them, [N, C, H, W].

    A transform takes films of one length; the frames are put one behind the other to fill some.
    """
    place = transforms.first_place
    length = transforms.transforms[place].output.shape[1] or 1
    filled = torch.cat([frames, frames[-1:].expand(-len(frames) % length, -1, -1, -1)])
    films = transforms.transform_values({place: list(filled.unflatten(0, (-1, length)))})
    view: Tensor = films["views"][place.partition(".")[2]].transpose(1, 2).flatten(0, 1)
    return view[: len(frames)]
