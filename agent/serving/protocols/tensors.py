"""Requests and answers of the Open Inference Protocol, their tensors in JSON or in bytes behind it.

Source: kserve/open-inference-protocol, specification/protocol/inference_rest.md
"""

from __future__ import annotations

import contextlib
import functools
from typing import TYPE_CHECKING, Any, Final

import msgspec
import numpy as np

from agent.serving.protocols import binary_tensors, classification
from agent.serving.protocols.json_bounds import check_json
from agent.serving.requests import InferRequest, NamedTensor
from shared.decoding import MALFORMED
from shared.errors import InvalidInputError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from agent.serving.requests import Request

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
MAX_TENSORS: Final = 256
"""Inputs in one request: no model has more of them."""
TEXT = "BYTES"
"""The protocol's name of what is no number."""
_Texts = list[str | list[str]]
"""Flat, or with the elements of one row as a list."""


class InputParameters(msgspec.Struct, frozen=True, kw_only=True):
    """Parameters of an input that have a meaning here."""

    binary_data_size: int | None = None
    """The tensor's bytes follow the JSON, and are so many."""
    content_type: str | None = None
    """`base64`: what the texts of a BYTES tensor in JSON really are."""


class OutputParameters(msgspec.Struct, frozen=True, kw_only=True):
    """Parameters of a wanted output that have a meaning here."""

    binary_data: bool | None = None


class BodyParameters(msgspec.Struct, frozen=True, kw_only=True):
    """Parameters of a whole request that have a meaning here."""

    binary_data_output: bool = False
    """All outputs as bytes, but for those that say otherwise."""


class JsonTensor(msgspec.Struct, kw_only=True):
    """One tensor of a request; `data` flat or nested, and absent where bytes follow the JSON."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    data: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    parameters: InputParameters = InputParameters()


class WantedOutput(msgspec.Struct, kw_only=True):
    """An output that the caller asks for by name."""

    name: str
    parameters: OutputParameters = OutputParameters()


class InferBody(msgspec.Struct, kw_only=True):
    """The body of an inference request. Parameters that are not named here are accepted and mean nothing."""

    inputs: tuple[JsonTensor, ...]
    id: str = ""
    outputs: tuple[WantedOutput, ...] = ()
    parameters: BodyParameters = BodyParameters()


_decoder = msgspec.json.Decoder(InferBody)
_numbers = msgspec.json.Decoder(list[float])


def read_body(body: bytes, header_length: str | None = None) -> tuple[InferBody, Request]:
    """Parse a request; `header_length` is the header that says how much of it is JSON.

    A single input of datatype BYTES holds encoded images or sounds.

    Raises:
        InvalidInputError: names the field.
    """
    text, rest = binary_tensors.split_body(body, header_length)
    check_json(text)
    try:
        parsed = _decoder.decode(text)
    except MALFORMED as exc:
        raise InvalidInputError(field="body", problem=str(exc), remedy="send an inference request as JSON") from exc
    if not parsed.inputs:
        raise InvalidInputError(field="inputs", problem="there is none")
    if len(parsed.inputs) > MAX_TENSORS:
        raise InvalidInputError(field="inputs", problem=f"there are {len(parsed.inputs)}, more than {MAX_TENSORS}")
    if any(tensor.datatype == TEXT for tensor in parsed.inputs):
        texts, rest = _read_texts(parsed.inputs, rest)
        if rest:
            raise InvalidInputError(field="body", problem=f"{len(rest)} bytes belong to no input")
        return parsed, classification.listed(texts, "inputs[0]", apart=False)
    inputs = []
    for number, tensor in enumerate(parsed.inputs):
        named, rest = _read(tensor, f"inputs[{number}]", rest)
        inputs.append(named)
    if rest:
        raise InvalidInputError(field="body", problem=f"{len(rest)} bytes belong to no input")
    return parsed, InferRequest(inputs=tuple(inputs))


def write_outputs(outputs: tuple[NamedTensor, ...], body: InferBody) -> tuple[list[dict[str, object]], list[bytes]]:
    """Return the outputs that were asked for as JSON values, and the bytes of those asked for as bytes.

    Raises:
        InvalidInputError: a name that is none.
    """
    if not body.outputs and not body.parameters.binary_data_output:
        # What nearly everybody asks for.
        return [{**_described(each.name, each.array), "data": _values(each.array)} for each in outputs], []
    by_name = {output.name: output.array for output in outputs}
    check_wanted(len(body.outputs), len(by_name))
    for each in body.outputs:
        if each.name not in by_name:
            known = "there are: " + ", ".join(by_name)
            raise InvalidInputError(field="outputs", problem=f"no output {each.name!r}", remedy=known)
    described, blobs = [], []
    for each in body.outputs or tuple(WantedOutput(name=name) for name in by_name):
        array, binary = by_name[each.name], each.parameters.binary_data
        if body.parameters.binary_data_output if binary is None else binary:
            blobs.append(binary_tensors.write(array))
            parameters = {"binary_data_size": len(blobs[-1])}
            described.append({**_described(each.name, array), "parameters": parameters})
        else:
            described.append({**_described(each.name, array), "data": _values(array)})
    return described, blobs


def check_wanted(count: int, known: int) -> None:
    """Refuse an output that is asked for again and again. Raises InvalidInputError."""
    if count > known:
        raise InvalidInputError(field="outputs", problem=f"asks for {count} of {known}", remedy="name each once")


def datatype(dtype: str) -> str:
    """Return the protocol's name of a numpy dtype; anything that is no number is text."""
    return _DATATYPES.get(dtype, TEXT)


