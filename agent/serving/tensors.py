"""Tensors as the Open Inference Protocol writes them in JSON.

Source: kserve/open-inference-protocol, specification/protocol/inference_rest.md
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from agent.serving.requests import InferRequest, NamedTensor
from shared.decoding import MALFORMED
from shared.errors import InvalidInputError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from shared.manifest import TensorSpec

    Tensor = NDArray[Any]

_DTYPES = {
    "BOOL": "bool",
    "UINT8": "uint8",
    "UINT16": "uint16",
    "UINT32": "uint32",
    "UINT64": "uint64",
    "INT8": "int8",
    "INT16": "int16",
    "INT32": "int32",
    "INT64": "int64",
    "FP16": "float16",
    "FP32": "float32",
    "FP64": "float64",
}
_DATATYPES = {dtype: datatype for datatype, dtype in _DTYPES.items()}
_TEXT = "BYTES"


class JsonTensor(msgspec.Struct, kw_only=True):
    """One tensor of a request; `data` flat or nested."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    data: msgspec.Raw


class WantedOutput(msgspec.Struct, kw_only=True):
    """An output that the caller asks for by name."""

    name: str


class InferBody(msgspec.Struct, kw_only=True):
    """The body of an inference request. Parameters are accepted and have no meaning here."""

    inputs: tuple[JsonTensor, ...]
    id: str = ""
    outputs: tuple[WantedOutput, ...] = ()


_decoder = msgspec.json.Decoder(InferBody)


def read_body(body: bytes) -> tuple[InferBody, InferRequest]:
    """Parse a request. Raises InvalidInputError, naming the field."""
    try:
        parsed = _decoder.decode(body)
    except MALFORMED as exc:
        raise InvalidInputError(field="body", problem=str(exc), remedy="send an inference request as JSON") from exc
    if not parsed.inputs:
        raise InvalidInputError(field="inputs", problem="there is none")
    return parsed, InferRequest(inputs=tuple(_read(tensor, n) for n, tensor in enumerate(parsed.inputs)))


def write_outputs(outputs: tuple[NamedTensor, ...], wanted: tuple[WantedOutput, ...]) -> list[dict[str, object]]:
    """Return the outputs as JSON values, those asked for. Raises InvalidInputError for a name that is none."""
    by_name = {output.name: output.array for output in outputs}
    for each in wanted:
        if each.name not in by_name:
            known = "there are: " + ", ".join(by_name)
            raise InvalidInputError(field="outputs", problem=f"no output {each.name!r}", remedy=known)
    names = [each.name for each in wanted] or list(by_name)
    return [_write(name, by_name[name]) for name in names]


def describe(spec: TensorSpec) -> dict[str, object]:
    """Return a tensor's metadata as the protocol writes it."""
    return {"name": spec.name, "datatype": datatype(spec.dtype), "shape": list(spec.shape)}


def datatype(dtype: str) -> str:
    """Return the protocol's name of a numpy dtype; anything that is no number is text."""
    return _DATATYPES.get(dtype, _TEXT)


def _read(tensor: JsonTensor, number: int) -> NamedTensor:
    field = f"inputs[{number}]"
    dtype = _DTYPES.get(tensor.datatype)
    if dtype is None:
        known = ", ".join(_DTYPES)
        raise InvalidInputError(field=f"{field}.datatype", problem=f"{tensor.datatype!r} is not known", remedy=known)
    try:
        array = np.array(msgspec.json.decode(tensor.data))
    except (ValueError, RecursionError) as exc:
        raise InvalidInputError(field=f"{field}.data", problem=f"not a regular array: {exc}") from exc
    size = math.prod(tensor.shape)
    if min(tensor.shape, default=0) < 0 or array.size != size:
        problem = f"shape {list(tensor.shape)} has {size} elements, data has {array.size}"
        raise InvalidInputError(field=field, problem=problem)
    if not _holds(array, np.dtype(dtype)):
        raise InvalidInputError(field=f"{field}.data", problem=f"holds values that are not {tensor.datatype}")
    return NamedTensor(name=tensor.name, array=array.astype(dtype, copy=False).reshape(tensor.shape))


def _holds(array: Tensor, dtype: np.dtype[Any]) -> bool:
    """Say whether every value is one of this type: JSON knows neither integers' ranges nor that 1.5 is none."""
    if array.size == 0:
        return True
    if dtype.kind == "f":
        # A number too large for the type would become an infinity: a candidate that breaks on it were falsely blamed.
        with np.errstate(over="ignore"):
            return array.dtype.kind in "iuf" and bool(np.isfinite(array.astype(dtype)).all())
    if dtype.kind == "b":
        return array.dtype.kind == "b"
    limits = np.iinfo(dtype)
    return array.dtype.kind in "iu" and int(array.min()) >= limits.min and int(array.max()) <= limits.max


def _write(name: str, array: Tensor) -> dict[str, object]:
    flat = array.ravel().tolist()
    data = [each.decode(errors="replace") if isinstance(each, bytes) else each for each in flat]
    return {
        "name": name,
        "datatype": datatype(array.dtype.name),
        "shape": list(array.shape),
        # msgspec writes NaN, which JSON has not, as null.
        "data": data if array.dtype.kind in "OS" else flat,
    }
