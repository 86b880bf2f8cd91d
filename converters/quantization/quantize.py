"""From one float `.tflite` to the bytes of a recipe. No training framework takes part.

litert-quantizer rounds and writes; what it leaves to chance is decided here: ranges of activations, biases that fit,
biases that expect rounded weights, and the versions that keep old runtimes from computing garbage.
"""

from __future__ import annotations

import contextlib
import io
import re
import warnings
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from converters.failures import SchemeFailedError, UnsupportedOperatorError
from converters.quantization import bias, calibration, headroom, restamp
from converters.quantization.activations import spread
from converters.quantization.equalise import equalise
from converters.quantization.graph import FloatGraph
from converters.quantization.weight_grid import Grid
from shared.conversion import CalibrationMethod, Recipe
from shared.errors import ModelLoadError
from shared.manifest import Scheme
from shared.runtime.verifier import verify

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from converters.quantization.calibration import Range
    from converters.quantization.graph import Layer

    Tensor = NDArray[Any]
    Statistics = dict[str, dict[str, Tensor]]

DEFAULT_METHODS = {Scheme.FULL_INT8: CalibrationMethod.MSE, Scheme.INT16X8: CalibrationMethod.MIN_MAX}
"""With 65,536 levels there is nothing to gain by leaving extremes out."""

_STATIC = frozenset(DEFAULT_METHODS)
_LEVELS = {Scheme.FULL_INT8: calibration.INT8_LEVELS, Scheme.INT16X8: calibration.INT16_LEVELS}
_ACTIVATION_BITS = {Scheme.FULL_INT8: 8, Scheme.INT16X8: 16}
_BLOCK = 32
_ALL, _ALL_TOO = ".*", ".+"
"""Two patterns for the same: a second rule under the same one would replace the first."""
_FOUR_BIT_LAYERS = frozenset({"CONV_2D", "FULLY_CONNECTED", "EMBEDDING_LOOKUP"})
"""Depthwise convolutions have no kernel for 4-bit weights; theirs stay at 8."""
_BLOCK_LAYERS = frozenset({"FULLY_CONNECTED", "EMBEDDING_LOOKUP"})
_FLOAT_CAST_LAYERS = _FOUR_BIT_LAYERS | {"DEPTHWISE_CONV_2D", "TRANSPOSE_CONV"}
_ENDS = frozenset({"QUANTIZE", "DEQUANTIZE"})
_IMAGE_KIND = 3
"""The schema's uint8."""


def quantize(model: bytes, recipe: Recipe, items: Sequence[Tensor]) -> bytes:
    """Return the file that `recipe` describes, restamped and verified; the same arguments give the same bytes.

    `model` is the float `.tflite` and `items` are model inputs without batch axis. The schemes with fixed ranges,
    equalisation and bias correction look at them: at most `activations.MAX_ITEMS`, evenly over all.

    Raises:
        UnsupportedOperatorError: integers from end to end are asked for, and an operator between has none.
        SchemeFailedError: this scheme cannot be made of this model.
    """
    verify(model)
    graph = FloatGraph(model)
    _check(graph, recipe)
    if recipe.scheme is Scheme.FLOAT32:
        return restamp.restamp(model)
    items = spread(items)
    prepared = equalise(model, items) if recipe.equalise else model
    # Ranges are those of the right answers: corrected biases give these only once the weights are rounded.
    ranges = _ranges(prepared, recipe, items)
    if recipe.correct_bias:
        prepared = bias.correct(prepared, items, partial(grid_of, FloatGraph(prepared), recipe))
    made = restamp.restamp(_made(prepared, recipe, ranges))
    _check_made(made, graph, recipe)
    return made


def grid_of(graph: FloatGraph, recipe: Recipe, layer: Layer) -> Grid | None:
    """Return how a recipe rounds a layer's weights; None: they stay float."""
    name, weights = layer.operator.name, graph.shape(layer.weights)
    if recipe.scheme in {Scheme.FLOAT32, Scheme.FLOAT16} or graph.names[layer.operator.outputs[0]] in recipe.kept_float:
        return None
    if recipe.scheme is Scheme.BLOCK_INT4 and name in _BLOCK_LAYERS and weights[-1] % _BLOCK == 0:
        return Grid(bits=4, block=_BLOCK)
    if recipe.scheme is Scheme.WEIGHT_INT4 and name in _FOUR_BIT_LAYERS:
        return Grid(bits=4, per_tensor=recipe.per_tensor)
    return Grid(bits=8, per_tensor=recipe.per_tensor)


def _check(graph: FloatGraph, recipe: Recipe) -> None:
    graph.index_of(recipe.kept_float)
    if recipe.image_input and graph.kinds[graph.inputs[0]] != _IMAGE_KIND:
        raise SchemeFailedError("the model's input is no image yet: fold the pipeline's normalisation into it first")
    if recipe.scheme in _STATIC and graph.graphs > 1:
        raise SchemeFailedError(
            "its graph has loops or branches, which cannot be calibrated: recurrent layers take unroll=True"
        )


def _ranges(model: bytes, recipe: Recipe, items: Sequence[Tensor]) -> dict[str, Range]:
    if recipe.scheme not in _STATIC:
        return {}
    method = recipe.calibration or DEFAULT_METHODS[recipe.scheme]
    return calibration.measure(model, items, method, levels=_LEVELS[recipe.scheme])


