from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
import pytest

from converters.conversion import convert
from converters.environments import Environment
from converters.failures import ConversionFailedError
from converters.judgement import runtimes, search
from converters.plan import Stage, fraction
from converters.quantization import quantize
from shared.card import CARD_FILE, PAGE_FILE, ModelCard
from shared.conversion import (
    AccuracyBudget,
    CheckOutcome,
    ConversionRequest,
    ConversionResult,
    FailureKind,
    Objective,
    Recipe,
    RuntimeVersion,
    SourceFormat,
)
from shared.dataset import Split
from shared.errors import InvalidInputError, PipelineError
from shared.hardware import GENERIC, HardwareProfile, Runtime
from shared.ids import HardwareProfileId
from shared.manifest import Scheme, digest
from shared.pipeline import MODEL_ONLY, Normalise, PipelineSpec, RunModel, TopLabels
from shared.runtime.golden import check_golden
from shared.runtime.interpreter import Kernels, LiteRtInterpreter
from shared.runtime.pipeline import CompiledPipeline
from tests.support.models import dense_classifier, random_classifier
from tests.support.workers import ROOT, environment

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from tests.integration.converters.conftest import Workshop

    Tensor = NDArray[Any]
    Splits = dict[Split, dict[str, Tensor]]

SIZES = {Split.CALIBRATION: 60, Split.SEARCH: 200, Split.GATE: 800}
MODEL = random_classifier(16, 5, seed=3)
WIDE = AccuracyBudget(max_drop=0.05)


class Told:
    """Remembers the progress."""

    def __init__(self) -> None:
        self.stages: list[Stage] = []
        self.fractions: list[float] = []

    def __call__(self, stage: Stage, share: float = 0.0, detail: str = "") -> None:
        self.stages.append(stage)
        self.fractions.append(fraction(stage, share))
        assert isinstance(detail, str)


def items(count: int, width: int = 16, seed: int = 1) -> Tensor:
    return np.random.default_rng([seed, count]).normal(size=(count, width)).astype(np.float32)


def answers(model: bytes, of: Tensor) -> NDArray[np.int64]:
    scores = CompiledPipeline(MODEL_ONLY, LiteRtInterpreter(model, threads=1)).scores(of)
    return np.asarray(scores.argmax(axis=1), np.int64)


def splits(model: bytes = MODEL, *, width: int = 16, labelled: bool = True) -> Splits:
    """Items of each split; labels are what the model itself answers."""
    made: Splits = {split: {"x": items(count, width)} for split, count in SIZES.items()}
    if labelled:
        for arrays in made.values():
            arrays["y"] = answers(model, arrays["x"])
    return made


def outlier_model() -> bytes:
    """Right in floats; in 8 bits one large input swallows the small differences between the others."""
    return dense_classifier(
        np.vstack([np.zeros((1, 10)), np.eye(10)]).astype(np.float32), np.zeros(10, np.float32), softmax=False
    )


def outlier_splits() -> Splits:
    made = splits(outlier_model(), width=11)
    for arrays in made.values():
        arrays["x"] = np.abs(arrays["x"])
        arrays["x"][:, 0] *= 30
        arrays["y"] = answers(outlier_model(), arrays["x"])
    return made


@pytest.fixture(scope="module")
def digits(digits_request: ConversionRequest) -> ConversionResult:
    return convert(digits_request, Told())


def test_digits_smallest_passes_its_gate(digits: ConversionResult) -> None:
    assert digits.failure is None
    (made,) = digits.artifacts
    assert made.refused == ""
    assert made.report.drop is not None
    assert made.report.drop.bound <= 0.01
    assert made.accuracy.source >= 0.95
    assert made.length_bytes == min(row.length_bytes for row in digits.candidates)
    assert digits.parameters >= 50_000
    assert "tensorflow" in digits.worker


def test_digits_artifact_is_the_file_that_it_names(digits: ConversionResult) -> None:
    (made,) = digits.artifacts
    content = Path(made.path).read_bytes()
    assert (digest(content), len(content)) == (made.sha256, made.length_bytes)
    assert LiteRtInterpreter(content, threads=1).inputs == made.inputs
    assert {spec.dtype for spec in made.inputs + made.outputs} == {"float32"}
    assert made.inputs[0].shape == (1, 8, 8, 1)


