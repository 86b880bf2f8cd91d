"""What a `.tflite` file holds: operators, weights wherever they lie, costs, inputs and outputs, and what looks wrong.

`python -m converters.inspect FILE.tflite [--json]` shows it.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections import Counter
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import numpy as np
from ai_edge_litert import schema_py_generated as generated

from converters.card import facts_table, operator_cost
from shared.card import CardTensor, GraphFacts, LayerFacts
from shared.errors import ModelLoadError
from shared.manifest import digest
from shared.runtime import schema
from shared.runtime.flatbuffer import root
from shared.runtime.verifier import verify

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from shared.runtime.flatbuffer import Table

_OPERATORS = {code: name for name, code in vars(generated.BuiltinOperator).items() if not name.startswith("_")}
_TYPES = {code: name.lower() for name, code in vars(generated.TensorType).items() if not name.startswith("_")}
_UNPACKING = frozenset({"DEQUANTIZE", "DENSIFY"})
"""What stands between weights and their layer when they are stored in another form: no layers of their own."""
_STORES = "ASSIGN_VARIABLE"
_SIZES = frozenset({"int32", "int64", "bool"})
"""Types of shapes and axes; a bias of such a type has a scale."""
_FLOATS = {"float16": "<f2", "float32": "<f4", "float64": "<f8"}
_WHOLE = {"int8": "<i1", "uint8": "<u1", "int16": "<i2", "int32": "<i4"}
_LEAST_VARIED = 64
"""Fewer weights may well be all the same, as a fresh bias is."""
_PIECE = 2**20
_VERSION_ENTRY = "min_runtime_version"


@dataclass(frozen=True, kw_only=True)
class _Tensor:
    table: Table
    buffers: tuple[Table, ...]

    @cached_property
    def name(self) -> str:
        """What the file calls it."""
        return self.table.text(schema.TENSOR_NAME)

    @cached_property
    def shape(self) -> tuple[int, ...]:
        """Sizes, the batch as 1."""
        return self.table.integers(schema.TENSOR_SHAPE)

    @cached_property
    def dtype(self) -> str:
        """Its numbers as numpy calls them, or `unknown`."""
        return str(_TYPES.get(self.table.number(schema.TENSOR_TYPE, "b"), "unknown"))

    @cached_property
    def buffer(self) -> int:
        """Index of the buffer that holds its content."""
        return self.table.number(schema.TENSOR_BUFFER, "I")

    @cached_property
    def span(self) -> tuple[int, int, bool]:
        """Where its content begins in the file, how long it is, and whether it lies behind the FlatBuffer."""
        return _span(self.buffers[self.buffer])

    @cached_property
    def is_weight(self) -> bool:
        """Whether it holds numbers that were trained, and not shapes or indexes."""
        return self.span[1] > 0 and (self.dtype not in _SIZES or bool(self.scales))

    @property
    def scales(self) -> tuple[float, ...]:
        """Of its quantization; empty where it has none."""
        quantization = self.table.table(schema.TENSOR_QUANTIZATION)
        return () if quantization is None else quantization.numbers(schema.QUANTIZATION_SCALE, "f")

    def described(self) -> CardTensor:
        """Return it as the card shows it."""
        quantization, scales = self.table.table(schema.TENSOR_QUANTIZATION), self.scales
        one = quantization is not None and len(scales) == 1
        zero_points = quantization.integers(schema.QUANTIZATION_ZERO_POINT, "q") if quantization and one else ()
        return CardTensor(
            name=self.name,
            dtype=self.dtype,
            shape=self.table.integers(schema.TENSOR_FREE_SHAPE) or self.shape,
            scale=scales[0] if one else None,
            zero_point=zero_points[0] if zero_points else (0 if one else None),
        )


@dataclass(frozen=True, kw_only=True)
class _Operator:
    name: str
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class _Graph:
    tensors: list[_Tensor]
    operators: list[_Operator]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]

    @cached_property
    def unpacked(self) -> dict[int, int]:
        """Tensors that are weights in another form, by the tensor that holds these."""
        return {
            operator.outputs[0]: operator.inputs[0]
            for operator in self.operators
            if operator.name in _UNPACKING and self.tensors[operator.inputs[0]].span[1]
        }

    def weights_of(self, operator: _Operator) -> list[_Tensor]:
        """The constants that an operator computes with, unpacked on the way or not."""
        named = (self._origin(index) for index in operator.inputs if index >= 0)
        return [self.tensors[index] for index in dict.fromkeys(named) if self.tensors[index].is_weight]

    def _origin(self, index: int) -> int:
        # Sparse weights of half precision are unpacked twice.
        while index in self.unpacked:
            index = self.unpacked[index]
        return index


def describe(model: bytes, errors: Mapping[str, float] | None = None) -> GraphFacts:
    """Return what a `.tflite` file holds. `errors`: signal to noise (dB) of layers by the name of their output tensor.

    Raises:
        ModelLoadError: the file is malformed, or has lost its weights.
    """
    verify(model)
    top = root(model, schema.IDENTIFIER)
    graphs = _graphs(top)
    layers = tuple(_layers(graphs[0], errors or {}))
    weights = list(_weights(graphs))
    names = Counter(operator.name for graph in graphs for operator in graph.operators)
    return GraphFacts(
        length_bytes=len(model),
        sha256=digest(model),
        operators=_sorted(names),
        tensor_types=_sorted(Counter(tensor.dtype for graph in graphs for tensor in graph.tensors)),
        weight_bytes=_sorted(_summed((tensor.dtype, tensor.span[1]) for tensor in weights)),
        weights_outside_bytes=sum(tensor.span[1] for tensor in weights if tensor.span[2]),
        parameters=sum(math.prod(tensor.shape) for tensor in weights),
        macs=sum(layer.macs for layer in layers),
        peak_activation_bytes=_peak_activation_bytes(graphs[0]),
        inputs=tuple(graphs[0].tensors[index].described() for index in graphs[0].inputs),
        outputs=tuple(graphs[0].tensors[index].described() for index in graphs[0].outputs),
        layers=layers,
        graphs=len(graphs),
        stateful="VAR_HANDLE" in names or any(_is_state(tensor) for tensor in graphs[0].tensors),
        min_runtime_version=_min_runtime_version(top),
        warnings=tuple(_warnings(model, top, weights)),
    )


def weights_lost(source_parameters: int, facts: GraphFacts) -> str:
    """Return why `facts` cannot be all of a source of so many parameters, or "".

    Folding takes a few parameters out (batch normalisation), never half of them.
    """
    if facts.parameters * 2 >= source_parameters:
        return ""
    return f"weights_lost: {facts.parameters} of the source's {source_parameters} parameters are in the file"


def _graphs(top: Table) -> list[_Graph]:
    codes = [
        _OPERATORS.get(max(code.number(schema.CODE_OLD, "b"), code.number(schema.CODE_NEW, "i")), "UNKNOWN")
        for code in top.tables(schema.MODEL_CODES)
    ]
    buffers = tuple(top.tables(schema.MODEL_BUFFERS))
    return [
        _Graph(
            tensors=[_Tensor(table=table, buffers=buffers) for table in graph.tables(schema.GRAPH_TENSORS)],
            operators=[
                _Operator(
                    name=codes[table.number(schema.OPERATOR_CODE, "I")],
                    inputs=table.integers(schema.OPERATOR_INPUTS),
                    outputs=table.integers(schema.OPERATOR_OUTPUTS),
                )
                for table in graph.tables(schema.GRAPH_OPERATORS)
            ],
            inputs=graph.integers(schema.GRAPH_INPUTS),
            outputs=graph.integers(schema.GRAPH_OUTPUTS),
        )
        for graph in top.tables(schema.MODEL_GRAPHS)
    ]


def _layers(graph: _Graph, errors: Mapping[str, float]) -> Iterator[LayerFacts]:
    for operator in graph.operators:
        if operator.outputs and operator.outputs[0] in graph.unpacked:
            continue
        weights = sorted(graph.weights_of(operator), key=lambda tensor: -tensor.span[1])
        outputs = [graph.tensors[index] for index in operator.outputs]
        name = outputs[0].name if outputs else ""
        shapes = [graph.tensors[index].shape if index >= 0 else () for index in operator.inputs]
        yield LayerFacts(
            operator=operator.name,
            output=name,
            output_shape=outputs[0].shape if outputs else (),
            weights=", ".join(dict.fromkeys(tensor.dtype for tensor in weights)),
            parameters=sum(math.prod(tensor.shape) for tensor in weights),
            weight_bytes=sum(tensor.span[1] for tensor in weights),
            macs=operator_cost.macs(operator.name, shapes, [tensor.shape for tensor in outputs]),
            snr_db=errors.get(name),
        )


def _weights(graphs: Iterable[_Graph]) -> Iterator[_Tensor]:
    """Yield each constant that is computed with, once, however many tensors share its bytes."""
    seen: set[tuple[int, int, bool]] = set()
    for graph in graphs:
        # What a variable holds at first is no weight.
        read = {index for operator in graph.operators if operator.name != _STORES for index in operator.inputs}
        for index, tensor in enumerate(graph.tensors):
            if index in read and tensor.is_weight and tensor.span not in seen:
                seen.add(tensor.span)
                yield tensor


def _peak_activation_bytes(graph: _Graph) -> int:
    """Return the most bytes of answers that are waiting to be read, at any operator."""
    last_read = dict.fromkeys(graph.outputs, len(graph.operators))
    for step, operator in enumerate(graph.operators):
        last_read |= {index: max(step, last_read.get(index, 0)) for index in operator.inputs}
    alive = {index: _activation_bytes(graph.tensors[index]) for index in graph.inputs}
    # Counted along: adding up anew at each operator takes for ever where a hostile file has them by the 100,000.
    now = peak = sum(alive.values())
    for step, operator in enumerate(graph.operators):
        # Weights in another form are no activations: runtimes unpack them once, or not at all.
        for index in operator.outputs:
            if index not in graph.unpacked:
                now -= alive.get(index, 0)
                alive[index] = _activation_bytes(graph.tensors[index])
                now += alive[index]
        peak = max(peak, now)
        for index in (*operator.inputs, *operator.outputs):
            if last_read.get(index, -1) <= step:
                now -= alive.pop(index, 0)
    return peak


def _activation_bytes(tensor: _Tensor) -> int:
    bits = schema.BITS.get(tensor.table.number(schema.TENSOR_TYPE, "b"), 0)
    return -(-math.prod(tensor.shape) * bits // 8)


def _is_state(tensor: _Tensor) -> bool:
    return bool(tensor.table.number(schema.TENSOR_VARIABLE, "b"))


def _min_runtime_version(top: Table) -> str:
    buffers = top.tables(schema.MODEL_BUFFERS)
    for entry in top.tables(schema.MODEL_METADATA):
        if entry.text(schema.METADATA_NAME) == _VERSION_ENTRY:
            start, length, _ = _span(buffers[entry.number(schema.METADATA_BUFFER, "I")])
            return top.data[start : start + min(length, 32)].rstrip(b"\0").decode(errors="replace")
    return ""


def _warnings(model: bytes, top: Table, weights: list[_Tensor]) -> Iterator[str]:
    for tensor in weights:
        start, length, _ = tensor.span
        dtype = (_FLOATS | _WHOLE).get(tensor.dtype)
        if dtype is None or tensor.table.has(schema.TENSOR_SPARSITY):
            continue
        values = np.frombuffer(model, dtype, count=length // np.dtype(dtype).itemsize, offset=start)
        # In pieces: what is compared takes as much memory again.
        pieces = [values[at : at + _PIECE] for at in range(0, len(values), _PIECE)]
        if tensor.dtype in _FLOATS and not all(np.isfinite(piece).all() for piece in pieces):
            yield f"weights {tensor.name!r} hold NaN or infinity"
        # A bias of zeros is nothing strange.
        elif (
            len(tensor.shape) > 1
            and len(values) >= _LEAST_VARIED
            and all((piece == values[0]).all() for piece in pieces)
        ):
            yield f"weights {tensor.name!r} are {len(values)} times {values[0]:g}: lost in conversion?"
    dead = _unused_bytes(top)
    if dead > _PIECE // 8:
        yield f"{dead} bytes of the file are used by nothing"


def _unused_bytes(top: Table) -> int:
    used = {
        table.number(schema.TENSOR_BUFFER, "I")
        for graph in top.tables(schema.MODEL_GRAPHS)
        for table in graph.tables(schema.GRAPH_TENSORS)
    } | {entry.number(schema.METADATA_BUFFER, "I") for entry in top.tables(schema.MODEL_METADATA)}
    buffers = enumerate(top.tables(schema.MODEL_BUFFERS))
    return sum(_span(buffer)[1] for index, buffer in buffers if index not in used)


def _span(buffer: Table) -> tuple[int, int, bool]:
    offset = buffer.number(schema.BUFFER_OFFSET, "Q")
    if offset > 1:
        return offset, buffer.number(schema.BUFFER_SIZE, "Q"), True
    return *buffer.vector(schema.BUFFER_DATA, 1), False


def _summed(pairs: Iterable[tuple[str, int]]) -> dict[str, int]:
    total: Counter[str] = Counter()
    for name, number in pairs:
        total[name] += number
    return total


def _sorted(counts: Mapping[str, int]) -> dict[str, int]:
    """Return the counts, the largest first, and the same order every time."""
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))


def main(arguments: list[str] | None = None) -> int:
    """Show what a file holds; 1 when it cannot be read or is malformed."""
    parser = argparse.ArgumentParser(prog="python -m converters.inspect", description="Show what a .tflite file holds.")
    parser.add_argument("file", type=Path, metavar="FILE.tflite")
    parser.add_argument("--json", action="store_true", help="print everything as JSON")
    chosen = parser.parse_args(arguments)
    try:
        facts = describe(chosen.file.read_bytes())
    except (OSError, ModelLoadError) as exc:
        sys.stderr.write(f"{chosen.file}: {exc.strerror if isinstance(exc, OSError) else exc}\n")
        return 1
    text = msgspec.json.format(msgspec.json.encode(facts)).decode() if chosen.json else facts_table.of(facts)
    sys.stdout.write(f"{text}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
