"""From weights stored as float16 to float32, in a model file that somebody else made.

Files from MediaPipe and the like hold half-precision weights behind one DEQUANTIZE each. Quantizing takes weights where
an operator reads them, so that such a file would be left as large as it is.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema

_IDENTIFIER = b"TFL3"


def unpacked(model: bytes) -> bytes:
    """Return the model with its float16 constants as float32 and without the operators that did that at run time.

    A file that keeps weights behind the FlatBuffer is returned as it is, since writing it anew would lose them; so is
    one without such constants. Computes the same: every float16 is a float32.
    """
    tree = schema.ModelT.InitFromPackedBuf(model, 0)
    if any(buffer.offset > 1 for buffer in tree.buffers):
        return model
    changed = [_unpack_graph(tree, graph) for graph in tree.subgraphs]
    if not any(changed):
        return model
    _forget_unread(tree)
    # The library that the schema itself is written with.
    builder = schema.flatbuffers.Builder(2 * len(model))
    builder.Finish(tree.Pack(builder), file_identifier=_IDENTIFIER)
    return bytes(builder.Output())


def _unpack_graph(tree: Any, graph: Any) -> bool:  # noqa: ANN401 - objects of the schema, which has no types
    kept = []
    for operator in graph.operators:
        half = _half_constant(tree, graph, operator)
        if half is None:
            kept.append(operator)
            continue
        # A buffer of its own: the old one may serve others, and goes unread where it does not.
        buffer = schema.BufferT()
        buffer.data = np.frombuffer(half.astype("<f4").tobytes(), np.uint8)
        tree.buffers.append(buffer)
        graph.tensors[operator.outputs[0]].buffer = len(tree.buffers) - 1
    changed = len(kept) < len(graph.operators)
    graph.operators = kept
    return changed


def _half_constant(tree: Any, graph: Any, operator: Any) -> np.ndarray[Any, Any] | None:  # noqa: ANN401 - likewise
    code = tree.operatorCodes[operator.opcodeIndex]
    # Old writers know the first of both fields only.
    if max(code.deprecatedBuiltinCode, code.builtinCode) != schema.BuiltinOperator.DEQUANTIZE:
        return None
    tensor = graph.tensors[operator.inputs[0]]
    data = tree.buffers[tensor.buffer].data
    # A sparse constant has its numbers in another order.
    plain = tensor.type == schema.TensorType.FLOAT16 and tensor.sparsity is None and data is not None and len(data)
    return np.frombuffer(bytes(data), "<f2") if plain else None


def _forget_unread(tree: Any) -> None:  # noqa: ANN401 - likewise
    """Empty the buffers of float16 constants that no operator reads any more."""
    for graph in tree.subgraphs:
        read = {int(index) for operator in graph.operators for index in operator.inputs}
        read |= {int(index) for index in (*graph.inputs, *graph.outputs)}
        for index, tensor in enumerate(graph.tensors):
            if index not in read and tensor.type == schema.TensorType.FLOAT16 and tensor.sparsity is None:
                # The first buffer is the empty one, and a shape without data must be small. As a float32, it is not
                # mistaken for something that was quantized already.
                tensor.buffer, tensor.shape, tensor.type = 0, np.zeros(1, np.int32), schema.TensorType.FLOAT32
    used = {tensor.buffer for graph in tree.subgraphs for tensor in graph.tensors}
    used |= {metadata.buffer for metadata in tree.metadata or ()}
    for index, buffer in enumerate(tree.buffers):
        if index not in used:
            buffer.data = None
