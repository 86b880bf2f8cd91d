"""A float `.tflite` as operators and constants. Constants are overwritten in place, in a copy of the file's own bytes.

Writing a graph anew through the schema's objects loses the weights that large files keep behind the FlatBuffer.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from converters.failures import SchemeFailedError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    Tensor = NDArray[Any]

_NAMES = {code: name for name, code in vars(schema.BuiltinOperator).items() if isinstance(code, int)}
_OPTIONS = {
    "ADD": schema.AddOptions,
    "CONV_2D": schema.Conv2DOptions,
    "DEPTHWISE_CONV_2D": schema.DepthwiseConv2DOptions,
    "FULLY_CONNECTED": schema.FullyConnectedOptions,
}
_WEIGHTS = {"CONV_2D": 0, "DEPTHWISE_CONV_2D": 3, "FULLY_CONNECTED": 0, "TRANSPOSE_CONV": 0, "EMBEDDING_LOOKUP": 0}
"""Operators with weights as their second input, and the weights' axis that the outputs' channels lie on."""
_INPUT_OF = {"TRANSPOSE_CONV": 2}
_BIAS_OF = {"CONV_2D": 2, "DEPTHWISE_CONV_2D": 2, "FULLY_CONNECTED": 2, "TRANSPOSE_CONV": 3}
_WEIGHT = 1
_DTYPES = {schema.TensorType.FLOAT32: np.float32, schema.TensorType.INT32: np.int32}
_SMALL = frozenset({schema.TensorType.INT8, schema.TensorType.INT4, schema.TensorType.INT16, schema.TensorType.FLOAT16})
_INLINE = 1
"""Offsets up to it mean that a buffer's content lies inside the FlatBuffer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """How a convolution moves over its input; `(height, width)` each."""

    strides: tuple[int, int]
    dilations: tuple[int, int]
    same: bool
    """Whether the edges are filled up with zeros, so that only the stride shrinks the answer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Operator:
    """One operator of the main graph. Tensors are named by their index, -1 for one that is left out."""

    name: str
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    activation: int
    """The schema's ActivationFunctionType, where the operator has such an option."""
    window: Window | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """An operator whose weights are constant floats."""

    operator: Operator
    input: int
    weights: int
    bias: int | None
    axis: int
    """Of the weights: which of them belong to one output channel."""


