"""Which error is which status, and what a caller can read from a problem document."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field, ValidationError

from controller.errors import ForbiddenError, UnauthenticatedError
from controller.http.endpoint import Body
from controller.http.errors import (
    PROBLEM_TYPE,
    InvalidRequestError,
    Problem,
    ProblemItem,
    invalid_body,
    invalid_query,
    problem_response,
    status_of,
)
from shared.errors import (
    ConflictError,
    DigestMismatchError,
    InvalidIdError,
    InvalidInputError,
    LitefleetError,
    ModelFailedError,
    ModelLoadError,
    NotFoundError,
    PermanentError,
    PipelineError,
    RetryableError,
    StorageFullError,
    UnreachableError,
    UnsealError,
    UntrustedError,
)

if TYPE_CHECKING:
    from aiohttp import web


class _Point(Body):
    x: int = Field(ge=0)


class _Path(Body):
    points: tuple[_Point, ...]
    name: str = "path"


@dataclass
class _Read:
    """What a caller makes of a response."""

    response: web.Response

    @property
    def problem(self) -> Problem:
        body = self.response.body
        assert isinstance(body, bytes)
        return msgspec.json.decode(body, type=Problem)


def _read(error: LitefleetError) -> _Read:
    return _Read(problem_response(error, instance="urn:request:1"))


def _refused(**values: object) -> ValidationError:
    with pytest.raises(ValidationError) as refusal:
        _Path.model_validate(values)
    return refusal.value


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (InvalidIdError(field="device", value="A", rule="a-z"), 422),
        (InvalidInputError(field="waves", problem="none"), 422),
        (InvalidRequestError((ProblemItem(detail="missing", pointer="#/x"),)), 422),
        (DigestMismatchError(expected="a", actual="b", path="p"), 422),
        (ModelLoadError("no model"), 422),
        (PipelineError("no image"), 422),
        (ModelFailedError("NaN"), 422),
        (NotFoundError(kind="model", name="m"), 404),
        (ConflictError(kind="release", name="r", problem="is in use"), 409),
        (UnauthenticatedError("who?"), 401),
        (ForbiddenError("not you"), 403),
        (UnsealError("no signature"), 403),
        (UntrustedError("expired"), 403),
        (StorageFullError("full"), 507),
        (UnreachableError("away"), 503),
        (RetryableError("later"), 503),
        (PermanentError("never"), 400),
        (LitefleetError("something"), 500),
    ],
)
def test_error_has_its_status(error: LitefleetError, status: int) -> None:
    assert status_of(error) == status


def test_problem_says_what_the_error_says() -> None:
    read = _read(NotFoundError(kind="model", name="digits"))
    assert read.response.content_type == PROBLEM_TYPE
    assert read.problem == Problem(
        title="Not Found", status=404, reason="not_found", detail="no model 'digits'", instance="urn:request:1"
    )


@pytest.mark.parametrize(("asked_s", "told"), [(0.0, "1"), (0.2, "1"), (1.0, "1"), (2.1, "3"), (60.0, "60")])
def test_problem_of_a_retryable_error_says_when_to_come_back(asked_s: float, told: str) -> None:
    assert _read(RetryableError("later", retry_after_s=asked_s)).response.headers["Retry-After"] == told


def test_problem_of_a_permanent_error_does_not_invite_to_come_back() -> None:
    assert "Retry-After" not in _read(PermanentError("never")).response.headers


def test_problem_of_a_stranger_says_how_to_authenticate() -> None:
    assert _read(UnauthenticatedError("who?")).response.headers["WWW-Authenticate"] == "Bearer"


@pytest.mark.parametrize(
    ("field", "pointer"),
    [
        ("waves", "#/waves"),
        ("pipeline.steps[0]", "#/pipeline/steps/0"),
        ("profiles[1].architectures", "#/profiles/1/architectures"),
        ("labels.a/b", "#/labels/a~1b"),
        ("labels.a~b", "#/labels/a~0b"),
    ],
)
def test_problem_points_at_the_field_that_can_be_mended(field: str, pointer: str) -> None:
    (item,) = _read(InvalidInputError(field=field, problem="wrong", remedy="mend it")).problem.errors
    assert item == ProblemItem(detail="wrong (mend it)", pointer=pointer)


def test_problem_points_at_a_wrong_id() -> None:
    (item,) = _read(InvalidIdError(field="device_id", value="A", rule="a-z")).problem.errors
    assert item.pointer == "#/device_id"


def test_body_with_several_mistakes_has_each_of_them_named() -> None:
    error = invalid_body(_refused(points=[{"x": 1}, {"x": -1}], nam="typo"))
    assert {item.pointer for item in error.items} == {"#/points/1/x", "#/nam"}


def test_query_with_a_mistake_has_its_parameter_named() -> None:
    (item,) = invalid_query(_refused()).items
    assert (item.parameter, item.pointer) == ("points", "")


def test_attack_wrong_value_is_not_played_back() -> None:
    error = invalid_body(_refused(points=[{"x": "<script>secret"}]))
    assert "secret" not in str(error)


@given(parts=st.lists(st.text(min_size=1), min_size=1, max_size=4))
def test_pointer_of_any_member_names_read_back_as_them(parts: list[str]) -> None:
    schema_error = _Member.refusal(parts)
    (item,) = invalid_body(schema_error).items
    read = [part.replace("~1", "/").replace("~0", "~") for part in item.pointer.removeprefix("#/").split("/")]
    assert read == parts


class _Member:
    """A refusal at any path."""

    @staticmethod
    def refusal(parts: list[str]) -> ValidationError:
        return ValidationError.from_exception_data("body", [{"type": "missing", "loc": tuple(parts), "input": None}])
