from __future__ import annotations

import msgspec
import pytest

from converters import plan
from shared.box_terms import BoxFormat
from shared.conversion import AccuracyBudget, ConversionRequest, SourceFormat
from shared.errors import InvalidInputError
from shared.hardware import GENERIC
from shared.ids import ConversionId
from shared.manifest import Scheme
from shared.pipeline import MODEL_ONLY, PipelineSpec
from shared.steps import DecodeImage, DetectBoxes, Ensemble, Normalise, RunModel, Softmax, Step

REQUEST = ConversionRequest(
    conversion_id=ConversionId("c"),
    source_path="/nowhere/model",
    source_format=SourceFormat.KERAS,
    scratch_path="/nowhere/scratch",
    dataset_path="/nowhere/dataset",
    pipeline=MODEL_ONLY,
    profiles=(GENERIC,),
)


def test_request_as_made_by_default_is_accepted() -> None:
    plan.check_request(REQUEST)


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"schemes": ()}, "schemes"),
        ({"schemes": (Scheme.FLOAT32, Scheme.FLOAT32)}, "schemes"),
        ({"budget": AccuracyBudget(max_drop=-0.1)}, "budget.max_drop"),
        ({"budget": AccuracyBudget(max_drop=float("nan"))}, "budget.max_drop"),
        ({"budget": AccuracyBudget(max_class_drop=1.5)}, "budget.max_class_drop"),
        ({"budget": AccuracyBudget(min_agreement=98)}, "budget.min_agreement"),
        ({"budget": AccuracyBudget(min_class_samples=0)}, "budget.min_class_samples"),
        ({"budget": AccuracyBudget(min_snr_db=float("inf"))}, "budget.min_snr_db"),
        ({"profiles": ()}, "profiles"),
        ({"profiles": (GENERIC, GENERIC)}, "profiles"),
        ({"batch": 0}, "batch"),
        ({"max_search_s": 0.0}, "max_search_s"),
        ({"max_search_s": float("nan")}, "max_search_s"),
        ({"golden_cases": 0}, "golden_cases"),
        ({"golden_cases": 1000}, "golden_cases"),
        ({"threads": 0}, "threads"),
        ({"pipeline": PipelineSpec(steps=())}, "pipeline.steps"),
    ],
)
def test_request_that_cannot_be_carried_out_is_refused_by_field(change: dict[str, object], field: str) -> None:
    with pytest.raises(InvalidInputError) as caught:
        plan.check_request(msgspec.structs.replace(REQUEST, **change))
    assert caught.value.field == field


def test_fraction_never_falls_and_ends_at_one() -> None:
    fractions = [plan.fraction(stage, share) for stage in plan.Stage for share in (0.0, 0.4, 1.0)]
    assert fractions == sorted(fractions)
    assert (fractions[0], fractions[-1]) == (0.0, 1.0)


def test_fraction_of_a_stage_keeps_within_it() -> None:
    assert plan.fraction(plan.Stage.SEARCH, 7.0) == plan.fraction(plan.Stage.GATE, 0.0)
    assert plan.fraction(plan.Stage.SEARCH, -1.0) == plan.fraction(plan.Stage.SEARCH, 0.0)


@pytest.mark.parametrize(
    ("steps", "said"),
    [
        ((RunModel(), DetectBoxes(format=BoxFormat.YOLO)), "step detect_boxes has no place"),
        ((RunModel(id="m"), Softmax(), Ensemble(takes=("m", "softmax"))), "step ensemble takes another value"),
        ((RunModel(), RunModel()), "step run_model_2 has no place"),
    ],
)
def test_pipeline_that_could_not_be_judged_is_refused_by_the_name_of_its_step(
    steps: tuple[Step, ...], said: str
) -> None:
    with pytest.raises(InvalidInputError, match=said):
        plan.check_request(msgspec.structs.replace(REQUEST, pipeline=PipelineSpec(steps=steps)))


def test_normalisation_by_channel_cannot_be_folded_into_the_graph() -> None:
    steps = (DecodeImage(), Normalise(mean=(1.0, 2.0, 3.0)), RunModel())
    with pytest.raises(InvalidInputError, match="one scale and offset"):
        plan.check_request(msgspec.structs.replace(REQUEST, pipeline=PipelineSpec(steps=steps), image_input=True))
