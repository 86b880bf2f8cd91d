"""One graph of a model: its tensors, and the operators that read and write them, checked number by number."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from shared.errors import ModelLoadError
from shared.runtime import operators, schema
from shared.runtime.sparsity import stored_values

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from shared.runtime.flatbuffer import Table

_MAX_TENSOR_BYTES = 2**31 - 1
"""The runtime counts in 32 bits here and there; nothing meant for a device comes near."""
_MAX_RANK = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Tensor:
    """What a graph says of one tensor."""

    shape: tuple[int, ...]
    kind: int
    bits: int | None
    constant: bool
    """Whether its content is in the file, where nothing may be written."""
    given: bool
    """Whether it has content before any operator ran: from the file, kept between runs, or none at all."""

    @property
    def size(self) -> int:
        """How many numbers it holds."""
        return math.prod(self.shape)


def require(holds: bool, problem: str) -> None:  # noqa: FBT001 - the condition is the point, as in an assertion
    """Refuse the model unless `holds`. Raises ModelLoadError."""
    if not holds:
        raise ModelLoadError(f"the model is malformed: {problem}")


def check_indexes(indexes: Iterable[int], count: int, where: str, *, least: int = 0) -> None:
    """Refuse an index that names nothing. Raises ModelLoadError."""
    for index in indexes:
        require(least <= index < count, f"{where}: {index} of {count}")


def check_tensors(graph: Table, buffers: Sequence[int], where: str) -> list[Tensor]:
    """Return the graph's tensors; `buffers` holds the size of each buffer in bytes.

    Raises:
        ModelLoadError: names the tensor.
    """
    made = []
    for index, table in enumerate(graph.tables(schema.GRAPH_TENSORS)):
        name = f"{where} tensor {index}"
        table.text(schema.TENSOR_NAME)
        buffer = table.number(schema.TENSOR_BUFFER, "I")
        require(buffer < len(buffers), f"{name} names buffer {buffer} of {len(buffers)}")
        tensor = _tensor(table, name, constant=buffers[buffer] > 0)
        sparsity = table.table(schema.TENSOR_SPARSITY)
        values = tensor.size if sparsity is None else stored_values(sparsity, tensor.shape, name)
        if tensor.constant and tensor.bits is not None:
            wanted = -(-values * tensor.bits // 8)
            require(buffers[buffer] >= wanted, f"{name} needs {wanted} bytes and has {buffers[buffer]}")
        made.append(tensor)
    inputs, outputs = graph.integers(schema.GRAPH_INPUTS), graph.integers(schema.GRAPH_OUTPUTS)
    check_indexes(inputs, len(made), f"{where} inputs")
    check_indexes(outputs, len(made), f"{where} outputs")
    require(len(set(inputs)) == len(inputs), f"{where} inputs name a tensor twice")
    # What is handed over would be written into the file's own bytes.
    require(not any(made[index].constant for index in inputs), f"{where} inputs: a constant is none")
    return made


def _tensor(table: Table, name: str, *, constant: bool) -> Tensor:
    shape, free = table.integers(schema.TENSOR_SHAPE), table.integers(schema.TENSOR_FREE_SHAPE)
    kind = table.number(schema.TENSOR_TYPE, "b")
    bits = schema.BITS.get(kind)
    require(bits is not None or kind == schema.RESOURCE, f"{name} is of type {kind}, no numbers")
    require(len(shape) <= _MAX_RANK, f"{name} has {len(shape)} axes")
    require(all(size >= 0 for size in shape), f"{name} has shape {shape}")
    require(math.prod(shape) * (bits or 8) // 8 <= _MAX_TENSOR_BYTES, f"{name} of shape {shape} is too large")
    fits = len(free) in {0, len(shape)} and all(want in {-1, size} for want, size in zip(free, shape, strict=False))
    require(fits, f"{name} of shape {shape} says that it may be {free}")
    require(not table.has(schema.TENSOR_EXTERNAL), f"{name} keeps its content in another file")
    quantization = table.table(schema.TENSOR_QUANTIZATION)
    if quantization is not None:
        _check_quantization(quantization, shape, kind, name)
    given = constant or math.prod(shape) == 0 or bool(table.number(schema.TENSOR_VARIABLE, "b"))
    return Tensor(shape=shape, kind=kind, bits=bits, constant=constant, given=given)


def _check_quantization(table: Table, shape: tuple[int, ...], kind: int, name: str) -> None:
    scales = table.numbers(schema.QUANTIZATION_SCALE, "f")
    zero_points = table.integers(schema.QUANTIZATION_ZERO_POINT, "q")
    axis = table.number(schema.QUANTIZATION_AXIS, "i")
    require(all(math.isfinite(scale) and scale >= 0 for scale in scales), f"{name} has a scale that is no size")
    counts = f"{len(zero_points)} zero points for {len(scales)} scales"
    require(len(zero_points) in {0, 1, len(scales)}, f"{name} has {counts}")
    least, most = schema.RANGES.get(kind, schema.WIDEST)
    # Kernels shift table look-ups by it.
    fits = all(least <= zero_point <= most for zero_point in zero_points)
    require(fits, f"{name} has a zero point that its type {kind} cannot hold")
    if len(scales) > 1:
        fits = 0 <= axis < len(shape) and shape[axis] == len(scales)
        require(fits, f"{name} of shape {shape} has {len(scales)} scales on axis {axis}")


def check_operators(graph: Table, codes: Sequence[int], tensors: Sequence[Tensor], where: str) -> set[int]:
    """Check a graph's operators, in their order; return the graphs that they call.

    Raises:
        ModelLoadError: names the operator.
    """
    called: set[int] = set()
    inputs = graph.integers(schema.GRAPH_INPUTS)
    # -1 stands for an input that is left out.
    ready = {-1, *inputs, *(index for index, tensor in enumerate(tensors) if tensor.given)}
    written = set(inputs)
    for index, table in enumerate(graph.tables(schema.GRAPH_OPERATORS)):
        name = f"{where} operator {index}"
        code = table.number(schema.OPERATOR_CODE, "I")
        require(code < len(codes), f"{name} names code {code} of {len(codes)}")
        operator = _Operator(table, codes[code], tensors, name)
        # Operators run in the order of the file. One that reads its own or a later answer reads what was never written,
        # and memory is shared out as if nobody did.
        unready = next((item for item in operator.inputs if item not in ready), None)
        if unready is not None:
            raise ModelLoadError(f"the model is malformed: {name} {_unready(graph, unready)}")
        operator.check()
        # Memory is shared out by the first operator that writes, too.
        again = next((item for item in operator.outputs if item in written), None)
        require(again is None, f"{name} writes to tensor {again}, which has its content already")
        written.update(operator.outputs)
        ready.update(operator.outputs)
        called |= operator.called()
    missing = next((item for item in graph.integers(schema.GRAPH_OUTPUTS) if item not in ready), None)
    require(missing is None, f"{where} outputs: no operator writes tensor {missing}")
    return called


def _unready(graph: Table, tensor: int) -> str:
    """Say why a tensor has no content: it is made too late, or its weights are gone."""
    later = (table.integers(schema.OPERATOR_OUTPUTS) for table in graph.tables(schema.GRAPH_OPERATORS))
    if any(tensor in outputs for outputs in later):
        return "reads what no operator before it writes"
    table = graph.tables(schema.GRAPH_TENSORS)[tensor]
    name, buffer = table.text(schema.TENSOR_NAME)[:100], table.number(schema.TENSOR_BUFFER, "I")
    return (
        f"reads tensor {tensor} ({name!r}), and its weights are not in the file: buffer {buffer} is empty, and no"
        " operator writes it (a tool that packs a file again may drop weights kept behind it: convert the model anew)"
    )


class _Operator:
    """One operator with what it names, each index checked."""

    def __init__(self, table: Table, code: int, tensors: Sequence[Tensor], name: str) -> None:
        self._table, self._code, self._tensors, self._name = table, code, tensors, name
        self.inputs = table.integers(schema.OPERATOR_INPUTS)
        self.outputs = table.integers(schema.OPERATOR_OUTPUTS)
        check_indexes(self.inputs, len(tensors), f"{name} inputs", least=-1)
        check_indexes(self.outputs, len(tensors), f"{name} outputs")
        check_indexes(table.integers(schema.OPERATOR_INTERMEDIATES), len(tensors), f"{name} intermediates")

    def check(self) -> None:
        """Refuse inputs and outputs that the operator's kernel cannot take. Raises ModelLoadError."""
        self._check_inputs()
        self._check_outputs()
        self._check_resources()
        if self._code in operators.WEIGHTED:
            kind = self._tensors[self.inputs[1]].kind
            require(kind in operators.WEIGHT_TYPES, f"{self._name} has weights of type {kind}")
        most = operators.most_sizes(self._code)
        for place in operators.size_inputs(self._code):
            if place < len(self.inputs):
                size = self._tensors[self.inputs[place]].size
                require(size <= most, f"{self._name} has {size} sizes or axes in input {place}: {most} are the most")

    def called(self) -> set[int]:
        """Return the graphs that the operator's options name."""
        code, table, name = self._code, self._table, self._name
        kind = table.number(schema.OPERATOR_OPTIONS_KIND, "B")
        require(kind == operators.OPTIONS_KIND.get(code, kind), f"{name} has options of kind {kind}")
        if code == operators.COMPOSITE:
            options, fields = table.table(schema.OPERATOR_OPTIONS_2), (schema.COMPOSITE_GRAPH,)
        elif code in operators.CALLED_GRAPHS:
            options, fields = table.table(schema.OPERATOR_OPTIONS), (*range(operators.CALLED_GRAPHS[code]),)
        else:
            return set()
        if options is None:
            raise ModelLoadError(f"the model is malformed: {name} names no graph to call")
        return {options.number(field, "i") for field in fields}

    def _check_inputs(self) -> None:
        least = operators.least_inputs(self._code)
        require(len(self.inputs) >= least, f"{self._name} has {len(self.inputs)} inputs and needs {least}")
        if self._code in operators.GATED:
            required = self.inputs[:1]
        elif self._code in operators.OPTIONAL:
            required = self.inputs[: max(least, 1)]
        else:
            required = self.inputs
        require(-1 not in required, f"{self._name} leaves out an input that it needs")

    def _check_outputs(self) -> None:
        allowed = operators.outputs(self._code)
        require(len(self.outputs) in allowed, f"{self._name} has {len(self.outputs)} outputs")
        require(
            not any(self._tensors[output].constant for output in self.outputs), f"{self._name} writes to a constant"
        )
        if not self.outputs or not self.inputs:
            return
        given, answer = self._tensors[self.inputs[0]], self._tensors[self.outputs[0]]
        mixed = (given.kind == schema.FLOAT32) != (answer.kind == schema.FLOAT32)
        require(
            self._code not in operators.ALIKE or not mixed, f"{self._name} turns type {given.kind} into {answer.kind}"
        )
        # Unpacked weights: XNNPACK believes the shape that the answer declares, and reads as much of the file.
        same = self._code != operators.DEQUANTIZE or given.shape == answer.shape
        require(same, f"{self._name} turns shape {given.shape} into {answer.shape}")

    def _check_resources(self) -> None:
        """Refuse variables where numbers belong, and the other way round."""
        kinds = [self._tensors[item].kind == schema.RESOURCE for item in (*self.inputs, *self.outputs) if item >= 0]
        match self._code:
            case operators.VAR_HANDLE | operators.READ_VARIABLE | operators.ASSIGN_VARIABLE:
                fits = kinds[:1] == [True] and not any(kinds[1:])
            case operators.IF | operators.WHILE | operators.COMPOSITE:
                fits = True
            case _:
                fits = not any(kinds)
        require(fits, f"{self._name} takes a variable for numbers, or numbers for a variable")
