from __future__ import annotations

import dataclasses
import io
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
import pytest
from PIL import Image

from converters import conversion, datasets, quantize
from converters.conversion import convert
from converters.examples.digits import RECIPES, Variant, load_digits, train
from converters.failures import ConversionFailedError
from converters.loaders import keras as loader
from shared.conversion import DEFAULT_SCHEMES, ConversionRequest, ConversionResult, ConvertedArtifact, FailureKind
from shared.errors import InvalidInputError, PipelineError
from shared.manifest import Scheme, digest
from shared.pipeline import MODEL_ONLY, Normalise, PipelineSpec, RunModel, TopLabels
from shared.runtime.golden import check_golden
from shared.runtime.interpreter import Kernels, LiteRtInterpreter
from shared.runtime.pipeline import CompiledPipeline

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from tests.integration.converters.conftest import Workshop

    Tensor = NDArray[Any]


def steps_ignored(step: str) -> None:
    assert step


def small_network(*, training_layers: bool = True) -> Any:  # noqa: ANN401 - a Keras model; Keras ships no types
    import keras

    keras.utils.set_random_seed(5)
    only_training = [keras.layers.RandomTranslation(0.2, 0.2), keras.layers.GaussianNoise(0.5)]
    return keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            *(only_training if training_layers else []),
            keras.layers.Conv2D(8, 3, activation="relu"),
            keras.layers.BatchNormalization(),
            *([keras.layers.Dropout(0.5)] if training_layers else []),
            keras.layers.Flatten(),
            keras.layers.Dense(5, activation="softmax"),
        ]
    )


def pictures(count: int, seed: int = 1) -> Tensor:
    return np.random.default_rng(seed).random((count, 8, 8, 1), dtype=np.float32)


def outlier_network() -> Any:  # noqa: ANN401 - a Keras model; Keras ships no types
    """Right in floats; in 8 bits one large input swallows the small differences between the others."""
    import keras

    model = keras.Sequential([keras.Input((11,)), keras.layers.Dense(10)])
    model.set_weights([np.vstack([np.zeros((1, 10)), np.eye(10)]).astype(np.float32), np.zeros(10, np.float32)])
    return model


def outlier_items(count: int) -> Tensor:
    items = np.random.default_rng(2).random((count, 11), dtype=np.float32)
    items[:, 0] *= 30
    return items


def with_initial_weights(model: Any) -> Any:  # noqa: ANN401 - Keras models; Keras ships no types
    """What a converter makes that loses the weights: the right graph with other numbers in it."""
    import keras

    return keras.models.clone_model(model)


def with_nan_weights(model: Any) -> Any:  # noqa: ANN401 - Keras models; Keras ships no types
    """What a converter makes that reads freed memory."""
    import keras

    broken = keras.models.clone_model(model)
    broken.set_weights([np.full_like(weights, np.nan) for weights in model.get_weights()])
    return broken


@pytest.fixture(scope="module")
def digits(digits_request: ConversionRequest) -> ConversionResult:
    return convert(digits_request, steps_ignored)


def test_digits_every_scheme_passes_its_gate(digits: ConversionResult) -> None:
    assert [(made.scheme, made.refused) for made in digits.artifacts] == [(scheme, "") for scheme in DEFAULT_SCHEMES]
    assert digits.failure is None
    assert digits.parameters >= 50_000
    for made in digits.artifacts:
        assert made.accuracy.source >= 0.95
        assert made.accuracy.artifact >= made.accuracy.source - 0.01
        assert made.accuracy.samples >= 700


def test_digits_int8_is_at_least_two_and_a_half_times_smaller(digits: ConversionResult) -> None:
    sizes = {made.scheme: made.length_bytes for made in digits.artifacts}
    assert sizes[Scheme.FLOAT32] >= 1.9 * sizes[Scheme.FLOAT16]
    assert sizes[Scheme.FLOAT32] >= 2.5 * sizes[Scheme.FULL_INT8]
    assert sizes[Scheme.FLOAT32] >= 2.5 * sizes[Scheme.DYNAMIC_INT8]


def test_digits_artifacts_are_the_files_that_they_name(digits: ConversionResult) -> None:
    for made in digits.artifacts:
        content = Path(made.path).read_bytes()
        assert (digest(content), len(content)) == (made.sha256, made.length_bytes)
        assert LiteRtInterpreter(content, threads=1).inputs == made.inputs
        assert {spec.dtype for spec in made.inputs + made.outputs} == {"float32"}
        assert made.inputs[0].shape == (1, 8, 8, 1)


