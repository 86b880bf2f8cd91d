"""Writes into a quantized file what runtime it needs: operator versions and `min_runtime_version`.

litert-quantizer leaves the float model's versions in place. tflite-runtime 2.14 then takes int8 weights for something
else and computes garbage, without an error; told the right version, it refuses the file.
Numbers are patched in the file's own bytes, and the little that does not fit is put behind its end: writing the file
anew from objects would lose the weights that large ones keep behind the FlatBuffer.
Source: tensorflow/compiler/mlir/lite/tools/versioning/{op_version,runtime_version}.cc, of which this holds what
quantizing can change.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ai_edge_litert import schema_py_generated as schema

if TYPE_CHECKING:
    from collections.abc import Mapping

_NAMES = {code: name for name, code in vars(schema.BuiltinOperator).items() if isinstance(code, int)}
_Type = schema.TensorType
_FLOAT, _INT8, _INT4, _INT16 = _Type.FLOAT32, _Type.INT8, _Type.INT4, _Type.INT16

_BY_INPUT = {
    "ADD": {_INT8: 2, _INT16: 3},
    "AVERAGE_POOL_2D": {_INT8: 2, _INT16: 3},
    "BATCH_MATMUL": {_INT8: 2, _INT16: 3},
    "BATCH_TO_SPACE_ND": {_INT8: 2, _INT16: 4},
    "BROADCAST_TO": {_INT8: 3, _INT16: 3},
    "CONCATENATION": {_INT8: 2, _INT16: 3},
    "DEPTH_TO_SPACE": {_INT8: 2},
    "DYNAMIC_UPDATE_SLICE": {_INT16: 4},
    "EQUAL": {_INT8: 2, _INT16: 5},
    "GATHER": {_INT8: 2, _INT16: 4},
    "GATHER_ND": {_INT16: 3},
    "GELU": {_INT8: 2},
    "LOGISTIC": {_INT8: 2, _INT16: 3},
    "MAXIMUM": {_INT8: 2, _INT16: 4},
    "MAX_POOL_2D": {_INT8: 2, _INT16: 3},
    "MEAN": {_INT8: 2, _INT16: 3},
    "MINIMUM": {_INT8: 2, _INT16: 4},
    "MIRROR_PAD": {_INT8: 2, _INT16: 3},
    "MUL": {_INT8: 3, _INT16: 4},
    "NOT_EQUAL": {_INT8: 2, _INT16: 4},
    "PACK": {_INT8: 2, _INT16: 3},
    "PAD": {_INT8: 2, _INT16: 3},
    "PADV2": {_INT8: 2, _INT16: 3},
    "REDUCE_MIN": {_INT8: 2, _INT16: 3},
    "RELU": {_INT8: 2, _INT16: 3},
    "RELU6": {_INT8: 2, _INT16: 3},
    "RESIZE_BILINEAR": {_INT8: 2, _INT16: 4},
    "RESIZE_NEAREST_NEIGHBOR": {_INT8: 2, _INT16: 4},
    "RSQRT": {_INT8: 2, _INT16: 3},
    "SELECT": {_INT8: 2},
    "SLICE": {_INT8: 2, _INT16: 4},
    "SOFTMAX": {_INT8: 2, _INT16: 3},
    "SPACE_TO_BATCH_ND": {_INT8: 2, _INT16: 4},
    "SPACE_TO_DEPTH": {_INT8: 2},
    "SQRT": {_INT8: 2, _INT16: 2},
    "SQUARED_DIFFERENCE": {_INT8: 2},
    "STRIDED_SLICE": {_INT8: 2},
    "SUB": {_INT8: 2, _INT16: 5},
    "SUM": {_INT8: 2},
    "TANH": {_INT8: 2, _INT16: 3},
    "TRANSPOSE": {_INT8: 2, _INT16: 5},
    "UNPACK": {_INT8: 2, _INT16: 4},
}
"""Version by the type of the first input. MUL has 3 where a product of scales is 1 or more, which every runtime that
knows int8 MUL at all has known since 1.15."""
_BY_WEIGHTS = {
    "CONV_2D": {(_INT8, _INT8): 3, (_INT8, _INT4): 7, (_FLOAT, _INT8): 5, (_FLOAT, _INT4): 8, (_INT16, _INT4): 8},
    "DEPTHWISE_CONV_2D": {(_INT8, _INT8): 3, (_INT8, _INT4): 7, (_FLOAT, _INT8): 6},
    "FULLY_CONNECTED": {
        (_INT8, _INT8): 4,
        (_INT8, _INT4): 10,
        (_FLOAT, _INT8): 12,
        (_FLOAT, _INT4): 12,
        (_INT16, _INT4): 13,
    },
    "TRANSPOSE_CONV": {(_INT8, _INT8): 3, (_FLOAT, _INT8): 3},
}
"""Version by the types of input and weights. For 4-bit weights under float inputs the source has no number at all, and
old runtimes compute garbage: they get the first one that came after those runtimes."""
_TABLE_FOR = {"EMBEDDING_LOOKUP": {_INT8: 4, _INT4: 4}}
_INPUT_OF = {"SPLIT": 1, "TRANSPOSE_CONV": 2}
_SPLIT = {_INT8: 2, _INT16: 4}
_DEQUANTIZE = {_INT8: 2, _INT16: 3, _Type.FLOAT16: 3, _INT4: 6}
_DEQUANTIZE_PER_CHANNEL = 5
_QUANTIZE_TO = {_INT16: 2, _INT4: 4}

_RUNTIMES: Mapping[tuple[str, int], tuple[int, int, int]] = {
    ("ADD", 3): (2, 4, 0),
    ("BATCH_MATMUL", 2): (2, 3, 0),
    ("BATCH_MATMUL", 3): (2, 4, 0),
    ("BATCH_TO_SPACE_ND", 4): (2, 12, 0),
    ("BROADCAST_TO", 3): (2, 5, 0),
    ("CONCATENATION", 3): (2, 3, 0),
    ("CONV_2D", 5): (2, 4, 0),
    ("CONV_2D", 7): (2, 11, 0),
    ("CONV_2D", 8): (2, 15, 0),
    ("DEPTHWISE_CONV_2D", 6): (2, 3, 0),
    ("DEPTHWISE_CONV_2D", 7): (2, 11, 0),
    ("DEPTH_TO_SPACE", 2): (2, 5, 0),
    ("DEQUANTIZE", 5): (2, 7, 0),
    ("DEQUANTIZE", 6): (2, 18, 0),
    ("DYNAMIC_UPDATE_SLICE", 4): (2, 20, 0),
    ("EMBEDDING_LOOKUP", 4): (2, 18, 0),
    ("EQUAL", 5): (2, 21, 0),
    ("FULLY_CONNECTED", 10): (2, 11, 0),
    ("FULLY_CONNECTED", 12): (2, 17, 0),
    ("FULLY_CONNECTED", 13): (2, 18, 0),
    ("GATHER", 4): (2, 4, 0),
    ("GATHER_ND", 3): (2, 5, 0),
    ("GELU", 2): (2, 9, 0),
    ("MIRROR_PAD", 3): (2, 12, 0),
    ("NOT_EQUAL", 4): (2, 21, 0),
    ("PAD", 3): (2, 4, 0),
    ("PADV2", 3): (2, 4, 0),
    ("QUANTIZE", 4): (2, 21, 0),
    ("REDUCE_MIN", 3): (2, 5, 0),
    ("RELU", 3): (2, 5, 0),
    ("RESIZE_BILINEAR", 4): (2, 5, 0),
    ("RESIZE_NEAREST_NEIGHBOR", 4): (2, 4, 0),
    ("RSQRT", 2): (2, 5, 0),
    ("RSQRT", 3): (2, 15, 0),
    ("SLICE", 4): (2, 4, 0),
    ("SPACE_TO_BATCH_ND", 4): (2, 12, 0),
    ("SQRT", 2): (2, 21, 0),
    ("SQUARED_DIFFERENCE", 2): (2, 5, 0),
    ("SUB", 5): (2, 4, 0),
    ("TRANSPOSE", 5): (2, 4, 0),
    ("TRANSPOSE_CONV", 3): (2, 3, 0),
}
"""The first TensorFlow Lite with a version, where that is later than 2.3."""
_LEAST_RUNTIME = (2, 3, 0)
_METADATA = b"min_runtime_version"
_INLINE = 1
"""Buffer offsets up to it mean that the content lies inside the FlatBuffer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Code:
    place: int
    """Where the offset of its table stands in the vector of operator codes."""
    name: str
    number: int
    version: int
    version_place: int | None
    """Where the version stands; None where it was left out because it is 1."""


