"""A Keras model in memory as a Source, whatever file it came from."""

from __future__ import annotations

import re
from collections import Counter
from typing import TYPE_CHECKING, Any

import numpy as np

from converters.loaders import tf_converter
from shared.errors import InvalidInputError, PipelineError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    Tensor = NDArray[Any]

KerasObject = Any
"""A `keras.Model`, a layer of one, or a KerasTensor; Keras ships no types."""

_FIELD = "source"
_SIGNATURE_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]*")
_MAX_SAID = 300
_REGULARIZATION = "keras.src.layers.regularization."
_AUGMENTATION = "keras.src.layers.preprocessing.image_preprocessing."
_AT_INFERENCE_TOO = frozenset({"AutoContrast", "CLAHE", "CenterCrop", "Equalization", "RandomCrop", "Resizing"})
"""Layers of that folder which do something when the model serves, too."""


class KerasSource:
    """A Keras model, converted by TensorFlow without what only training needs."""

    def __init__(self, model: KerasObject) -> None:
        """Take a built model.

        Raises:
            InvalidInputError: it has no fixed form.
        """
        _check_form(model)
        self._model = model
        self._names = _input_names(model)
        self._ends: tf_converter.Ends | None = None

    @property
    def name(self) -> str:
        """Framework and version."""
        return tf_converter.worker_name()

    @property
    def parameters(self) -> int:
        """Numbers in the model's weights."""
        return int(self._model.count_params())

    @property
    def operators(self) -> dict[str, int]:
        """Layers by class, those within layers included."""
        return dict(Counter(type(layer).__name__ for layer in _layers(self._model)))

    @property
    def removed(self) -> tuple[str, ...]:
        """Layers that do something only in training."""
        return tuple(f"{type(layer).__name__} {layer.name}" for layer in _layers(self._model) if _only_trains(layer))

    def to_tflite(self, batch: int | None) -> bytes:
        """Return the float32 model; see converters.frontends.frontend.Source."""
        import tensorflow as tf

        content = tf_converter.converted(tf.lite.TFLiteConverter.from_keras_model(self._serving(batch)))
        self._ends = tf_converter.ends(content)
        return content

    def answer(self, inputs: Sequence[Tensor]) -> list[Tensor]:
        """Answer as at inference: dropout, noise and augmentation do nothing.

        Raises:
            PipelineError: the shape or the values are not the model's.
        """
        import keras
        import tensorflow as tf

        order = self._ends or tf_converter.Ends(inputs=self._names, outputs=_output_names(self._model))
        by_name = dict(zip(order.inputs, inputs, strict=True))
        given = keras.tree.pack_sequence_as(_entrance(self._model), [by_name[name] for name in self._names])
        try:
            answers = keras.tree.flatten(self._model(given, training=False))
        # InvalidArgument: a word or a category that the model has no row for.
        except (ValueError, TypeError, tf.errors.InvalidArgumentError) as exc:
            shapes = [array.shape for array in inputs]
            raise PipelineError(f"the source model cannot take {shapes}: {first_line(exc)}") from exc
        named = dict(zip(_output_names(self._model), map(np.asarray, answers), strict=True))
        return [named[name] for name in order.outputs]

    def _serving(self, batch: int | None) -> KerasObject:
        """Return the same model, weights shared, called as at inference.

        `training=False` leaves training-only layers out of the graph, and a fixed batch leaves no shape arithmetic in
        it; browsers and accelerators take nothing else.
        """
        import keras

        entries = [
            keras.Input(batch_shape=(batch, *tensor.shape[1:]), dtype=tensor.dtype, name=name)
            for name, tensor in zip(self._names, self._model.inputs, strict=True)
        ]
        given = keras.tree.pack_sequence_as(_entrance(self._model), entries)
        # Lists: the converter then names outputs by their place.
        return keras.Model(entries, keras.tree.flatten(self._model(given, training=False)))


def first_line(error: Exception) -> str:
    """Return what an error says, without Keras' traces."""
    return (str(error).strip() or type(error).__name__).split("\n", 1)[0][:_MAX_SAID]


def _check_form(model: KerasObject) -> None:
    inputs, outputs = getattr(model, "inputs", None), getattr(model, "outputs", None)
    if not inputs or not outputs:
        raise InvalidInputError(
            field=_FIELD, problem="the model declares no input shape", remedy="begin it with keras.Input(shape)"
        )
    for tensor in inputs:
        if None in tensor.shape[1:]:
            raise InvalidInputError(
                field=_FIELD,
                problem=f"the model leaves its input shape open: {tuple(tensor.shape)}",
                remedy="fix every size but the batch",
            )


def _entrance(model: KerasObject) -> object:
    """Return what the model is called with: a tensor, or a list or dictionary of them."""
    import keras

    return model.inputs[0] if isinstance(model, keras.Sequential) else model.input


def _input_names(model: KerasObject) -> tuple[str, ...]:
    if len(model.inputs) == 1:
        return ("input",)
    # The model's own names are what its author knows; what is no name in TensorFlow is counted instead.
    names = [str(tensor.name) for tensor in model.inputs]
    usable = len(set(names)) == len(names) and all(_SIGNATURE_NAME.fullmatch(name) for name in names)
    return tuple(names if usable else (f"input_{index}" for index in range(len(names))))


def _output_names(model: KerasObject) -> tuple[str, ...]:
    return tuple(f"output_{index}" for index in range(len(model.outputs)))


def _layers(model: KerasObject) -> Iterator[KerasObject]:
    """Yield every layer once: those of models within the model, and what wrappers wrap."""
    import keras

    for layer in model._flatten_layers(include_self=False):  # noqa: SLF001 - Keras has no public way into wrappers
        if not isinstance(layer, keras.layers.InputLayer | keras.Model):
            yield layer


def _only_trains(layer: KerasObject) -> bool:
    module = type(layer).__module__
    if type(layer).__name__ in _AT_INFERENCE_TOO:
        return False
    return module.startswith((_REGULARIZATION, _AUGMENTATION))
