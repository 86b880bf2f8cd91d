"""Every scheme on real interpreters, from the same small float file."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema

from converters.failures import SchemeFailedError, UnsupportedOperatorError
from converters.quantization import image_input
from converters.quantization.graph import FloatGraph
from converters.quantization.headroom import overflowing
from converters.quantization.quantize import quantize
from converters.quantization.sensitivity import snr_db
from shared.conversion import CalibrationMethod, Recipe
from shared.errors import ModelLoadError
from shared.manifest import Scheme, digest
from shared.pipeline import PipelineSpec, RunModel
from shared.runtime.interpreter import Kernels, LiteRtInterpreter
from shared.runtime.pipeline import CompiledPipeline
from shared.steps import Dequantise, Quantise
from tests.support import drawn_networks, models, networks

ROOT = Path(__file__).parents[3]
STATIC = (Scheme.FULL_INT8, Scheme.INT16X8)
LEAST_SNR_DB = {
    Scheme.FLOAT32: 150,
    Scheme.FLOAT16: 60,
    Scheme.MIXED: 40,
    Scheme.DYNAMIC_INT8: 35,
    Scheme.WEIGHT_INT8: 40,
    Scheme.WEIGHT_INT4: 20,
    Scheme.BLOCK_INT4: 35,
    Scheme.FULL_INT8: 30,
    Scheme.INT16X8: 38,
}


def answers(model: bytes, *, kernels: Kernels = Kernels.FAST) -> np.ndarray[Any, np.dtype[np.float32]]:
    interpreter = LiteRtInterpreter(model, threads=1, kernels=kernels)
    return np.concatenate([interpreter.run([image[np.newaxis]])[0] for image in networks.images(32, seed=5)])


@pytest.fixture(scope="module")
def items() -> list[np.ndarray[Any, np.dtype[Any]]]:
    return networks.images(32)


@pytest.mark.parametrize("scheme", list(Scheme))
@pytest.mark.parametrize("outside", [False, True])
def test_scheme_answers_as_the_float_model(
    scheme: Scheme, outside: bool, items: list[np.ndarray[Any, np.dtype[Any]]]
) -> None:
    model = networks.with_weights_outside(networks.network()) if outside else networks.network()
    made = quantize(model, Recipe(scheme=scheme, correct_bias=True), items)
    assert snr_db(answers(model), answers(made)) > LEAST_SNR_DB[scheme]


@pytest.mark.parametrize("scheme", STATIC)
@pytest.mark.parametrize("method", list(CalibrationMethod))
def test_every_calibration_method_keeps_a_healthy_network(
    scheme: Scheme, method: CalibrationMethod, items: list[np.ndarray[Any, np.dtype[Any]]]
) -> None:
    model = networks.network()
    made = quantize(model, Recipe(scheme=scheme, calibration=method, correct_bias=True), items)
    assert snr_db(answers(model), answers(made)) > 15


@pytest.mark.parametrize("scheme", [scheme for scheme in Scheme if scheme is not Scheme.FLOAT32])
def test_model_without_a_signature_is_quantized_too(
    scheme: Scheme, items: list[np.ndarray[Any, np.dtype[Any]]]
) -> None:
    model = networks.network(signature=False)
    made = quantize(model, Recipe(scheme=scheme, correct_bias=True), items)
    assert snr_db(answers(model), answers(made)) > LEAST_SNR_DB[scheme]


def test_full_int8_is_not_fitted_to_an_average_of_the_items() -> None:
    """The quantizer's own calibration forgets what only a few items reach; the loud ones are cut to pieces then."""
    quiet = [image * np.float32(0.1) for image in networks.images(40)]
    loud = networks.images(3, seed=5)
    model = networks.network()
    made = quantize(
        model, Recipe(scheme=Scheme.FULL_INT8, calibration=CalibrationMethod.MIN_MAX), [*quiet[:20], *loud, *quiet[20:]]
    )
    assert snr_db(answers(model), answers(made)) > 20


@pytest.mark.parametrize("scheme", STATIC)
def test_dead_channels_with_great_biases_keep_their_biases(
    scheme: Scheme, items: list[np.ndarray[Any, np.dtype[Any]]]
) -> None:
    weights = networks.weights()
    weights.depthwise[..., 3] = 1e-9
    biases = weights.depthwise_bias.copy()
    biases[3] = 2.5
    model = networks.network(dataclasses.replace(weights, depthwise_bias=biases))
    made = quantize(model, Recipe(scheme=scheme), items)
    assert overflowing(made) == []
    assert snr_db(answers(model), answers(made)) > 25


def test_integer_ends_take_and_give_int8(items: list[np.ndarray[Any, np.dtype[Any]]]) -> None:
    made = quantize(networks.network(), Recipe(scheme=Scheme.FULL_INT8, integer_io=True), items)
    interpreter = LiteRtInterpreter(made, threads=1)
    assert (interpreter.inputs[0].dtype, interpreter.outputs[0].dtype) == ("int8", "int8")
    graph = FloatGraph(made)
    assert not [operator.name for operator in graph.operators if graph.computes_floats(operator)]


