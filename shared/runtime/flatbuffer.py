"""Reads FlatBuffers without a schema compiler, every offset checked against the end.

The generated reader for `.tflite` costs 49 MB of memory to import, which a device does not have to spare, and follows
whatever offsets a file names. Source: https://flatbuffers.dev/internals.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field

from shared.errors import ModelLoadError

_NUMBERS = {kind: struct.Struct(f"<{kind}") for kind in "bBhHiIqQf"}
_UOFFSET = 4
_MOST_LETTERS = 2**16
_MOST_READ = 4_000_000
"""Items of vectors, of one file: a few seconds of a slow device. A model of 1,000 layers has some 100,000."""


class Allowance:
    """How much may still be read of one file: vectors that share their bytes make a small file endless."""

    def __init__(self) -> None:
        self._left = _MOST_READ

    def spend(self, items: int) -> None:
        """Count items read. Raises ModelLoadError when there are too many."""
        self._left -= items
        if self._left < 0:
            raise ModelLoadError(f"the model is malformed: its graph has more than {_MOST_READ} numbers")


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """A table in `data` at `position`. Fields are named by their place in the schema, from 0."""

    data: bytes
    position: int
    allowance: Allowance = field(default_factory=Allowance, compare=False)

    def number(self, field: int, kind: str, default: int = 0) -> int:
        """Return an integer field; `kind` is its `struct` letter."""
        place = self._place(field)
        return default if place is None else int(_read(self.data, place, kind))

    def table(self, field: int) -> Table | None:
        """Return a field that is a table."""
        place = self._place(field)
        return None if place is None else _follow(self.data, place, self.allowance)

    def tables(self, field: int) -> list[Table]:
        """Return a field that is a vector of tables; empty when it is absent."""
        start, length = self.vector(field, _UOFFSET)
        self.allowance.spend(length)
        return [_follow(self.data, start + index * _UOFFSET, self.allowance) for index in range(length)]

    def numbers(self, field: int, kind: str) -> tuple[float, ...]:
        """Return a field that is a vector of numbers; empty when it is absent."""
        start, length = self.vector(field, _NUMBERS[kind].size)
        self.allowance.spend(length)
        return struct.unpack_from(f"<{length}{kind}", self.data, start)

    def integers(self, field: int, kind: str = "i") -> tuple[int, ...]:
        """Return a field that is a vector of integers; empty when it is absent."""
        return tuple(int(number) for number in self.numbers(field, kind))

    def text(self, field: int) -> str:
        """Return a field that is a string; "" when it is absent.

        Raises:
            ModelLoadError: it is no UTF-8, of which the bindings of the runtime die.
        """
        start, length = self.vector(field, 1)
        if length > _MOST_LETTERS:
            raise ModelLoadError(f"the model is malformed: a name at byte {start} has {length} letters")
        try:
            return str(self.data[start : start + length], "utf-8")
        except UnicodeDecodeError as exc:
            raise ModelLoadError(f"the model is malformed: a name at byte {start} is no UTF-8") from exc

    def vector(self, field: int, item_bytes: int) -> tuple[int, int]:
        """Return where the items of a vector begin, and how many there are."""
        place = self._place(field)
        if place is None:
            return 0, 0
        start = place + int(_read(self.data, place, "I"))
        length = int(_read(self.data, start, "I"))
        start += _UOFFSET
        _check(self.data, start, length * item_bytes)
        return start, length

    def has(self, field: int) -> bool:
        """Whether the field is present."""
        return self._place(field) is not None

    def _place(self, field: int) -> int | None:
        # Signed and subtracted: tables that look alike share one vtable, which may lie on either side.
        vtable = self.position - int(_read(self.data, self.position, "i"))
        entry = 4 + 2 * field
        # A field newer than the writer of the file lies behind the end of its vtable: it is absent, not wrong.
        if entry + 2 > _read(self.data, vtable, "H"):
            return None
        offset = int(_read(self.data, vtable + entry, "H"))
        return self.position + offset if offset else None


def root(data: bytes, identifier: bytes) -> Table:
    """Return the root table of a buffer with the four-byte `identifier`.

    Raises:
        ModelLoadError: another kind of file, or an offset that leads out of it; so do all methods of Table.
    """
    if data[4:8] != identifier:
        raise ModelLoadError(f"the file is not of kind {identifier.decode()}, as TensorFlow Lite's are")
    return _follow(data, 0, Allowance())


def _follow(data: bytes, place: int, allowance: Allowance) -> Table:
    return Table(data=data, position=place + int(_read(data, place, "I")), allowance=allowance)


def _read(data: bytes, place: int, kind: str) -> float:
    number = _NUMBERS[kind]
    _check(data, place, number.size)
    value: float = number.unpack_from(data, place)[0]
    return value


def _check(data: bytes, place: int, size: int) -> None:
    # A negative place would be read from the end.
    if place < 0 or place + size > len(data):
        raise ModelLoadError(f"an offset leads out of the file: {place}+{size} of {len(data)} bytes")