def dtype_of(datatype: str, field: str) -> np.dtype[Any]:
    """Return numpy's type of one of the protocol's names. Raises InvalidInputError."""
    dtype = _DTYPES.get(datatype)
    if dtype is None:
        known = ", ".join(_DTYPES)
        raise InvalidInputError(field=f"{field}.datatype", problem=f"{datatype!r} is not known", remedy=known)
    return np.dtype(dtype)


def _read_texts(inputs: tuple[JsonTensor, ...], rest: memoryview) -> tuple[list[bytes], memoryview]:
    """Return the elements of the one BYTES input, and what follows it."""
    (tensor, *others), field = inputs, "inputs[0]"
    if others or tensor.datatype != TEXT:
        problem, remedy = "BYTES stands beside other inputs", "send encoded items as the only input"
        raise InvalidInputError(field="inputs", problem=problem, remedy=remedy)
    size_bytes = tensor.parameters.binary_data_size
    if size_bytes is not None:
        raw, rest = binary_tensors.take(rest, size_bytes, field)
        return binary_tensors.read_texts(raw, tensor.shape, field), rest
    if isinstance(tensor.data, msgspec.UnsetType):
        raise InvalidInputError(field=f"{field}.data", problem="is missing")
    try:
        texts = _flat(msgspec.json.decode(tensor.data, type=_Texts))
    except (*MALFORMED, RecursionError) as exc:
        raise InvalidInputError(field=f"{field}.data", problem=f"must be texts: {exc}") from exc
    binary_tensors.check_count(len(texts), tensor.shape, field)
    if tensor.parameters.content_type == "base64":
        return [classification.decoded(text, f"{field}.data") for text in texts], rest
    return [text.encode() for text in texts], rest


def _flat(texts: _Texts) -> list[str]:
    flat: list[str] = []
    for each in texts:
        flat.extend([each] if isinstance(each, str) else each)
    return flat