def test_one_pipeline_feeds_the_float_and_the_integer_model_alike(
    items: list[np.ndarray[Any, np.dtype[Any]]],
) -> None:
    made = quantize(networks.network(), Recipe(scheme=Scheme.FULL_INT8, integer_io=True), items)
    spec = PipelineSpec(steps=(Quantise(), RunModel(), Dequantise()))
    plain, integers = (
        CompiledPipeline(spec, LiteRtInterpreter(each, threads=1)) for each in (networks.network(), made)
    )
    batch = np.stack(items).reshape(-1, *plain.model_input.shape[1:])
    expected, answered = plain.scores(batch), integers.scores(batch)
    assert snr_db(expected, answered) > 15
    assert float(np.mean(expected.argmax(axis=1) == answered.argmax(axis=1))) > 0.9


def test_float_ends_stay_by_default(items: list[np.ndarray[Any, np.dtype[Any]]]) -> None:
    interpreter = LiteRtInterpreter(quantize(networks.network(), Recipe(scheme=Scheme.FULL_INT8), items), threads=1)
    assert (interpreter.inputs[0].dtype, interpreter.outputs[0].dtype) == ("float32", "float32")


@pytest.mark.parametrize("scheme", [Scheme.FULL_INT8, Scheme.DYNAMIC_INT8, Scheme.WEIGHT_INT8])
def test_kept_layers_keep_their_float_weights(scheme: Scheme, items: list[np.ndarray[Any, np.dtype[Any]]]) -> None:
    made = FloatGraph(quantize(networks.network(), Recipe(scheme=scheme, kept_float=("stem",)), items))
    kept = {made.names[layer.weights] for layer in made.layers}
    assert kept == {"stem/weights"}


def test_kept_layers_of_a_mixture_are_half_floats(items: list[np.ndarray[Any, np.dtype[Any]]]) -> None:
    made = FloatGraph(quantize(networks.network(), Recipe(scheme=Scheme.MIXED, kept_float=("stem",)), items))
    half, byte = 1, 9
    kinds = {name.removesuffix("_quantized"): kind for name, kind in zip(made.names, made.kinds, strict=True)}
    assert (kinds["stem/weights"], kinds["project/weights"]) == (half, byte)


def test_unknown_layer_to_keep_is_named() -> None:
    with pytest.raises(SchemeFailedError, match="no_such_layer"):
        quantize(networks.network(), Recipe(scheme=Scheme.WEIGHT_INT8, kept_float=("no_such_layer",)), [])


@pytest.mark.parametrize("scheme", [scheme for scheme in Scheme if scheme is not Scheme.FLOAT32])
def test_model_of_integers_already_is_refused(scheme: Scheme, items: list[np.ndarray[Any, np.dtype[Any]]]) -> None:
    once = quantize(networks.network(), Recipe(scheme=Scheme.FULL_INT8, integer_io=True), items)
    with pytest.raises(SchemeFailedError):
        quantize(once, Recipe(scheme=scheme), items)


@pytest.mark.parametrize("scheme", STATIC)
def test_fixed_ranges_without_items_are_refused(scheme: Scheme) -> None:
    with pytest.raises(SchemeFailedError, match="calibration items"):
        quantize(networks.network(), Recipe(scheme=scheme), [])


def test_malformed_model_is_refused_before_anything_reads_it() -> None:
    with pytest.raises(ModelLoadError):
        quantize(b"\x1c\0\0\0TFL3" + bytes(40), Recipe(scheme=Scheme.FULL_INT8), [])


def test_one_scale_a_tensor_breaks_a_network_with_uneven_channels() -> None:
    """The red fixture of every gate: it is made without complaint, and answers something else."""
    weights = networks.weights()
    uneven = np.geomspace(1e-3, 1, networks.HIDDEN).astype(np.float32)
    model = networks.network(
        dataclasses.replace(
            weights, depthwise=weights.depthwise * uneven, project=weights.project / uneven, depthwise_bias=uneven * 0
        ),
        activation=networks.RELU,
    )
    right = answers(model)
    healthy = quantize(model, Recipe(scheme=Scheme.WEIGHT_INT8), [])
    broken = quantize(model, Recipe(scheme=Scheme.WEIGHT_INT8, per_tensor=True), [])
    assert snr_db(right, answers(healthy)) > snr_db(right, answers(broken)) + 10