@pytest.mark.parametrize("kernels", list(Kernels))
def test_digits_golden_check_holds_on_every_kind_of_kernels(digits: ConversionResult, kernels: Kernels) -> None:
    (made,) = digits.artifacts
    interpreter = LiteRtInterpreter(Path(made.path).read_bytes(), threads=1, kernels=kernels)
    assert check_golden(interpreter, made.golden) == ""
    assert len(made.golden.cases) == 8


def test_digits_references_hold_every_item_of_the_gate_split(digits: ConversionResult) -> None:
    (made,) = digits.artifacts
    names = [reference.name for reference in made.references]
    assert names == ["input.mean", "input.deviation", "input.extremes", "class", "confidence"]
    assert all(sum(reference.counts) == made.accuracy.samples for reference in made.references)


def test_digits_whole_table_is_kept_with_a_reason_for_each(digits: ConversionResult) -> None:
    schemes = {row.recipe.scheme for row in digits.candidates}
    assert schemes >= {Scheme.FLOAT32, Scheme.FLOAT16, Scheme.DYNAMIC_INT8, Scheme.WEIGHT_INT8, Scheme.FULL_INT8}
    assert sum(row.outcome.startswith("chosen: generic") for row in digits.candidates) == 1
    assert any(row.pareto for row in digits.candidates)


def test_digits_training_only_layers_are_gone_by_the_histograms(digits: ConversionResult) -> None:
    assert digits.operators_before["Dropout"] == 1
    assert "CONV_2D" in digits.operators_after
    assert not any("RANDOM" in name for name in digits.operators_after)


def test_digits_card_tells_of_the_conversion(digits: ConversionResult, digits_request: ConversionRequest) -> None:
    path = Path(digits.card_path)
    assert path == Path(digits_request.scratch_path) / CARD_FILE
    card = msgspec.json.decode(path.read_bytes(), type=ModelCard)
    assert card.candidates == digits.candidates
    assert [each.graph.sha256 for each in card.artifacts] == [made.sha256 for made in digits.artifacts]
    assert (path.parent / PAGE_FILE).stat().st_size > 1000


def test_digits_leave_nothing_but_the_results(digits: ConversionResult, digits_request: ConversionRequest) -> None:
    left = {path.name for path in Path(digits_request.scratch_path).iterdir()}
    assert left == {CARD_FILE, PAGE_FILE, *(Path(made.path).name for made in digits.artifacts)}


def test_progress_goes_through_every_stage_in_order(workshop: Workshop) -> None:
    told = Told()
    convert(workshop.request(MODEL, splits()), told)
    assert list(dict.fromkeys(told.stages)) == list(Stage)


def test_result_fits_the_contract(workshop: Workshop) -> None:
    result = convert(workshop.request(MODEL, splits()), Told())
    assert msgspec.json.decode(msgspec.json.encode(result), type=ConversionResult) == result


def test_too_few_samples_for_the_margin_are_refused_before_anything_starts(workshop: Workshop) -> None:
    few = splits()
    few[Split.GATE] = {name: array[:300] for name, array in few[Split.GATE].items()}
    request = workshop.request(b"no model", few, source_format=SourceFormat.KERAS)
    with pytest.raises(InvalidInputError, match=r"300 samples cannot show.*385 are needed") as caught:
        convert(request, Told())
    assert caught.value.field == "dataset.gate.y"


def test_int8_that_breaks_a_network_is_refused_and_a_larger_one_chosen(workshop: Workshop) -> None:
    request = workshop.request(outlier_model(), outlier_splits())
    schemes = (Scheme.FLOAT32, Scheme.FULL_INT8)
    result = convert(msgspec.structs.replace(request, schemes=schemes), Told())
    broken = [row for row in result.candidates if row.recipe.scheme is Scheme.FULL_INT8]
    assert broken
    assert all(row.outcome.startswith("search: accuracy_drop: 0.") for row in broken)
    assert [made.scheme for made in result.artifacts] == [Scheme.FLOAT32]


def test_nothing_passed_is_an_answer_that_says_what_came_closest(workshop: Workshop) -> None:
    request = workshop.request(outlier_model(), outlier_splits())
    result = convert(msgspec.structs.replace(request, schemes=(Scheme.FULL_INT8,)), Told())
    assert result.failure is FailureKind.NOTHING_PASSED
    assert result.message.startswith("full_int8, ")
    assert "came closest: search: accuracy_drop: 0." in result.message
    assert result.candidates
    assert result.artifacts == ()


