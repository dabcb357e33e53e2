"""Readers of a key: from key rows back to the queries that read them, for the backward pass.

A `Layout` says for each query segment which keys it reads. The gradient of a key needs the reverse. Rows are
cut wherever a key range begins or ends, so that all keys of a piece have the same readers, and neighbouring
readers are joined: in a JEPA layout every piece is then read by one run of query rows. A program that owns
a piece can sum its gradient alone, in one order: no atomic additions, and the same bits every time.

Axes: T packed rows, S query segments, P pieces, R runs of query rows.
"""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Readers:
    """The pieces of a layout's key rows and the query rows that read them.

    pieces: int32 [P, 4], columns (start, length, first run, number of runs); they cover rows 0 to T in order
    runs: int32 [R, 2], columns (start, length) in query rows; those of one piece stand together
    longest: rows of the longest piece
    """

    pieces: Tensor
    runs: Tensor
    longest: int

    def to(self, device: torch.device | str) -> "Readers":
        """These readers with their tensors on `device`."""
        return Readers(self.pieces.to(device), self.runs.to(device), self.longest)


def readers_of(seg: Tensor, total: int) -> Readers:
    """The readers of segments int [S, 6] (see `Layout`) that cover `total` rows; worked out on the host."""
    q_start, q_len, a_start, a_len, b_start, b_len = seg.cpu().long().unbind(1)
    segment = torch.arange(len(seg)).repeat(2)
    start, length = torch.cat([a_start, b_start]), torch.cat([a_len, b_len])
    used = (length > 0) & (q_len.repeat(2) > 0)
    segment, start, end = segment[used], start[used], (start + length)[used]
    cuts = torch.cat([start, end, torch.tensor([0, total])]).unique()
    piece, segment = _pairs(torch.searchsorted(cuts, start), torch.searchsorted(cuts, end), segment)
    joined, runs = _join(piece, q_start[segment], q_len[segment])
    count = torch.bincount(joined, minlength=len(cuts) - 1)
    lengths = cuts.diff()
    pieces = torch.stack([cuts[:-1], lengths, count.cumsum(0) - count, count], dim=1)
    longest = int(lengths.max()) if len(lengths) else 0
    return Readers(pieces.int().to(seg.device), runs.int().to(seg.device), longest)


def _pairs(first: Tensor, last: Tensor, segment: Tensor) -> tuple[Tensor, Tensor]:
    """(piece, segment) for each piece from `first` to before `last` of each range, sorted."""
    spans = last - first
    before = (spans.cumsum(0) - spans).repeat_interleave(spans)
    piece = first.repeat_interleave(spans) + torch.arange(int(spans.sum())) - before
    segment = segment.repeat_interleave(spans)
    order = torch.argsort(piece * (int(segment.max()) + 1 if len(segment) else 1) + segment)
    return piece[order], segment[order]


def _join(piece: Tensor, start: Tensor, length: Tensor) -> tuple[Tensor, Tensor]:
    """(piece [R], (start, length) [R, 2]) with neighbouring query rows of one piece joined into a run."""
    end = start + length
    opens = torch.ones_like(piece, dtype=torch.bool)
    opens[1:] = (piece[1:] != piece[:-1]) | (start[1:] != end[:-1])
    closes = torch.ones_like(opens)
    closes[:-1] = opens[1:]
    return piece[opens], torch.stack([start[opens], end[closes] - start[opens]], dim=1)
