"""Where in an older file each stretch of a newer one has its counterpart: equal or merely alike.

A model that was trained further keeps its layout, but a name that became longer moves all that follows, and hardly any
stretch stays equal byte by byte. So equal words only suggest shifts; which one a block takes is decided by how small
the differences become.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from collections.abc import Iterator

Bytes: TypeAlias = NDArray[np.uint8]

_WORD_BYTES = 8
"""Equal words of this length suggest a shift; with a tenth of all bytes changed four words in ten are still equal."""
_STRIDE = 4
"""Words are looked at where a flatbuffer may begin something."""
_INDEXED_WORDS = 4 * 1024 * 1024
"""Of the old file; of a longer one fewer are looked at, so that the index stays at 64 MB."""
_REGION_BYTES = 64 * 1024
_BLOCK_BYTES = 256
_SUGGESTED = 6
"""Shifts tried in a region, the most suggested first."""
_CHANGE_BITS = 96.0
"""What another run costs: its own 12 bytes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """A stretch of the new file, and where its counterpart begins in the old one; None for a stretch without."""

    length: int
    old_start: int | None


def align(old: Bytes, new: Bytes) -> Iterator[Run]:
    """Cut the new file into runs, in order and without gaps; each run's counterpart lies wholly inside the old file."""
    index = _Index(old)
    begin, shift, length = 0, 0, 0
    for size, chosen in _blocks(index, old, new):
        if chosen != shift and length:
            yield _run(begin, length, shift)
            begin, length = begin + length, 0
        shift, length = chosen, length + size
    if length:
        yield _run(begin, length, shift)


_NONE = 1 << 62
"""A shift that leads nowhere."""


def _run(begin: int, length: int, shift: int) -> Run:
    return Run(length=length, old_start=None if shift == _NONE else begin + shift)


def _blocks(index: _Index, old: Bytes, new: Bytes) -> Iterator[tuple[int, int]]:
    """Return size and shift of block after block."""
    shift = 0
    for start in range(0, len(new), _REGION_BYTES):
        region = new[start : start + _REGION_BYTES]
        tried = [shift, *index.suggest(region, start), 0, len(old) - len(new), _NONE]
        shifts = list(dict.fromkeys(tried))
        costs = np.stack([_costs(old, region, start, each) for each in shifts])
        for number in range(costs.shape[1]):
            here = costs[:, number]
            best = int(np.argmin(here))
            stays = shifts.index(shift) if shift in shifts else best
            if here[best] + _CHANGE_BITS < here[stays]:
                stays = best
            shift = shifts[stays]
            yield min(_BLOCK_BYTES, len(region) - number * _BLOCK_BYTES), shift


def _costs(old: Bytes, region: Bytes, start: int, shift: int) -> NDArray[np.float64]:
    """Return for each block of a region about how many bits it takes when told against the old file at a shift."""
    edges = np.arange(0, len(region), _BLOCK_BYTES)
    if shift == _NONE:
        return np.add.reduceat(_BITS[region], edges)
    costs = np.full(len(edges), np.inf)
    # Blocks that would reach over an end of the old file cannot have this shift.
    first = max(0, -(-(-start - shift) // _BLOCK_BYTES))
    room = len(old) - start - shift
    last = len(edges) if room >= len(region) else max(0, room // _BLOCK_BYTES)
    if first < last:
        begin, end = first * _BLOCK_BYTES, min(last * _BLOCK_BYTES, len(region))
        difference = region[begin:end] - old[start + shift + begin : start + shift + end]
        costs[first:last] = np.add.reduceat(_BITS[difference], edges[first:last] - begin)
    return costs


def _bits() -> NDArray[np.float64]:
    """Return about how many bits each difference takes: near zero they are common, and cheap."""
    signed = np.arange(256, dtype=np.uint8).view(np.int8).astype(np.int64)
    return np.where(signed == 0, 0.1, 2.0 + np.log2(1.0 + np.abs(signed)))


_BITS = _bits()


class _Index:
    """Where words of the old file are."""

    def __init__(self, old: Bytes) -> None:
        stride = _STRIDE
        while len(old) // stride > _INDEXED_WORDS:
            stride *= 4
        words = _words(old, stride)
        order = np.argsort(words, kind="stable")
        self._words, self._places = words[order], order * stride
        # A word that is everywhere suggests nothing: padding, zeros.
        lonely = np.ones(len(order), dtype=bool)
        same = self._words[1:] == self._words[:-1]
        lonely[1:] &= ~same
        lonely[:-1] &= ~same
        self._words, self._places = self._words[lonely], self._places[lonely]

    def suggest(self, region: Bytes, start: int) -> list[int]:
        """Return the shifts that most words of a region suggest."""
        words = _words(region, _STRIDE)
        if not len(self._words) or not len(words):
            return []
        found = np.minimum(np.searchsorted(self._words, words), len(self._words) - 1)
        equal = self._words[found] == words
        shifts = self._places[found[equal]] - (start + np.flatnonzero(equal) * _STRIDE)
        values, counts = np.unique(shifts, return_counts=True)
        return [int(shift) for shift in values[np.argsort(-counts, kind="stable")[:_SUGGESTED]]]


def _words(data: Bytes, stride: int) -> NDArray[np.uint64]:
    """Return the words that begin at every `stride`-th byte."""
    count = max(0, (len(data) - _WORD_BYTES) // stride + 1)
    raw = np.lib.stride_tricks.as_strided(data, shape=(count, _WORD_BYTES), strides=(stride, 1), writeable=False)
    return np.ascontiguousarray(raw).view(np.uint64).reshape(-1)
