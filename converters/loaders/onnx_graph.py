"""An ONNX graph as a PyTorch module, for one batch: what can be known beforehand is computed, the rest is traced."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from converters.failures import SchemeFailedError, UnsupportedOperatorError
from converters.loaders import onnx_layers, onnx_operators
from converters.loaders.onnx_call import Call
from converters.loaders.onnx_file import branches
from shared.errors import InvalidInputError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from numpy.typing import NDArray

    from converters.loaders.onnx_call import TorchTensor
    from converters.loaders.onnx_file import GraphInput, Model

Module = Any
"""A `torch.nn.Module`."""

_MAX_FOLDED = "64MB"
"""onnxsim computes what is constant; not into more than this."""
_GRAPH_ERRORS = (RuntimeError, ValueError, TypeError, KeyError, IndexError, AttributeError)
_COUNTED = frozenset({"Split"})
"""Operators that must know how many outputs are asked of them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Step:
    do: Callable[[Call], Any]
    operator: str
    attributes: Mapping[str, Any]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


def simplified(model: Model, inputs: Sequence[GraphInput], batch: int) -> Model:
    """Return the graph with its batch fixed, and all that is constant computed.

    Raises:
        SchemeFailedError: onnxsim cannot follow it.
    """
    import onnxsim

    shapes = {item.name: [batch, *item.shape] for item in inputs}
    fixed = _with_batch(model, shapes)
    try:
        result, _ = onnxsim.simplify(fixed, overwrite_input_shapes=shapes, tensor_size_threshold=_MAX_FOLDED)
    except _GRAPH_ERRORS as exc:
        raise SchemeFailedError(f"onnxsim cannot simplify it: {_first_line(exc)}") from exc
    return result


def module(model: Model, inputs: Sequence[GraphInput], batch: int) -> Module:
    """Return the simplified graph of `model` for `batch`, as a module of plain inputs that gives a tuple.

    Raises:
        InvalidInputError: the graph holds on to another batch.
        UnsupportedOperatorError: names all operators that cannot be brought over.
        SchemeFailedError: it cannot be simplified.
    """
    graph = simplified(model, inputs, batch)
    steps = _steps(graph)
    plan = _Plan(graph, steps)
    plan.learn({item.name: _zeros(item, batch) for item in inputs})
    return plan.module([item.name for item in inputs], [item.name for item in graph.graph.output])


def _zeros(item: GraphInput, batch: int) -> TorchTensor:
    import torch

    return torch.zeros((batch, *item.shape), dtype=getattr(torch, item.dtype))


def _with_batch(model: Model, shapes: Mapping[str, Sequence[int]]) -> Model:
    import onnx

    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    for item in copy.graph.input:
        for size, value in zip(item.type.tensor_type.shape.dim, shapes.get(item.name, ()), strict=False):
            size.dim_value = value
    for item in copy.graph.output:
        # They follow from the inputs; what they said of the old batch would contradict.
        for size in item.type.tensor_type.shape.dim:
            size.Clear()
    del copy.graph.value_info[:]
    # onnxsim takes no output of unknown rank.
    return onnx.shape_inference.infer_shapes(copy)


def _steps(model: Model) -> list[_Step]:
    table = {**onnx_operators.table(), **onnx_layers.table()}
    missing = sorted({node.op_type for node in model.graph.node} - {*table, "Constant"})
    if missing:
        also = " (conditions and loops have no counterpart)" if branches(model) else ""
        raise UnsupportedOperatorError(f"no way to TensorFlow Lite for {', '.join(missing)}{also}")
    return [
        _Step(
            do=table.get(node.op_type, _constant),
            operator=node.op_type,
            attributes=_attributes(node),
            inputs=tuple(node.input),
            outputs=tuple(node.output),
        )
        for node in model.graph.node
    ]


def _attributes(node: Any) -> dict[str, Any]:  # noqa: ANN401 - a NodeProto
    import onnx

    values = {item.name: onnx.helper.get_attribute_value(item) for item in node.attribute}
    plain = {name: _plain(value) for name, value in values.items()}
    return {**plain, "outputs": len(node.output)} if node.op_type in _COUNTED else plain


