"""Measures of what predictions keep, each a value an image, so that every mean has a standard error.

    denoising   error E of x̂ at fixed times; no sampling, the least noisy
    samples     error of the mean of K samples, of the best of K, and their spread over the noise
    retrieval   whether the decoded block is nearer to the true one than to those of other images at its place
    cosine      of the composite's features to the target's, minus the mean over images at each place

Axes: B images, Q sets, S packed hidden patches, X pixels of a patch, D width of features, K samples, T times,
N tokens of the grid.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from jepa_core.jepa import JEPA
from jepa_core.types import Batch, MaskPlan
from jepa_decoder.conditions import Decoded
from jepa_decoder.hidden import HiddenSets, image_view, paste

TIMES = tuple(number / 20 for number in range(17))
"""t of the denoising errors: 0, .05, … .8."""
TIE = 1e-6
"""Distances that differ by this share of the least are equal (a few float32 roundings)."""


def image_means(values: Tensor, owner: Tensor, count: int) -> Tensor:
    """float [..., B]: the mean of values [..., S] over those of each image; `owner` int64 [S], `count` B."""
    total = values.new_zeros(*values.shape[:-1], count).index_add(-1, owner, values)
    return total / torch.bincount(owner, minlength=count).clamp(min=1)


def sample_scores(decoded: Decoded, sets: HiddenSets) -> dict[str, Tensor]:
    """float [B] each: `mean`, the error of the mean of K samples; `best`, the least of a set's; `spread`.

    Errors are mean squares over pixels, in units of the encoder's normalised pixels; the spread is the
    unbiased variance of a pixel over the samples.
    """
    owner, samples, count = sets.image_of_patch, decoded.samples, sets.count
    mean = (samples.mean(0) - sets.pixels).square().mean(1)
    of_sets = image_means((samples - sets.pixels).square().mean(2), sets.at.segments, sets.at.batch_size)
    spread = samples.var(0).mean(1)
    return {
        "mean": image_means(mean, owner, count),
        "best": image_means(of_sets.min(0).values, sets.images, count),
        "spread": image_means(spread, owner, count),
    }


def retrieval(guess: Tensor, candidates: Tensor, sets: HiddenSets, channels: int | None = None) -> Tensor:
    """float [B]: the share of an image's sets for which its own block is the nearest of all B at its place.

    `guess` [S, X]: decoded patches, or features; `candidates` [B, N, X]: what all images have at every place.
    With `channels` the mean colour of each block is taken away first, so that layout alone counts. Blocks
    that are equally near share the point: guesses without content score at chance, 1 / B.
    """
    rows = torch.arange(len(guess), device=guess.device).split(sets.at.lengths.tolist())
    points = []
    for owner, own in zip(sets.images.tolist(), rows, strict=True):
        blocks, block = candidates[:, sets.at.index[own]], guess[own]
        if channels is not None:
            blocks, block = remove_tone(blocks, channels), remove_tone(block, channels)
        distance = (blocks - block).square().flatten(1).sum(1)
        nearest = distance <= distance.min() * (1 + TIE)
        points.append(nearest[owner] / nearest.sum())
    return image_means(torch.stack(points), sets.images, sets.count)


def remove_tone(block: Tensor, channels: int) -> Tensor:
    """A block's patches [..., K, X] minus the block's mean colour; X is channel after channel."""
    split = block.unflatten(-1, (channels, -1))
    return (split - split.mean((-3, -1), keepdim=True)).flatten(-2)


def composite_cosine(
    model: JEPA, batch: Batch, plan: MaskPlan, sets: HiddenSets, decoded: Tensor, truth: Tensor
) -> Tensor:
    """float [B]: cosine of the target encoder's features of composites to those of the image.

    A composite is the image with one set's patches replaced by decoded ones [S, X]; features are compared at
    these patches, after the mean over images at each place is taken away. `truth` [B, N, D] are the image's,
    normalised as the objective does it.
    """
    views, centre, owner = image_view(model, batch), truth.mean(0), sets.image_of_patch
    cosines = torch.empty(sets.at.total, device=truth.device)
    for rows in sets.rows_of_pairs():
        features = target_features(model, paste(views, decoded, sets, [rows]), plan)
        place = sets.at.index[rows]
        made, exact = (whole[owner[rows], place] - centre[place] for whole in (features, truth))
        cosines[rows] = F.cosine_similarity(made, exact, dim=1)
    return image_means(cosines, owner, sets.count)


@torch.no_grad()
def target_features(model: JEPA, views: Tensor, plan: MaskPlan) -> Tensor:
    """float [B, N, D]: the target encoder's features of whole images, normalised as the objective does it."""
    return model.normalise(model.encode_target(views, plan)).dense().float()


def share_kept(errors: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
    """R = (E_nothing - E_predicted) / (E_nothing - E_target) at each time [T], and its standard error [T].

    `errors` by condition, float [T, n images]. The error is that of a ratio of means, to first order:
    the spread of (E_nothing - E_predicted) - R (E_nothing - E_target) over images. 0: predictions help no
    more than nothing; 1: as much as the targets.
    """
    gain = errors["nothing"] - errors["predicted"]
    most = errors["nothing"] - errors["target"]
    share = gain.mean(1) / most.mean(1)
    spread = (gain - share[:, None] * most).std(1) / gain.shape[1] ** 0.5
    return share, spread / most.mean(1).abs()


def information(errors: Tensor, nothing: Tensor, pixels: int, times: Sequence[float] = TIMES) -> Tensor:
    """float [n]: an estimate of the nats a hidden patch's features tell of its `pixels`, for each image.

    I-MMSE (Guo, Shamai & Verdu 2005): ½ ∫ (E_nothing - E) dγ over the signal-to-noise ratio
    γ = (t / (1 - t))², with E [T, n] summed over a patch's pixels; by trapezoids between the times, and cut
    off at the last of them. With learned networks it is an estimate and no bound.
    """
    t = torch.tensor(times, dtype=errors.dtype, device=errors.device)
    return 0.5 * pixels * torch.trapezoid(nothing - errors, (t / (1 - t)).square(), dim=0)


def mean_and_error(values: Tensor) -> tuple[float, float]:
    """The mean of values [n], one an image, and its standard error."""
    return values.mean().item(), (values.std() / len(values) ** 0.5).item()
