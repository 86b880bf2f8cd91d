"""The weights of a TensorFlow.js model: shards beside `model.json`, some stored in fewer bits than they had.

Source: tensorflow/tfjs, tfjs-core/src/io/{types,io_utils}.ts.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from shared.errors import InvalidInputError

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    Tensor = NDArray[Any]

_FIELD = "source"
_STORED = {"bool": "?", "float16": "<f2", "float32": "<f4", "int32": "<i4", "uint8": "u1", "uint16": "<u2"}
_QUANTIZED = frozenset({"float16", "uint8", "uint16"})
_MAX_RANK = 8


class Quantization(msgspec.Struct, frozen=True, kw_only=True):
    """How numbers are stored in fewer bits: `stored * scale + min`; float16 has neither."""

    dtype: str
    scale: float = 1.0
    min: float = 0.0


class Weight(msgspec.Struct, frozen=True, kw_only=True):
    """One tensor, in the order of its group's bytes."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    quantization: Quantization | None = None


class Group(msgspec.Struct, frozen=True, kw_only=True):
    """Shards whose bytes, one after the other, are the weights one after the other."""

    paths: tuple[str, ...]
    weights: tuple[Weight, ...]


def read(folder: Path, manifest: tuple[Group, ...]) -> dict[str, Tensor]:
    """Return every tensor by name, as the numbers that a browser would compute with.

    Raises:
        InvalidInputError: a shard is missing, leads elsewhere, or does not hold what the manifest says.
    """
    tensors: dict[str, Tensor] = {}
    for group in manifest:
        content = b"".join(_shard(folder, path) for path in group.paths)
        start = 0
        for weight in group.weights:
            if weight.name in tensors:
                raise _refused(f"names the weight {weight.name!r} twice")
            end = start + _stored_bytes(weight)
            if end > len(content):
                raise _refused(f"its shards end in the middle of the weight {weight.name!r}")
            tensors[weight.name] = _tensor(weight, content[start:end])
            start = end
        if start != len(content):
            raise _refused(f"its shards {', '.join(group.paths)} hold {len(content) - start} bytes that nothing names")
    return tensors


def _shard(folder: Path, path: str) -> bytes:
    # A browser would follow an address; here only plain names below the model's own folder are files of the model.
    parts = path.split("/")
    if not path or path.startswith("/") or ":" in path or "\\" in path or {"", ".", ".."} & set(parts):
        raise _refused(f"names the shard {path[:100]!r}, which is no file beside it")
    shard = folder / path
    if shard.is_symlink() or not shard.is_file() or folder.resolve() not in shard.resolve().parents:
        raise _refused(f"names the shard {path[:100]!r}, which is missing", "pack it with model.json")
    return shard.read_bytes()


def _stored_bytes(weight: Weight) -> int:
    if any(size < 0 for size in weight.shape) or len(weight.shape) > _MAX_RANK:
        raise _refused(f"gives the weight {weight.name!r} the shape {weight.shape}")
    return math.prod(weight.shape) * np.dtype(_stored(weight)).itemsize


def _stored(weight: Weight) -> str:
    quantization = weight.quantization
    name = quantization.dtype if quantization is not None else weight.dtype
    if name not in _STORED or (quantization is not None and name not in _QUANTIZED):
        raise _refused(f"stores the weight {weight.name!r} as {name}", "convert it without strings and complex numbers")
    return _STORED[name]


def _tensor(weight: Weight, content: bytes) -> Tensor:
    stored = np.frombuffer(content, _stored(weight)).reshape(weight.shape)
    quantization = weight.quantization
    if quantization is None or quantization.dtype == "float16":
        return stored.astype(weight.dtype)
    if not (math.isfinite(quantization.scale) and math.isfinite(quantization.min)):
        raise _refused(f"quantizes the weight {weight.name!r} by a number that is none")
    # In 64 bits as JavaScript computes it, then rounded once.
    restored = stored.astype(np.float64) * quantization.scale + quantization.min
    return (np.rint(restored) if weight.dtype == "int32" else restored).astype(weight.dtype)


def _refused(problem: str, remedy: str = "") -> InvalidInputError:
    return InvalidInputError(field=_FIELD, problem=problem, remedy=remedy)
