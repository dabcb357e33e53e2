"""Ragged segments as a few rectangular batches: the index tensors that padded attention gathers through.

Padding every segment to the longest wastes work (JEPA contexts of one batch differ two- or threefold), and
one batch a length wastes calls. Here segments are sorted by length and cut into groups; in a group the
longest segment is at most `growth` times the shortest, or SHORT rows. A place that pads repeats the last row
of its segment: as a key it is masked by a large negative bias, as a query its output is dropped.

Axes: T packed rows, P rows of all padded batches end to end, G segments in a group.
"""

from collections.abc import Callable
from dataclasses import dataclass
from math import inf

import torch
from torch import Tensor

from jepa_kernels.layout import Layout

Attend = Callable[[Tensor, Tensor, Tensor, Tensor | None], Tensor]
CPU_GROWTH = 1.25  # on CPU; measured: 1 costs calls, no bound costs padding, 1.1 to 1.4 are alike
SHORT = 16  # rows: up to here segments share a group, for oneDNN compiles bf16 products anew for each shape
MASKED = -1e30  # finite: a batch of masked keys alone gives no NaN


@dataclass(frozen=True)
class Group:
    """One padded batch: `count` segments of `queries` rows that read `keys` rows.

    bias: fp32 [G, 1, 1, keys], 0 or MASKED, to be added to scores; None where no segment is padded
    """

    count: int
    queries: int
    keys: int
    bias: Tensor | None


@dataclass(frozen=True)
class Padding:
    """All groups of a layout and the way between packed and padded rows.

    query_rows: int64 [P], the packed row at each padded place; key_rows likewise for keys
    places: int64 [T], the padded place of each packed row (0 for a row in no group)
    """

    groups: tuple[Group, ...]
    query_rows: Tensor
    key_rows: Tensor
    places: Tensor


def padding(layout: Layout, growth: float = inf) -> Padding:
    """The padding of `layout`, built once per layout and growth; `inf` gives a single group.

    Reads the segments on the host: on an accelerator that is one synchronisation a layout.
    """
    return layout.cache(("padding", growth), lambda: _build(layout, growth))


def attend_in_groups(qkv: Tensor, pad: Padding, attend: Attend) -> Tensor:
    """[T, 3, H, D] -> [T, H, D]: gathers each group's queries and keys, attends, gathers the rows back.

    attend: (q [G, H, queries, D], k and v [G, H, keys, D], bias as in `Group`) -> [G, H, queries, D]
    A key row that several segments read gets the sum of their gradients.
    """
    if not pad.groups:
        return qkv[:, 0]
    queries = qkv[:, 0].index_select(0, pad.query_rows).split([g.count * g.queries for g in pad.groups])
    keys = qkv[:, 1:].index_select(0, pad.key_rows).split([g.count * g.keys for g in pad.groups])
    outs = []
    for group, rows, pairs in zip(pad.groups, queries, keys, strict=True):
        q = rows.unflatten(0, (group.count, group.queries)).transpose(1, 2)
        k, v = pairs.unflatten(0, (group.count, group.keys)).permute(2, 0, 3, 1, 4).unbind(0)
        outs.append(attend(q, k, v, group.bias).transpose(1, 2).flatten(0, 1))
    return torch.cat(outs).index_select(0, pad.places)


def _build(layout: Layout, growth: float) -> Padding:
    seg = layout.seg.cpu().long()
    parts = [_lay_out(seg[members]) for members in _cut(seg, growth)]
    device = layout.device
    query_rows = _cat([p[1].reshape(-1) for p in parts], torch.int64)
    real = _cat([p[2].reshape(-1) for p in parts], torch.bool)
    places = torch.zeros(layout.total, dtype=torch.int64)
    places[query_rows[real]] = real.nonzero()[:, 0]
    key_rows = query_rows if layout.plain else _cat([p[3].reshape(-1) for p in parts], torch.int64)
    groups = tuple(_move(p[0], device) for p in parts)
    return Padding(groups, query_rows.to(device), key_rows.to(device), places.to(device))


def _cut(seg: Tensor, growth: float) -> list[Tensor]:
    """Indices of the segments of each group; segments without queries or keys are in none.

    Segments that read a second range are kept apart: their queries are far fewer than their keys.
    """
    keys, second = seg[:, 3] + seg[:, 5], (seg[:, 5] > 0).long()
    used = ((seg[:, 1] > 0) & (keys > 0)).nonzero()[:, 0]
    order = used[torch.argsort(second[used] * 2**32 + keys[used], stable=True)]
    groups: list[list[int]] = []
    limit, kind = -1.0, -1
    for index, length, two in zip(order.tolist(), keys[order].tolist(), second[order].tolist(), strict=True):
        if not groups or length > limit or (two != kind and growth != inf):
            groups.append([])
            limit, kind = max(length * growth, SHORT), two
        groups[-1].append(index)
    return [torch.tensor(group) for group in groups]


def _lay_out(seg: Tensor) -> tuple[Group, Tensor, Tensor, Tensor]:
    """Group, query rows [G, queries], which of them are no padding, key rows [G, keys]."""
    q_start, q_len, a_start, a_len, b_start, b_len = (column[:, None] for column in seg.unbind(1))
    n_keys = a_len + b_len
    q_at, k_at = torch.arange(int(q_len.max()))[None], torch.arange(int(n_keys.max()))[None]
    query_rows = q_start + q_at.minimum(q_len - 1)
    k_real = k_at < n_keys
    at = k_at.minimum(n_keys - 1)
    key_rows = torch.where(at < a_len, a_start + at, b_start + at - a_len)
    bias = None if bool(k_real.all()) else torch.where(k_real, 0.0, MASKED)[:, None, None, :]
    group = Group(len(seg), query_rows.shape[1], key_rows.shape[1], bias)
    return group, query_rows, q_at < q_len, key_rows


def _cat(parts: list[Tensor], dtype: torch.dtype) -> Tensor:
    return torch.cat(parts) if parts else torch.empty(0, dtype=dtype)


def _move(group: Group, device: torch.device) -> Group:
    bias = None if group.bias is None else group.bias.to(device)
    return Group(group.count, group.queries, group.keys, bias)
