"""Structs inside pydantic bodies: validated by msgspec, closed to members that nobody declared."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
import pytest
from pydantic import BaseModel, ValidationError

from controller.http.structs import AsStruct
from shared.hardware import HardwareProfile
from shared.ids import HardwareProfileId
from shared.pipeline import MODEL_ONLY, Normalise, PipelineSpec, RunModel

_PROFILE = HardwareProfile(profile_id=HardwareProfileId("pi"), architectures=("aarch64",))


class _Order(BaseModel):
    pipeline: Annotated[PipelineSpec, AsStruct()]
    profiles: tuple[Annotated[HardwareProfile, AsStruct()], ...] = ()


def _order(**values: object) -> _Order:
    return _Order.model_validate(values)


def test_struct_is_read_from_what_json_gives() -> None:
    steps = [{"type": "normalise", "scale": 0.5}, {"type": "run_model"}]
    assert _order(pipeline={"steps": steps}).pipeline.steps == (Normalise(scale=0.5), RunModel())


def test_struct_that_is_one_already_is_taken_as_it_is() -> None:
    assert _order(pipeline=MODEL_ONLY).pipeline is MODEL_ONLY


def test_struct_is_written_as_the_json_that_it_is_read_from() -> None:
    written = _order(pipeline=MODEL_ONLY, profiles=(_PROFILE,)).model_dump_json()
    assert _Order.model_validate_json(written).profiles == (_PROFILE,)


@pytest.mark.parametrize(
    ("pipeline", "said"),
    [
        ({}, "missing required field `steps`"),
        ({"steps": [{"type": "run_code"}]}, "Invalid value 'run_code'"),
        ({"steps": [{"type": "normalise", "scale": "wide"}]}, "$.steps[0].scale"),
        ({"steps": [], "label": []}, "unknown member $.label"),
        ({"steps": [{"type": "run_model"}, {"type": "softmax", "axis": 1}]}, "unknown field `axis` - at `$.steps[1]`"),
    ],
)
def test_struct_that_cannot_be_read_is_refused_by_path(pipeline: object, said: str) -> None:
    with pytest.raises(ValidationError) as refusal:
        _order(pipeline=pipeline)
    assert said in str(refusal.value)


def test_attack_nesting_beyond_reason_is_refused_and_not_followed() -> None:
    nested: list[object] = []
    for _ in range(10_000):
        nested = [nested]
    with pytest.raises(ValidationError):
        _order(pipeline={"steps": nested})


def test_schema_of_a_struct_stands_alone() -> None:
    schema: dict[str, Any] = _Order.model_json_schema()
    text = msgspec.json.encode(schema).decode()
    assert "$ref" not in text
    assert "discriminator" not in text
    tags = [
        one["properties"]["type"]["enum"]
        for one in schema["properties"]["pipeline"]["properties"]["steps"]["items"]["anyOf"]
    ]
    assert ["run_model"] in tags