def test_size_that_no_candidate_keeps_is_an_answer(workshop: Workshop) -> None:
    tiny = HardwareProfile(profile_id=HardwareProfileId("tiny"), architectures=("x86_64",), max_size_bytes=10)
    result = convert(msgspec.structs.replace(workshop.request(MODEL, splits()), profiles=(tiny,)), Told())
    assert result.failure is FailureKind.NOTHING_PASSED
    assert "size: " in result.message


def test_two_classes_get_what_each_can_run(workshop: Workshop) -> None:
    environment(Environment.TFLITE)
    request = msgspec.structs.replace(
        workshop.request(MODEL, splits()), profiles=(GENERIC, OLD), budget=WIDE, environments_path=str(ROOT)
    )
    result = convert(request, Told())
    assert result.failure is None
    for profile in (GENERIC, OLD):
        allowed = [made for made in result.artifacts if not made.refused and profile.profile_id not in made.refused_for]
        assert len(allowed) == 1
    assert not any(
        made.scheme is Scheme.DYNAMIC_INT8 and OLD.profile_id not in made.refused_for for made in result.artifacts
    )


OLD = HardwareProfile(profile_id=HardwareProfileId("old"), architectures=("armv7l",), runtime=Runtime.TFLITE_RUNTIME)


def test_class_whose_runtime_is_not_installed_here_gets_nothing_and_is_told_how(workshop: Workshop) -> None:
    nowhere = str(workshop.folder / "workers")
    request = msgspec.structs.replace(
        workshop.request(MODEL, splits()), profiles=(OLD, GENERIC), environments_path=nowhere, schemes=(Scheme.FLOAT16,)
    )
    result = convert(request, Told())
    (made,) = result.artifacts
    assert result.failure is None
    assert "litefleet converters install tflite" in made.refused_for[OLD.profile_id]
    assert GENERIC.profile_id not in made.refused_for
    with pytest.raises(InvalidInputError, match="litefleet converters install tflite") as refusal:
        convert(msgspec.structs.replace(request, profiles=(OLD,)), Told())
    assert refusal.value.field == "environment"


@pytest.mark.parametrize(("version", "remedy"), [("2.14.0", ""), ("2.14", ""), ("2.11.0", "update these devices")])
def test_old_runtime_that_is_installed_serves_for_its_own_version_only(version: str, remedy: str) -> None:
    environment(Environment.TFLITE)
    found = runtimes.obstacle(RuntimeVersion(runtime=Runtime.TFLITE_RUNTIME, version=version), ROOT)
    assert (remedy in found) if remedy else not found


def test_runtime_of_the_fleet_is_tried_or_said_to_be_untried(workshop: Workshop) -> None:
    told = (RuntimeVersion(runtime=Runtime.AI_EDGE_LITERT, version="1.0.1"),)
    result = convert(msgspec.structs.replace(workshop.request(MODEL, splits()), runtimes=told), Told())
    (made,) = (made for made in result.artifacts if not made.refused)
    assert [(check.version, check.outcome) for check in made.report.runtimes] == [("1.0.1", CheckOutcome.NOT_CHECKED)]
    assert any("left to devices to try on ai-edge-litert 1.0.1" in warning for warning in result.warnings)


def test_golden_check_of_large_inputs_fits_a_manifest(workshop: Workshop) -> None:
    width = 500_000
    model = random_classifier(width, 2, seed=4)
    made: Splits = {split: {"x": items(count, width)} for split, count in zip(Split, (2, 3, 6), strict=True)}
    profiles = tuple(msgspec.structs.replace(GENERIC, profile_id=HardwareProfileId(name)) for name in ("a", "b"))
    request = msgspec.structs.replace(
        workshop.request(model, made), profiles=profiles, schemes=(Scheme.FLOAT32,), golden_cases=6
    )
    (artifact,) = convert(request, Told()).artifacts
    assert len(artifact.golden.cases) == 2


