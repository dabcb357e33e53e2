"""Colours by the batch: sample for sample torchvision's functions, and drawn as torchvision draws them."""

from __future__ import annotations

import itertools

import pytest
import torch
from scipy import stats
from torch import Tensor
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

from jepa_core.data import TransformSettings, train_transform
from jepa_core.data.batched_transforms import augment
from jepa_core.data.colour_jitter import (
    Jitter,
    apply_jitter,
    blur,
    hue,
    kernel_size,
    random_blur,
    random_jitter,
)

THEIRS = (F.adjust_brightness, F.adjust_contrast, F.adjust_saturation, F.adjust_hue)


def seeded(number: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(number)


def images(count: int) -> Tensor:
    """Noise of 0 to 1 [B, 3, 6, 5]; the first are grey, black, white, and with two channels alike."""
    made = torch.rand(count, 3, 6, 5, generator=seeded())
    for row, value in enumerate((0.5, 0.0, 1.0)):
        made[row] = value
    made[3, 0] = made[3, 1]
    made[4, 2] = made[4, 1] = 1.0
    return made


def every_order() -> Jitter:
    """For 48 images: each order of the four parts twice, some left alone, some grey."""
    orders = torch.tensor(list(itertools.permutations(range(4))) * 2)
    drawn = random_jitter(48, 1.0, seeded())
    return Jitter(torch.arange(48) % 5 != 0, drawn.factors, orders, torch.arange(48) % 7 == 0)


def of_torchvision(image: Tensor, jitter: Jitter, row: int) -> Tensor:
    if jitter.on[row]:
        for part in jitter.order[row].tolist():
            image = THEIRS[part](image, jitter.factors[part, row].item())
    return F.rgb_to_grayscale(image, 3) if jitter.grey[row] else image


def test_a_batch_equals_torchvision_image_by_image_at_given_factors() -> None:
    jitter, before = every_order(), images(48)
    expected = [of_torchvision(image, jitter, row) for row, image in enumerate(before)]
    torch.testing.assert_close(apply_jitter(before.clone(), jitter), torch.stack(expected), atol=1e-5, rtol=0)


def test_it_equals_torchvision_on_8_bits_but_for_the_rounding() -> None:
    """torchvision rounds down after each of the four: a level each, more where a factor above 1 follows."""
    jitter = every_order()
    levels = (images(48) * 255).to(torch.uint8)
    expected = torch.stack([of_torchvision(image, jitter, row) for row, image in enumerate(levels)])
    away = (apply_jitter(levels / 255, jitter) * 255 - expected).abs()
    assert away.median() < 2
    assert away.quantile(0.99) < 6


def test_a_third_of_a_turn_makes_red_green() -> None:
    red = torch.tensor([0.9, 0.2, 0.2])[None, :, None, None]
    turned = hue(red, torch.full((1, 1, 1, 1), 1 / 3))
    torch.testing.assert_close(turned.flatten(), torch.tensor([0.2, 0.9, 0.2]))


def test_draws_are_distributed_as_torchvisions() -> None:
    count, strength = 4000, 0.5
    ours = random_jitter(count, strength, seeded())
    theirs = v2.ColorJitter(0.4, 0.4, 0.4, 0.1)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        drawn = [theirs.make_params([]) for _ in range(1000)]
    names = ("brightness_factor", "contrast_factor", "saturation_factor", "hue_factor")
    for values, name in zip(ours.factors, names, strict=True):
        assert stats.ks_2samp(values.numpy(), [float(params[name]) for params in drawn]).pvalue > 1e-3, name
    assert abs(ours.on.float().mean() - 0.8) < 0.02
    assert abs(ours.grey.float().mean() - 0.2) < 0.02
    orders, counts = ours.order.unique(dim=0, return_counts=True)
    assert orders.sort(1).values.eq(torch.arange(4)).all()
    assert stats.chisquare(counts.numpy()).pvalue > 1e-3
    assert len(counts) == 24


def test_strong_distortion_draws_no_negative_factor_and_at_most_half_a_turn() -> None:
    factors = random_jitter(500, 3.0, seeded()).factors
    assert factors[:3].min() >= 0
    assert factors[:3].max() > 3
    assert factors[3].abs().max() <= 0.5


@pytest.mark.parametrize("kernel", [3, 5])
def test_blur_equals_torchvision_image_by_image(kernel: int) -> None:
    sigma = 0.1 + 1.9 * torch.rand(8, generator=seeded())
    expected = [
        F.gaussian_blur(image, [kernel, kernel], [s, s])
        for image, s in zip(images(8), sigma.tolist(), strict=True)
    ]
    torch.testing.assert_close(blur(images(8), sigma, kernel), torch.stack(expected), atol=1e-5, rtol=0)


def test_a_share_of_the_images_is_blurred_each_by_its_own_width() -> None:
    one = images(6)[5:].expand(2000, -1, -1, -1)
    out = random_blur(one.clone(), TransformSettings(blur=0.25), seeded())
    changed = (out - one).abs().amax((1, 2, 3)) > 0
    assert 0.2 < changed.float().mean() < 0.27, "widths near 0.1 change nothing that a float shows"
    assert len(out[changed][:, 0, 2, 2].unique()) > 200


def test_whole_views_are_distributed_as_those_made_one_by_one() -> None:
    """Mean, spread and saturation of views of one image, by the batch and by torchvision."""
    settings = TransformSettings(colour_jitter=0.8, blur=0.5, flip=0.5, mean=(0, 0, 0), std=(1, 1, 1))
    image = (images(6)[5].mul(0.6).add(0.2) * 255).to(torch.uint8)
    image[0] //= 2
    batch = image.permute(1, 2, 0).expand(1500, -1, -1, -1)
    ours = augment(batch, settings, (6, 6), seeded())
    transform = train_transform(settings, (3, 6, 6))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(2)
        theirs = torch.stack([transform(image) for _ in range(700)])
    assert ours.min() >= 0
    assert ours.max() <= 1 + 1e-6
    for of in (
        lambda views: views.mean((1, 2, 3)),
        lambda views: views.mean(1).std((1, 2)),
        lambda views: (views.amax(1) - views.amin(1)).mean((1, 2)),
        lambda views: views[:, 0].mean((1, 2)) - views[:, 2].mean((1, 2)),
    ):
        assert stats.ks_2samp(of(ours).numpy(), of(theirs).numpy()).pvalue > 1e-3


def test_draws_of_settings_without_colours_are_the_old_ones() -> None:
    """Colours are drawn after boxes and flips: turning them on moves no crop."""
    batch = (images(8).permute(0, 2, 3, 1) * 255).to(torch.uint8)
    plain = TransformSettings(flip=0.5, mean=(0, 0, 0), std=(1, 1, 1))
    faint = plain.model_copy(update={"blur": 1e-9})
    with_it, without = (augment(batch, s, (6, 6), seeded()) for s in (faint, plain))
    torch.testing.assert_close(with_it, without, atol=1e-6, rtol=0)


def test_the_kernel_is_a_tenth_of_the_side() -> None:
    assert [kernel_size(side, side + 9) for side in (8, 32, 50, 64)] == [3, 3, 5, 7]
