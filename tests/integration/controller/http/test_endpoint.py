"""The endpoint table over real HTTP."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Annotated

import pytest
from pydantic import Field

from controller.errors import ForbiddenError
from controller.http.endpoint import Body, Call, Endpoint, Page, PageQuery, Reply
from controller.http.structs import AsStruct
from shared.errors import (
    ConflictError,
    InvalidIdError,
    InvalidInputError,
    LitefleetError,
    NotFoundError,
    StorageFullError,
    UnreachableError,
)
from shared.pipeline import MODEL_ONLY, PipelineSpec
from tests.support.api import served_api

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    import aiohttp

PipelineBody = Annotated[PipelineSpec, AsStruct()]
ERRORS: dict[str, LitefleetError] = {
    "missing": NotFoundError(kind="model", name="x"),
    "conflict": ConflictError(kind="release", name="x", problem="is in use"),
    "invalid": InvalidInputError(field="pipeline.steps[1]", problem="count must be at least 1"),
    "id": InvalidIdError(field="model", value="A B", rule="a slug"),
    "away": UnreachableError("the database does not answer", retry_after_s=1.2),
    "full": StorageFullError("no room"),
    "forbidden": ForbiddenError("not yours"),
}


class Thing(Body):
    name: str = Field(min_length=1)
    pipeline: PipelineBody = MODEL_ONLY


class Wait(Body):
    wait_s: float


async def _create(call: Call) -> Reply:
    thing = call.body_as(Thing)
    return Reply(value=thing, status=200 if thing.name == "old" else 201)


async def _list(call: Call) -> Page[Thing]:
    return Page(items=[Thing(name=call.actor)] * call.query_as(PageQuery).limit)


async def _fail(call: Call) -> None:
    kind = call.path["kind"]
    if kind == "bug":
        raise ZeroDivisionError("secret detail")
    raise ERRORS[kind]


async def _ping(_call: Call) -> None:
    return


ENDPOINTS = (
    Endpoint(
        method="POST", path="/things", summary="", handler=_create, body=Thing, returns=Thing, status=201, also=(200,)
    ),
    Endpoint(method="GET", path="/things", summary="", handler=_list, query=PageQuery, returns=Page[Thing]),
    Endpoint(method="GET", path="/fail/{kind}", summary="", handler=_fail),
    Endpoint(method="POST", path="/waits", summary="", handler=_ping, body=Wait),
    Endpoint(method="GET", path="/ping", summary="", handler=_ping, public=True),
)


@pytest.fixture
async def api() -> AsyncIterator[aiohttp.ClientSession]:
    async with served_api(ENDPOINTS) as session:
        yield session


async def test_endpoint_valid_body_answers_declared_status_and_shape(api: aiohttp.ClientSession) -> None:
    async with api.post("/api/v1/things", json={"name": "new"}) as reply:
        assert reply.status == 201
        assert await reply.json() == {"name": "new", "pipeline": {"steps": [{"type": "run_model"}], "labels": []}}
    async with api.post("/api/v1/things", json={"name": "old"}) as reply:
        assert reply.status == 200


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        ({}, "#/name"),
        ({"name": ""}, "#/name"),
        ({"name": "x", "nmae": "y"}, "#/nmae"),
        ({"name": "x\0"}, "#"),
        ({"name": "x", "pipeline": {"steps": [{"type": "top_labels", "cuont": 2}]}}, "#/pipeline"),
        ({"name": "x", "pipeline": {"steps": [{"type": "no_such_step"}]}}, "#/pipeline"),
    ],
)
async def test_endpoint_invalid_body_is_422_with_pointer(
    api: aiohttp.ClientSession, body: dict[str, object], pointer: str
) -> None:
    async with api.post("/api/v1/things", json=body) as reply:
        assert reply.status == 422
        assert reply.content_type == "application/problem+json"
        problem = await reply.json()
    assert problem["reason"] == "invalid_input"
    assert [item["pointer"] for item in problem["errors"]] == [pointer]


async def test_endpoint_unknown_struct_member_is_named(api: aiohttp.ClientSession) -> None:
    body = {"name": "x", "pipeline": {"steps": [{"type": "run_model"}, {"type": "top_labels", "cuont": 2}]}}
    async with api.post("/api/v1/things", json=body) as reply:
        told = (await reply.json())["detail"]
    assert "unknown field `cuont` - at `$.steps[1]`" in told


async def test_endpoint_body_that_is_no_json_is_422(api: aiohttp.ClientSession) -> None:
    async with api.post("/api/v1/things", data=b"{", headers={"Content-Type": "application/json"}) as reply:
        assert reply.status == 422


async def test_endpoint_body_of_another_type_is_415(api: aiohttp.ClientSession) -> None:
    async with api.post("/api/v1/things", data=b"name=x", headers={"Content-Type": "text/plain"}) as reply:
        assert (reply.status, reply.content_type) == (415, "application/problem+json")


async def test_endpoint_body_too_large_is_413(api: aiohttp.ClientSession) -> None:
    large = io.BytesIO(b'{"name": "' + b"x" * 2_000_000 + b'"}')
    async with api.post("/api/v1/things", data=large, headers={"Content-Type": "application/json"}) as reply:
        assert (reply.status, reply.content_type) == (413, "application/problem+json")


@pytest.mark.parametrize("query", ["limit=0", "limit=501", "limit=x", "lmit=1", "limit=1&limit=2"])
async def test_endpoint_invalid_query_is_422_with_parameter(api: aiohttp.ClientSession, query: str) -> None:
    async with api.get(f"/api/v1/things?{query}") as reply:
        assert reply.status == 422
        [item] = (await reply.json())["errors"]
    assert item["parameter"] == query.split("=", maxsplit=1)[0]


async def test_endpoint_valid_query_is_passed_with_actor(api: aiohttp.ClientSession) -> None:
    async with api.get("/api/v1/things?limit=2") as reply:
        assert [item["name"] for item in (await reply.json())["items"]] == ["operator", "operator"]


@pytest.mark.parametrize(
    ("kind", "status", "reason"),
    [
        ("missing", 404, "not_found"),
        ("conflict", 409, "conflict"),
        ("invalid", 422, "invalid_input"),
        ("id", 422, "invalid_id"),
        ("away", 503, "unreachable"),
        ("full", 507, "storage_full"),
        ("forbidden", 403, "forbidden"),
    ],
)
async def test_error_of_ours_becomes_its_status_and_reason(
    api: aiohttp.ClientSession, kind: str, status: int, reason: str
) -> None:
    async with api.get(f"/api/v1/fail/{kind}") as reply:
        assert (reply.status, reply.content_type) == (status, "application/problem+json")
        problem = await reply.json()
    assert (problem["status"], problem["reason"]) == (status, reason)
    assert problem["instance"] == f"urn:request:{reply.headers['X-Request-Id']}"


async def test_error_retryable_says_when_to_retry(api: aiohttp.ClientSession) -> None:
    async with api.get("/api/v1/fail/away") as reply:
        assert reply.headers["Retry-After"] == "2"


async def test_error_of_a_field_points_at_it(api: aiohttp.ClientSession) -> None:
    async with api.get("/api/v1/fail/invalid") as reply:
        assert (await reply.json())["errors"][0]["pointer"] == "#/pipeline/steps/1"


async def test_error_unforeseen_is_500_and_shows_nothing_of_the_inside(api: aiohttp.ClientSession) -> None:
    async with api.get("/api/v1/fail/bug") as reply:
        assert (reply.status, reply.content_type) == (500, "application/problem+json")
        assert "secret" not in await reply.text()


@pytest.mark.parametrize(("method", "path", "status"), [("GET", "/nowhere", 404), ("DELETE", "/api/v1/things", 405)])
async def test_error_of_the_router_is_a_problem_document(
    api: aiohttp.ClientSession, method: str, path: str, status: int
) -> None:
    async with api.request(method, path) as reply:
        assert (reply.status, reply.content_type) == (status, "application/problem+json")


@pytest.mark.parametrize("header", ["", "Bearer ", "Bearer wrong", "Basic eDp5", "Bearer \u00e9"])
async def test_attack_wrong_token_is_401(api: aiohttp.ClientSession, header: str) -> None:
    async with api.get("/api/v1/things", headers={"Authorization": header}) as reply:
        assert (reply.status, reply.headers["WWW-Authenticate"]) == (401, "Bearer")
        assert (await reply.json())["reason"] == "unauthenticated"


async def test_endpoint_public_needs_no_token(api: aiohttp.ClientSession) -> None:
    async with api.get("/api/v1/ping", headers={"Authorization": ""}) as reply:
        assert reply.status == 204


async def test_request_id_of_the_caller_is_kept_when_harmless(api: aiohttp.ClientSession) -> None:
    async with api.get("/api/v1/ping", headers={"X-Request-Id": "trace-0123456789"}) as reply:
        assert reply.headers["X-Request-Id"] == "trace-0123456789"


async def test_attack_request_id_with_markup_is_replaced(api: aiohttp.ClientSession) -> None:
    async with api.get("/api/v1/ping", headers={"X-Request-Id": "<script>alert(1)</script>"}) as reply:
        assert "<" not in reply.headers["X-Request-Id"]


@pytest.mark.parametrize("path", ["/api/v1/fail/bug?dry_run=true", "/api/v1/things?after=%00", "/api/v1/fail/%00"])
async def test_endpoint_parameter_that_cannot_be_meant_is_refused_before_anything_is_done(
    api: aiohttp.ClientSession, path: str
) -> None:
    async with api.get(path) as reply:
        assert reply.status == 422


async def test_endpoint_infinite_number_is_refused(api: aiohttp.ClientSession) -> None:
    headers = {"Content-Type": "application/json"}
    async with api.post("/api/v1/waits", data=b'{"wait_s": Infinity}', headers=headers) as reply:
        assert reply.status == 422
