"""What a `.tflite` computes with, and what none that serves may compute with."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from ai_edge_litert.schema_py_generated import BuiltinOperator

from converters.failures import UnsupportedOperatorError
from shared.runtime.flatbuffer import root

if TYPE_CHECKING:
    from shared.runtime.flatbuffer import Table

_MODEL_CODES, _MODEL_GRAPHS, _GRAPH_OPERATORS, _OPERATOR_CODE = 1, 2, 3, 0
_CODE_OLD, _CODE_CUSTOM, _CODE_NEW = 0, 1, 3
_NAMES = {code: name for name, code in vars(BuiltinOperator).items() if isinstance(code, int)}

RANDOM = frozenset({"MULTINOMIAL", "RANDOM_STANDARD_NORMAL", "RANDOM_UNIFORM"})
"""Answers would differ from call to call: training-only parts that are still alive, mostly."""
STATEFUL = frozenset({"ASSIGN_VARIABLE", "CALL_ONCE", "READ_VARIABLE", "VAR_HANDLE"})
"""Answers would depend on earlier calls."""
FOREIGN = frozenset({"CUSTOM", "DELEGATE", "PLACEHOLDER_FOR_GREATER_OP_CODES"})
"""Need code that the runtime does not have."""


def histogram(model: bytes) -> dict[str, int]:
    """Count the operators of all graphs by name; `CUSTOM:` and the code's own name for those that are not built in.

    Raises:
        ModelLoadError: the file is malformed.
    """
    top = root(model, b"TFL3")
    names = [_name(code) for code in top.tables(_MODEL_CODES)]
    used = (
        operator.number(_OPERATOR_CODE, "I")
        for graph in top.tables(_MODEL_GRAPHS)
        for operator in graph.tables(_GRAPH_OPERATORS)
    )
    counts = Counter(names[code] if code < len(names) else f"UNKNOWN:{code}" for code in used)
    return dict(sorted(counts.items()))


def check_served(operators: dict[str, int], *, stateful: bool) -> None:
    """Refuse operators that cannot serve. `stateful`: the model is meant to remember, as one that hears a stream.

    Raises:
        UnsupportedOperatorError: names them.
    """
    denied = RANDOM | FOREIGN if stateful else RANDOM | FOREIGN | STATEFUL
    found = sorted(name for name in operators if name.partition(":")[0] in denied)
    if found:
        raise UnsupportedOperatorError(
            f"the converted model computes with {', '.join(found)}: "
            "operators that are random, keep state, or need code of their own cannot serve"
        )


def _name(code: Table) -> str:
    # Codes beyond 127 live in a field that old writers do not know.
    number = max(code.number(_CODE_OLD, "b"), code.number(_CODE_NEW, "i"))
    name = _NAMES.get(number, f"UNKNOWN:{number}")
    start, length = code.vector(_CODE_CUSTOM, 1)
    return f"{name}:{code.data[start : start + length].decode(errors='replace')}" if length else name
