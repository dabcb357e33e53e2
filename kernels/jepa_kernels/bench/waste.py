"""What an implementation computes over what a case needs: rows and keys that are padding, and padded heads.

Only where it is known from the code: ours from the tiles of its table, those that are given a padded batch
from its size. Others choose their tiles inside a library.
"""

import math

import torch

from jepa_kernels.bench.shapes import Case
from jepa_kernels.triton_attention_table import Row, Tiles, parts, row_for

PADDED = ("explicit softmax, padded", "SDPA padded")


def computed_over_useful(impl: str, direction: str, case: Case, dtype: torch.dtype) -> float | None:
    """Products computed over products needed; None where the tiles are not known."""
    useful = sum(length**2 for length in case.lengths)
    if not useful:
        return None
    if impl.startswith(PADDED):
        return len(case.lengths) * max(case.lengths) ** 2 / useful
    if impl == "ours: triton":
        row = row_for(case.width, dtype)
        return sum(_products(row, direction, length, case.width) for length in case.lengths) / useful
    return None


def _products(row: Row, direction: str, length: int, width: int) -> float:
    """Scores of one sequence, each counted as often as its head is wider than the case's."""
    tiles = _tiles(row, direction, length)
    whole = [_whole(length, one.queries) * _whole(length, one.keys) for one in tiles]
    return sum(s * sum(parts(width, one.whole)) / width for s, one in zip(whole, tiles, strict=True)) / len(
        tiles
    )


def _tiles(row: Row, direction: str, length: int) -> tuple[Tiles, ...]:
    found = next((one for one in row.classes if one.over < length <= one.keys), None)
    if direction == "forward":
        return (found.forward if found else row.general.forward,)
    return (found.backward,) if found else (row.general.query_gradient, row.general.key_gradient)


def _whole(length: int, tile: int) -> int:
    return math.ceil(length / tile) * tile


def short_share(case: Case, dtype: torch.dtype = torch.bfloat16) -> float:
    """The share of a case's sequences that a class of the short path takes, 0 to 1."""
    bound = row_for(case.width, dtype).short_up_to
    return sum(length <= bound for length in case.lengths) / max(1, len(case.lengths))