@pytest.mark.parametrize("kernels", list(Kernels))
def test_digits_golden_check_holds_on_every_kind_of_kernels(digits: ConversionResult, kernels: Kernels) -> None:
    for made in digits.artifacts:
        interpreter = LiteRtInterpreter(Path(made.path).read_bytes(), threads=1, kernels=kernels)
        assert check_golden(interpreter, made.golden) == ""
        assert len(made.golden.cases) == 8


@pytest.fixture(scope="module")
def same_network_of_another_seed() -> Any:  # noqa: ANN401 - a Keras model; Keras ships no types
    recipe = dataclasses.replace(RECIPES[Variant.V1], seed=11)
    return loader.with_batch_of_one(train(recipe, load_digits()))


@pytest.mark.parametrize("scheme", DEFAULT_SCHEMES)
def test_digits_golden_check_does_not_hold_for_the_same_network_of_another_seed(
    digits: ConversionResult,
    same_network_of_another_seed: Any,  # noqa: ANN401 - a Keras model; Keras ships no types
    scheme: Scheme,
) -> None:
    (made,) = (made for made in digits.artifacts if made.scheme is scheme)
    calibration = list(load_digits().calibration.astype(np.float32) / 240)
    other = LiteRtInterpreter(quantize.to_tflite(same_network_of_another_seed, scheme, calibration), threads=1)
    # As good a model, and another one: it may not pass by being right.
    assert check_golden(other, made.golden).startswith("golden_mismatch: ")
    # Nor narrowly: several times what is tolerated, so that no kernels bring the two together.
    wide = msgspec.structs.replace(made.golden, atol=made.golden.atol * 2)
    assert check_golden(other, wide).startswith("golden_mismatch: ")


def test_digits_raise_no_doubt(digits: ConversionResult) -> None:
    assert digits.warnings == ()
    assert digits.message == ""


def test_evaluation_too_small_for_the_margin_is_said_with_its_figures(workshop: Workshop) -> None:
    request = msgspec.structs.replace(workshop.request(small_network(), pictures(40)), schemes=(Scheme.FLOAT32,))
    result = convert(request, steps_ignored)
    assert result.failure is None
    assert "float32: 40 samples show an accuracy drop below 7.22% at most, and the margin is 1.00%" in result.message
    assert all(f"warning: {warning}" in result.message for warning in result.warnings)


def test_evaluation_that_calibrated_is_refused_where_it_matters(workshop: Workshop) -> None:
    items = pictures(40)
    request = workshop.request(small_network(), items, calibration=items)
    with pytest.raises(InvalidInputError, match=r"evaluation\.x: 40 of 40 items are also in the calibration data"):
        convert(request, steps_ignored)
    # What is not calibrated cannot be fitted to the calibration data.
    result = convert(msgspec.structs.replace(request, schemes=(Scheme.FLOAT32,)), steps_ignored)
    assert result.failure is None


def test_pipeline_that_leaves_the_source_guessing_is_said(workshop: Workshop) -> None:
    items = (pictures(60) * 255).astype(np.uint8)
    labels = np.arange(60) % 5
    pipeline = PipelineSpec(steps=(Normalise(scale=1e-9), RunModel()))
    request = workshop.request(small_network(), items, labels=labels, pipeline=pipeline)
    result = convert(msgspec.structs.replace(request, schemes=(Scheme.FLOAT32,)), steps_ignored)
    assert "are labels and pipeline those of the training?" in result.message
    assert "its golden check would pass a model that always answers the same" in result.message


def test_digits_as_images_answer_as_arrays(digits: ConversionResult, digits_request: ConversionRequest) -> None:
    items = np.load(digits_request.evaluation_path)["x"][:50]
    for made in digits.artifacts:
        interpreter = LiteRtInterpreter(Path(made.path).read_bytes(), threads=1)
        pipeline = CompiledPipeline(digits_request.pipeline, interpreter)
        scores = pipeline.scores(items)
        for item, row in zip(items, scores, strict=True):
            buffer = io.BytesIO()
            Image.fromarray(item[:, :, 0]).save(buffer, "PNG")
            answer = pipeline.from_image(buffer.getvalue())
            np.testing.assert_array_equal(answer.scores, row)
            assert answer.labels[0].label == str(row.argmax())