def restamp(model: bytes) -> bytes:
    """Return the file with versions that fit what its operators compute with; versions are only ever raised."""
    root = schema.Model.GetRootAs(model)
    codes = [_code(root, index) for index in range(root.OperatorCodesLength())]
    wanted = [code.version for code in codes]
    for index in range(root.SubgraphsLength()):
        graph = root.Subgraphs(index)
        for number in range(graph.OperatorsLength()):
            operator = graph.Operators(number)
            code = operator.OpcodeIndex()
            wanted[code] = max(wanted[code], required_version(codes[code].name, graph, operator))
    content = bytearray(model)
    for code, version in zip(codes, wanted, strict=True):
        if version != code.version:
            _stamp(content, code, version)
    runtimes = [_RUNTIMES.get((code.name, version)) for code, version in zip(codes, wanted, strict=True)]
    raised = [runtime for runtime in runtimes if runtime is not None]
    if raised:
        _stamp_runtime(content, root, max(raised))
    return bytes(content)


def required_version(name: str, graph: Any, operator: Any) -> int:  # noqa: ANN401 - the generated reader has no types
    """Return the operator version that the types of an operator's tensors ask for; 1 where they ask for nothing."""
    kinds = [_kind(graph, index) for index in _indexes(operator, "Inputs")]
    if not kinds:
        return 1
    place = _INPUT_OF.get(name, 0)
    first = kinds[place] if place < len(kinds) else kinds[0]
    if name in _BY_WEIGHTS:
        return _BY_WEIGHTS[name].get((first, kinds[1]), 1)
    if name in _TABLE_FOR:
        return _TABLE_FOR[name].get(kinds[1], 1)
    if name == "SPLIT":
        return _SPLIT.get(first, 1)
    if name == "DEQUANTIZE":
        per_channel = first == _INT8 and _scales(graph, _indexes(operator, "Inputs")[0]) > 1
        return _DEQUANTIZE_PER_CHANNEL if per_channel else _DEQUANTIZE.get(first, 1)
    if name == "QUANTIZE":
        return max(_QUANTIZE_TO.get(_kind(graph, index), 1) for index in _indexes(operator, "Outputs"))
    return _BY_INPUT.get(name, {}).get(first, 1)


