"""Checks that a `.tflite` file means something before the runtime believes it.

The runtime checks that offsets stay inside the file, and hardly what the numbers there mean: an index out of range
kills the process. Of 400 valid files with one number changed 14 did so, all by a graph input that is no tensor; of
6,400 more, made of four schemes of one network, 10 did so in five other ways.
Source: tensorflow/lite/schema/schema.fbs, whose field numbers these are.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from shared.errors import ModelLoadError
from shared.runtime.flatbuffer import root

if TYPE_CHECKING:
    from collections.abc import Iterable

    from shared.runtime.flatbuffer import Table

_MAX_TENSOR_BYTES = 2**31 - 1
"""The runtime counts in 32 bits here and there; nothing meant for a device comes near."""
_MAX_SUBGRAPHS = 256
_MAX_RANK = 8

# Fields by table.
_MODEL_CODES, _MODEL_GRAPHS, _MODEL_BUFFERS, _MODEL_SIGNATURES = 1, 2, 4, 7
_GRAPH_TENSORS, _GRAPH_INPUTS, _GRAPH_OUTPUTS, _GRAPH_OPERATORS = 0, 1, 2, 3
_TENSOR_SHAPE, _TENSOR_TYPE, _TENSOR_BUFFER, _TENSOR_QUANTIZATION, _TENSOR_VARIABLE, _TENSOR_SPARSITY = 0, 1, 2, 4, 5, 6
_CODE_OLD, _CODE_CUSTOM, _CODE_NEW = 0, 1, 3
_OPERATOR_CODE, _OPERATOR_INPUTS, _OPERATOR_OUTPUTS, _OPERATOR_OPTIONS, _OPERATOR_INTERMEDIATES = 0, 1, 2, 4, 8
_OPERATOR_OPTIONS_KIND = 3
_BUFFER_DATA, _BUFFER_OFFSET, _BUFFER_SIZE = 0, 1, 2
_QUANTIZATION_SCALE, _QUANTIZATION_ZERO_POINT, _QUANTIZATION_AXIS = 2, 3, 6
_SIGNATURE_INPUTS, _SIGNATURE_OUTPUTS, _SIGNATURE_GRAPH, _MAP_TENSOR = 0, 1, 4, 1

_CUSTOM, _IF, _DELEGATE, _WHILE, _PLACEHOLDER, _CALL_ONCE = 32, 118, 51, 119, 127, 129
_REFUSED_CODES = frozenset({_CUSTOM, _DELEGATE, _PLACEHOLDER})
"""Operators whose code is not the runtime's own; Flex operators are custom ones."""
_LEAST_INPUTS = {
    2: {0, 3, 4, 7, 9, 18, 23, 34, 36, 39, 40, 41, 42, 48, 49, 54, 55, 56, 57, 58, 61, 62, 63, 69, 70, 71, 72, 74, 78}
    | {79, 81, 82, 84, 86, 89, 90, 91, 94, 95, 97, 99, 100, 105, 107, 126, 128, 130, 131, 132},
    3: {37, 38, 60, 64, 65, 67, 96, 102, 122, 123},
    4: {27, 45, 68, 85},
}
"""Operators by how many inputs their kernels read without asking whether they are there; others need one or none."""
_INPUTS_BY_CODE = {code: least for least, codes in _LEAST_INPUTS.items() for code in codes}
_GATED = frozenset({16, 44, 52})
"""LSTM and its kin, which leave out any input but the first."""
_OPTIONAL = _GATED | {3, 4, 9, 24, 27, 35, 46, 67, 132, 133}
"""Operators that may leave out inputs (a bias, mostly); the kernels of all others follow -1 to nowhere."""
_DEQUANTIZE = 6
_FLOAT32 = 0
_ALIKE = frozenset({1, 3, 4, 9, 14, 17, 19, 20, 21, 22, 25, 28})
"""Pools, convolutions, dense layers, activations and reshape answer in floats where they are asked in floats; softmax
for one does not make sure of it, and writes floats into room for bytes."""
_WEIGHTED = frozenset({3, 4, 9, 67})
"""Convolutions and dense layers: their kernels end the process on weights of a type that they do not know."""
_WEIGHT_TYPES = frozenset({0, 1, 3, 9, 17, 19})
_OPTIONS_KIND = {49: 35, 88: 64, 102: 79, _IF: 92, _WHILE: 93, _CALL_ONCE: 103}
"""Operators whose options count outputs or name graphs, by the kind of options that does: others would be read
as what they are not."""
_CALLED_GRAPHS = {_IF: 2, _WHILE: 2, _CALL_ONCE: 1}
"""How many subgraphs the operator's options name, in their first fields."""

# Bits of one number by schema type; strings, resources and variants have no fixed size.
_BITS = {0: 32, 1: 16, 2: 32, 3: 8, 4: 64, 6: 8, 7: 16, 8: 64, 9: 8, 10: 64, 11: 128, 12: 64, 15: 32, 16: 16, 17: 4}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Tensor:
    shape: tuple[int, ...]
    kind: int
    bits: int | None
    constant: bool
    """Whether its content is in the file, where nothing may be written."""
    given: bool
    """Whether it has content before any operator ran: from the file, kept between runs, or none at all."""


