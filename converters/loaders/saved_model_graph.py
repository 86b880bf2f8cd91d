"""What a SavedModel would run, read before TensorFlow opens it.

Opening one runs parts of it (initializers, restoring), and an operator may read and write files or call into Python.
TensorFlow's own list says which operators have effects; only those of them that are harmless pass.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from shared.errors import InvalidInputError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from pathlib import Path

MetaGraph = Any
"""A `MetaGraphDef`; so are NodeDef and FunctionDef below: TensorFlow ships no types."""

_FIELD = "source"
_FILE_NAME = "saved_model.pb"
_SERVING = "serving_default"
_INITIALIZER = "__saved_model_init_op"
_INIT_COLLECTIONS = ("saved_model_main_op", "legacy_init_op")
_EFFECTS_UNSAID = re.compile(
    r"\w*Dataset\w*|\w*Snapshot\w*|Debug\w+|Copy(Host)?|InitializeTable\w*|(De|En)codeProto\w*|Reader\w+|"
    r"Xla(CustomCall|Launch)\w*|GenerateVocabRemapping|ImmutableConst|MatchingFiles|PyFuncStateless|ReadFile"
)
"""They read or write files, call other machines, Python or foreign code, and TensorFlow does not say so of them.
Datasets are all among them: several keep or fetch their items elsewhere, and no network computes with one."""
_HARMLESS = re.compile(
    r"(Assert|Case|DisableCopyOnRead|DestroyResourceOp|If|While|PartitionedCall|StatefulPartitionedCall|"
    r"(Anonymous|Mutable)?(Dense)?HashTable(OfTensors)?(V\d)?|LookupTable(Find|Size|Import|Export|Insert)(V\d)?|"
    r"(Resource)?(Sparse)?Apply\w+|Resource(Gather|Scatter)\w*|TensorArray\w*|"
    r"(VarHandle|ReadVariable|Assign(Add|Sub)?Variable|VarIsInitialized)Op|"
    r"Variable(V2)?|Assign(Add|Sub)?|IsVariableInitialized|"
    r"Multinomial|Random\w+|\w*TruncatedNormal|Stateful(Uniform|StandardNormal|RandomBinomial)\w*|Rng\w+)"
)
"""Operators with effects that stay inside the model: its variables, tables, random states and calls."""
_WRITES_CHECKPOINT = frozenset({"MergeV2Checkpoints", "SaveV2"})
_READS_CHECKPOINT = "RestoreV2"
_LIVE = re.compile(
    r"(Stateless)?(Random|TruncatedNormal|Multinomial|ParameterizedTruncatedNormal)\w*|Stateful(Uniform|Standard|Trunc)\w+|"
    r"Rng\w+|ImageProjectiveTransform\w*|Assign(Add|Sub)?(VariableOp)?"
)
"""What training does, and serving must not: chance, distortion, writing to variables."""
_STRUCTURE = frozenset({"Const", "Identity", "NoOp", "PartitionedCall", "Placeholder", "StatefulPartitionedCall"})


@dataclass(frozen=True, slots=True, kw_only=True)
class ServingGraph:
    """The signature that is to be converted."""

    signature: str
    operators: dict[str, int]
    """What it runs, by kind; constants and calls left out."""


def read(folder: Path) -> ServingGraph:
    """Read and check a SavedModel without running anything of it.

    Raises:
        InvalidInputError: no SavedModel, one that would reach outside of itself, or that still trains.
    """
    meta_graph = _meta_graph(folder)
    graph = _Graph(meta_graph)
    _check_operators(graph)
    _check_checkpoints(graph)
    if len(meta_graph.asset_file_def) > 0:
        raise _refused("needs files beside the model (a vocabulary?)", "export it from where numbers go in")
    signature = _signature_name(meta_graph)
    served = Counter(node.op for node in graph.reached(_outputs(meta_graph.signature_def[signature])))
    live = sorted(name for name in served if _LIVE.fullmatch(name))
    if live:
        raise _refused(
            f"is a SavedModel with live augmentation or training: it serves with {', '.join(live)}",
            "upload the .keras file, whose training-only layers are left out, or export a function that calls the "
            "model with training=False",
        )
    operators = {name: count for name, count in sorted(served.items()) if name not in _STRUCTURE}
    return ServingGraph(signature=signature, operators=operators)


def drop_optimizer_slots(folder: Path) -> None:
    """Rewrite a SavedModel without what an optimizer keeps of each variable.

    Keras 2 saved it along with the model, and nothing that comes with TensorFlow today can open it.
    """
    model = _parsed(folder / _FILE_NAME)
    for meta_graph in model.meta_graphs:
        for node in meta_graph.object_graph_def.nodes:
            del node.slot_variables[:]
    (folder / _FILE_NAME).write_bytes(model.SerializeToString(deterministic=True))


class _Graph:
    """Nodes of the main graph and of the functions that they call."""

    def __init__(self, meta_graph: MetaGraph) -> None:
        self.meta_graph = meta_graph
        self.main = {node.name: node for node in meta_graph.graph_def.node}
        self.functions = {function.signature.name: function for function in meta_graph.graph_def.library.function}

    def nodes(self) -> Iterator[Any]:
        """Yield every node, run or not; also those whose name, or function's name, is there twice."""
        yield from self.meta_graph.graph_def.node
        for function in self.meta_graph.graph_def.library.function:
            yield from function.node_def

    def reached(self, names: Iterable[str], functions: Iterable[str] = ()) -> Iterator[Any]:
        """Yield every node that runs for the main graph's nodes `names`, and within `functions`."""
        waiting, called = [_node_name(name) for name in names], list(functions)
        seen_nodes: set[str] = set()
        seen_functions: set[str] = set()
        while waiting or called:
            while waiting:
                name = waiting.pop()
                if name in seen_nodes or name not in self.main:
                    continue
                seen_nodes.add(name)
                node = self.main[name]
                waiting.extend(map(_node_name, node.input))
                called.extend(_called(node))
                yield node
            while called:
                name = called.pop()
                if name in seen_functions or name not in self.functions:
                    continue
                seen_functions.add(name)
                for node in self.functions[name].node_def:
                    called.extend(_called(node))
                    yield node


