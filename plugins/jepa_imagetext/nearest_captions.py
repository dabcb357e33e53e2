"""The section `nearest captions` of a report: held-out pictures, and the captions they came closest to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from jepa_core.data.eval_batches import space_evenly
from jepa_core.data.field_transforms.pipeline import FieldTransforms
from jepa_core.evaluate.pair_protocols import ReadsPrompts
from jepa_core.report.picture_grid import Line, Picture
from jepa_core.report.sections import Section

SHOWN, GUESSES, AMONG = 24, 3, 2000
"""Pictures that are shown, captions below each, and held-out samples that are read."""


def nearest_captions(recipe: Any, model: Any, source: Any) -> Section | None:
    """Pictures of the validation split; None for a model that embeds no captions."""
    asked: object = model
    if not isinstance(asked, ReadsPrompts) or model.transforms is None:
        return None
    samples = source.split("val")
    chosen = [samples[row] for row in space_evenly(len(samples), AMONG).tolist()]
    texts = [sample.views[model.text_view] for sample in chosen]
    unique = sorted(set(texts))
    transforms: FieldTransforms = model.transforms.of_source(source)
    first = next(iter(chosen[0].views))
    shown = [chosen[int(row)] for row in torch.linspace(0, len(chosen) - 1, SHOWN).long()]
    device = next(model.parameters()).device
    captions = transforms.transform_values({f"views.{model.text_view}": unique})["views"][model.text_view]
    images = transforms.transform_values({f"views.{first}": [sample.views[first] for sample in shown]})
    known = model.embed({model.text_view: captions.to(device)})[model.text_view]
    guesses = model.embed({first: images["views"][first].to(device)})[first]
    order = (guesses @ known.T).argsort(dim=1, descending=True).tolist()
    labels = {sample.views[model.text_view]: sample.label for sample in chosen}
    pictures, right = [], 0
    for sample, numbers in zip(shown, order, strict=True):
        own = sample.views[model.text_view]
        guessed = distinct([unique[number] for number in numbers], labels)[:GUESSES]
        lines = [Line(text, text == own or _same_class(text, own, labels)) for text in guessed]
        right += bool(lines[0].right)
        pictures.append(Picture(pixels_of(sample.views[first]), [*lines, Line(f"its own: {own}")]))
    return Section(
        "Nearest captions",
        f"Held-out pictures (val), each with the {GUESSES} captions of {len(unique):,} that it came closest "
        f"to, the nearest first, one for each class; right is a caption of the picture's class. Of these "
        f"{len(shown)} pictures {right} have one first.",
        pictures=pictures,
        columns=6,
    )


def distinct(texts: Sequence[str], labels: Mapping[str, int]) -> list[str]:
    """The first of the texts of each class, in order; texts without a class all stay."""
    seen: set[int] = set()
    result = []
    for text in texts:
        label = labels[text]
        if label < 0 or label not in seen:
            result.append(text)
        seen.add(label)
    return result


def _same_class(text: str, own: str, labels: Mapping[str, int]) -> bool:
    return labels[text] >= 0 and labels[text] == labels[own]


def pixels_of(image: Any) -> np.ndarray[Any, Any]:
    """uint8 [h, w, 3] of a Pillow image or of uint8 [3, h, w]."""
    if isinstance(image, torch.Tensor):
        return image.permute(1, 2, 0).contiguous().numpy()
    return np.asarray(image.convert("RGB"))