class FloatGraph:
    """The main graph of a model."""

    def __init__(self, model: bytes) -> None:
        """Read the graph; `model` is copied when a constant is first replaced."""
        self._content: bytes | bytearray = model
        root = schema.Model.GetRootAs(model)
        graph = root.Subgraphs(0)
        self.graphs = int(root.SubgraphsLength())
        self.inputs = tuple(int(index) for index in graph.InputsAsNumpy())
        self.outputs = tuple(int(index) for index in graph.OutputsAsNumpy())
        self.names: list[str] = []
        self.kinds: list[int] = []
        self._shapes: list[tuple[int, ...]] = []
        self._buffers: list[int] = []
        for index in range(graph.TensorsLength()):
            tensor = graph.Tensors(index)
            self.names.append((tensor.Name() or b"").decode(errors="replace"))
            self.kinds.append(int(tensor.Type()))
            self._shapes.append(tuple(map(int, tensor.ShapeAsNumpy())) if tensor.ShapeLength() else ())
            self._buffers.append(int(tensor.Buffer()))
        self._places = [_place(root.Buffers(index)) for index in range(root.BuffersLength())]
        self.operators = [_operator(root, graph.Operators(index)) for index in range(graph.OperatorsLength())]
        self.layers = [layer for operator in self.operators if (layer := self._layer(operator)) is not None]
        self._buffer_users = Counter(self._buffers)
        self._tensor_users = Counter(index for operator in self.operators for index in operator.inputs)

    @property
    def content(self) -> bytes:
        """The file, with what was replaced."""
        return bytes(self._content)

    @property
    def activations(self) -> tuple[int, ...]:
        """The float tensors that hold other values for each item, in order."""
        written = {index for operator in self.operators for index in operator.outputs if index >= 0}
        return tuple(i for i in sorted(written.union(self.inputs)) if self.kinds[i] == schema.TensorType.FLOAT32)

    def is_constant(self, tensor: int) -> bool:
        """Whether the tensor's content is in the file."""
        return tensor >= 0 and self._places[self._buffers[tensor]][1] > 0

    def is_exclusive(self, tensor: int) -> bool:
        """Whether a constant serves one operator alone: converters let equal constants share one buffer."""
        return self._buffer_users[self._buffers[tensor]] == 1 and self._tensor_users[tensor] == 1

    def shape(self, tensor: int) -> tuple[int, ...]:
        """Return a tensor's shape as it is declared, batch axis included."""
        return self._shapes[tensor]

    def constant(self, tensor: int) -> Tensor:
        """Return a constant as it is now."""
        start, size = self._places[self._buffers[tensor]]
        dtype = np.dtype(_DTYPES[self.kinds[tensor]])
        flat = np.frombuffer(self._content, dtype, count=size // dtype.itemsize, offset=start)
        return flat.reshape(self._shapes[tensor])

    def replace(self, tensor: int, content: Tensor) -> None:
        """Overwrite a constant that is exclusive to its operator, with one of the same shape."""
        start, size = self._places[self._buffers[tensor]]
        raw = np.ascontiguousarray(content, dtype=_DTYPES[self.kinds[tensor]]).tobytes()
        if len(raw) != size:
            raise ValueError(f"{self.names[tensor]} has {size} bytes, not {len(raw)}")
        if isinstance(self._content, bytes):
            self._content = bytearray(self._content)
        self._content[start : start + size] = raw

    @property
    def small_tensors(self) -> int:
        """How many tensors hold something smaller than 32-bit floats."""
        return sum(kind in _SMALL for kind in self.kinds)

    def computes_floats(self, operator: Operator) -> bool:
        """Whether an operator takes or gives floats."""
        floats = {schema.TensorType.FLOAT32, schema.TensorType.FLOAT16}
        return any(self.kinds[index] in floats for index in (*operator.inputs, *operator.outputs) if index >= 0)

    def index_of(self, names: Sequence[str]) -> dict[str, Operator]:
        """Return the operators whose first outputs have these names.

        Raises:
            SchemeFailedError: there is no such operator.
        """
        known = {self.names[operator.outputs[0]]: operator for operator in self.operators if operator.outputs}
        unknown = [name for name in names if name not in known]
        if unknown:
            raise SchemeFailedError(f"the model has no operator with the output {unknown[0]!r}, which is to stay float")
        return {name: known[name] for name in names}

    def _layer(self, operator: Operator) -> Layer | None:
        axis = _WEIGHTS.get(operator.name)
        if axis is None or len(operator.inputs) <= _WEIGHT:
            return None
        weights = operator.inputs[_WEIGHT]
        if not self.is_constant(weights) or self.kinds[weights] != schema.TensorType.FLOAT32:
            return None
        place = _BIAS_OF.get(operator.name, len(operator.inputs))
        bias = operator.inputs[place] if place < len(operator.inputs) else -1
        return Layer(
            operator=operator,
            input=operator.inputs[_INPUT_OF.get(operator.name, 0)],
            weights=weights,
            bias=bias if self.is_constant(bias) else None,
            axis=axis,
        )


def _place(buffer: Any) -> tuple[int, int]:  # noqa: ANN401 - the generated reader has no types
    """Return where a buffer's content begins in the file, and its length."""
    if buffer.Offset() > _INLINE:
        return int(buffer.Offset()), int(buffer.Size())
    if buffer.DataIsNone():
        return 0, 0
    table = buffer._tab  # noqa: SLF001 - the reader tells the content of a vector, and not where it lies
    return int(table.Vector(table.Offset(4))), int(buffer.DataLength())


def _operator(root: Any, table: Any) -> Operator:  # noqa: ANN401 - the generated reader has no types
    code = root.OperatorCodes(table.OpcodeIndex())
    name = _NAMES.get(max(int(code.BuiltinCode()), int(code.DeprecatedBuiltinCode())), "UNKNOWN")
    activation, window = 0, None
    kind, union = _OPTIONS.get(name), table.BuiltinOptions()
    if kind is not None and union is not None:
        options = kind()
        options.Init(union.Bytes, union.Pos)
        activation = int(options.FusedActivationFunction())
        if name.endswith("CONV_2D"):
            window = Window(
                strides=(int(options.StrideH()), int(options.StrideW())),
                dilations=(int(options.DilationHFactor()), int(options.DilationWFactor())),
                same=options.Padding() == schema.Padding.SAME,
            )
    inputs = () if table.InputsIsNone() else tuple(map(int, table.InputsAsNumpy()))
    outputs = () if table.OutputsIsNone() else tuple(map(int, table.OutputsAsNumpy()))
    return Operator(name=name, inputs=inputs, outputs=outputs, activation=activation, window=window)
