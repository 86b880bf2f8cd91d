"""What a converter made without an error, and a device must never get: the product refuses each, and says why.

Each was seen in the field, with an exit code of 0. Beside those below:

- live augmentation and other state in a SavedModel, operator by operator: `test_frontend_saved_model.py`;
- an ONNX file that nobody simplified comes out as the same bytes as the simplified one: `test_onnx_front_end.py`;
- scikit-learn is emitted, never exported by way of ONNX: `test_sklearn_front_end.py`;
- an old runtime that loads, crashes or refuses: `test_runtimes.py`; every scheme on it: `test_old_runtime.py`;
- full int8 of an EfficientNet that others trained, refused with one answer in eight changed: `test_real_models.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema

from converters.conversion import convert
from converters.environments import Environment
from converters.failures import ConversionFailedError
from converters.frontends import worker
from converters.frontends.frontend import FrontendRequest
from converters.judgement import search
from converters.judgement.bench import Bench, Shop
from converters.judgement.ground import Ground, prepare
from converters.judgement.judge import Court, unfit
from converters.judgement.search import Question, Trial
from converters.judgement.stopwatch import OwnStopwatch
from converters.quantization import restamp
from shared.conversion import (
    LADDER,
    AccuracyBudget,
    ConversionRequest,
    ConvertedArtifact,
    FailureKind,
    Recipe,
    RuntimeVersion,
    SourceFormat,
)
from shared.dataset import Split
from shared.hardware import GENERIC, HardwareProfile, Runtime
from shared.ids import HardwareProfileId
from shared.manifest import Scheme
from shared.runtime.interpreter import LiteRtInterpreter
from tests.support import drawn_networks
from tests.support.frontends import pack
from tests.support.models import dense_classifier, random_classifier
from tests.support.workers import environment

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from converters.plan import Stage
    from tests.integration.converters.conftest import Workshop

    Tensor = NDArray[Any]

pytestmark = pytest.mark.timeout(600)
OLD = HardwareProfile(profile_id=HardwareProfileId("old"), architectures=("armv7l",), runtime=Runtime.TFLITE_RUNTIME)
FLEET = (RuntimeVersion(runtime=Runtime.TFLITE_RUNTIME, version="2.14.0"),)
BUDGET = AccuracyBudget(max_drop=0.005)
IMAGE = (12, 12, 1)


def unheard(stage: Stage, share: float = 0.0, detail: str = "") -> None:
    """Hear of progress, and tell nobody."""


def items(*shape: int, count: int = 40) -> dict[Split, dict[str, Tensor]]:
    """Return splits of seeded items without labels."""
    return {
        split: {"x": np.random.default_rng(number).normal(size=(count, *shape)).astype(np.float32)}
        for number, split in enumerate(Split)
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class Trialled:
    """A conversion up to the search, and a court for whatever is brought before it."""

    ground: Ground
    bench: Bench

    @property
    def question(self) -> Question:
        request = self.ground.request
        return Question(schemes=LADDER, profiles=request.profiles, budget=request.budget, objective=request.objective)

    def judge(self, content: bytes, trial: Trial) -> ConvertedArtifact:
        ground = self.ground
        court = Court(
            request=ground.request,
            pipeline=ground.pipeline,
            judged=ground.judged,
            slices=(),
            stateful=False,
            stopwatch=OwnStopwatch(threads=1, patience_s=0.2),
        )
        return court.judge(content, trial, 0)


@pytest.fixture(scope="module")
def trialled(mnist_request: ConversionRequest, tmp_path_factory: pytest.TempPathFactory) -> Trialled:
    """The trained network on written digits, as far as its float model and its own answers."""
    folder = tmp_path_factory.mktemp("red")
    environment(Environment.TFLITE)
    request = msgspec.structs.replace(
        mnist_request, scratch_path=str(folder), budget=BUDGET, profiles=(GENERIC, OLD), runtimes=FLEET
    )
    ground = prepare(request, folder, unheard)
    shop = Shop(
        request=request,
        kept=ground.kept,
        program=ground.program,
        made=ground.made,
        model=ground.model,
        pipeline=ground.pipeline,
        calibration=ground.data.splits[Split.CALIBRATION],
        searched=ground.searched,
        stopwatch=OwnStopwatch(threads=1, patience_s=0.2),
    )
    return Trialled(ground=ground, bench=Bench(shop, lambda _: None))


def test_one_scale_a_tensor_that_answers_by_chance_is_refused_by_search_and_gate(trialled: Trialled) -> None:
    recipe = Recipe(scheme=Scheme.DYNAMIC_INT8, per_tensor=True)
    trial = trialled.bench.attempt(recipe)
    assert trial.accuracy is not None
    assert trial.accuracy < 0.2
    # What the kernels make of such weights here is not even a number.
    words = ("nan_outputs: ", "output_mismatch: ", "accuracy_drop: ")
    assert search.refusal(trial, trialled.question).startswith(words)
    made = trialled.judge(trialled.bench.content(recipe), trial)
    assert made.accuracy.source > 0.95
    assert made.refused.startswith(words)


def outlier_model() -> bytes:
    """Right in floats; in 8 bits one large input swallows the small differences between the others."""
    weights = np.vstack([np.zeros((1, 10)), np.eye(10)]).astype(np.float32)
    return dense_classifier(weights, np.zeros(10, np.float32), softmax=False)


def test_full_int8_of_a_network_that_it_breaks_is_refused_and_nothing_passes(workshop: Workshop) -> None:
    splits = items(11, count=800)
    for arrays in splits.values():
        arrays["x"] = np.abs(arrays["x"])
        arrays["x"][:, 0] *= 30
        arrays["y"] = arrays["x"][:, 1:].argmax(axis=1)
    request = workshop.request(outlier_model(), splits)
    result = convert(msgspec.structs.replace(request, schemes=(Scheme.FULL_INT8,)), unheard)
    assert result.failure is FailureKind.NOTHING_PASSED
    assert result.candidates
    assert all(row.outcome.startswith("search: accuracy_drop: 0.") for row in result.candidates)


def unstamped(model: bytes) -> bytes:
    """Return dynamic int8 as the quantizer leaves it: it says of itself that the oldest runtime may run it."""
    from litert_quantizer import quantizer, recipe

    made = quantizer.Quantizer(model, recipe.dynamic_wi8_afp32()).quantize(enable_progress_report=False)
    return bytes(made.quantized_model)


@pytest.mark.parametrize(("stamped", "reason"), [(False, "golden_mismatch: "), (True, "model_load_failed: ")])
def test_dynamic_int8_is_kept_from_an_old_runtime_that_would_answer_by_chance(
    trialled: Trialled, stamped: bool, reason: str
) -> None:
    content = unstamped(trialled.ground.model)
    made = trialled.judge(
        restamp.restamp(content) if stamped else content, Trial(recipe=Recipe(scheme=Scheme.DYNAMIC_INT8))
    )
    # It is right where it was made: nothing else shows what the old runtime does with it.
    assert made.refused == ""
    assert made.report.drop is not None
    assert made.report.drop.bound <= BUDGET.max_drop
    assert unfit(made, OLD, FLEET).startswith(f"runtime: tflite-runtime 2.14.0: {reason}")
    assert unfit(made, GENERIC, FLEET) == ""


def test_scheme_over_the_latency_budget_of_a_class_is_kept_from_it(
    mnist_request: ConversionRequest, tmp_path: Path
) -> None:
    request = msgspec.structs.replace(
        mnist_request, scratch_path=str(tmp_path), budget=BUDGET, schemes=(Scheme.FLOAT32, Scheme.INT16X8)
    )
    floats, *integers = convert(request, unheard).candidates
    assert floats.recipe.scheme is Scheme.FLOAT32
    slow = min(row.latency_ms for row in integers)
    assert slow > 5 * floats.latency_ms
    hurried = HardwareProfile(
        profile_id=HardwareProfileId("hurried"),
        architectures=("x86_64",),
        max_latency_ms=(slow * floats.latency_ms) ** 0.5,
    )
    result = convert(msgspec.structs.replace(request, profiles=(hurried,)), unheard)
    said = {row.recipe.scheme: row.outcome for row in result.candidates}
    assert "latency: p95 " in said[Scheme.INT16X8]
    assert not said[Scheme.INT16X8].startswith("chosen")
    assert all(made.scheme is Scheme.FLOAT32 for made in result.artifacts if not made.refused_for)


def test_number_that_half_precision_cannot_hold_is_refused_as_nan(workshop: Workshop) -> None:
    weights = np.random.default_rng(1).normal(size=(16, 5)) * 1e5
    model = dense_classifier(weights.astype(np.float32), np.zeros(5, np.float32))
    request = workshop.request(model, items(16))
    result = convert(msgspec.structs.replace(request, schemes=(Scheme.FLOAT16, Scheme.FLOAT32)), unheard)
    said = {row.recipe.scheme: row.outcome for row in result.candidates}
    assert said[Scheme.FLOAT16].startswith("search: nan_outputs: ")
    assert [made.scheme for made in result.artifacts] == [Scheme.FLOAT32]


def with_custom_operator(model: bytes, name: str) -> bytes:
    """Return a model whose last operator needs code that no runtime has, as exports by way of ONNX leave it."""
    tree = schema.ModelT.InitFromPackedBuf(model)
    code = tree.operatorCodes[-1]
    code.builtinCode = code.deprecatedBuiltinCode = schema.BuiltinOperator.CUSTOM
    code.customCode = name
    operator = tree.subgraphs[0].operators[-1]
    operator.builtinOptionsType, operator.builtinOptions = schema.BuiltinOptions.NONE, None
    return drawn_networks.packed_again(tree)


@pytest.mark.parametrize("name", ["ONNX_TREEENSEMBLECLASSIFIER", "ONNX_SCALER"])
def test_custom_operators_of_a_scikit_learn_export_are_refused_by_name(workshop: Workshop, name: str) -> None:
    model = with_custom_operator(random_classifier(16, 5, seed=3), name)
    with pytest.raises(ConversionFailedError, match=f"CUSTOM:{name}") as caught:
        convert(workshop.request(model, items(16)), unheard)
    assert caught.value.kind is FailureKind.UNSUPPORTED_OP


def with_misshapen_filter(model: bytes) -> bytes:
    """Return a model whose depthwise filter has its channels first, as a file of un-simplified ONNX had it."""
    tree = schema.ModelT.InitFromPackedBuf(model)
    (tensor,) = (tensor for tensor in tree.subgraphs[0].tensors if tensor.name == b"depth")
    tensor.shape = [1, 8, 3, 3]
    return drawn_networks.packed_again(tree)


def test_file_of_unsimplified_onnx_that_no_runtime_can_invoke_is_refused(workshop: Workshop) -> None:
    model = with_misshapen_filter(drawn_networks.convolutional())
    with pytest.raises(
        ConversionFailedError, match=r"the runtime refuses the model: .*DEPTHWISE_CONV_2D.* failed to prepare"
    ) as caught:
        convert(workshop.request(model, items(*IMAGE)), unheard)
    assert caught.value.kind is FailureKind.BAD_INPUT


def test_file_that_was_packed_again_without_its_weights_is_refused_by_the_cause(workshop: Workshop) -> None:
    damaged = drawn_networks.packed_again(drawn_networks.weights_behind(drawn_networks.convolutional()))
    with pytest.raises(ConversionFailedError, match="drops weights kept behind the graph") as caught:
        convert(workshop.request(damaged, items(*IMAGE)), unheard)
    assert caught.value.kind is FailureKind.BAD_INPUT


def test_saved_model_with_live_augmentation_is_refused_with_the_remedy(workshop: Workshop) -> None:
    import keras

    layers = [keras.layers.RandomTranslation(0.1, 0.1), keras.layers.Flatten(), keras.layers.Dense(3)]
    model = keras.Sequential([keras.Input(IMAGE), *layers])
    model.export(workshop.folder / "saved", verbose=False)
    archive = pack(workshop.folder / "saved", workshop.folder / "saved.zip")
    request = workshop.request(archive.read_bytes(), items(*IMAGE), source_format=SourceFormat.SAVED_MODEL)
    with pytest.raises(
        ConversionFailedError, match=r"live augmentation.*StatelessRandom.*upload the \.keras"
    ) as caught:
        convert(request, unheard)
    assert caught.value.kind is FailureKind.BAD_INPUT


class Forgetful:
    """A trained source whose converter ends well, and has written its last layer alone."""

    name = "a converter that forgets"
    parameters = 55_022
    operators: Mapping[str, int] = MappingProxyType({})
    removed = ()

    def __init__(self, whole: bytes) -> None:
        self._whole = LiteRtInterpreter(whole, threads=1)

    def to_tflite(self, batch: int | None) -> bytes:
        assert batch == 1
        return random_classifier(784, 10, seed=2, input_shape=(28, 28, 1))

    def answer(self, inputs: Sequence[Tensor]) -> list[Tensor]:
        rows = [self._whole.run([item[np.newaxis]])[0] for item in inputs[0]]
        return [np.concatenate(rows)]


def test_weights_lost_in_conversion_are_named_as_the_cause(trialled: Trialled, tmp_path: Path) -> None:
    request = FrontendRequest(source_path="", source_format=SourceFormat.KERAS, scratch_path=str(tmp_path), batch=1)
    source = Forgetful(trialled.ground.model)
    with pytest.raises(ConversionFailedError) as caught:
        worker.prove(request, source, source.to_tflite(1))
    assert str(caught.value).startswith("weights_lost: 7850 of the source's 55022 parameters are in the file; ")
    assert caught.value.kind is FailureKind.CRASHED
