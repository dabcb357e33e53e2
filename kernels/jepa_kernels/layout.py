"""Which rows of a packed tensor attend to which: the `Layout` that `block_attention` reads.

A batch of ragged sequences is one tensor [T, ...] with the sequences end to end. A layout cuts its rows into
query segments; each reads one or two contiguous key ranges, and every query of a segment reads all of them:

    plain sequences    every segment reads itself
    JEPA predictor     context reads context; target i reads context, then itself   (mode "shared")

What is unusual: lengths that the host needs (T, the longest segment) are plain ints found once, so that
choosing a path costs no device synchronisation; index tensors derived for padding are cached on the layout,
so that all layers of a network share them. Sequences of one length L are `uniform`: nothing is ever padded.

Axes: T packed rows, S segments, B samples, M target sets of a sample.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, TypeVar
from weakref import ref

import torch
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

from jepa_kernels.predictor import check_vector, shared_readers, shared_segments, shorten, target_table
from jepa_kernels.readers import Readers, readers_of

Value = TypeVar("Value")
_BY_SEGMENTS: WeakTensorKeyDictionary = WeakTensorKeyDictionary()  # seg -> weak reference to its layout
SHORTEST = 2  # `min_len` where the host has not read the lengths
SEG_COLUMNS = ("q_start", "q_len", "a_start", "a_len", "b_start", "b_len")


@dataclass(frozen=True, eq=False)
class Layout:
    """Query segments of a packed tensor and the key ranges they read. Use a constructor below.

    seg: int32 [S, 6], columns `SEG_COLUMNS`; query segments stand in packed order and cover each row once
    total: T, rows of the packed tensor
    max_len: the longest list of keys that a segment reads, in rows (an upper bound is allowed)
    min_len: no plain sequence that has rows is shorter; at least SHORTEST unless all have one length, so that
        compiled graphs, which take 0 and 1 for constants, have one number fewer to be specialised on
    max_queries: the longest query segment, in rows (an upper bound is allowed)
    uniform: L where all sequences are plain and have L rows, so that T = S * L; else None
    plain: every segment reads exactly itself
    has_unread: some query has no key at all; its output is zero
    readers: which queries read each key; None where `plain`
    """

    seg: Tensor
    total: int
    max_len: int
    max_queries: int
    uniform: int | None = None
    plain: bool = False
    has_unread: bool = False
    readers: Readers | None = None
    min_len: int = SHORTEST
    _cache: dict[object, Any] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        if not torch.compiler.is_compiling():
            _BY_SEGMENTS[self.seg] = ref(self)

    @classmethod
    def packed(
        cls,
        offsets: Tensor,
        max_len: int | None = None,
        uniform: int | None = None,
        *,
        total: int | None = None,
    ) -> "Layout":
        """Plain sequences: sequence b is rows offsets[b] to offsets[b + 1], and reads itself.

        offsets: integers [B + 1], from 0, never falling; on the device of the data
        max_len, uniform, total: what the caller already knows. Offsets on an accelerator are read back to
            the host (a synchronisation) only for what is not given: max_len, and total (not with uniform).
        Raises ValueError for offsets of another rank or type, or that do not rise from 0 (checked where
            the host reads them), and where they contradict total or uniform.
        """
        check_vector(offsets, "offsets")
        if len(offsets) == 0:
            raise ValueError("offsets is empty; expected [B + 1] integers that start at 0")
        batch = len(offsets) - 1
        if uniform is not None:
            return cls._of_one_length(offsets, batch, uniform, total)
        shortest = SHORTEST
        if max_len is None or total is None or _is_readable(offsets):
            lengths = _check_offsets(offsets)
            shortest, longest = _shortest_length(lengths), int(lengths.max()) if len(lengths) else 0
            max_len = _check_bound("max_len", max_len, longest)
            total = _check_total("total", total, int(lengths.sum()))
        return cls(_plain_segments(offsets), total, max_len, max_len, plain=True, min_len=shortest)

    @classmethod
    def _of_one_length(cls, offsets: Tensor, batch: int, length: int, total: int | None) -> "Layout":
        if _is_readable(offsets):
            _check_offsets(offsets)
            if bool((offsets.diff() != length).any()):
                raise ValueError(f"uniform={length}, but sequence lengths are {shorten(offsets.diff())}")
        total = _check_total("total", total, batch * length)
        return cls(_plain_segments(offsets), total, length, length, length, True, min_len=length)

    @classmethod
    def dense(cls, batch: int, length: int, device: torch.device | str = "cpu") -> "Layout":
        """`batch` plain sequences of `length` rows each. Raises ValueError for a negative number."""
        if batch < 0 or length < 0:
            raise ValueError(f"batch and length must not be negative; got batch={batch}, length={length}")
        offsets = torch.arange(batch + 1, dtype=torch.int32, device=device) * length
        return cls(_plain_segments(offsets), batch * length, length, length, length, True, min_len=length)

    @classmethod
    def jepa(
        cls,
        context_lengths: Tensor,
        target_lengths: Tensor | Sequence[Tensor],
        mode: Literal["repeat", "shared"] = "repeat",
        *,
        longest: tuple[int, int] | None = None,
        total: int | None = None,
    ) -> "Layout":
        """The predictor's sequences, from the context's and the targets' lengths.

        context_lengths: integers [B]; target_lengths: integers [M, B], or M tensors [B]
        mode "repeat" (I-JEPA): M * B plain sequences [context_b, target_jb], all samples of target 0 first.
        mode "shared": a sample is packed once as [context, target 1 .. target M]; the context reads itself,
            target i reads the context and itself. Fewer rows, and a different model: in "repeat" the
            context reads the target's tokens too.
        longest, total: the longest context and target (upper bounds are allowed), and T, if the caller knows
            them. Lengths on an accelerator are read back to the host only where one is not given.
        Raises ValueError for another mode, negative lengths or shapes that disagree.
        """
        if mode not in ("repeat", "shared"):
            raise ValueError(f"unknown mode {mode!r} for Layout.jepa; known: repeat, shared")
        trusted = longest is not None and total is not None and not _is_readable(context_lengths)
        targets = target_table(context_lengths, target_lengths, trusted)
        if mode == "repeat":
            bound = sum(longest) if longest is not None else None
            return cls.packed(_offsets((context_lengths + targets).reshape(-1)), max_len=bound, total=total)
        seg = shared_segments(context_lengths, targets).to(torch.int32)
        if not trusted or longest is None or total is None:
            layout = cls.from_segments(seg)
            _check_total("total", total, layout.total)
            return layout
        queries = max(longest)
        return cls(seg, total, sum(longest), queries, readers=shared_readers(seg, len(targets) + 1, queries))

    @classmethod
    def from_segments(cls, seg: Tensor) -> "Layout":
        """Any layout, from its segments: integers [S, 6] with columns `SEG_COLUMNS`; reads seg on the host.

        Raises ValueError where queries do not cover rows 0 to T in order, or keys lie outside or come twice.
        """
        _check_segments(seg)
        q_start, q_len, a_start, a_len, _, b_len = seg.cpu().long().unbind(1)
        total, keys = int(q_len.sum()), a_len + b_len
        alone = (b_len == 0) & (a_start == q_start) & (a_len == q_len)
        lengths = set(q_len.tolist()) if bool(alone.all()) else set()
        return cls(
            seg.to(torch.int32),
            total,
            max_len=int(keys.max()) if len(keys) else 0,
            max_queries=int(q_len.max()) if len(keys) else 0,
            uniform=lengths.pop() if len(lengths) == 1 else None,
            plain=bool(alone.all()),
            has_unread=bool(((keys == 0) & (q_len > 0)).any()),
            readers=None if bool(alone.all()) else readers_of(seg, total),
            min_len=_shortest_length(q_len),
        )

    @property
    def device(self) -> torch.device:
        """The device of `seg`; qkv must be on the same one."""
        return self.seg.device

    @property
    def segments(self) -> int:
        """S, the number of query segments."""
        return self.seg.shape[0]

    def to(self, device: torch.device | str) -> "Layout":
        """The same layout with its tensors on `device` (itself where they are there already)."""
        seg = self.seg.to(device)
        if seg is self.seg:
            return self
        return replace(self, seg=seg, readers=self.readers.to(device) if self.readers else None)

    def cache(self, key: object, build: Callable[[], Value]) -> Value:
        """The value under `key`, built on first use and shared by all layers that use the layout."""
        if key not in self._cache:
            self._cache[key] = build()
        return self._cache[key]

    @property
    def query_offsets(self) -> Tensor:
        """int32 [S + 1]: segment s's queries are rows offsets[s] to offsets[s + 1]."""
        return self.cache("query_offsets", lambda: _offsets(self.seg[:, 1]))

    @property
    def key_offsets(self) -> Tensor:
        """int32 [S + 1]: bounds of segment s in the list of all segments' keys, end to end."""
        return self.cache("key_offsets", lambda: _offsets(self.seg[:, 3] + self.seg[:, 5]))

    @property
    def unread_rows(self) -> Tensor:
        """bool [T]: the rows whose query has no key."""
        return self.cache("unread_rows", self._find_unread)

    def _find_unread(self) -> Tensor:
        no_keys = (self.seg[:, 3] + self.seg[:, 5]) == 0
        return no_keys.repeat_interleave(self.seg[:, 1], output_size=self.total)