def verify(model: bytes) -> None:
    """Refuse a file whose graph would lead the runtime astray.

    Raises:
        ModelLoadError: says which number of which part is wrong.
    """
    top = root(model, b"TFL3")
    codes = [_code(table) for table in top.tables(_MODEL_CODES)]
    buffers = [_buffer_bytes(table, index) for index, table in enumerate(top.tables(_MODEL_BUFFERS))]
    graphs = top.tables(_MODEL_GRAPHS)
    _require(1 <= len(graphs) <= _MAX_SUBGRAPHS, f"the model has {len(graphs)} graphs")
    tensors = [_tensors(graph, buffers, f"graph {index}") for index, graph in enumerate(graphs)]
    calls = [_operators(graph, codes, tensors[index], index) for index, graph in enumerate(graphs)]
    _check_calls(calls)
    _check_ends(graphs[0], tensors[0])
    for table in top.tables(_MODEL_SIGNATURES):
        _check_signature(table, tensors)


def _code(table: Table) -> int:
    # Codes beyond 127 live in a field that old writers do not know.
    code = max(table.number(_CODE_OLD, "b"), table.number(_CODE_NEW, "i"))
    _require(code >= 0, f"operator code {code} is negative")
    _require(
        code not in _REFUSED_CODES and not table.has(_CODE_CUSTOM), "a custom or Flex operator needs code of its own"
    )
    return code


def _buffer_bytes(table: Table, index: int) -> int:
    _, length = table.vector(_BUFFER_DATA, 1)
    offset, size = table.number(_BUFFER_OFFSET, "Q"), table.number(_BUFFER_SIZE, "Q")
    # 0 and 1 mean "not outside": large models keep weights behind the FlatBuffer.
    if offset > 1:
        _require(offset + size <= len(table.data), f"buffer {index} ends outside of the file")
        return size
    return length


