"""The OpenAPI document is valid and says what the table says."""

from __future__ import annotations

from typing import Annotated

import pytest
from openapi_spec_validator import validate

from controller.http.endpoint import Body, Call, Endpoint, Page, PageQuery
from controller.http.openapi import document
from controller.http.structs import AsStruct
from controller.registry.measurement_routes import endpoints as measurement_endpoints
from controller.registry.measurements import Measurements
from controller.registry.routes import RegistryRoutes
from controller.registry.routes import endpoints as registry_endpoints
from shared.wire import ProbationPolicy

PolicyBody = Annotated[ProbationPolicy, AsStruct()]


class Thing(Body):
    name: str
    policy: PolicyBody = ProbationPolicy()


async def _nothing(_call: Call) -> None:
    return


TABLE = (
    Endpoint(method="POST", path="/things", summary="Make", handler=_nothing, body=Thing, returns=Thing, status=201),
    Endpoint(method="GET", path="/things", summary="List", handler=_nothing, query=PageQuery, returns=Page[Thing]),
    Endpoint(
        method="GET", path="/things/{name}", summary="Show", handler=_nothing, returns=Thing, errors=(404,), public=True
    ),
    Endpoint(method="DELETE", path="/things/{name}", summary="Remove", handler=_nothing, errors=(409,)),
    Endpoint(
        method="PATCH",
        path="/things/{name}",
        summary="Send",
        handler=_nothing,
        raw_body="application/octet-stream",
        returns=Thing,
    ),
)


@pytest.fixture(scope="module")
def described() -> dict[str, dict[str, dict[str, object]]]:
    whole = document([("/api/v1", endpoint) for endpoint in TABLE], version="1.2.3")
    validate(whole)
    paths = whole["paths"]
    assert isinstance(paths, dict)
    return paths


def test_document_of_the_registry_is_valid() -> None:
    routes = RegistryRoutes.__new__(RegistryRoutes)  # describing calls no service
    table = (*registry_endpoints(routes), *measurement_endpoints(Measurements.__new__(Measurements)))
    validate(document([("/api/v1", endpoint) for endpoint in table], version="1"))


def test_document_names_every_operation(described: dict[str, dict[str, dict[str, object]]]) -> None:
    found = {(method.upper(), path) for path, operations in described.items() for method in operations}
    assert found == {(endpoint.method, f"/api/v1{endpoint.path}") for endpoint in TABLE}


def test_document_lists_path_and_query_parameters(described: dict[str, dict[str, dict[str, object]]]) -> None:
    def names(path: str, method: str) -> list[str]:
        parameters = described[path][method]["parameters"]
        assert isinstance(parameters, list)
        return [parameter["name"] for parameter in parameters]

    assert names("/api/v1/things", "get") == ["limit", "after"]
    assert names("/api/v1/things/{name}", "get") == ["name"]


def test_document_lists_success_and_errors(described: dict[str, dict[str, dict[str, object]]]) -> None:
    def statuses(path: str, method: str) -> set[str]:
        responses = described[path][method]["responses"]
        assert isinstance(responses, dict)
        return set(responses)

    assert statuses("/api/v1/things", "post") == {"201", "401", "413", "415", "422", "503"}
    assert statuses("/api/v1/things/{name}", "get") == {"200", "404", "503"}
    assert statuses("/api/v1/things/{name}", "delete") == {"204", "401", "409", "422", "503"}


def test_document_public_operation_needs_no_token(described: dict[str, dict[str, dict[str, object]]]) -> None:
    assert described["/api/v1/things/{name}"]["get"]["security"] == []
    assert described["/api/v1/things"]["get"]["security"] == [{"operator": []}]
