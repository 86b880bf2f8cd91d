"""Adding up what several serving processes have measured, whatever that is.

It holds for every struct in `Stats`: numbers add up, tuples of numbers are histograms of the same bins, tuples of
structs are lists of which texts and flags say what an entry is about. So that a new field there needs nothing here.
"""

from __future__ import annotations

from enum import IntEnum
from itertools import zip_longest
from typing import TYPE_CHECKING, TypeVar, cast

import msgspec

from agent.core.plan import Stats
from shared.sketches import Sketch

if TYPE_CHECKING:
    from collections.abc import Hashable, Mapping, Sequence

    from shared.ids import BootId

S = TypeVar("S", bound=msgspec.Struct)


class _Sign(IntEnum):
    PLUS = 1
    MINUS = -1


def add(parts: Sequence[Stats], *, boot_id: BootId) -> Stats:
    """Return the sum of cumulative measurements, under a name of its own; the parts are left as they are."""
    total = Stats(boot_id=boot_id)
    for part in parts:
        total = _struct(total, part, _Sign.PLUS)
    return total


def subtract(now: Stats, earlier: Stats) -> Stats:
    """Return what was counted since `earlier`, a previous state of the same; what was forgotten meanwhile is from zero.

    A counter that went back was forgotten and began again; it is never less than nothing.
    """
    return _struct(now, earlier, _Sign.MINUS)


def _struct(left: S, right: S, sign: _Sign) -> S:
    names = left.__struct_fields__
    return type(left)(**{name: _value(getattr(left, name), getattr(right, name), sign) for name in names})


def _value(left: object, right: object, sign: _Sign) -> object:
    match left, right:
        case ((bool() | str() | None), _):
            # What the entry is about: the same on both sides.
            return left
        case ((int() | float()), (int() | float())):
            return max(left + sign * right, 0)
        case Sketch(), Sketch():
            return _sketch(left, right, sign)
        case dict(), dict():
            return _mapping(left, right, sign)
        case tuple(), tuple() if _is_list((*left, *right)):
            return tuple(_mapping(_by_subject(left), _by_subject(right), sign).values())
        case tuple(), tuple():
            return tuple(_value(ours, theirs, sign) for ours, theirs in zip_longest(left, right, fillvalue=0))
        case msgspec.Struct(), msgspec.Struct():
            return _struct(left, right, sign)
        case _:
            raise TypeError(f"{type(left).__name__} and {type(right).__name__} do not add up")


def _sketch(left: Sketch, right: Sketch, sign: _Sign) -> Sketch:
    if sign is _Sign.MINUS:
        return left.subtract(right)
    total = left.copy()
    total.merge(right)
    return total


def _mapping(left: Mapping[Hashable, object], right: Mapping[Hashable, object], sign: _Sign) -> dict[Hashable, object]:
    joined = {key: _value(value, right[key], sign) if key in right else value for key, value in left.items()}
    if sign is _Sign.PLUS:
        joined |= {key: value for key, value in right.items() if key not in left}
    return joined


def _is_list(entries: Sequence[object]) -> bool:
    return any(isinstance(each, msgspec.Struct) for each in entries)


def _by_subject(entries: Sequence[object]) -> dict[Hashable, object]:
    structs = cast("Sequence[msgspec.Struct]", entries)
    return {_subject(each): each for each in structs}


def _subject(entry: msgspec.Struct) -> Hashable:
    values = (getattr(entry, name) for name in entry.__struct_fields__)
    return tuple(value for value in values if isinstance(value, bool | str))