def test_training_only_layers_leave_nothing_in_the_artifact(workshop: Workshop) -> None:
    schemes = (Scheme.FLOAT32,)
    made = convert(
        msgspec.structs.replace(workshop.request(small_network(), pictures(40)), schemes=schemes), steps_ignored
    )
    assert made.artifacts[0].accuracy.agreement == 1.0
    difference = made.artifacts[0].max_abs_diff
    assert difference is not None
    assert difference < 1e-5


def test_int8_that_loses_accuracy_is_refused_with_figures(workshop: Workshop) -> None:
    result = convert(workshop.request(outlier_network(), outlier_items(400)), steps_ignored)
    refused = {made.scheme: made.refused for made in result.artifacts}
    assert result.failure is None
    assert refused[Scheme.FLOAT32] == refused[Scheme.FLOAT16] == ""
    assert refused[Scheme.FULL_INT8].startswith("accuracy_drop: 0.")
    assert refused[Scheme.FULL_INT8].endswith("> 0.010")


def test_all_schemes_refused_is_a_failure_that_tells_what_came_closest(workshop: Workshop) -> None:
    request = msgspec.structs.replace(
        workshop.request(outlier_network(), outlier_items(400)), schemes=(Scheme.FULL_INT8,)
    )
    result = convert(request, steps_ignored)
    assert result.failure is FailureKind.NOTHING_PASSED
    assert result.message.startswith("full_int8 came closest: accuracy_drop: ")
    assert len(result.artifacts) == 1


@pytest.mark.parametrize(
    ("lose", "word"), [(with_initial_weights, "output_mismatch: "), (with_nan_weights, "nan_outputs: 40 of 40")]
)
def test_weights_lost_in_conversion_are_refused(workshop: Workshop, lose: Callable[[Any], Any], word: str) -> None:
    request = workshop.request(small_network(training_layers=False), pictures(40))
    source = loader.load(Path(request.source_path))
    evaluation = datasets.load_evaluation(Path(request.evaluation_path))
    reference = conversion._measure_source(request, source, evaluation.items * 0.9, evaluation)
    content = quantize.to_tflite(loader.with_batch_of_one(lose(source.model)), Scheme.FLOAT32, [])
    made = conversion._measured(request, reference, Scheme.FLOAT32, content)
    assert made.refused.startswith(word)
    assert msgspec.json.decode(msgspec.json.encode(made), type=ConvertedArtifact) == made


def test_float16_that_saturates_is_refused(workshop: Workshop) -> None:
    import keras

    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(2)])
    # The largest half is 65,504.
    model.set_weights([np.array([[1e6, -1e6], [1, 2]], np.float32), np.zeros(2, np.float32)])
    items = np.random.default_rng(1).random((20, 2), dtype=np.float32)
    request = msgspec.structs.replace(workshop.request(model, items), schemes=(Scheme.FLOAT16,))
    result = convert(request, steps_ignored)
    assert result.failure is FailureKind.NOTHING_PASSED
    assert result.artifacts[0].refused.startswith("output_mismatch: ")


def test_source_with_nan_weights_is_refused(workshop: Workshop) -> None:
    model = small_network()
    model.layers[-1].set_weights([weights * np.nan for weights in model.layers[-1].get_weights()])
    with pytest.raises(ConversionFailedError, match="nan_outputs: the source model answers 12 of 12") as caught:
        convert(workshop.request(model, pictures(12)), steps_ignored)
    assert caught.value.kind is FailureKind.BAD_INPUT


@pytest.mark.parametrize(
    ("calibration", "said"),
    [
        (np.zeros((0, 8, 8, 1), np.float32), r"calibration\.x: is empty"),
        (np.zeros((5, 9, 8, 1), np.float32), r"calibration\.x: items of shape \(9, 8, 1\).*takes \(8, 8, 1\)"),
        (np.full((5, 8, 8, 1), np.nan, np.float32), r"calibration\.x: 5 of 5 items hold NaN"),
    ],
)
def test_calibration_that_cannot_be_used_is_refused(workshop: Workshop, calibration: Tensor, said: str) -> None:
    with pytest.raises(InvalidInputError, match=said):
        convert(workshop.request(small_network(), pictures(10), calibration=calibration), steps_ignored)


def test_labels_that_the_model_cannot_answer_are_refused(workshop: Workshop) -> None:
    with pytest.raises(InvalidInputError, match=r"evaluation\.y: 10 labels are out of range"):
        convert(workshop.request(small_network(), pictures(10), labels=np.full(10, 5)), steps_ignored)


