from __future__ import annotations

import msgspec
import pytest

from converters import plan
from shared.conversion import ConversionRequest, SourceFormat
from shared.errors import InvalidInputError
from shared.hardware import GENERIC
from shared.ids import ConversionId
from shared.manifest import Scheme
from shared.pipeline import MODEL_ONLY, PipelineSpec

REQUEST = ConversionRequest(
    conversion_id=ConversionId("c"),
    source_path="/nowhere/model",
    source_format=SourceFormat.KERAS,
    scratch_path="/nowhere/scratch",
    calibration_path="/nowhere/calibration",
    evaluation_path="/nowhere/evaluation",
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
        ({"max_accuracy_drop": -0.1}, "max_accuracy_drop"),
        ({"max_accuracy_drop": float("nan")}, "max_accuracy_drop"),
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


def test_stages_begin_at_zero_and_never_fall() -> None:
    starts = [stage.start for stage in plan.stages(REQUEST)]
    assert starts[0] == 0
    assert starts == sorted(starts)
    assert starts[-1] < 1


def test_stages_name_each_wanted_scheme_once() -> None:
    names = [stage.name for stage in plan.stages(msgspec.structs.replace(REQUEST, schemes=(Scheme.FLOAT16,)))]
    assert names[3:] == ["float16: convert", "float16: measure"]