def _tensors(graph: Table, buffers: list[int], where: str) -> list[_Tensor]:
    made = []
    for index, table in enumerate(graph.tables(_GRAPH_TENSORS)):
        name = f"{where} tensor {index}"
        buffer = table.number(_TENSOR_BUFFER, "I")
        _require(buffer < len(buffers), f"{name} names buffer {buffer} of {len(buffers)}")
        tensor = _tensor(table, name, constant=buffers[buffer] > 0)
        if tensor.constant and tensor.bits is not None and not table.has(_TENSOR_SPARSITY):
            wanted = -(-math.prod(tensor.shape) * tensor.bits // 8)
            _require(buffers[buffer] >= wanted, f"{name} needs {wanted} bytes and has {buffers[buffer]}")
        made.append(tensor)
    for side, field in (("inputs", _GRAPH_INPUTS), ("outputs", _GRAPH_OUTPUTS)):
        _check_indexes(graph.integers(field), len(made), f"{where} {side}")
    return made


def _tensor(table: Table, name: str, *, constant: bool) -> _Tensor:
    shape = table.integers(_TENSOR_SHAPE)
    kind = table.number(_TENSOR_TYPE, "b")
    bits = _BITS.get(kind)
    _require(len(shape) <= _MAX_RANK, f"{name} has {len(shape)} axes")
    _require(all(size >= 0 for size in shape), f"{name} has shape {shape}")
    _require(math.prod(shape) * (bits or 8) // 8 <= _MAX_TENSOR_BYTES, f"{name} of shape {shape} is too large")
    quantization = table.table(_TENSOR_QUANTIZATION)
    if quantization is not None:
        _check_quantization(quantization, shape, name)
    given = constant or math.prod(shape) == 0 or bool(table.number(_TENSOR_VARIABLE, "b"))
    return _Tensor(shape=shape, kind=kind, bits=bits, constant=constant, given=given)


def _check_quantization(table: Table, shape: tuple[int, ...], name: str) -> None:
    scales = table.numbers(_QUANTIZATION_SCALE, "f")
    zero_points = table.vector(_QUANTIZATION_ZERO_POINT, 8)[1]
    axis = table.number(_QUANTIZATION_AXIS, "i")
    _require(all(math.isfinite(scale) and scale >= 0 for scale in scales), f"{name} has a scale that is no size")
    _require(zero_points in {0, 1, len(scales)}, f"{name} has {zero_points} zero points for {len(scales)} scales")
    if len(scales) > 1:
        fits = 0 <= axis < len(shape) and shape[axis] == len(scales)
        _require(fits, f"{name} of shape {shape} has {len(scales)} scales on axis {axis}")


def _operators(graph: Table, codes: list[int], tensors: list[_Tensor], graph_index: int) -> set[int]:
    """Check a graph's operators; return the graphs that they call."""
    called: set[int] = set()
    # -1 stands for an input that is left out.
    ready = {-1, *graph.integers(_GRAPH_INPUTS), *(index for index, tensor in enumerate(tensors) if tensor.given)}
    for index, table in enumerate(graph.tables(_GRAPH_OPERATORS)):
        name = f"graph {graph_index} operator {index}"
        code = table.number(_OPERATOR_CODE, "I")
        _require(code < len(codes), f"{name} names code {code} of {len(codes)}")
        inputs, outputs = table.integers(_OPERATOR_INPUTS), table.integers(_OPERATOR_OUTPUTS)
        _check_inputs(inputs, codes[code], tensors, name)
        # Operators run in the order of the file. One that reads its own or a later answer reads what was never written,
        # and memory is shared out as if nobody did.
        _require(ready.issuperset(inputs), f"{name} reads what no operator before it writes")
        _check_outputs(inputs, outputs, codes[code], tensors, name)
        ready.update(outputs)
        _check_indexes(table.integers(_OPERATOR_INTERMEDIATES), len(tensors), f"{name} intermediates")
        called |= _called(table, codes[code], name)
    return called


def _check_inputs(inputs: tuple[int, ...], code: int, tensors: list[_Tensor], name: str) -> None:
    _check_indexes(inputs, len(tensors), f"{name} inputs", least=-1)
    least = _INPUTS_BY_CODE.get(code, 0)
    _require(len(inputs) >= least, f"{name} has {len(inputs)} inputs and needs {least}")
    if code in _GATED:
        required = inputs[:1]
    elif code in _OPTIONAL:
        required = inputs[: max(least, 1)]
    else:
        required = inputs
    _require(-1 not in required, f"{name} leaves out an input that it needs")
    if code in _WEIGHTED:
        kind = tensors[inputs[1]].kind
        _require(kind in _WEIGHT_TYPES, f"{name} has weights of type {kind}")


def _check_outputs(
    inputs: tuple[int, ...], outputs: tuple[int, ...], code: int, tensors: list[_Tensor], name: str
) -> None:
    _check_indexes(outputs, len(tensors), f"{name} outputs")
    _require(not any(tensors[output].constant for output in outputs), f"{name} writes to a constant")
    if not outputs or not inputs:
        return
    given, answer = tensors[inputs[0]], tensors[outputs[0]]
    mixed = (given.kind == _FLOAT32) != (answer.kind == _FLOAT32)
    _require(code not in _ALIKE or not mixed, f"{name} turns type {given.kind} into {answer.kind}")
    # Unpacked weights: XNNPACK believes the shape that the answer declares, and reads as much of the file.
    same = given.shape == answer.shape
    _require(code != _DEQUANTIZE or same, f"{name} turns shape {given.shape} into {answer.shape}")


def _called(table: Table, code: int, name: str) -> set[int]:
    """Return the graphs that an operator's options name."""
    kind = table.number(_OPERATOR_OPTIONS_KIND, "B")
    _require(kind == _OPTIONS_KIND.get(code, kind), f"{name} has options of kind {kind}")
    if code not in _CALLED_GRAPHS:
        return set()
    options = table.table(_OPERATOR_OPTIONS)
    if options is None:
        raise ModelLoadError(f"the model is malformed: {name} names no graph to call")
    return {options.number(field, "i") for field in range(_CALLED_GRAPHS[code])}


def _check_calls(calls: list[set[int]]) -> None:
    """Refuse calls of graphs that are none, and graphs that end up calling themselves."""
    for caller, called in enumerate(calls):
        _check_indexes(called, len(calls), f"graph {caller} calls")
        reached, waiting = set[int](), list(called)
        while waiting:
            graph = waiting.pop()
            _require(graph != caller, f"graph {caller} calls itself")
            if graph not in reached:
                reached.add(graph)
                waiting.extend(calls[graph])


def _check_ends(graph: Table, tensors: list[_Tensor]) -> None:
    # Handed over as arrays of numbers: a string or a resource would be read as some.
    for side, field in (("input", _GRAPH_INPUTS), ("output", _GRAPH_OUTPUTS)):
        for index in graph.integers(field):
            _require(tensors[index].bits is not None, f"{side} {index} is of type {tensors[index].kind}, no numbers")


def _check_signature(table: Table, tensors: list[list[_Tensor]]) -> None:
    graph = table.number(_SIGNATURE_GRAPH, "I")
    _require(graph < len(tensors), f"a signature names graph {graph} of {len(tensors)}")
    for entry in (*table.tables(_SIGNATURE_INPUTS), *table.tables(_SIGNATURE_OUTPUTS)):
        _check_indexes([entry.number(_MAP_TENSOR, "I")], len(tensors[graph]), "signature")


def _check_indexes(indexes: Iterable[int], count: int, where: str, *, least: int = 0) -> None:
    for index in indexes:
        _require(least <= index < count, f"{where}: {index} of {count}")


def _require(holds: bool, problem: str) -> None:  # noqa: FBT001 - the condition is the point, as in an assertion
    if not holds:
        raise ModelLoadError(f"the model is malformed: {problem}")
