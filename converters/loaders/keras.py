"""Keras models: opened in safe mode, answering through the same Interpreter as an artifact."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from converters.loaders.archive import check_archive
from converters.loaders.keras_source import KerasSource
from shared.errors import InvalidInputError, PipelineError
from shared.manifest import TensorSpec

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    Tensor = NDArray[Any]

KerasModel = Any
"""A `keras.Model`; Keras ships no types."""

_FIELD = "source"
# What Keras raises when a configuration or the weights do not fit together.
_LOAD_ERRORS = (ValueError, TypeError, KeyError, IndexError, AttributeError, ImportError, OSError, RuntimeError)


class KerasInterpreter:
    """The source model behind the Interpreter protocol, so that one pipeline measures both sides."""

    def __init__(self, model: KerasModel) -> None:
        self._model = model
        self._inputs = (_spec(model.inputs[0]),)
        self._outputs = (_spec(model.outputs[0]),)

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """What the model takes; the batch is free."""
        return self._inputs

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        """What the model gives."""
        return self._outputs

    def run(self, inputs: Sequence[Tensor]) -> list[Tensor]:
        """Answer in the framework, as at inference: dropout, noise and augmentation do nothing.

        Raises:
            PipelineError: the shape or the values are not the model's.
        """
        import tensorflow as tf

        try:
            return [np.asarray(self._model(inputs[0], training=False))]
        # InvalidArgument: a word or a category that the model has no row for.
        except (ValueError, TypeError, tf.errors.InvalidArgumentError) as exc:
            raise PipelineError(f"the source model cannot take {inputs[0].shape}: {_first_line(exc)}") from exc


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceModel:
    """A loaded source."""

    model: KerasModel
    interpreter: KerasInterpreter
    parameters: int
    classes: int
    """Numbers in one answer."""


def open_source(path: Path, scratch: Path) -> KerasSource:
    """Open a `.keras` file; see converters.frontend.Source.

    Raises:
        InvalidInputError: no Keras model, one that would run code, or of no fixed form.
    """
    check_archive(path)
    scratch.mkdir(parents=True, exist_ok=True)
    return KerasSource(_opened(path, scratch))


def load(path: Path) -> SourceModel:
    """Open a `.keras` file.

    Raises:
        InvalidInputError: no Keras model, one that would run code, or of a form that has no single answer.
    """
    check_archive(path)
    with tempfile.TemporaryDirectory(prefix="litefleet-source-") as folder:
        model = _opened(path, Path(folder))
    _check_form(model)
    return SourceModel(
        model=model,
        interpreter=KerasInterpreter(model),
        parameters=int(model.count_params()),
        classes=int(np.prod([size or 1 for size in model.outputs[0].shape[1:]])),
    )


def _opened(path: Path, folder: Path) -> KerasModel:
    import keras

    # Keras judges a file by its name; blobs are named by their digest.
    named = folder / "source.keras"
    named.symlink_to(path.resolve())
    try:
        return keras.saving.load_model(named, compile=False, safe_mode=True)
    except _LOAD_ERRORS as exc:
        problem = f"Keras cannot open it: {_first_line(exc)}"
        raise InvalidInputError(field=_FIELD, problem=problem, remedy="does it load where it was saved?") from exc


def with_batch_of_one(model: KerasModel) -> KerasModel:
    """Return the same model, weights shared, for one item at inference.

    A fixed batch is what browsers and accelerators take, and it leaves no shape arithmetic in the graph. Calling with
    `training=False` leaves training-only layers (dropout, noise, random augmentation) out of the graph.
    """
    import keras

    source = model.inputs[0]
    entry = keras.Input(batch_shape=(1, *source.shape[1:]), dtype=source.dtype, name="input")
    return keras.Model(entry, model(entry, training=False))


def _check_form(model: KerasModel) -> None:
    inputs, outputs = getattr(model, "inputs", None), getattr(model, "outputs", None)
    if not inputs or not outputs:
        raise InvalidInputError(
            field=_FIELD, problem="the model declares no input shape", remedy="begin it with keras.Input(shape)"
        )
    if len(inputs) != 1 or len(outputs) != 1:
        raise InvalidInputError(
            field=_FIELD,
            problem=f"the model has {len(inputs)} inputs and {len(outputs)} outputs",
            remedy="a pipeline feeds one input and answers from one output",
        )
    if None in inputs[0].shape[1:]:
        raise InvalidInputError(
            field=_FIELD,
            problem=f"the model leaves its input shape open: {tuple(inputs[0].shape)}",
            remedy="fix every size but the batch",
        )


def _spec(tensor: Any) -> TensorSpec:  # noqa: ANN401 - a KerasTensor; Keras ships no types
    shape = tuple(-1 if size is None else int(size) for size in tensor.shape[1:])
    return TensorSpec(name=str(tensor.name), dtype=str(tensor.dtype), shape=(-1, *shape))


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).split("\n", 1)[0][:300]
