"""What a model remembers between two invocations: variables must be given what they are read as.

The runtime hands memory out by the shapes that it knows before anything ran, and lets a variable grow afterwards: what
is then read runs past its end.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NewType

from shared.runtime import operators, schema
from shared.runtime.graph import require

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from shared.runtime.flatbuffer import Table
    from shared.runtime.graph import Tensor

    Shape = tuple[int, ...]

_Variable = NewType("_Variable", tuple[str, str])
"""Container and name: graphs that name the same ones share a variable."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Use:
    variable: _Variable
    tensor: int
    stores: bool


def check_variables(
    graphs: Sequence[Table], codes: Sequence[int], tensors: Sequence[Sequence[Tensor]]
) -> Mapping[int, Shape]:
    """Return what shapes the main graph's tensors must really have that are stored in variables or read from them.

    Indexes must have been checked.

    Raises:
        ModelLoadError: names the variable.
    """
    uses = [list(_uses(graph, codes, f"graph {index}")) for index, graph in enumerate(graphs)]
    first = {use.variable for own in uses[1:] for use in own if use.stores}
    kept: dict[_Variable, tuple[Shape, int]] = {}
    for index, own in enumerate(uses):
        stored = set(first)
        for use in own:
            name = f"variable {use.variable[1][:100]!r}"
            tensor = tensors[index][use.tensor]
            same = kept.setdefault(use.variable, (tensor.shape, tensor.kind)) == (tensor.shape, tensor.kind)
            require(same, f"{name} is of shape {kept[use.variable][0]} and used with shape {tensor.shape}")
            require(use.stores or use.variable in stored, f"{name} is read before anything is in it")
            if use.stores:
                stored.add(use.variable)
    return {use.tensor: tensors[0][use.tensor].shape for use in uses[0]}


def _uses(graph: Table, codes: Sequence[int], where: str) -> Iterator[_Use]:
    handles: dict[int, _Variable] = {}
    for index, table in enumerate(graph.tables(schema.GRAPH_OPERATORS)):
        code = codes[table.number(schema.OPERATOR_CODE, "I")]
        if code == operators.VAR_HANDLE:
            handles[table.integers(schema.OPERATOR_OUTPUTS)[0]] = _variable(table)
        elif code in {operators.READ_VARIABLE, operators.ASSIGN_VARIABLE}:
            inputs = table.integers(schema.OPERATOR_INPUTS)
            require(inputs[0] in handles, f"{where} operator {index} uses a variable that it does not name")
            stores = code == operators.ASSIGN_VARIABLE
            tensor = inputs[1] if stores else table.integers(schema.OPERATOR_OUTPUTS)[0]
            yield _Use(variable=handles[inputs[0]], tensor=tensor, stores=stores)


def _variable(table: Table) -> _Variable:
    options = table.table(schema.OPERATOR_OPTIONS)
    if options is None:
        return _Variable(("", ""))
    return _Variable((options.text(schema.VARIABLE_CONTAINER), options.text(schema.VARIABLE_NAME)))