def test_fastest_is_chosen_when_asked_for(workshop: Workshop) -> None:
    request = msgspec.structs.replace(workshop.request(MODEL, splits()), objective=Objective.FASTEST)
    result = convert(request, Told())
    (winner,) = (row for row in result.candidates if row.outcome.startswith("chosen"))
    passed = [row for row in result.candidates if "another is better" in row.outcome]
    assert all(winner.latency_ms <= row.latency_ms for row in passed)


def test_data_without_labels_is_judged_by_agreement(workshop: Workshop) -> None:
    result = convert(workshop.request(MODEL, splits(labelled=False)), Told())
    (made,) = result.artifacts
    assert made.accuracy.labelled is False
    assert made.report.drop is None
    assert made.report.agreement >= 0.98
    assert made.report.confident_samples > 0
    assert any("has no labels" in warning for warning in result.warnings)


def test_slices_are_judged_by_name(workshop: Workshop) -> None:
    made = splits()
    for arrays in made.values():
        arrays["slice"] = (np.arange(len(arrays["x"])) < 40).astype(np.int64)
    result = convert(workshop.request(MODEL, made, slices=("day", "night")), Told())
    assert [(group.name, group.samples) for group in result.artifacts[0].report.slices] == [("day", 760), ("night", 40)]


def test_search_without_time_says_so(workshop: Workshop) -> None:
    request = msgspec.structs.replace(workshop.request(MODEL, splits()), max_search_s=1e-6)
    with pytest.raises(ConversionFailedError, match="no time"):
        convert(request, Told())


def test_source_that_answers_nan_is_refused(workshop: Workshop) -> None:
    # Infinite for what is positive somewhere, as the data is.
    request = workshop.request(
        dense_classifier(np.full((16, 5), 1e38, np.float32), np.zeros(5), softmax=True), splits()
    )
    with pytest.raises(ConversionFailedError, match=r"(?i)nan"):
        convert(request, Told())


def test_quantized_source_passes_through_byte_by_byte(workshop: Workshop) -> None:
    calibration = list(items(60))
    recipe = Recipe(scheme=Scheme.FULL_INT8, integer_io=True)
    content = quantize.quantize(MODEL, recipe, calibration)
    made = {split: {"x": (items(count) * 20).astype(np.int8)} for split, count in SIZES.items()}
    result = convert(workshop.request(content, made), Told())
    assert result.failure is None, result.message
    assert [row.recipe.integer_io for row in result.candidates] == [True]
    (artifact,) = result.artifacts
    assert Path(artifact.path).read_bytes() == content
    assert artifact.report.snr_db is None
    assert artifact.max_abs_diff == 0


def test_image_input_takes_the_normalisation_into_the_graph(workshop: Workshop) -> None:
    pipeline = PipelineSpec(steps=(Normalise(scale=1 / 128, offset=-1.0), RunModel()))
    made: Splits = {}
    for split, count in SIZES.items():
        pixels = np.random.default_rng([9, count]).integers(0, 256, (count, 16)).astype(np.uint8)
        made[split] = {"x": pixels, "y": answers(MODEL, (pixels / np.float32(128) - 1).astype(np.float32))}
    request = workshop.request(MODEL, made, pipeline=pipeline)
    result = convert(msgspec.structs.replace(request, image_input=True, budget=WIDE), Told())
    assert result.failure is None, result.message
    (artifact,) = result.artifacts
    assert artifact.inputs[0].dtype == "uint8"
    # A device asks it without the step that it has inside.
    served = CompiledPipeline(MODEL_ONLY, LiteRtInterpreter(Path(artifact.path).read_bytes(), threads=1))
    right = served.scores(made[Split.GATE]["x"]).argmax(axis=1) == made[Split.GATE]["y"]
    assert right.mean() >= 0.97


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"x": np.zeros((5, 9), np.float32)}, r"dataset\.calibration\.x: items of shape \(9,\).*takes \(16,\)"),
        ({"x": np.zeros((5, 16), np.complex64)}, "dtype complex64"),
    ],
)
def test_calibration_that_cannot_be_used_is_refused(workshop: Workshop, change: dict[str, Tensor], said: str) -> None:
    with pytest.raises(InvalidInputError, match=said):
        convert(workshop.request(MODEL, splits() | {Split.CALIBRATION: change}), Told())