def _read(tensor: JsonTensor, field: str, rest: memoryview) -> tuple[NamedTensor, memoryview]:
    """Return the tensor and what follows its bytes, where it has some."""
    dtype = dtype_of(tensor.datatype, field)
    size_bytes = tensor.parameters.binary_data_size
    if size_bytes is not None:
        raw, rest = binary_tensors.take(rest, size_bytes, field)
        array = binary_tensors.read_numbers(raw, dtype, tensor.shape, field)
    elif isinstance(tensor.data, msgspec.UnsetType):
        raise InvalidInputError(field=f"{field}.data", problem="is missing")
    else:
        array = _from_json(tensor.data, dtype, tensor, field)
    return NamedTensor(name=tensor.name, array=array), rest


def _from_json(data: msgspec.Raw, dtype: np.dtype[Any], tensor: JsonTensor, field: str) -> Tensor:
    if dtype.kind == "f":
        # Flat numbers are what nearly everybody sends; nested and wrong ones are looked at below.
        with contextlib.suppress(*MALFORMED):
            return shaped(np.array(_numbers.decode(data)), dtype, tensor.shape, field)
    if b'"' in bytes(data):
        raise _not_held(dtype, field)
    try:
        array = np.array(msgspec.json.decode(data))
    except (ValueError, RecursionError) as exc:
        raise InvalidInputError(field=f"{field}.data", problem=f"not a regular array: {exc}") from exc
    return shaped(array, dtype, tensor.shape, field)


def shaped(array: Tensor, dtype: np.dtype[Any], shape: tuple[int, ...], field: str) -> Tensor:
    """Return values in the type and shape that go with them. Raises InvalidInputError when they do not."""
    size = binary_tensors.elements_of(shape, field)
    if array.size != size:
        problem = f"shape {list(shape)} has {size} elements, data has {array.size}"
        raise InvalidInputError(field=field, problem=problem)
    if dtype.kind == "f" and array.dtype.kind == "f":
        # As below, with the values turned once.
        with np.errstate(over="ignore"):
            cast = array.astype(dtype)
        is_held = bool(np.isfinite(cast).all())
    else:
        is_held, cast = _holds(array, dtype), array
    if not is_held:
        raise _not_held(dtype, field)
    return cast.astype(dtype, copy=False).reshape(shape)


def _not_held(dtype: np.dtype[Any], field: str) -> InvalidInputError:
    return InvalidInputError(field=f"{field}.data", problem=f"holds values that are not {datatype(dtype.name)}")


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


def from_values(name: str, values: object, dtype: str, *, field: str) -> NamedTensor:
    """Return a tensor of nested JSON values, of the dtype that the model takes. Raises InvalidInputError."""
    try:
        is_text = _has_text(values)
        array = np.array(() if is_text else values)
    except (ValueError, RecursionError) as exc:
        raise InvalidInputError(field=field, problem=f"not a regular array: {exc}") from exc
    wanted = np.dtype(dtype)
    if is_text or not _holds(array, wanted):
        raise InvalidInputError(field=field, problem=f"holds values that are not {dtype}")
    return NamedTensor(name=name, array=array.astype(wanted, copy=False))


def _has_text(values: object) -> bool:
    """Whether nested lists hold a text: numpy would give every number beside it the room of the longest."""
    if not isinstance(values, list):
        return isinstance(values, str)
    kinds = set(map(type, values))
    return str in kinds or (list in kinds and any(_has_text(each) for each in values if isinstance(each, list)))


def _described(name: str, array: Tensor) -> dict[str, object]:
    return {"name": name, "datatype": _of_dtype(array.dtype), "shape": array.shape}


@functools.cache
def _of_dtype(dtype: np.dtype[Any]) -> str:
    # numpy makes the name anew whenever it is asked.
    return datatype(dtype.name)


def _values(array: Tensor) -> list[object]:
    # msgspec writes NaN, which JSON has not, as null.
    flat: list[object] = array.ravel().tolist()
    if array.dtype.kind not in "OSU":
        return flat
    return [each.decode(errors="replace") if isinstance(each, bytes) else each for each in flat]