def test_pipeline_with_labels_of_another_model_is_refused(workshop: Workshop) -> None:
    pipeline = PipelineSpec(steps=(RunModel(), TopLabels()), labels=("yes", "no"))
    with pytest.raises(PipelineError, match="2 labels for 5 outputs"):
        convert(workshop.request(small_network(), pictures(10), pipeline=pipeline), steps_ignored)


def test_model_behind_preprocessing_is_measured_through_it(workshop: Workshop) -> None:
    pipeline = PipelineSpec(steps=(Normalise(scale=1 / 255), RunModel()))
    items = (pictures(40) * 255).astype(np.uint8)
    request = workshop.request(small_network(), items, pipeline=pipeline, scale=1 / 255)
    result = convert(msgspec.structs.replace(request, schemes=(Scheme.FLOAT32,)), steps_ignored)
    assert result.artifacts[0].accuracy.source >= 0.95
    assert result.artifacts[0].accuracy.agreement == 1.0


def test_operator_unknown_to_tflite_is_named(workshop: Workshop) -> None:
    import keras

    image = keras.Input((8, 8))
    real, _ = keras.ops.fft2((image, keras.ops.zeros_like(image)))
    model = keras.Model(image, keras.layers.Flatten()(real))
    items = pictures(6)[..., 0]
    with pytest.raises(ConversionFailedError, match=r"no operator for .*FFT2D") as caught:
        convert(workshop.request(model, items), steps_ignored)
    assert caught.value.kind is FailureKind.UNSUPPORTED_OP


def test_recurrent_network_passes_where_it_can_and_says_where_it_cannot(workshop: Workshop) -> None:
    import keras

    model = keras.Sequential([keras.Input((6, 4)), keras.layers.LSTM(5), keras.layers.Dense(3, activation="softmax")])
    items = np.random.default_rng(1).random((20, 6, 4), dtype=np.float32)
    request = msgspec.structs.replace(workshop.request(model, items), schemes=(Scheme.FLOAT32, Scheme.FULL_INT8))
    result = convert(request, steps_ignored)
    assert result.failure is None
    assert [made.scheme for made in result.artifacts] == [Scheme.FLOAT32]
    assert result.message.startswith("full_int8 could not be made: its graph has loops or branches")


def test_category_that_the_model_has_no_row_for_is_the_datas_fault(workshop: Workshop) -> None:
    import keras

    model = keras.Sequential(
        [keras.Input((3,), dtype="int32"), keras.layers.Embedding(7, 4), keras.layers.Flatten(), keras.layers.Dense(2)]
    )
    request = workshop.request(model, np.full((4, 3), 9, np.int32), labels=np.zeros(4, int))
    with pytest.raises(PipelineError, match="the source model cannot take"):
        convert(request, steps_ignored)


def test_model_of_two_inputs_is_refused(workshop: Workshop) -> None:
    import keras

    left, right = keras.Input((4,)), keras.Input((4,))
    model = keras.Model([left, right], keras.layers.Dense(2)(keras.layers.Add()([left, right])))
    with pytest.raises(InvalidInputError, match="2 inputs and 1 outputs"):
        convert(workshop.request(model, np.zeros((4, 4), np.float32), labels=np.zeros(4, int)), steps_ignored)


def test_model_of_two_outputs_is_refused(workshop: Workshop) -> None:
    import keras

    entry = keras.Input((4,))
    model = keras.Model(entry, [keras.layers.Dense(2)(entry), keras.layers.Dense(3)(entry)])
    items = np.zeros((4, 4), np.float32)
    with pytest.raises(InvalidInputError, match="1 inputs and 2 outputs"):
        convert(workshop.request(model, items, labels=np.zeros(4, int)), steps_ignored)


def test_model_without_declared_sizes_is_refused(workshop: Workshop) -> None:
    import keras

    entry = keras.Input((None, None, 1))
    model = keras.Model(entry, keras.layers.GlobalAveragePooling2D()(keras.layers.Conv2D(3, 3)(entry)))
    with pytest.raises(InvalidInputError, match="leaves its input shape open"):
        convert(workshop.request(model, pictures(4)), steps_ignored)


def test_source_answers_as_the_framework_does(workshop: Workshop) -> None:
    model = small_network()
    request = workshop.request(model, pictures(10))
    source = loader.load(Path(request.source_path))
    pipeline = CompiledPipeline(MODEL_ONLY, source.interpreter)
    expected = np.asarray(model(pictures(10), training=False))
    np.testing.assert_allclose(pipeline.scores(pictures(10)), expected, rtol=1e-5)
