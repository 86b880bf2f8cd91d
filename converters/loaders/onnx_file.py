"""ONNX files: read without opening anything that they point at, and refused for what no `.tflite` can do.

ONNX's own loader follows `location` to any file that the user may read. Here a model is its own bytes alone.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from converters.failures import UnsupportedOperatorError
from converters.loaders.members import shown
from shared.errors import InvalidInputError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

Model = Any
"""An `onnx.ModelProto`; the environment of this module's checks has no ONNX."""

_FIELD = "source"
_OWN_DOMAINS = frozenset({"", "ai.onnx"})
_LEARNT_DOMAIN = "ai.onnx.ml"
_OLDEST_OPSET = 7
"""The first whose arithmetic broadcasts as NumPy does."""
_MAX_BYTES = 2**31 - 1
_MAX_DEPTH = 32
_BRANCHES = frozenset({"If", "Loop", "Scan"})
_RANDOM = frozenset(
    {"RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Bernoulli", "Multinomial"}
)
_INPUT_TYPES = {1: "float32", 2: "uint8", 3: "int8", 6: "int32", 7: "int64", 9: "bool"}
_BITS = {1: 32, 2: 8, 3: 8, 4: 16, 5: 16, 6: 32, 7: 64, 9: 8, 10: 16, 11: 64, 12: 32, 13: 64, 14: 64, 15: 128, 16: 16}
_FLOATS = frozenset({1, 10, 11, 16})
_EVAL = "export it in inference mode: model.eval(), training=TrainingMode.EVAL"


@dataclass(frozen=True, slots=True, kw_only=True)
class GraphInput:
    """What a graph takes. `shape` is without the batch, which is None where it is free."""

    name: str
    dtype: str
    batch: int | None
    shape: tuple[int, ...]


def read(path: Path) -> Model:
    """Return the model in the file, functions inlined.

    Raises:
        InvalidInputError: no ONNX model, weights elsewhere, sizes that are not there, or inputs of no fixed shape.
        UnsupportedOperatorError: names the operators.
    """
    if path.stat().st_size > _MAX_BYTES:
        raise _refused("is larger than 2 GB", "give a smaller model")
    import onnx
    from google.protobuf.message import DecodeError

    try:
        model = onnx.load_model_from_string(path.read_bytes())
    except (DecodeError, ValueError) as exc:
        raise _refused(f"is no ONNX model, or a damaged one: {exc}", "write it with torch.onnx.export") from exc
    if not model.graph.node or not model.graph.input:
        raise _refused("is no ONNX model: it has no graph", "write it with torch.onnx.export")
    if model.training_info:
        raise _refused("holds information for training", _EVAL)
    for tensor in _tensors(model):
        _check_tensor(tensor)
    if model.functions:
        from onnx import inliner

        model = inliner.inline_local_functions(model)
    _check_operators(model)
    return model


def inputs(model: Model) -> list[GraphInput]:
    """Return what the model takes. Raises InvalidInputError where that is not fixed."""
    given = {item.name for item in model.graph.initializer}
    found = [_input(item) for item in model.graph.input if item.name not in given]
    if len({item.batch for item in found}) > 1:
        batches = [item.batch for item in found]
        raise _refused(f"takes inputs of different batches: {batches}", "let each input begin with the batch")
    for item in model.graph.output:
        if item.type.WhichOneof("value") not in {"tensor_type", None}:
            raise _refused(f"gives {shown(item.name)}, which is no tensor", "export it to give tensors alone")
    return found


def histogram(model: Model) -> dict[str, int]:
    """Return how many there are of each operator, subgraphs included; one that trains says so."""
    found = Counter(f"{node.op_type} (training)" if _trains(node) else node.op_type for node in _nodes(model.graph))
    return dict(sorted(found.items()))


def parameters(model: Model) -> int:
    """Return how many floating-point numbers the graph holds."""
    return sum(math.prod(tensor.dims) for tensor in _tensors(model) if tensor.data_type in _FLOATS)


def _refused(problem: str, remedy: str) -> InvalidInputError:
    return InvalidInputError(field=_FIELD, problem=problem, remedy=remedy)


def _graphs(graph: Any, depth: int = 0) -> Iterator[Any]:  # noqa: ANN401 - a GraphProto, or a FunctionProto
    """Go through a graph and all graphs within it."""
    if depth > _MAX_DEPTH:
        raise _refused("nests its graphs too deep", "export a plain graph")
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            for inner in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
                yield from _graphs(inner, depth + 1)


def _nodes(graph: Any) -> Iterator[Any]:  # noqa: ANN401 - a GraphProto
    for inner in _graphs(graph):
        yield from inner.node