def test_labels_that_the_model_cannot_answer_are_refused(workshop: Workshop) -> None:
    made = splits()
    made[Split.GATE]["y"] = made[Split.GATE]["y"] + 3
    with pytest.raises(InvalidInputError, match=r"dataset\.gate\.y: \d+ labels are out of range"):
        convert(workshop.request(MODEL, made), Told())


@pytest.mark.parametrize(
    ("budget", "labelled", "field"),
    [
        (AccuracyBudget(max_class_drop=0.1), False, "dataset.gate.y"),
        (AccuracyBudget(max_slice_drop=0.1), True, "dataset.gate.slice"),
    ],
)
def test_floor_for_groups_that_the_data_do_not_name_is_refused(
    workshop: Workshop, budget: AccuracyBudget, labelled: bool, field: str
) -> None:
    request = workshop.request(MODEL, splits(labelled=labelled))
    with pytest.raises(InvalidInputError, match="can be judged") as refusal:
        convert(msgspec.structs.replace(request, budget=budget), Told())
    assert refusal.value.field == field


def test_pipeline_with_labels_of_another_model_is_refused(workshop: Workshop) -> None:
    pipeline = PipelineSpec(steps=(RunModel(), TopLabels()), labels=("yes", "no"))
    with pytest.raises(PipelineError, match="2 labels for 5 outputs"):
        convert(workshop.request(MODEL, splits(), pipeline=pipeline), Told())


def test_labels_of_another_training_are_doubted(workshop: Workshop) -> None:
    made = splits()
    for arrays in made.values():
        arrays["y"] = (arrays["y"] + 1) % 5
    result = convert(workshop.request(MODEL, made), Told())
    assert "are labels and pipeline those of the training?" in result.message


def test_cache_spares_the_work_and_changes_nothing(workshop: Workshop) -> None:
    request = msgspec.structs.replace(workshop.request(MODEL, splits()), cache_path=str(workshop.folder / "cache"))
    first = convert(request, Told())
    kept = {path.name: path.stat().st_size for path in (workshop.folder / "cache").iterdir()}
    second = convert(request, Told())
    assert {path.name: path.stat().st_size for path in (workshop.folder / "cache").iterdir()} == kept
    assert second.candidates == first.candidates
    assert [made.sha256 for made in second.artifacts] == [made.sha256 for made in first.artifacts]


def test_cache_tells_apart_how_images_are_scaled(workshop: Workshop) -> None:
    outcomes = []
    for scale, offset in ((1 / 128, -1.0), (1 / 255, 0.0)):
        pipeline = PipelineSpec(steps=(Normalise(scale=scale, offset=offset), RunModel()))
        pixels = {
            split: np.random.default_rng([9, count]).integers(0, 256, (count, 16)).astype(np.uint8)
            for split, count in SIZES.items()
        }
        request = workshop.request(MODEL, {split: {"x": x} for split, x in pixels.items()}, pipeline=pipeline)
        change = {"image_input": True, "schemes": (Scheme.FLOAT32,), "cache_path": str(workshop.folder / "cache")}
        (made,) = convert(msgspec.structs.replace(request, **change), Told()).artifacts
        outcomes.append((made.sha256, made.refused))
    assert outcomes[0][0] != outcomes[1][0]
    assert [refused for _, refused in outcomes] == ["", ""]


def test_recipes_are_told_apart_in_words() -> None:
    recipe = Recipe(scheme=Scheme.MIXED, kept_float=("a", "b"), correct_bias=True, image_input=True)
    assert search.describe(recipe) == "mixed, 2 layers float16, bias corrected, image input"


def test_answers_that_are_no_choice_are_judged_by_their_noise(workshop: Workshop) -> None:
    # One number for each item, as a wake-word's or a temperature.
    model = dense_classifier(
        np.random.default_rng(1).normal(size=(16, 1)).astype(np.float32), np.zeros(1, np.float32), softmax=False
    )
    made: Splits = {split: {"x": items(count)} for split, count in SIZES.items()}
    result = convert(workshop.request(model, made), Told())
    assert result.failure is None, result.message
    noisy = AccuracyBudget(min_snr_db=200.0)
    request = msgspec.structs.replace(workshop.request(model, made), budget=noisy, schemes=(Scheme.FLOAT16,))
    refused = convert(request, Told())
    assert refused.failure is FailureKind.NOTHING_PASSED
    assert "snr: " in refused.message
