"""Checks that a `.tflite` file means something before the runtime believes it.

The runtime checks that offsets stay inside the file, and hardly what the numbers there mean: an index out of range
kills the process, and so does a tensor written twice, a shape of sixty axes, or an operator with an input too few.
Each rule here stands for a file that did so.
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

from shared.runtime import graph as graphs_of
from shared.runtime import operators, schema
from shared.runtime.flatbuffer import root
from shared.runtime.graph import check_indexes, require
from shared.runtime.variables import check_variables

if TYPE_CHECKING:
    from collections.abc import Mapping

    from shared.runtime.flatbuffer import Table
    from shared.runtime.graph import Tensor

_MAX_SUBGRAPHS = 256


def verify(model: bytes) -> Mapping[int, tuple[int, ...]]:
    """Refuse a file whose graph would lead the runtime astray.

    Returns the shapes that tensors of the main graph must still have once the runtime has worked out its own: it lets
    variables grow and not their readers. Empty for a model that remembers nothing.

    Raises:
        ModelLoadError: says which number of which part is wrong.
    """
    top = root(model, schema.IDENTIFIER)
    codes = [_code(table) for table in top.tables(schema.MODEL_CODES)]
    graphs = top.tables(schema.MODEL_GRAPHS)
    require(1 <= len(graphs) <= _MAX_SUBGRAPHS, f"the model has {len(graphs)} graphs")
    buffers = _buffers(top, graphs)
    tensors = [graphs_of.check_tensors(graph, buffers, f"graph {index}") for index, graph in enumerate(graphs)]
    calls = [
        graphs_of.check_operators(graph, codes, tensors[index], f"graph {index}") for index, graph in enumerate(graphs)
    ]
    _check_calls(calls)
    _check_ends(graphs[0], tensors[0])
    for table in top.tables(schema.MODEL_SIGNATURES):
        _check_signature(table, graphs)
    for table in top.tables(schema.MODEL_METADATA):
        check_indexes([table.number(schema.METADATA_BUFFER, "I")], len(buffers), "metadata buffer")
    return check_variables(graphs, codes, tensors)


def _code(table: Table) -> int:
    # Codes beyond 127 live in a field that old writers do not know.
    code = max(table.number(schema.CODE_OLD, "b"), table.number(schema.CODE_NEW, "i"))
    require(code >= 0, f"operator code {code} is negative")
    foreign = code in operators.FOREIGN or table.has(schema.CODE_CUSTOM)
    require(not foreign, "a custom or Flex operator needs code of its own")
    require(
        code not in operators.RANDOM, f"operator code {code} answers by chance: noise or augmentation is still in it"
    )
    require(code in operators.ALLOWED, f"operator code {code} is none that may run")
    return code


def _buffers(top: Table, graphs: list[Table]) -> list[int]:
    """Return the size of each buffer, wherever it lies."""
    tables = top.tables(schema.MODEL_BUFFERS)
    spans = [_span(table, index) for index, table in enumerate(tables)]
    # Large models keep weights behind the FlatBuffer, and nowhere in it.
    end = max(table.position for table in (top, *graphs, *tables))
    for index, (table, (start, stop)) in enumerate(zip(tables, spans, strict=True)):
        outside = table.number(schema.BUFFER_OFFSET, "Q") > 1 and stop > start
        require(not outside or start > end, f"buffer {index} lies within the graph: it was packed again, or damaged")
    # The same bytes for two buffers save space; bytes of one that are half of another are a mistake.
    for one, other in pairwise(sorted({(start, stop) for start, stop in spans if stop > start})):
        require(one[1] <= other[0], f"two buffers overlap at byte {other[0]}")
    return [stop - start for start, stop in spans]


def _span(table: Table, index: int) -> tuple[int, int]:
    """Return where a buffer's content begins and ends in the file."""
    start, length = table.vector(schema.BUFFER_DATA, 1)
    offset, size = table.number(schema.BUFFER_OFFSET, "Q"), table.number(schema.BUFFER_SIZE, "Q")
    # 0 and 1 mean "not outside".
    if offset > 1:
        problem = (
            f"buffer {index} ends outside of the file ({offset} + {size} of {len(table.data)} bytes): the file was cut,"
            " or packed again by a tool that drops weights kept behind the graph"
        )
        require(offset + size <= len(table.data), problem)
        return offset, offset + size
    return start, start + length


def _check_calls(calls: list[set[int]]) -> None:
    """Refuse calls of graphs that are none, and graphs that end up calling themselves."""
    for caller, called in enumerate(calls):
        check_indexes(called, len(calls), f"graph {caller} calls")
    for caller, called in enumerate(calls):
        reached, waiting = set[int](), list(called)
        while waiting:
            graph = waiting.pop()
            require(graph != caller, f"graph {caller} calls itself")
            if graph not in reached:
                reached.add(graph)
                waiting.extend(calls[graph])


def _check_ends(graph: Table, tensors: list[Tensor]) -> None:
    # Handed over as arrays of numbers: a variable would be read as some.
    for side, field in (("input", schema.GRAPH_INPUTS), ("output", schema.GRAPH_OUTPUTS)):
        for index in graph.integers(field):
            require(tensors[index].bits is not None, f"{side} {index} is of type {tensors[index].kind}, no numbers")


def _check_signature(table: Table, graphs: list[Table]) -> None:
    table.text(schema.SIGNATURE_KEY)
    index = table.number(schema.SIGNATURE_GRAPH, "I")
    require(index < len(graphs), f"a signature names graph {index} of {len(graphs)}")
    for side, ours, theirs in (
        ("inputs", schema.SIGNATURE_INPUTS, schema.GRAPH_INPUTS),
        ("outputs", schema.SIGNATURE_OUTPUTS, schema.GRAPH_OUTPUTS),
    ):
        known = frozenset(graphs[index].integers(theirs))
        for entry in table.tables(ours):
            entry.text(schema.MAP_NAME)
            tensor = entry.number(schema.MAP_TENSOR, "I")
            require(tensor in known, f"signature {side}: tensor {tensor} is none of graph {index}")