def layout_of(seg: Tensor) -> Layout:
    """The layout whose `seg` is this very tensor, with all that is cached on it; or a new layout."""
    layout = _BY_SEGMENTS[seg]() if seg in _BY_SEGMENTS else None
    return Layout.from_segments(seg) if layout is None else layout


def _is_readable(offsets: Tensor) -> bool:
    """Whether the host can read the values without a synchronisation or a graph break."""
    return offsets.device.type == "cpu" and not torch.compiler.is_compiling()


def _offsets(lengths: Tensor) -> Tensor:
    out = torch.zeros(len(lengths) + 1, dtype=torch.int32, device=lengths.device)
    torch.cumsum(lengths, 0, dtype=torch.int32, out=out[1:])
    return out


def _plain_segments(offsets: Tensor) -> Tensor:
    start, length = offsets[:-1], offsets.diff()
    none = torch.zeros_like(start)
    return torch.stack([start, length, start, length, none, none], dim=1).to(torch.int32)


def _check_offsets(offsets: Tensor) -> Tensor:
    """Lengths, on the host, from offsets that start at 0 and never fall."""
    host = offsets.cpu()
    lengths = host.diff()
    if int(host[0]) != 0 or (len(lengths) and int(lengths.min()) < 0):
        raise ValueError(f"offsets must start at 0 and never fall; got {shorten(offsets)}")
    return lengths