def _plain(value: Any) -> Any:  # noqa: ANN401 - of any type that an attribute has
    import onnx

    if isinstance(value, onnx.TensorProto):
        return _tensor(value)
    if isinstance(value, bytes):
        return value.decode(errors="replace")
    return list(value) if not isinstance(value, str | int | float) else value


def _tensor(value: Any) -> TorchTensor:  # noqa: ANN401 - a TensorProto
    import torch
    from onnx import numpy_helper

    array = numpy_helper.to_array(value)
    # Doubles are computed in single precision, as everything is on the device.
    narrowed = array.astype(np.float32) if array.dtype == np.float64 else array
    return torch.from_numpy(np.array(narrowed))


def _constant(call: Call) -> TorchTensor:
    import torch

    value = call.attribute("value")
    if value is not None:
        return value
    numbers = [call.attribute(name) for name in ("value_float", "value_int", "value_floats", "value_ints")]
    given = next((item for item in numbers if item is not None), None)
    if given is None:
        raise call.unsupported("text")
    return torch.tensor(given)


class _Plan:
    """The steps of a graph, and what is known of their values before any input comes."""

    def __init__(self, model: Model, steps: Sequence[_Step]) -> None:
        self._opset = next(item.version for item in model.opset_import if item.domain in {"", "ai.onnx"})
        self._known: dict[str, TorchTensor] = {item.name: _tensor(item) for item in model.graph.initializer}
        # As NumPy's: numbers of a tensor are nothing fixed while PyTorch traces.
        self._numbers: dict[str, NDArray[Any]] = {name: value.numpy() for name, value in self._known.items()}
        self._steps = list(steps)

    def learn(self, samples: Mapping[str, TorchTensor]) -> None:
        """Walk the graph once; steps whose inputs are all known, and shapes, are known from then on."""
        import torch

        values = {**self._known, **samples}
        left = []
        for step in self._steps:
            known = step.operator == "Shape" or all(name in self._known for name in step.inputs if name)
            with torch.no_grad():
                made = self._do(step, values)
            values.update(made)
            if known:
                self._known.update(made)
                self._numbers.update({name: value.numpy() for name, value in made.items()})
            else:
                left.append(step)
        self._steps = left

    def module(self, inputs: Sequence[str], outputs: Sequence[str]) -> Module:
        """Return what is left to do, as a module."""
        import torch

        plan, needed = self, {name for step in self._steps for name in step.inputs} | set(outputs)
        weights = {name: f"weight_{at}" for at, name in enumerate(self._known) if name in needed}

        class Graph(torch.nn.Module):  # type: ignore[misc]  # a class of PyTorch, unknown where this is checked
            def __init__(self) -> None:
                super().__init__()
                for name, own in weights.items():
                    self.register_buffer(own, plan._known[name])

            def forward(self, *tensors: Any) -> Any:  # noqa: ANN401 - tensors
                values = {name: getattr(self, own) for name, own in weights.items()}
                values.update(zip(inputs, tensors, strict=True))
                for step in plan._steps:
                    values.update(plan._do(step, values))
                return tuple(values[name] for name in outputs)

        return Graph()

    def _do(self, step: _Step, values: Mapping[str, TorchTensor]) -> dict[str, TorchTensor]:
        call = Call(
            operator=step.operator,
            opset=self._opset,
            attributes=step.attributes,
            inputs=[values[name] if name else None for name in step.inputs],
            numbers=[self._numbers.get(name) for name in step.inputs],
        )
        try:
            made = step.do(call)
        except (UnsupportedOperatorError, InvalidInputError):
            raise
        except _GRAPH_ERRORS as exc:
            shapes = [list(item.shape) for item in call.inputs if item is not None]
            raise InvalidInputError(
                field="source",
                problem=f"{step.operator} cannot take {shapes}: {_first_line(exc)}",
                remedy="does the model hold on to the batch that it was exported with? export it with a free one",
            ) from exc
        outputs = made if isinstance(made, tuple) else (made,)
        return {name: value for name, value in zip(step.outputs, outputs, strict=False) if name}


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).split("\n", 1)[0][:300]