@pytest.mark.parametrize(("scale", "offset"), [(1 / 255, 0.0), (1 / 128, -127 / 128), (1 / 127.5, -1.0)])
def test_folded_image_is_normalised_as_the_pipeline_does(scale: float, offset: float) -> None:
    model = networks.network()
    folded = image_input.fold(networks.with_weights_outside(model), scale=scale, offset=offset)
    pixels = np.random.default_rng(0).integers(0, 256, (8, 1, 12, 12, 3), dtype=np.uint8)
    plain, image = LiteRtInterpreter(model, threads=1), LiteRtInterpreter(folded, threads=1)
    assert (image.inputs[0].dtype, image.inputs[0].name) == ("uint8", plain.inputs[0].name)
    for item in pixels:
        normalised = item.astype(np.float32) * np.float32(scale) + np.float32(offset)
        np.testing.assert_allclose(image.run([item])[0], plain.run([normalised])[0], atol=1e-5)


@pytest.mark.parametrize("scheme", list(Scheme))
def test_folded_image_goes_through_every_scheme(scheme: Scheme) -> None:
    folded = image_input.fold(networks.network(), scale=1 / 255, offset=0.0)
    pixels = list(np.random.default_rng(0).integers(0, 256, (16, 12, 12, 3), dtype=np.uint8))
    made = quantize(folded, Recipe(scheme=scheme, image_input=True, correct_bias=True), pixels)
    right, found = LiteRtInterpreter(folded, threads=1), LiteRtInterpreter(made, threads=1)
    pairs = [(right.run([item[np.newaxis]])[0], found.run([item[np.newaxis]])[0]) for item in pixels]
    ratio = snr_db(np.concatenate([pair[0] for pair in pairs]), np.concatenate([pair[1] for pair in pairs]))
    assert found.inputs[0].dtype == "uint8"
    assert ratio > LEAST_SNR_DB[scheme] - 5


def test_recipe_for_images_wants_the_normalisation_folded_in_first() -> None:
    with pytest.raises(SchemeFailedError, match="fold"):
        quantize(networks.network(), Recipe(scheme=Scheme.WEIGHT_INT8, image_input=True), [])


@pytest.mark.parametrize(("scale", "offset"), [(0.0, 0.0), (float("nan"), 0.0), (1.0, float("inf"))])
def test_fold_refuses_what_is_no_scale(scale: float, offset: float) -> None:
    with pytest.raises(SchemeFailedError, match="scaled"):
        image_input.fold(networks.network(), scale=scale, offset=offset)


def test_fold_refuses_a_model_that_takes_images_already() -> None:
    folded = image_input.fold(networks.network(), scale=1 / 255, offset=0.0)
    with pytest.raises(SchemeFailedError, match="floats"):
        image_input.fold(folded, scale=1 / 255, offset=0.0)


def test_dense_model_of_another_maker_is_quantized() -> None:
    model = models.random_classifier(64, 10, seed=1)
    items = list(np.random.default_rng(0).random((16, 64), dtype=np.float32))
    made = quantize(model, Recipe(scheme=Scheme.FULL_INT8, correct_bias=True), items)
    right, found = LiteRtInterpreter(model, threads=1), LiteRtInterpreter(made, threads=1)
    for item in items:
        np.testing.assert_allclose(found.run([item[np.newaxis]])[0], right.run([item[np.newaxis]])[0], atol=0.1)


@pytest.mark.parametrize("scheme", [Scheme.FLOAT16, Scheme.DYNAMIC_INT8, Scheme.WEIGHT_INT8, Scheme.FULL_INT8])
def test_file_of_an_old_writer_is_quantized_as_what_its_operators_are(
    scheme: Scheme, items: list[np.ndarray[Any, np.dtype[Any]]]
) -> None:
    tree = schema.ModelT.InitFromPackedBuf(networks.network())
    for code in tree.operatorCodes:
        # A field that came later; the quantizer took its default for the operator of that number, an addition.
        code.builtinCode = 0
    old = drawn_networks.packed_again(tree)
    made = quantize(old, Recipe(scheme=scheme, correct_bias=True), items)
    assert snr_db(answers(old), answers(made)) > LEAST_SNR_DB[scheme]


_DIGESTS = """
from converters.quantization.quantize import quantize
from shared.conversion import Recipe
from shared.manifest import Scheme, digest
from tests.support import networks
for scheme in Scheme:
    recipe = Recipe(scheme=scheme, equalise=True, correct_bias=True)
    print(digest(quantize(networks.network(), recipe, networks.images(16))))
"""


def test_bytes_are_the_same_in_every_process() -> None:
    found = [
        subprocess.run(
            [sys.executable, "-c", _DIGESTS],
            cwd=ROOT,
            env=os.environ | {"PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout.split()
        for seed in ("1", "2")
    ]
    assert len(found[0]) == len(Scheme)
    assert found[0] == found[1]


def test_integer_ends_around_an_operator_without_integers_are_refused(
    items: list[np.ndarray[Any, np.dtype[Any]]],
) -> None:
    model = networks.network(last="CEIL")
    with pytest.raises(UnsupportedOperatorError, match="CEIL"):
        quantize(model, Recipe(scheme=Scheme.FULL_INT8, integer_io=True), items)
    assert digest(quantize(model, Recipe(scheme=Scheme.FULL_INT8), items))