def _shortest_length(lengths: Tensor) -> int:
    """The shortest length above 0, at least SHORTEST."""
    some = lengths[lengths > 0]
    return max(SHORTEST, int(some.min()) if len(some) else 0)


def _check_bound(name: str, claim: int | None, longest: int) -> int:
    if claim is not None and claim < longest:
        raise ValueError(f"{name}={claim}, but the longest sequence has {longest} rows")
    return longest if claim is None else claim


def _check_total(name: str, claim: int | None, actual: int) -> int:
    if claim is not None and claim != actual:
        raise ValueError(f"{name}={claim}, but the sequences hold {actual} rows")
    return actual


def _check_segments(seg: Tensor) -> None:
    if seg.ndim != 2 or seg.shape[1] != 6 or seg.is_floating_point():
        raise ValueError(f"seg must be integers [S, 6]: {SEG_COLUMNS}; got {list(seg.shape)} of {seg.dtype}")
    q_start, q_len, a_start, a_len, b_start, b_len = seg.cpu().long().unbind(1)
    if len(seg) and int(torch.cat([q_len, a_len, b_len]).min()) < 0:
        raise ValueError("seg has a negative length")
    if not torch.equal(q_start, q_len.cumsum(0) - q_len):
        raise ValueError(
            f"query segments must cover rows in order, from row 0; q_start is {shorten(q_start)}"
        )
    total = int(q_len.sum())
    for name, start, length in (("a", a_start, a_len), ("b", b_start, b_len)):
        outside = (length > 0) & ((start < 0) | (start + length > total))
        if bool(outside.any()):
            at = int(outside.nonzero()[0, 0])
            key_rows = f"{int(start[at])} to {int(start[at] + length[at])}"
            raise ValueError(
                f"segment {at} reads key rows {key_rows} (range {name}) of a tensor of {total} rows"
            )
    twice = (a_len > 0) & (b_len > 0) & (a_start < b_start + b_len) & (b_start < a_start + a_len)
    if bool(twice.any()):
        raise ValueError(f"segment {int(twice.nonzero()[0, 0])} reads key rows twice: ranges a and b overlap")
