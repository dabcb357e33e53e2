"""Transforms: torchvision's, and the batched form judged against torchvision's."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import stats
from torch import Tensor
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

from jepa_core.data import TransformSettings, eval_transform, train_transform
from jepa_core.data.batched_transforms import Boxes, applies, augment, random_boxes, resized_crop
from jepa_core.data.transforms import rand_augment
from jepa_core.errors import UserError
from jepa_core.settings import parse

PLAIN = TransformSettings(mean=(0, 0, 0), std=(1, 1, 1))


def noise(*shape: int) -> Tensor:
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def picture(height: int, width: int) -> Image.Image:
    return Image.fromarray(noise(height, width, 3).numpy())


@pytest.mark.parametrize("kind", ["bilinear", "bicubic"])
@pytest.mark.parametrize("size", [(32, 32), (12, 20), (7, 5)])
def test_a_batch_of_crops_equals_torchvision_image_by_image(kind: str, size: tuple[int, int]) -> None:
    """Enlarging and reducing, at the borders, mirrored: the antialiasing filter is the same one."""
    images = noise(5, 20, 26, 3)
    boxes = [(0, 0, 20, 26), (3, 4, 9, 7), (11, 19, 9, 7), (0, 10, 17, 11), (6, 0, 2, 3)]
    flip = torch.tensor([False, True, False, True, False])
    columns = [torch.tensor(column, dtype=torch.float64) for column in zip(*boxes, strict=True)]
    found = resized_crop(images, Boxes(*columns), flip, size, kind)
    for image, box, mirrored, view in zip(images, boxes, flip, found, strict=True):
        chw = image.permute(2, 0, 1).double()
        expected = F.resized_crop(chw, *box, list(size), v2.InterpolationMode(kind), antialias=True)
        expected = expected.flip(-1) if mirrored else expected
        torch.testing.assert_close(view.double(), expected, atol=2e-3, rtol=0)  # of 0 to 255


def test_augmenting_a_batch_normalises_and_flips_as_asked() -> None:
    settings = TransformSettings(crop_scale=(1, 1), crop_ratio=(1, 1), flip=1.0)
    images = noise(4, 16, 16, 3)
    found = augment(images, settings, (16, 16), torch.Generator().manual_seed(0))
    mean, std = torch.tensor(settings.mean), torch.tensor(settings.std)
    expected = ((images.flip(2) / 255 - mean) / std).permute(0, 3, 1, 2)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
    repeated = images[:1].expand(400, -1, -1, -1)
    quarter = settings.model_copy(update={"flip": 0.25})
    some = augment(repeated, quarter, (16, 16), torch.Generator().manual_seed(1))
    share = (some - expected[0]).abs().amax((1, 2, 3)).lt(1e-4).float().mean()
    assert 0.18 < share < 0.32


@pytest.mark.parametrize(("rows", "columns"), [(32, 32), (20, 48), (9, 60)])
def test_boxes_are_distributed_as_torchvision_draws_them(rows: int, columns: int) -> None:
    """9 x 60: most attempts do not fit, and the central crop stands in for many."""
    settings = TransformSettings(crop_scale=(0.3, 1.0))
    boxes = random_boxes(2000, (rows, columns), settings, torch.Generator().manual_seed(0))
    theirs = v2.RandomResizedCrop(8, scale=settings.crop_scale, ratio=settings.crop_ratio)
    image = torch.empty(3, rows, columns)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        drawn = [theirs.make_params([image]) for _ in range(2000)]
    for name in ("top", "left", "height", "width"):
        ours = getattr(boxes, name).numpy()
        assert stats.ks_2samp(ours, np.array([box[name] for box in drawn])).pvalue > 1e-3, name
    assert (boxes.top + boxes.height <= rows).all()
    assert (boxes.left + boxes.width <= columns).all()
    assert torch.equal(boxes.width, boxes.width.round())


def test_the_batched_form_is_for_small_images() -> None:
    plain = TransformSettings()
    assert applies((9, 3, 32, 32), (3, 32, 32), plain)
    assert not applies((9, 3, 96, 96), (3, 32, 32), plain)
    assert not applies((9, 3, 32, 32), (3, 224, 224), plain)
    assert not applies((9, 3, 32, 32), (3, 32, 32), TransformSettings(rand_augment=2))


@pytest.mark.parametrize("image", [picture(40, 30), noise(3, 40, 30)])
def test_rand_augment_follows_from_the_seed_and_changes_images(image: Image.Image | Tensor) -> None:
    settings = TransformSettings(crop_scale=(1.0, 1.0), rand_augment=3, rand_magnitude=15)
    views = []
    for seed in (1, 1, 2):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            views.append(torch.stack([train_transform(settings, (3, 24, 24))(image) for _ in range(4)]))
    assert torch.equal(views[0], views[1])
    assert not torch.equal(views[0], views[2])
    assert views[0].shape == (4, 3, 24, 24)
    assert views[0].isfinite().all()


def test_what_rand_augment_uncovers_is_the_mean_colour() -> None:
    settings = TransformSettings(
        crop_scale=(1.0, 1.0), rand_augment=4, rand_magnitude=20, mean=(0.2, 0.4, 0.6)
    )
    uncovered = 0
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        for _ in range(40):
            turned = rand_augment(settings)(torch.full((3, 16, 16), 200, dtype=torch.uint8))
            uncovered += int(
                (turned.float() == torch.tensor([51.0, 102.0, 153.0])[:, None, None]).all(0).sum()
            )
    assert uncovered > 40


@pytest.mark.parametrize("image", [picture(40, 30), noise(3, 40, 30), picture(4, 90), picture(1, 1)])
def test_training_views_have_the_encoders_shape(image: Image.Image | Tensor) -> None:
    settings = TransformSettings(flip=0.5, colour_jitter=0.5, blur=1.0, interpolation="bicubic")
    view = train_transform(settings, (3, 24, 16))(image)
    assert type(view) is Tensor
    assert (view.shape, view.dtype) == ((3, 24, 16), torch.float32)
    assert view.isfinite().all()


def test_evaluation_leaves_an_image_of_the_right_size_as_it_is() -> None:
    image = noise(3, 32, 32)
    found = eval_transform(TransformSettings(), (3, 32, 32))(image)
    mean, std = (torch.tensor(v)[:, None, None] for v in ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]))
    torch.testing.assert_close(found, (image / 255 - mean) / std)


def test_evaluation_is_resize_and_centre_crop() -> None:
    """256 to 224 of a wide image, against Pillow; small images are enlarged; batches go through whole."""
    image = picture(300, 400)
    found = eval_transform(PLAIN.model_copy(update={"eval_crop": 0.875}), (3, 224, 224))(image)
    resized = np.asarray(image.resize((341, 256), Image.Resampling.BILINEAR))
    expected = torch.from_numpy(resized[16:240, 58:282].copy()).permute(2, 0, 1) / 255
    torch.testing.assert_close(found, expected)
    for shape in ((3, 10, 8), (3, 50, 200)):
        assert eval_transform(PLAIN, (3, 32, 48))(noise(*shape)).shape == (3, 32, 48)
    batch = noise(4, 3, 20, 20)
    together = eval_transform(PLAIN, (3, 16, 16))(batch)
    assert torch.equal(together[2], eval_transform(PLAIN, (3, 16, 16))(batch[2]))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"crop_scale": [0.9, 0.3]}, r"crop_scale' is \[0\.9, 0\.3\]; expected two numbers, the least first"),
        ({"crop_scale": [0.3, 1.5]}, r"crop_scale' is \[0\.3, 1\.5\]; expected a list of 2 numbers above 0"),
        ({"std": [0.2, 0, 0.2]}, r"std' is \[0\.2, 0, 0\.2\]; expected a list of 3 numbers above 0"),
        ({"flip": 2}, r"'transform\.flip' is 2; expected a number from 0 to 1"),
        (
            {"interpolation": "cubic"},
            r"'transform\.interpolation' is 'cubic'; expected bilinear or bicubic",
        ),
        ({"color_jitter": 1}, r"unknown setting 'transform\.color_jitter'.*Did you mean 'colour_jitter'"),
    ],
)
def test_settings_say_what_is_wrong(values: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        parse(TransformSettings, values, "transform")


def test_views_that_are_neither_images_nor_clips_are_an_error() -> None:
    with pytest.raises(
        UserError, match=r"\(3, H, W\), or \(3, T, H, W\) of clips; the encoder asks for \(3, 400\)"
    ):
        train_transform(PLAIN, (3, 400))
