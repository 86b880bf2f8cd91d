"""A `.tflite` that takes any batch, out of two that take one each: what differs between them is the batch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from converters.failures import SchemeFailedError
from shared.errors import InvalidInputError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

PROBED_BATCHES = (2, 3)
"""Not 1, which is everywhere in shapes for other reasons; of different sizes so that k batches differ by k."""
_TO_THE_END = 2**31 - 1
"""An end of a slice that TensorFlow Lite takes for the size that is there."""
_IDENTIFIER = b"TFL3"

Model = Any
"""A `ModelT` of the schema's generated code, which has no types."""


def free_batch(small: bytes, large: bytes) -> bytes:
    """Return the model whose conversions for `PROBED_BATCHES` are `small` and `large`, with its batch left free.

    Raises:
        InvalidInputError: the graph holds on to its batch in an operator that has no other way.
        SchemeFailedError: the two are not the same graph.
    """
    import flatbuffers
    from ai_edge_litert import schema_py_generated as schema

    model, other = (schema.ModelT.InitFromPackedBuf(content, 0) for content in (small, large))
    if len(model.subgraphs) != 1 or len(other.subgraphs) != 1 or any(item.offset for item in model.buffers):
        raise SchemeFailedError("a model in several parts cannot have its batch left free")
    graph, twin = model.subgraphs[0], other.subgraphs[0]
    if [_kinds(graph), len(graph.tensors)] != [_kinds(twin), len(twin.tensors)]:
        raise SchemeFailedError("litert-torch makes different graphs for different batches: fix the batch")
    for tensor, same in zip(graph.tensors, twin.tensors, strict=True):
        _free_tensor(tensor, same)
    for operator, same in zip(graph.operators, twin.operators, strict=True):
        _free_operator(_Place(model, graph, operator), _Place(other, twin, same))
    builder = flatbuffers.Builder(len(small))
    builder.Finish(model.Pack(builder), _IDENTIFIER)
    return bytes(builder.Output())


class _Place:
    """An operator, where it stands."""

    def __init__(self, model: Model, graph: Any, operator: Any) -> None:  # noqa: ANN401 - of the schema
        self.model, self.graph, self.operator = model, graph, operator

    @property
    def name(self) -> str:
        """The operator's name in the schema: RESHAPE."""
        from ai_edge_litert import schema_py_generated as schema

        codes: dict[int, str] = {
            value: name for name, value in vars(schema.BuiltinOperator).items() if isinstance(value, int)
        }
        code = self.model.operatorCodes[self.operator.opcodeIndex]
        return codes[max(code.builtinCode, code.deprecatedBuiltinCode)]

    def constants(self) -> dict[int, NDArray[np.uint8]]:
        """Return the bytes of those inputs that are constant, by their place."""
        tensors = {at: index for at, index in enumerate(self.operator.inputs) if index >= 0}
        buffers = {at: self.model.buffers[self.graph.tensors[index].buffer].data for at, index in tensors.items()}
        return {at: np.asarray(data, dtype=np.uint8) for at, data in buffers.items() if data is not None and len(data)}

    def replace(self, at: int, values: NDArray[np.int32]) -> None:
        """Give this operator a constant of its own: the old one may be shared."""
        from ai_edge_litert import schema_py_generated as schema

        old = self.graph.tensors[self.operator.inputs[at]]
        buffer, tensor = schema.BufferT(), schema.TensorT()
        buffer.data = np.frombuffer(values.tobytes(), dtype=np.uint8)
        for field in ("shape", "type", "name", "quantization", "hasRank"):
            setattr(tensor, field, getattr(old, field))
        tensor.buffer = len(self.model.buffers)
        self.model.buffers.append(buffer)
        self.operator.inputs = np.array(self.operator.inputs, dtype=np.int32)
        self.operator.inputs[at] = len(self.graph.tensors)
        self.graph.tensors.append(tensor)


def _kinds(graph: Any) -> list[int]:  # noqa: ANN401 - of the schema
    return [operator.opcodeIndex for operator in graph.operators]


def _free_tensor(tensor: Any, same: Any) -> None:  # noqa: ANN401 - of the schema
    shape, other = _sizes(tensor), _sizes(same)
    if shape == other:
        return
    batched = _batched(shape, other)
    tensor.shapeSignature = np.array([-1 if at in batched else size for at, size in enumerate(shape)], dtype=np.int32)
    one = [size // PROBED_BATCHES[0] if at in batched else size for at, size in enumerate(shape)]
    tensor.shape = np.array(one, dtype=np.int32)


def _free_operator(place: _Place, same: _Place) -> None:
    constants, others = place.constants(), same.constants()
    for at, data in constants.items():
        if np.array_equal(data, others[at]):
            continue
        freed = _freed(place.name, at, data.view(np.int32), others[at].view(np.int32)) if data.size % 4 == 0 else None
        if freed is None:
            raise InvalidInputError(
                field="batch",
                problem=f"{place.name} of the model needs to know the batch beforehand",
                remedy="convert it for a fixed batch",
            )
        place.replace(at, freed)
        if place.name == "RESHAPE" and place.operator.builtinOptions is not None:
            place.operator.builtinOptions.newShape = freed


def _freed(name: str, at: int, values: NDArray[np.int32], other: NDArray[np.int32]) -> NDArray[np.int32] | None:
    """Return a constant that says the same for every batch; None where it cannot be said."""
    batched = _batched(values.tolist(), other.tolist())
    freed = values.copy()
    match name, at:
        case ("RESHAPE", 1) if len(batched) == 1 and -1 not in values:
            freed[list(batched)] = -1
        case ("SLICE", 2):
            freed[list(batched)] = -1
        case ("STRIDED_SLICE", 2):
            freed[list(batched)] = _TO_THE_END
        case _:
            return None
    return freed


def _batched(shape: Sequence[int], other: Sequence[int]) -> frozenset[int]:
    """Return the places where the batch is, alone or times something."""
    small, large = PROBED_BATCHES
    found = frozenset(at for at, (size, more) in enumerate(zip(shape, other, strict=True)) if size != more)
    if any(shape[at] % small or shape[at] // small * large != other[at] for at in found):
        raise InvalidInputError(
            field="batch", problem="the model computes with its batch", remedy="convert it for a fixed batch"
        )
    return found


def _sizes(tensor: Any) -> list[int]:  # noqa: ANN401 - of the schema
    return [] if tensor.shape is None else [int(size) for size in tensor.shape]
