"""Maps follow the evaluation's resize and crop of the first view, and are in no training batch."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from jepa_core import Field, UserError
from jepa_core.data.field_reader import ColumnReader, FieldReader, field_reader
from jepa_core.data.field_transforms.base import InvalidValue
from jepa_core.data.field_transforms.follow_view import FollowView, resize_map
from jepa_core.data.field_transforms.pipeline import FieldTransforms
from jepa_core.data.named_samples import read_named, source_fields
from jepa_core.settings.sections import TransformSettings
from tests.core.evaluate.dense.made_maps import FIELDS, SIDE, SquaresSource


def transforms(side: int = SIDE, fields: Any = FIELDS, **settings: Any) -> FieldTransforms:
    plain = TransformSettings(mean=(0, 0, 0), std=(1, 1, 1), **settings)
    made = FieldTransforms(fields, {}, plain)
    made.set_view_shapes({"": (3, side, side)})
    return made


@pytest.mark.parametrize(
    ("height", "width", "side", "crop"), [(24, 40, 8, 1.0), (9, 7, 16, 0.8), (32, 32, 12, 0.6)]
)
def test_a_map_of_the_image_itself_comes_out_as_the_image(
    height: int, width: int, side: int, crop: float
) -> None:
    ramp = torch.linspace(10, 250, width).expand(height, width) * torch.linspace(0.5, 1, height)[:, None]
    image = ramp.to(torch.uint8).expand(3, -1, -1)
    fields = {place: field.changed(shape=()) for place, field in FIELDS.items()}
    made = transforms(side, fields, eval_crop=crop)
    view = made.apply("views.image", image, "", train=False)[0] * 255
    depth = made.apply("targets.depth", image[0].float(), "", train=False)
    assert depth.shape == view.shape == (side, side)
    slope = 240 / width * max(1.0, width / side)
    assert (depth - view).abs().max() < 1.2 * slope, "within a pixel, as one is smooth and one is not"
    assert (depth - view).mean().abs() < 0.2 * slope, "and not shifted"
    kinds = made.apply("targets.kind", image[0].long(), "", train=False)
    assert kinds.dtype == torch.int64
    assert (kinds - view).abs().max() < 1.2 * slope


def test_means_leave_holes_out_and_classes_are_never_mixed() -> None:
    depth = torch.tensor([[2.0, 0.0, 0.0, 0.0], [4.0, 6.0, 0.0, 0.0]])
    assert resize_map(depth, (1, 2)).tolist() == [[4.0, 0.0]]
    kinds = torch.tensor([[0, 7, 7, 7], [0, 7, 7, 0]])
    assert set(resize_map(kinds, (1, 3)).flatten().tolist()) <= {0, 7}
    assert resize_map(depth, (2, 4)) is depth


def test_what_is_not_finite_becomes_a_hole() -> None:
    depth = torch.full((SIDE, SIDE), 3.0)
    depth[0, 0], depth[0, 1] = torch.nan, torch.inf
    made = transforms().apply("targets.depth", depth, "", train=False)
    assert (made == 0).sum() == 2
    assert made[1:].eq(3).all()


@pytest.mark.parametrize("in_memory", [True, False])
def test_training_batches_have_no_maps_and_evaluations_do(in_memory: bool) -> None:
    samples = SquaresSource(SquaresSource.Config(name="squares", in_memory=in_memory)).split("train")
    reader = field_reader(samples, transforms(), 0.1)
    assert isinstance(reader, ColumnReader) == in_memory
    batch = reader(iter(range(8)), 8, torch.Generator().manual_seed(0))
    assert batch.views["image"].shape == (8, 3, SIDE, SIDE)
    assert not batch.targets
    judged = FieldReader(samples, transforms(8), 0.1).read(iter(range(4)), 4, train=False)
    assert judged.targets["depth"].shape == judged.targets["kind"].shape == (4, 8, 8)
    assert judged.targets["kind"].dtype == torch.int64


def test_columns_need_no_maps() -> None:
    samples = SquaresSource(SquaresSource.Config(name="squares", in_memory=True)).split("train")
    columns = samples.columns()  # type: ignore[attr-defined]
    samples.columns = lambda: {"views.image": columns["views.image"]}  # type: ignore[attr-defined]
    assert isinstance(field_reader(samples, transforms(), 0.1), ColumnReader)


def test_a_map_of_another_size_than_the_image_is_named() -> None:
    source = SquaresSource(change={"train": lambda values: {"depth": values["depth"][:8]}}, fields={
        **FIELDS, "targets.depth": Field("map")
    })  # fmt: skip
    said = (
        r"sample 3 \(3\) of squares: targets.depth is a map of \[8, 16\] pixels; expected \[16, 16\], those"
    )
    with pytest.raises(UserError, match=said):
        read_named(source.split("train"), 3, source.fields())


def test_a_map_is_two_axes_of_numbers() -> None:
    follow = FollowView(FollowView.Config(name="follow_view"), Field("map"))
    with pytest.raises(InvalidValue, match=r"shape \[1, 4, 4\]; expected a map"):
        follow(torch.zeros(1, 4, 4), False)
    with pytest.raises(InvalidValue, match="bool; expected numbers a map"):
        follow(torch.zeros(4, 4, dtype=torch.bool), False)


def test_maps_are_targets_alone() -> None:
    fields = {"views.image": Field("image"), "side.depth": Field("map")}
    said = "has the map side.depth; maps are targets, as no random crop is followed"
    with pytest.raises(UserError, match=said):
        source_fields(SquaresSource(fields=fields))
    with pytest.raises(UserError, match="a map cannot be of the part 'condition'"):
        FollowView.Config(name="follow_view", part="condition").check()