def _tensors(model: Model) -> Iterator[Any]:
    """Go through everything that could point at a file, wherever it stands."""
    for whole in (model.graph, *model.functions):
        for graph in _graphs(whole):
            yield from getattr(graph, "initializer", ())
            yield from _halves(getattr(graph, "sparse_initializer", ()))
            for node in graph.node:
                for attribute in node.attribute:
                    yield from ([attribute.t] if attribute.HasField("t") else [])
                    yield from attribute.tensors
                    yield from _halves([attribute.sparse_tensor] if attribute.HasField("sparse_tensor") else [])
                    yield from _halves(attribute.sparse_tensors)


def _halves(tensors: Iterable[Any]) -> Iterator[Any]:
    for sparse in tensors:
        yield from (sparse.values, sparse.indices)


def _check_tensor(tensor: Any) -> None:  # noqa: ANN401 - a TensorProto
    """Refuse a tensor that is elsewhere, or that claims to be larger than it is."""
    if tensor.external_data or tensor.data_location:
        places = [entry.value for entry in tensor.external_data if entry.key == "location"]
        where = shown(places[0]) if places else "another file"
        raise _refused(
            f"keeps {shown(tensor.name)} outside of itself, in {where}, which is not read",
            "save it as one file: onnx.save(onnx.load(path), path, save_as_external_data=False)",
        )
    bits = _BITS.get(tensor.data_type)
    if bits is None:
        if tensor.data_type:
            raise UnsupportedOperatorError(f"tensor {shown(tensor.name)} has a type that no .tflite has")
        return
    if any(size < 0 for size in tensor.dims):
        raise _refused(f"has a negative size in {shown(tensor.name)}", "export it again")
    claimed = math.prod(tensor.dims)
    packed = len(tensor.raw_data) * 8 // bits
    listed = max(len(tensor.float_data), len(tensor.int32_data), len(tensor.int64_data), len(tensor.double_data))
    if claimed > max(packed, listed, len(tensor.uint64_data)):
        raise _refused(f"claims {claimed} numbers for {shown(tensor.name)}, and does not hold them", "export it again")


def _check_operators(model: Model) -> None:
    opset = next((item.version for item in model.opset_import if item.domain in _OWN_DOMAINS), None)
    nodes = list(_nodes(model.graph))
    learnt = sorted({node.op_type for node in nodes if node.domain == _LEARNT_DOMAIN})
    if learnt:
        raise UnsupportedOperatorError(
            f"no device's runtime has the operators {', '.join(learnt)} of a scikit-learn export: "
            "give the pipeline itself, as .skops (skops.io.dump)"
        )
    custom = sorted({f"{node.domain}.{node.op_type}" for node in nodes if node.domain not in _OWN_DOMAINS})
    if custom:
        raise UnsupportedOperatorError(f"custom operators: {', '.join(custom)}")
    import onnx

    newest = onnx.defs.onnx_opset_version()
    if opset is None or not _OLDEST_OPSET <= opset <= newest:
        raise _refused(f"is of opset {opset}", f"export it with an opset from {_OLDEST_OPSET} to {newest}")
    training = sorted({node.op_type for node in nodes if _trains(node)})
    if training:
        raise _refused(f"trains in {', '.join(training)}", _EVAL)
    random = sorted({node.op_type for node in nodes if node.op_type in _RANDOM})
    if random:
        raise UnsupportedOperatorError(f"operators that draw random numbers: {', '.join(random)}")


def branches(model: Model) -> list[str]:
    """Return the operators whose way depends on the input."""
    return sorted({node.op_type for node in _nodes(model.graph) if node.op_type in _BRANCHES})


def _trains(node: Any) -> bool:  # noqa: ANN401 - a NodeProto
    # Dropout has its switch as an input, which may be computed; whoever leaves it out has it off.
    if node.op_type == "Dropout":
        return len(node.input) > 2 and bool(node.input[2])  # noqa: PLR2004 - data, ratio, training_mode
    return node.op_type == "BatchNormalization" and any(
        attribute.name == "training_mode" and attribute.i for attribute in node.attribute
    )


def _input(item: Any) -> GraphInput:  # noqa: ANN401 - a ValueInfoProto
    dtype = _INPUT_TYPES.get(item.type.tensor_type.elem_type)
    if dtype is None:
        raise _refused(f"takes {shown(item.name)} of a type that no .tflite takes", "let it take float32 or integers")
    sizes = [size.dim_value if size.dim_value > 0 else None for size in item.type.tensor_type.shape.dim]
    fixed = tuple(size for size in sizes[1:] if size is not None)
    if not sizes or len(fixed) != len(sizes) - 1:
        raise _refused(
            f"leaves the shape of {shown(item.name)} open: {sizes}",
            f"fix every size but the batch: onnxsim in.onnx out.onnx --overwrite-input-shape {item.name}:1,…",
        )
    return GraphInput(name=item.name, dtype=dtype, batch=sizes[0], shape=fixed)