def _indexes(operator: Any, side: str) -> list[int]:  # noqa: ANN401 - the generated reader has no types
    length, item = getattr(operator, f"{side}Length"), getattr(operator, side)
    return [int(item(place)) for place in range(length())]


def _kind(graph: Any, index: int) -> int:  # noqa: ANN401 - the generated reader has no types
    return int(graph.Tensors(index).Type()) if index >= 0 else -1


def _scales(graph: Any, index: int) -> int:  # noqa: ANN401 - the generated reader has no types
    quantization = graph.Tensors(index).Quantization()
    return 0 if quantization is None else int(quantization.ScaleLength())


def _code(root: Any, index: int) -> _Code:  # noqa: ANN401 - the generated reader has no types
    table = root.OperatorCodes(index)
    number = max(int(table.BuiltinCode()), int(table.DeprecatedBuiltinCode()))
    vector = root._tab.Vector(root._tab.Offset(6))  # noqa: SLF001 - places in the file are what this is about
    offset = table._tab.Offset(8)  # noqa: SLF001 - likewise
    return _Code(
        place=int(vector) + 4 * index,
        name=_NAMES.get(number, ""),
        number=number,
        version=int(table.Version()),
        version_place=int(table._tab.Pos + offset) if offset else None,  # noqa: SLF001 - likewise
    )


def _stamp(content: bytearray, code: _Code, version: int) -> None:
    if code.version_place is not None:
        struct.pack_into("<i", content, code.version_place, version)
        return
    # FlatBuffers leave out what is the default, and offsets only lead forward: the new table goes behind all there is.
    # vtable: its size, the table's size, places of deprecated_builtin_code, custom_code, version, builtin_code.
    content += bytes(-len(content) % 4)
    start = len(content) + 12
    content += struct.pack("<6H", 12, 16, 4, 0, 8, 12)
    # The old field holds what fits into it, and else a mark that the new one is meant.
    content += struct.pack("<ib3xii", 12, min(code.number, 127), version, code.number)
    struct.pack_into("<I", content, code.place, start - code.place)


def _stamp_runtime(content: bytearray, root: Any, least: tuple[int, int, int]) -> None:  # noqa: ANN401 - as above
    for index in range(root.MetadataLength()):
        entry = root.Metadata(index)
        if entry.Name() != _METADATA:
            continue
        buffer = root.Buffers(entry.Buffer())
        if buffer.Offset() > _INLINE:
            start, size = int(buffer.Offset()), int(buffer.Size())
        elif buffer.DataLength():
            start, size = int(buffer._tab.Vector(buffer._tab.Offset(4))), int(buffer.DataLength())  # noqa: SLF001
        else:
            return
        told = bytes(content[start : start + size]).rstrip(b"\0").decode("ascii", errors="replace")
        text = ".".join(map(str, max(least, _LEAST_RUNTIME))).encode()
        if _parsed(told) < least and len(text) <= size:
            content[start : start + size] = text.ljust(size, b"\0")


def _parsed(version: str) -> tuple[int, ...]:
    return tuple(int(part) if part.isdigit() else 0 for part in version.split("."))
