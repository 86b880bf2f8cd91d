"""Tensors of the Open Inference Protocol over gRPC: raw bytes, or numbers in the field of their datatype."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from agent.serving.protocols import binary_tensors, classification, open_inference_pb2, tensors
from agent.serving.protocols.json_bounds import MAX_NUMBERS
from agent.serving.requests import InferRequest, NamedTensor
from shared.errors import InvalidInputError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from agent.serving.requests import Request

    Tensor = NDArray[Any]
    Asked = open_inference_pb2.ModelInferRequest
    Input = open_inference_pb2.ModelInferRequest.InferInputTensor
    Answer = open_inference_pb2.ModelInferResponse

_CONTENTS = {
    "BOOL": "bool_contents",
    "INT8": "int_contents",
    "INT16": "int_contents",
    "INT32": "int_contents",
    "INT64": "int64_contents",
    "UINT8": "uint_contents",
    "UINT16": "uint_contents",
    "UINT32": "uint_contents",
    "UINT64": "uint64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
    "BYTES": "bytes_contents",
}


def read(asked: Asked) -> Request:
    """Return the tensors of a request; a single input of datatype BYTES holds encoded images or sounds.

    Raises InvalidInputError, naming the field.
    """
    raw = asked.raw_input_contents
    if not asked.inputs:
        raise InvalidInputError(field="inputs", problem="there is none")
    if len(asked.inputs) > tensors.MAX_TENSORS:
        raise InvalidInputError(field="inputs", problem=f"there are more than {tensors.MAX_TENSORS}")
    if raw and len(raw) != len(asked.inputs):
        problem = f"has {len(raw)} entries for {len(asked.inputs)} inputs"
        raise InvalidInputError(field="raw_input_contents", problem=problem)
    if any(each.datatype == tensors.TEXT for each in asked.inputs):
        return classification.listed(_texts(asked), "inputs[0]", apart=False)
    return InferRequest(
        inputs=tuple(
            NamedTensor(name=each.name, array=_array(each, raw[number] if raw else None, f"inputs[{number}]"))
            for number, each in enumerate(asked.inputs)
        )
    )


def write(outputs: Sequence[NamedTensor], asked: Asked, answer: Answer) -> None:
    """Put the outputs that were asked for into an answer, raw if the request was.

    Raises:
        InvalidInputError: a name that is none.
    """
    by_name = {output.name: output.array for output in outputs}
    tensors.check_wanted(len(asked.outputs), len(by_name))
    chosen = [each.name for each in asked.outputs] or list(by_name)
    for name in chosen:
        if name not in by_name:
            known = "there are: " + ", ".join(by_name)
            raise InvalidInputError(field="outputs", problem=f"no output {name!r}", remedy=known)
    # Half of the answer raw is not allowed, and half-precision numbers have no field.
    is_raw = bool(asked.raw_input_contents) or any(_datatype(by_name[name]) not in _CONTENTS for name in chosen)
    for name in chosen:
        array = by_name[name]
        output = answer.outputs.add(name=name, datatype=_datatype(array), shape=array.shape)
        if is_raw:
            answer.raw_output_contents.append(binary_tensors.write(array))
        else:
            getattr(output.contents, _CONTENTS[output.datatype]).extend(_values(array))


def _texts(asked: Asked) -> list[bytes]:
    """Return the elements of the one BYTES input."""
    (tensor, *others), field = asked.inputs, "inputs[0]"
    if others or tensor.datatype != tensors.TEXT:
        remedy = "send encoded items as the only input"
        raise InvalidInputError(field="inputs", problem="BYTES stands beside other inputs", remedy=remedy)
    if asked.raw_input_contents:
        if tensor.HasField("contents"):
            raise InvalidInputError(field=f"{field}.contents", problem="stands beside raw_input_contents")
        return binary_tensors.read_texts(memoryview(asked.raw_input_contents[0]), tuple(tensor.shape), field)
    texts = list(tensor.contents.bytes_contents)
    binary_tensors.check_count(len(texts), tuple(tensor.shape), field)
    return texts


def _array(tensor: Input, raw: bytes | None, field: str) -> Tensor:
    dtype, shape = tensors.dtype_of(tensor.datatype, field), tuple(tensor.shape)
    if raw is not None:
        if tensor.HasField("contents"):
            raise InvalidInputError(field=f"{field}.contents", problem="stands beside raw_input_contents")
        return binary_tensors.read_numbers(memoryview(raw), dtype, shape, field)
    if tensor.datatype not in _CONTENTS:
        remedy = "send it in raw_input_contents"
        raise InvalidInputError(field=f"{field}.contents", problem=f"cannot hold {tensor.datatype}", remedy=remedy)
    values = getattr(tensor.contents, _CONTENTS[tensor.datatype])
    if len(values) > MAX_NUMBERS:
        problem, remedy = f"holds more than {MAX_NUMBERS} numbers", "send them in raw_input_contents"
        raise InvalidInputError(field=f"{field}.contents", problem=problem, remedy=remedy)
    return tensors.shaped(np.array(values), dtype, shape, field)


def _datatype(array: Tensor) -> str:
    return tensors.datatype(array.dtype.name)


def _values(array: Tensor) -> list[Any]:
    flat: list[Any] = array.ravel().tolist()
    return [each.encode() if isinstance(each, str) else each for each in flat]
