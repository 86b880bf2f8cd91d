"""Tensors as raw bytes behind the JSON of a request or an answer: the binary tensor data extension.

A header says how many bytes of the body are JSON; the tensors' bytes follow in the order in which the JSON names them.
Numbers are little-endian in row order; each text is preceded by its length in four bytes.
Source: triton-inference-server/server, docs/protocol/extension_binary_data.md
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any

import numpy as np

from shared.errors import InvalidInputError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    Tensor = NDArray[Any]

_LENGTH = struct.Struct("<I")
LENGTH_HEADER = "Inference-Header-Content-Length"
"""Of request and answer: bytes of JSON at the start of the body."""


def split_body(body: bytes, header: str | None) -> tuple[bytes, memoryview]:
    """Return the JSON and what follows it. Without the header all of it is JSON. Raises InvalidInputError."""
    if header is None:
        return body, memoryview(b"")
    # Not int(): it would take "+1", "1_0" and digits of other scripts.
    if not (header.isascii() and header.isdigit()) or int(header) > len(body):
        problem = f"{header!r} is no length within a body of {len(body)} bytes"
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
    # Python's own product, which does not overflow.
    wanted = dtype.itemsize
    for size in shape:
        wanted *= size
    if min(shape, default=0) < 0 or wanted != len(raw):
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
    at = 0
    while at < len(raw):
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
    wanted = 1
    for size in shape:
        wanted *= size
    if min(shape, default=0) < 0 or wanted != count:
        raise InvalidInputError(field=field, problem=f"shape {list(shape)} has {wanted} elements, data has {count}")


def write(array: Tensor) -> bytes:
    """Return a tensor's bytes as the extension lays them out."""
    if array.dtype.kind not in "OSU":
        return array.astype(array.dtype.newbyteorder("<"), copy=False).tobytes()
    texts = [each if isinstance(each, bytes) else str(each).encode() for each in array.ravel().tolist()]
    return b"".join(_LENGTH.pack(len(text)) + text for text in texts)
