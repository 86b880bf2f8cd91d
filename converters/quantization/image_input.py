"""Folds a pipeline's normalisation into the model, which then takes the pixels as they are.

The commonest mistake at the edge is an image scaled twice, or not at all. One operator of a few hundred bytes removes
the step: uint8 with a scale and a zero point *is* a normalised image, and DEQUANTIZE says so.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.tools import flatbuffer_utils

from converters.failures import SchemeFailedError
from shared.errors import ModelLoadError
from shared.runtime.verifier import verify

if TYPE_CHECKING:
    from collections.abc import Sequence

_BYTE = 255
_WHOLE = 1e-3
"""How far from a whole number a zero point may be, in steps: scales like 1/127 are not exact."""


def fold(model: bytes, *, scale: float, offset: float) -> bytes:
    """Return the float model with a uint8 input of the same name and shape, for which it computes `x * scale + offset`.

    Raises:
        SchemeFailedError: its input is not one of floats, or the scale is none.
    """
    verify(model)
    if not (np.isfinite([scale, offset]).all() and scale > 0):
        raise SchemeFailedError(f"pixels cannot be scaled by {scale} and moved by {offset}")
    # This reader fetches the weights that lie behind the FlatBuffer, too; the schema's own would lose them.
    parts = flatbuffer_utils.read_model_from_bytearray(model)
    held = _weight_bytes(parts)
    graph = parts.subgraphs[0]
    if len(graph.inputs) != 1 or graph.tensors[graph.inputs[0]].type != schema.TensorType.FLOAT32:
        raise SchemeFailedError("an image can be folded into models with one input of floats")
    _replace_input(parts, graph, scale, offset)
    folded = bytes(flatbuffer_utils.convert_object_to_bytearray(parts))
    try:
        verify(folded)
    except ModelLoadError as exc:
        raise SchemeFailedError(f"the model did not survive a new input: {exc}") from exc
    if _weight_bytes(flatbuffer_utils.read_model_from_bytearray(folded)) < held:
        raise SchemeFailedError("weights were lost on the way to a new input")
    return folded


def _replace_input(parts: Any, graph: Any, scale: float, offset: float) -> None:  # noqa: ANN401 - generated, untyped
    old = graph.inputs[0]
    floats = graph.tensors[old]
    name, zero = bytes(floats.name), -offset / scale
    exact = abs(zero - round(zero)) < _WHOLE and 0 <= round(zero) <= _BYTE
    floats.name = name + b"_normalised"
    image = _add_tensor(graph, floats, name, schema.TensorType.UINT8)
    _set_steps(graph.tensors[image], scale, round(zero) if exact else 0)
    first = []
    if exact:
        first.append(_operator(parts, schema.BuiltinOperator.DEQUANTIZE, [image], old))
    else:
        scaled = _add_tensor(graph, floats, name + b"_scaled", schema.TensorType.FLOAT32)
        moved_by = _add_constant(parts, graph, name + b"_offset", offset)
        first.append(_operator(parts, schema.BuiltinOperator.DEQUANTIZE, [image], scaled))
        first.append(_operator(parts, schema.BuiltinOperator.ADD, [scaled, moved_by], old))
    graph.operators[:0] = first
    graph.inputs = [image]
    for signature in parts.signatureDefs or []:
        for entry in signature.inputs or []:
            if signature.subgraphIndex == 0 and entry.tensorIndex == old:
                entry.tensorIndex = image


def _add_tensor(graph: Any, like: Any, name: bytes, kind: int) -> int:  # noqa: ANN401 - generated, untyped
    tensor = schema.TensorT()
    tensor.name, tensor.type, tensor.buffer = name, kind, 0
    tensor.shape, tensor.shapeSignature, tensor.hasRank = like.shape, like.shapeSignature, like.hasRank
    graph.tensors.append(tensor)
    return len(graph.tensors) - 1


def _set_steps(tensor: Any, scale: float, zero: int) -> None:  # noqa: ANN401 - generated, untyped
    tensor.quantization = schema.QuantizationParametersT()
    tensor.quantization.scale, tensor.quantization.zeroPoint = [scale], [zero]


def _add_constant(parts: Any, graph: Any, name: bytes, value: float) -> int:  # noqa: ANN401 - generated, untyped
    buffer = schema.BufferT()
    buffer.data = np.frombuffer(np.float32(value).tobytes(), np.uint8)
    parts.buffers.append(buffer)
    tensor = schema.TensorT()
    tensor.name, tensor.type, tensor.buffer = name, schema.TensorType.FLOAT32, len(parts.buffers) - 1
    tensor.shape, tensor.hasRank = [1], True
    graph.tensors.append(tensor)
    return len(graph.tensors) - 1


def _operator(parts: Any, code: int, inputs: Sequence[int], output: int) -> Any:  # noqa: ANN401 - generated, untyped
    known = [entry.builtinCode for entry in parts.operatorCodes]
    if code not in known:
        entry = schema.OperatorCodeT()
        entry.builtinCode = entry.deprecatedBuiltinCode = code
        entry.version = 1
        parts.operatorCodes.append(entry)
        known.append(code)
    operator = schema.OperatorT()
    operator.opcodeIndex, operator.inputs, operator.outputs = known.index(code), list(inputs), [output]
    if code == schema.BuiltinOperator.ADD:
        operator.builtinOptionsType = schema.BuiltinOptions.AddOptions
        operator.builtinOptions = schema.AddOptionsT()
    return operator


def _weight_bytes(parts: Any) -> int:  # noqa: ANN401 - generated, untyped
    return sum(len(buffer.data) for buffer in parts.buffers if buffer.data is not None)
