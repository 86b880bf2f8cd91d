"""The OpenAPI 3.1 document, generated from the endpoint table: what is served is what is described."""

from __future__ import annotations

import re
from http import HTTPStatus
from typing import TYPE_CHECKING, Literal, cast

from pydantic import BaseModel, TypeAdapter
from pydantic.json_schema import GenerateJsonSchema

from controller.http.errors import PROBLEM_TYPE

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pydantic.json_schema import JsonSchemaMode, JsonSchemaWarningKind

    from controller.http.endpoint import Endpoint

Json = dict[str, object]
Part = Literal["body", "query", "returns"]
_REF = "#/components/schemas/{model}"

_PROBLEM: Json = {
    "type": "object",
    "description": "RFC 9457 problem details; `reason` is the machine-readable word.",
    "required": ["title", "status", "reason", "detail"],
    "properties": {
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "reason": {"type": "string"},
        "detail": {"type": "string"},
        "instance": {"type": "string", "description": "urn:request:…, as in X-Request-Id"},
        "errors": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["detail"],
                "properties": {
                    "detail": {"type": "string"},
                    "pointer": {"type": "string", "description": "JSON pointer into the body"},
                    "parameter": {"type": "string", "description": "query parameter"},
                },
            },
        },
    },
}


class _Schemas(GenerateJsonSchema):
    """A default that is a msgspec struct stands in the struct's own schema, member by member."""

    ignored_warning_kinds: set[JsonSchemaWarningKind] = {  # noqa: RUF012 - pydantic declares it so
        "skipped-choice",
        "non-serializable-default",
    }


def document(endpoints: Iterable[tuple[str, Endpoint]], *, version: str) -> Json:
    """Describe endpoints, each given with its prefix."""
    table = list(endpoints)
    schemas, definitions = _schemas(table)
    paths: dict[str, Json] = {}
    for index, (prefix, endpoint) in enumerate(table):
        operation = _operation(prefix, endpoint, {part: schemas.get((index, part)) for part in _PARTS})
        paths.setdefault(prefix + endpoint.path, {})[endpoint.method.lower()] = operation
    return {
        "openapi": "3.1.0",
        "info": {"title": "litefleet controller", "version": version, "license": {"name": "Apache-2.0"}},
        "paths": paths,
        "components": {
            "schemas": {"Problem": _PROBLEM, **definitions},
            "securitySchemes": {"operator": {"type": "http", "scheme": "bearer"}},
        },
    }


_PARTS: tuple[Part, ...] = ("body", "query", "returns")


def _schemas(table: list[tuple[str, Endpoint]]) -> tuple[dict[tuple[int, Part], Json], Json]:
    """Return the schema of every body, query and answer, and the definitions that they refer to."""
    inputs: list[tuple[tuple[int, Part], JsonSchemaMode, TypeAdapter[object]]] = []
    for index, (_, endpoint) in enumerate(table):
        parts: dict[Part, type[object] | None] = {
            "body": endpoint.body,
            "query": endpoint.query,
            "returns": endpoint.returns,
        }
        for part, kind in parts.items():
            if kind is not None:
                mode: JsonSchemaMode = "serialization" if part == "returns" else "validation"
                inputs.append(((index, part), mode, TypeAdapter(kind)))
    found, whole = TypeAdapter.json_schemas(inputs, ref_template=_REF, schema_generator=_Schemas)
    named = {key: cast("Json", schema) for (key, _mode), schema in found.items()}
    return named, cast("Json", whole.get("$defs", {}))


def _operation(prefix: str, endpoint: Endpoint, schemas: dict[Part, Json | None]) -> Json:
    operation: Json = {
        "operationId": _operation_id(endpoint),
        "summary": endpoint.summary,
        "tags": [endpoint.path.split("/")[1]],
        "parameters": [*_path_parameters(prefix + endpoint.path), *_query_parameters(endpoint.query)],
        "responses": _responses(endpoint, schemas["returns"]),
        "security": [] if endpoint.public else [{"operator": []}],
    }
    if schemas["body"] is not None:
        operation["requestBody"] = {"required": True, "content": {"application/json": {"schema": schemas["body"]}}}
    elif endpoint.raw_body:
        operation["requestBody"] = {"required": True, "content": {endpoint.raw_body: {}}}
    return operation


def _operation_id(endpoint: Endpoint) -> str:
    return "_".join([endpoint.method.lower(), *re.findall(r"\w+", endpoint.path)])


def _path_parameters(path: str) -> list[Json]:
    return [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
        for name in re.findall(r"{(\w+)}", path)
    ]


def _query_parameters(query: type[BaseModel] | None) -> list[Json]:
    if query is None:
        return []
    schema = query.model_json_schema(ref_template=_REF, schema_generator=_Schemas)
    required = set(cast("list[str]", schema.get("required", [])))
    properties = cast("dict[str, Json]", schema["properties"])
    return [
        {"name": name, "in": "query", "required": name in required, "schema": described}
        for name, described in properties.items()
    ]


def _responses(endpoint: Endpoint, returns: Json | None) -> Json:
    answers: Json = {}
    statuses = (endpoint.status, *endpoint.also) if returns is not None or endpoint.media else (HTTPStatus.NO_CONTENT,)
    for status in statuses:
        answer: Json = {"description": HTTPStatus(status).phrase}
        if returns is not None:
            answer["content"] = {"application/json": {"schema": returns}}
        elif endpoint.media:
            answer["content"] = {endpoint.media: {}}
        answers[str(int(status))] = answer
    for status in sorted({*endpoint.errors, *_common_errors(endpoint)}):
        answers[str(int(status))] = {
            "description": HTTPStatus(status).phrase,
            "content": {PROBLEM_TYPE: {"schema": {"$ref": _REF.format(model="Problem")}}},
        }
    return answers


def _common_errors(endpoint: Endpoint) -> set[int]:
    """Return what any endpoint of this shape may answer, whatever it does."""
    found: set[int] = {HTTPStatus.SERVICE_UNAVAILABLE}
    if not endpoint.public:
        found |= {HTTPStatus.UNAUTHORIZED, HTTPStatus.UNPROCESSABLE_ENTITY}
    if endpoint.body is not None:
        found |= {HTTPStatus.REQUEST_ENTITY_TOO_LARGE, HTTPStatus.UNSUPPORTED_MEDIA_TYPE}
    return found
