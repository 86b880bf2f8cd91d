"""SavedModels: one archive, checked node by node, then opened and converted by TensorFlow."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from converters.frontends.agreement import in_pieces
from converters.loaders import saved_model_graph, tf_converter
from converters.loaders.unpack import unpack
from shared.errors import InvalidInputError, PipelineError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    Tensor = NDArray[Any]

MAX_UNPACKED_BYTES = 4 * 2**30
"""The largest models meant for a device are far below."""
_FIELD = "source"
_MAX_SAID = 300


def open_source(path: Path, scratch: Path) -> SavedModelSource:
    """Open an archive that holds a SavedModel; see converters.frontends.frontend.Source.

    Raises:
        InvalidInputError: no SavedModel, one that would reach outside of itself, or that still trains.
    """
    folder = unpack(path, scratch, limit_bytes=MAX_UNPACKED_BYTES)
    return SavedModelSource(folder)


class SavedModelSource:
    """The serving signature of a SavedModel."""

    def __init__(self, folder: Path) -> None:
        """Check, then open.

        Raises:
            InvalidInputError: as `open_source` does.
        """
        self._graph = saved_model_graph.read(folder)
        saved_model_graph.drop_optimizer_slots(folder)
        import tensorflow as tf

        try:
            # Kept whole: the variables live as long as it does.
            self._model = tf.saved_model.load(str(folder))
            self._signature = self._model.signatures[self._graph.signature]
        except (tf.errors.OpError, ValueError, TypeError, KeyError, AttributeError, OSError) as exc:
            problem = f"TensorFlow cannot open it: {_first_line(exc)}"
            raise InvalidInputError(field=_FIELD, problem=problem, remedy="does it load where it was saved?") from exc
        self._inputs: dict[str, Any] = dict(sorted(self._signature.structured_input_signature[1].items()))
        _check_inputs(self._inputs)
        self._ends: tf_converter.Ends | None = None

    @property
    def name(self) -> str:
        """Framework and version."""
        return tf_converter.worker_name()

    @property
    def parameters(self) -> int:
        """Numbers in the variables that the signature reads."""
        return int(sum(np.prod(variable.shape.as_list()) for variable in self._signature.variables))

    @property
    def operators(self) -> dict[str, int]:
        """Operators of the serving graph by kind."""
        return self._graph.operators

    @property
    def removed(self) -> tuple[str, ...]:
        """Nothing: a graph that still trains is refused."""
        return ()

    def to_tflite(self, batch: int | None) -> bytes:
        """Return the float32 model; see converters.frontends.frontend.Source."""
        import tensorflow as tf

        wanted = [
            tf.TensorSpec((_batch(spec, batch), *spec.shape[1:]), spec.dtype, name=name)
            for name, spec in self._inputs.items()
        ]

        # A fixed batch, which the signature need not have, leaves no shape arithmetic in the graph.
        @tf.function(input_signature=wanted)  # type: ignore[untyped-decorator]  # TensorFlow ships no types
        def serve(*tensors: object) -> object:
            return self._signature(**dict(zip(self._inputs, tensors, strict=True)))

        concrete = serve.get_concrete_function()
        content = tf_converter.converted(tf.lite.TFLiteConverter.from_concrete_functions([concrete], self._model))
        self._ends = tf_converter.ends(content)
        return content

    def answer(self, inputs: Sequence[Tensor]) -> list[Tensor]:
        """Answer by TensorFlow; see converters.frontends.frontend.Source.

        Raises:
            PipelineError: the shape or the values are not the model's.
        """
        fixed = next((spec.shape[0] for spec in self._inputs.values() if spec.shape[0] is not None), None)
        return self._answer(inputs) if fixed is None else in_pieces(self._answer, inputs, size=fixed)

    def _answer(self, inputs: Sequence[Tensor]) -> list[Tensor]:
        import tensorflow as tf

        names = self._ends.inputs if self._ends else tuple(self._inputs)
        try:
            answers = self._signature(**{name: tf.constant(array) for name, array in zip(names, inputs, strict=True)})
        except (tf.errors.OpError, ValueError, TypeError) as exc:
            shapes = [array.shape for array in inputs]
            raise PipelineError(f"the source model cannot take {shapes}: {_first_line(exc)}") from exc
        wanted = self._ends.outputs if self._ends else tuple(sorted(answers))
        return [np.asarray(answers[name]) for name in wanted]


def _check_inputs(inputs: dict[str, Any]) -> None:
    for name, spec in inputs.items():
        if spec.shape.rank is None or spec.shape.rank == 0 or None in spec.shape[1:]:
            raise InvalidInputError(
                field=_FIELD,
                problem=f"the model leaves the shape of input {name} open: {spec.shape}",
                remedy="export it with every size but the batch fixed",
            )


def _batch(spec: Any, batch: int | None) -> int | None:  # noqa: ANN401 - a TensorSpec; TensorFlow ships no types
    fixed: int | None = spec.shape[0]
    if fixed is not None and fixed != batch:
        raise InvalidInputError(
            field="batch",
            problem=f"the SavedModel is made for a batch of {fixed}",
            remedy=f"ask for a batch of {fixed}, or export it with a free one",
        )
    return batch


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).split("\n", 1)[0][:_MAX_SAID]