def _made(model: bytes, recipe: Recipe, ranges: Mapping[str, Range]) -> bytes:
    graph = FloatGraph(model)
    if recipe.scheme not in _STATIC:
        return _rounded(model, graph, recipe, None)
    statistics: Statistics = {
        name: {"min": np.array([measured.low]), "max": np.array([measured.high])} for name, measured in ranges.items()
    }
    if not recipe.per_tensor:
        symmetric = recipe.scheme is Scheme.INT16X8
        bounds = headroom.weight_bounds(graph, ranges, levels=_LEVELS[recipe.scheme], symmetric=symmetric)
        statistics |= {name: {"min": -bound, "max": bound} for name, bound in bounds.items()}
    made = _rounded(model, graph, recipe, statistics)
    cut = headroom.overflowing(made)
    if cut:
        raise SchemeFailedError(f"the bias {cut[0]} does not fit into 32 bits at the scales of its layer")
    return made


def _rounded(model: bytes, graph: FloatGraph, recipe: Recipe, statistics: Statistics | None) -> bytes:
    # Imported late: it takes a second, and a refusal must not wait for it.
    from litert_quantizer.quantizer import Quantizer

    # It draws progress bars though told not to, and warns where a model with an image input holds integers already.
    with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
        warnings.simplefilter("ignore")
        try:
            quantizer = Quantizer(model)
            # It reads on over the signatures of a model that has none, as many older files have.
            parts = quantizer._float_model  # noqa: SLF001 - only so is such a file quantized without writing it anew
            parts.signatureDefs = parts.signatureDefs or []
            # Old writers know the first of both fields only, and the quantizer the second: it saw additions alone.
            for code in parts.operatorCodes:
                code.builtinCode = max(code.builtinCode, code.deprecatedBuiltinCode)
            _add_rules(quantizer, graph, recipe)
            result = quantizer.quantize(statistics, enable_progress_bar=False, enable_progress_report=False)
        except (ValueError, RuntimeError, KeyError, IndexError, TypeError, NotImplementedError) as exc:
            raise SchemeFailedError(f"{recipe.scheme} cannot be made of it: {_first_line(exc)}") from exc
    return bytes(result.quantized_model)


def _add_rules(quantizer: Any, graph: FloatGraph, recipe: Recipe) -> None:  # noqa: ANN401 - comes without types
    """Say what becomes of each operator; the last rule that fits it holds."""
    from litert_quantizer.qtyping import QuantGranularity, TFLOperationName

    every = TFLOperationName.ALL_SUPPORTED
    granularity = QuantGranularity.TENSORWISE if recipe.per_tensor else QuantGranularity.CHANNELWISE
    match recipe.scheme:
        case Scheme.FLOAT16:
            _add_half(quantizer, _ALL)
        case Scheme.FULL_INT8 | Scheme.INT16X8:
            bits = _ACTIVATION_BITS[recipe.scheme]
            quantizer.add_static_config(_ALL, every, bits, 8, granularity)
        case Scheme.DYNAMIC_INT8 | Scheme.BLOCK_INT4:
            quantizer.add_dynamic_config(_ALL, every, 8, granularity)
        case _:
            quantizer.add_weight_only_config(_ALL, every, 8, granularity)
    if recipe.scheme is Scheme.WEIGHT_INT4:
        quantizer.add_weight_only_config(_ALL_TOO, every, 4, granularity)
    for layer in graph.layers:
        grid = grid_of(graph, recipe, layer)
        if grid is not None and grid.block:
            scope = _scope(graph.names[layer.operator.outputs[0]])
            quantizer.add_dynamic_config(scope, every, 4, QuantGranularity.BLOCKWISE_32)
    _add_exceptions(quantizer, graph, recipe)


def _add_exceptions(quantizer: Any, graph: FloatGraph, recipe: Recipe) -> None:  # noqa: ANN401 - comes without types
    from litert_quantizer.qtyping import TFLOperationName
    from litert_quantizer.quantizer import AlgorithmName

    keep = partial(quantizer.update_quantization_recipe, algorithm_key=AlgorithmName.NO_QUANTIZE)
    # An image is of integers already.
    if not recipe.integer_io or graph.kinds[graph.inputs[0]] == _IMAGE_KIND:
        keep(_ALL, TFLOperationName.INPUT)
    if not recipe.integer_io:
        keep(_ALL, TFLOperationName.OUTPUT)
    for name, operator in graph.index_of(recipe.kept_float).items():
        if recipe.scheme is Scheme.MIXED and operator.name in _FLOAT_CAST_LAYERS:
            _add_half(quantizer, _scope(name))
        else:
            keep(_scope(name), TFLOperationName.ALL_SUPPORTED)


def _add_half(quantizer: Any, scope: str) -> None:  # noqa: ANN401 - comes without types
    from litert_quantizer.qtyping import TFLOperationName
    from litert_quantizer.quantizer import AlgorithmName

    algorithm = AlgorithmName.FLOAT_CASTING
    quantizer.add_weight_only_config(scope, TFLOperationName.ALL_SUPPORTED, 16, algorithm_key=algorithm)


def _scope(name: str) -> str:
    # Rules are patterns on the names of an operator's outputs, each with a semicolon after it.
    return f"^{re.escape(name)}(;|$)"


def _check_made(made: bytes, source: FloatGraph, recipe: Recipe) -> None:
    try:
        verify(made)
    except ModelLoadError as exc:
        raise SchemeFailedError(f"what the quantizer made is no sound model: {exc}") from exc
    graph = FloatGraph(made)
    if graph.small_tensors <= source.small_tensors:
        raise SchemeFailedError(f"{recipe.scheme} changes nothing: the model has no float weights, or keeps all")
    if recipe.integer_io and recipe.scheme in _STATIC:
        floats = sorted({operator.name for operator in graph.operators if graph.computes_floats(operator)} - _ENDS)
        if floats and not recipe.kept_float:
            raise UnsupportedOperatorError(f"no integer form of {', '.join(floats)}: leave inputs and outputs float")


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n", 1)[0][:300]