def _parsed(path: Path) -> Any:  # noqa: ANN401 - a SavedModel message
    from google.protobuf.message import DecodeError
    from tensorflow.core.protobuf import saved_model_pb2

    if not path.is_file():
        raise _refused(f"holds no {_FILE_NAME}", "pack the folder that model.export() or tf.saved_model.save() wrote")
    model = saved_model_pb2.SavedModel()
    try:
        model.ParseFromString(path.read_bytes())
    except DecodeError as exc:
        raise _refused(f"has a damaged {_FILE_NAME}") from exc
    return model


def _meta_graph(folder: Path) -> MetaGraph:
    model = _parsed(folder / _FILE_NAME)
    serving = [graph for graph in model.meta_graphs if "serve" in graph.meta_info_def.tags]
    if len(serving) != 1:
        raise _refused(f"has {len(serving)} graphs that are tagged `serve`, not one", "export it for serving")
    return serving[0]


def _check_operators(graph: _Graph) -> None:
    """Refuse operators that reach outside of the model, wherever they stand: opening may fold or run any."""
    from tensorflow.python.framework import op_def_registry

    disguised = sorted(name for name in graph.functions if op_def_registry.get(name) is not None)
    if disguised:
        raise _refused(f"has a function that is called {disguised[0]}, as an operator of TensorFlow is")
    harmful, unknown = set(), set()
    for name in {node.op for node in graph.nodes()} - {_READS_CHECKPOINT} - _WRITES_CHECKPOINT - set(graph.functions):
        definition = op_def_registry.get(name)
        if definition is None:
            unknown.add(name)
        elif _EFFECTS_UNSAID.fullmatch(name) or (definition.is_stateful and not _HARMLESS.fullmatch(name)):
            harmful.add(name)
    if harmful:
        raise _refused(
            f"computes with {', '.join(sorted(harmful))}, which may reach files, the network or Python",
            "export the part that goes from numbers to numbers",
        )
    if unknown:
        raise _refused(f"computes with {', '.join(sorted(unknown))}, which TensorFlow does not know")


def _check_checkpoints(graph: _Graph) -> None:
    """Refuse reading and writing of checkpoints but by the saver, which opening calls with the model's own path."""
    saver = graph.meta_graph.saver_def
    for node in graph.reached(_roots(graph.meta_graph), _object_functions(graph.meta_graph)):
        if node.op == _READS_CHECKPOINT or node.op in _WRITES_CHECKPOINT:
            raise _refused(f"computes with {node.op}, which reads or writes files")
    given = _node_name(saver.filename_tensor_name)
    for node in graph.reached([saver.restore_op_name]):
        # In a function the path is an argument of it, whose name, unlike that of a node's output, has no colon.
        path = node.input[0] if node.input else ""
        from_saver = _node_name(path) == given if node.name in graph.main else ":" not in path
        if node.op in _WRITES_CHECKPOINT or (node.op == _READS_CHECKPOINT and not from_saver):
            raise _refused(f"restores its variables with {node.op} from or to a path of its own")


def _roots(meta_graph: MetaGraph) -> Iterator[str]:
    """Yield what runs when a model is opened or asked, but for the restoring of variables."""
    for signature in meta_graph.signature_def.values():
        yield from _outputs(signature)
    for name in _INIT_COLLECTIONS:
        yield from meta_graph.collection_def[name].node_list.value if name in meta_graph.collection_def else ()


def _object_functions(meta_graph: MetaGraph) -> Iterator[str]:
    # Among them the initializers of tables and other resources, which opening calls.
    yield from meta_graph.object_graph_def.concrete_functions


def _outputs(signature: Any) -> list[str]:  # noqa: ANN401 - a SignatureDef
    return [tensor.name for tensor in signature.outputs.values()]


def _signature_name(meta_graph: MetaGraph) -> str:
    names: list[str] = sorted(name for name in meta_graph.signature_def if name != _INITIALIZER)
    if _SERVING in names:
        return _SERVING
    if len(names) != 1:
        raise _refused(f"has the signatures {', '.join(names) or 'none'}", f"export one with the name {_SERVING}")
    return names[0]


def _node_name(tensor: str) -> str:
    # A leading ^ says that only the order matters.
    return tensor.lstrip("^").partition(":")[0]


def _called(node: Any) -> Iterator[str]:  # noqa: ANN401 - a NodeDef
    # A function is also called by a node whose operator is its name.
    yield str(node.op)
    attributes: Mapping[str, Any] = node.attr
    for value in attributes.values():
        if value.HasField("func"):
            yield str(value.func.name)
        yield from (str(function.name) for function in value.list.func)


def _refused(problem: str, remedy: str = "") -> InvalidInputError:
    return InvalidInputError(field=_FIELD, problem=problem, remedy=remedy)
