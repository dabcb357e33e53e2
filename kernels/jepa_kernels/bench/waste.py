"""Ratio of computed to needed products: padding of rows, keys and head width.

Known only for our kernels (from the tiles of the table) and for peers on a padded batch (from its size);
others choose their tiles inside a library.
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
    whole = [_round_up(length, tile.queries) * _round_up(length, tile.keys) for tile in tiles]
    return sum(s * sum(parts(width, tile.whole)) / width for s, tile in zip(whole, tiles, strict=True)) / len(
        tiles
    )


def _tiles(row: Row, direction: str, length: int) -> tuple[Tiles, ...]:
    length_class = next((c for c in row.classes if c.over < length <= c.keys), None)
    if direction == "forward":
        return (length_class.forward if length_class else row.general.forward,)
    if length_class:
        return (length_class.backward,)
    return row.general.query_gradient, row.general.key_gradient


def _round_up(length: int, tile: int) -> int:
    return math.ceil(length / tile) * tile


def short_share(case: Case, dtype: torch.dtype = torch.bfloat16) -> float:
    """The share of a case's sequences that a class of the short path takes, 0 to 1."""
    bound = row_for(case.width, dtype).short_bound
    return sum(length <= bound for length in case.lengths) / max(1, len(case.lengths))
