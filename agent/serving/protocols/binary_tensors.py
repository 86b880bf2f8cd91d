"""Tensors as raw bytes behind the JSON of a request or an answer: the binary tensor data extension.

A header says how many bytes of the body are JSON; the tensors' bytes follow in the order in which the JSON names them.
Numbers are little-endian in row order; each text is preceded by its length in four bytes.
Source: triton-inference-server/server, docs/protocol/extension_binary_data.md
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from agent.serving.requests import MAX_ITEMS
from shared.errors import InvalidInputError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    Tensor = NDArray[Any]

MAX_RANK: Final = 8
"""Axes of a tensor: no model has more of them."""

MAX_ELEMENTS: Final = 2**31 - 1
"""Elements of a tensor: more than any body holds, and than numpy can count wrong."""

_LENGTH = struct.Struct("<I")
_MAX_LENGTH_DIGITS: Final = 20
LENGTH_HEADER = "Inference-Header-Content-Length"
"""Of request and answer: bytes of JSON at the start of the body."""


def split_body(body: bytes, header: str | None) -> tuple[bytes, memoryview]:
    """Return the JSON and what follows it. Without the header all of it is JSON. Raises InvalidInputError."""
    if header is None:
        return body, memoryview(b"")
    # Not int(): it would take "+1", "1_0" and digits of other scripts.
    is_number = header.isascii() and header.isdigit() and len(header) <= _MAX_LENGTH_DIGITS
    if not is_number or int(header) > len(body):
        problem = f"{header[:40]!r} is no length within a body of {len(body)} bytes"
        raise InvalidInputError(field=LENGTH_HEADER, problem=problem)
    length = int(header)
    return body[:length], memoryview(body)[length:]


def take(rest: memoryview, size_bytes: int, field: str) -> tuple[memoryview, memoryview]:
    """Return the next tensor's bytes and what follows them. Raises InvalidInputError when there are not so many."""
    if not 0 <= size_bytes <= len(rest):
        problem = f"claims {size_bytes} bytes, and {len(rest)} are left of the body"
        raise InvalidInputError(field=f"{field}.parameters.binary_data_size", problem=problem)
    return rest[:size_bytes], rest[size_bytes:]


def read_numbers(raw: memoryview, dtype: np.dtype[Any], shape: Sequence[int], field: str) -> Tensor:
    """Return a tensor over `raw`, without a copy. Raises InvalidInputError when bytes and shape do not agree."""
    wanted = dtype.itemsize * elements_of(shape, field)
    if wanted != len(raw):
        problem = f"shape {list(shape)} of {dtype.name} has {wanted} bytes, the body holds {len(raw)}"
        raise InvalidInputError(field=field, problem=problem)
    if dtype.kind == "b" and len(raw) and max(raw) > 1:
        raise InvalidInputError(field=field, problem="holds bytes that are neither true (1) nor false (0)")
    array: Tensor = np.frombuffer(raw, dtype=dtype.newbyteorder("<")).reshape(shape)
    if dtype.kind == "f" and not np.isfinite(array).all():
        # The model would answer NaN and be blamed for it: enough such requests would revert a good release.
        raise InvalidInputError(field=field, problem="holds NaN or infinity")
    return array


def read_texts(raw: memoryview, shape: Sequence[int], field: str) -> list[bytes]:
    """Return texts, each of which is preceded by its length. Raises InvalidInputError when bytes and shape disagree."""
    texts: list[bytes] = []
    if elements_of(shape, field) > MAX_ITEMS:
        problem = f"shape {list(shape)} has too many elements for texts"
        raise InvalidInputError(field=field, problem=problem, remedy=f"send 1 to {MAX_ITEMS}")
    at = 0
    while at < len(raw) and len(texts) <= MAX_ITEMS:
        if at + _LENGTH.size > len(raw):
            raise InvalidInputError(field=field, problem="ends within the length of a text")
        (size,) = _LENGTH.unpack_from(raw, at)
        at += _LENGTH.size
        if size > len(raw) - at:
            raise InvalidInputError(
                field=field, problem=f"claims a text of {size} bytes where {len(raw) - at} are left"
            )
        texts.append(bytes(raw[at : at + size]))
        at += size
    check_count(len(texts), shape, field)
    return texts


def check_count(count: int, shape: Sequence[int], field: str) -> None:
    """Refuse another number of texts than a shape has. Raises InvalidInputError."""
    wanted = elements_of(shape, field)
    if wanted != count:
        raise InvalidInputError(field=field, problem=f"shape {list(shape)} has {wanted} elements, data has {count}")


def elements_of(shape: Sequence[int], field: str) -> int:
    """Return how many elements a shape has. Raises InvalidInputError for one that no tensor has."""
    if len(shape) > MAX_RANK:
        raise InvalidInputError(field=f"{field}.shape", problem=f"has {len(shape)} axes, and {MAX_RANK} are the most")
    count = room = 1
    for size in shape:
        if not 0 <= size <= MAX_ELEMENTS:
            raise InvalidInputError(field=f"{field}.shape", problem=f"an axis is none of 0 to {MAX_ELEMENTS}")
        count *= size
        # An axis of none makes the others no smaller in numpy's eyes.
        room *= size or 1
    if room > MAX_ELEMENTS:
        raise InvalidInputError(field=f"{field}.shape", problem=f"has more than {MAX_ELEMENTS} elements")
    return count


def write(array: Tensor) -> bytes:
    """Return a tensor's bytes as the extension lays them out."""
    if array.dtype.kind not in "OSU":
        return array.astype(array.dtype.newbyteorder("<"), copy=False).tobytes()
    texts = [each if isinstance(each, bytes) else str(each).encode() for each in array.ravel().tolist()]
    return b"".join(_LENGTH.pack(len(text)) + text for text in texts)
