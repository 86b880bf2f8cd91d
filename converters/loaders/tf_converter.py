"""TensorFlow's public converter, as Keras models, SavedModels and TensorFlow.js models need it."""

from __future__ import annotations

import re
import warnings
from dataclasses import dataclass
from importlib import metadata
from typing import TYPE_CHECKING, Any

from converters.failures import SchemeFailedError, UnsupportedOperatorError
from shared.runtime.flatbuffer import root

if TYPE_CHECKING:
    from collections.abc import Sequence

    from shared.runtime.flatbuffer import Table

_MISSING = re.compile(r"'tf\.(\w+)' op is neither a custom op nor a flex op|failed to legalize operation 'tf\.(\w+)'")
_MAX_SAID = 300
# Fields by table. Source: tensorflow/lite/schema/schema.fbs.
_MODEL_GRAPHS, _MODEL_SIGNATURES, _GRAPH_INPUTS, _GRAPH_OUTPUTS = 2, 7, 1, 2
_SIGNATURE_INPUTS, _SIGNATURE_OUTPUTS, _MAP_NAME, _MAP_TENSOR = 0, 1, 0, 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Ends:
    """A converted model's inputs and outputs, as its signature names them, in the order of the file.

    That order follows no rule that the converter states.
    """

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


def converted(converter: Any) -> bytes:  # noqa: ANN401 - a TFLiteConverter; TensorFlow ships no types
    """Return the float32 model.

    Raises:
        UnsupportedOperatorError: TensorFlow Lite has no such operator.
        SchemeFailedError: the converter refuses the model for another reason.
    """
    from tensorflow.lite.python.convert_phase import ConverterError

    try:
        with warnings.catch_warnings():
            # It warns of missing input statistics, which belong to a way of quantizing that is not used here.
            warnings.simplefilter("ignore")
            return bytes(converter.convert())
    except (ConverterError, RuntimeError, ValueError) as exc:
        raise _failure(str(exc)) from exc


def ends(model: bytes) -> Ends:
    """Read the names of a converted model's inputs and outputs."""
    top = root(model, b"TFL3")
    (graph, *_), (signature, *_) = top.tables(_MODEL_GRAPHS), top.tables(_MODEL_SIGNATURES)
    return Ends(
        inputs=_names(signature.tables(_SIGNATURE_INPUTS), graph.integers(_GRAPH_INPUTS)),
        outputs=_names(signature.tables(_SIGNATURE_OUTPUTS), graph.integers(_GRAPH_OUTPUTS)),
    )


def worker_name() -> str:
    """Return which libraries convert, and in which version."""
    import tensorflow as tf

    return f"tensorflow {tf.__version__}, keras {metadata.version('keras')}"


def _names(entries: Sequence[Table], tensors: Sequence[int]) -> tuple[str, ...]:
    by_tensor: dict[int, list[str]] = {}
    for entry in entries:
        start, length = entry.vector(_MAP_NAME, 1)
        name = entry.data[start : start + length].decode()
        by_tensor.setdefault(entry.number(_MAP_TENSOR, "I"), []).append(name)
    # The same tensor may be an output twice, under two names.
    return tuple(by_tensor[tensor].pop(0) for tensor in tensors)


def _failure(text: str) -> SchemeFailedError:
    missing = sorted({first or second for first, second in _MISSING.findall(text)})
    if not missing:
        return SchemeFailedError(f"TensorFlow's converter refuses it: {text.strip().splitlines()[0][:_MAX_SAID]}")
    problem = f"TensorFlow Lite has no operator for {', '.join(missing)}"
    if any(name.startswith("TensorList") for name in missing):
        problem += " (recurrent layers take a fixed batch, or unroll=True)"
    return UnsupportedOperatorError(problem)
