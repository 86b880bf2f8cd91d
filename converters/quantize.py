"""From a Keras model to the bytes of one scheme, by TensorFlow's own converter."""

from __future__ import annotations

import re
import warnings
from typing import TYPE_CHECKING, Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from converters.failures import SchemeFailedError, UnsupportedOperatorError
from shared.manifest import Scheme

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from converters.loaders.keras import KerasModel

    Tensor = NDArray[Any]

MAX_CALIBRATION_ITEMS = 1000
"""More move the measured ranges by nothing that shows, and each costs an invocation on slow kernels."""

_MISSING = re.compile(r"'tf\.(\w+)' op is neither a custom op nor a flex op")


def to_tflite(model: KerasModel, scheme: Scheme, calibration: Sequence[Tensor]) -> bytes:
    """Convert a model of batch 1. `calibration` holds model inputs without batch axis; only FULL_INT8 looks at it.

    Inputs and outputs stay float32 in every scheme, so that one pipeline serves them all. The same model and data give
    the same bytes on the same machine.

    Raises:
        UnsupportedOperatorError: TensorFlow Lite has no such operator.
        SchemeFailedError: this scheme cannot be made of this model.
    """
    import tensorflow as tf

    converter = tf.lite.TFLiteConverter.from_keras_model(model)
    if scheme is not Scheme.FLOAT32:
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
    if scheme is Scheme.FLOAT16:
        converter.target_spec.supported_types = [tf.float16]
    if scheme is Scheme.FULL_INT8:
        _check_calibratable(tf.lite.TFLiteConverter.from_keras_model(model))
        converter.representative_dataset = lambda: _calibration(calibration)
        # No float operator as a way out: what cannot be int8 must be said, not hidden.
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    return _converted(converter)


def _converted(converter: Any) -> bytes:  # noqa: ANN401 - a TFLiteConverter; TensorFlow ships no types
    from tensorflow.lite.python.convert_phase import ConverterError

    try:
        with warnings.catch_warnings():
            # It warns of missing input statistics, which belong to a way of quantizing that is not used here.
            warnings.simplefilter("ignore")
            return bytes(converter.convert())
    except (ConverterError, RuntimeError, ValueError) as exc:
        raise _failure(str(exc)) from exc


def _check_calibratable(converter: Any) -> None:  # noqa: ANN401 - a TFLiteConverter; TensorFlow ships no types
    # TensorFlow's calibrator ends the whole process with a segmentation fault on a graph with loops or branches.
    graphs = schema.Model.GetRootAs(_converted(converter)).SubgraphsLength()
    if graphs > 1:
        raise SchemeFailedError(
            "its graph has loops or branches, which cannot be calibrated: recurrent layers take unroll=True"
        )


def _calibration(items: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    # Evenly over all of them: data often lies sorted by class.
    step = max(1, -(-len(items) // MAX_CALIBRATION_ITEMS))
    return ([item[np.newaxis]] for item in items[::step])


def _failure(text: str) -> SchemeFailedError:
    missing = sorted(set(_MISSING.findall(text)))
    if missing:
        return UnsupportedOperatorError(f"TensorFlow Lite has no operator for {', '.join(missing)}")
    return SchemeFailedError(text.strip().split("\n", 1)[0][:300])
