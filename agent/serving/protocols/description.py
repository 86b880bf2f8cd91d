"""The inference API told from its table: OpenAPI 3.1 at `/openapi.json`; for people, see `pages`."""

from __future__ import annotations

import re
from http import HTTPStatus
from importlib import metadata
from typing import TYPE_CHECKING

import msgspec
from aiohttp import web

from agent.serving.callers.access import HEALTH, known_to
from agent.serving.protocols.api import JSON, PROBLEM, Problem, json_answer
from agent.serving.protocols.multipart import FORM
from agent.serving.protocols.operations import BINARY, HTML, OPEN_METRICS, OPERATIONS, PAGE_FILES, TEXT, Operation
from agent.serving.protocols.pages import TITLE

if TYPE_CHECKING:
    from collections.abc import Collection

    from agent.serving.engine import Engine

Json = dict[str, object]

_TEXTS = frozenset({HTML, TEXT, OPEN_METRICS, *PAGE_FILES})

_PLACES = {
    "model": "A model's name",
    "version": "A version's number",
    "label": "stable, canary, or a variant's name",
    "file": "A name that a page asks for",
}
_SCHEME = "applicationKey"
_KEY: Json = {
    "type": "http",
    "scheme": "bearer",
    "description": "An application's key. Needed from other machines, by TLS; on the device itself checked if sent.",
}
_KEYS_REFUSALS = frozenset({HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN, HTTPStatus.TOO_MANY_REQUESTS})
_SAYS = {
    HTTPStatus.UNAUTHORIZED: ("WWW-Authenticate", "string", "That a key is sent as Authorization: Bearer"),
    HTTPStatus.TOO_MANY_REQUESTS: ("Retry-After", "integer", "Seconds after which to ask again"),
    HTTPStatus.SERVICE_UNAVAILABLE: ("Retry-After", "integer", "Seconds after which to ask again"),
}
"""Headers of refusals that say how to go on."""
_FILE: Json = {"type": "object", "properties": {"image": {"type": "string"}}, "required": ["image"]}


def routes(engine: Engine) -> list[web.RouteDef]:
    """Return the endpoint; what it tells names the models that `engine` routes at that moment."""

    async def openapi(request: web.Request) -> web.Response:
        return json_answer(document(known_to(request, engine)))

    return [web.get("/openapi.json", openapi)]


def document(models: Collection[str]) -> Json:
    """Return the API as OpenAPI 3.1; `models` stand as examples where a path names one."""
    types = {each.answer: None for each in OPERATIONS} | {each.body: None for each in OPERATIONS if each.body}
    kinds = [Problem, *types]
    schemas, components = msgspec.json.schema_components(
        kinds, ref_template="#/components/schemas/{name}", schema_hook=_anything
    )
    by_type: dict[object, Json] = dict(zip(kinds, schemas, strict=True))
    paths: dict[str, Json] = {}
    for each in OPERATIONS:
        paths.setdefault(each.path, {})[each.method] = _operation(each, by_type, models)
    described: Json = {
        "openapi": "3.1.0",
        "info": {"title": TITLE, "version": metadata.version("litefleet")},
        "paths": paths,
        # On the device itself a key may be left out; `{}` says so.
        "security": [{_SCHEME: []}, {}],
        "components": {"schemas": components, "securitySchemes": {_SCHEME: _KEY}},
    }
    # Tuples are arrays to a validator only when they are lists.
    whole: Json = msgspec.to_builtins(described)
    return whole


def _operation(each: Operation, schemas: dict[object, Json], models: Collection[str]) -> Json:
    answer = {kind: {"schema": _schema(kind, schemas[each.answer])} for kind in each.answer_kinds}
    refusals = each.refusals if each.path in HEALTH else each.refusals | _KEYS_REFUSALS
    described: Json = {
        "operationId": re.sub(r"\W+", "_", f"{each.method}_{each.path}").strip("_"),
        "summary": each.summary,
        "tags": [each.tag],
        "responses": {
            "200": {"description": "Answered", "content": answer},
            **{str(int(status)): _refusal(status, schemas[Problem]) for status in sorted(refusals)},
        },
    }
    if each.path in HEALTH:
        described["security"] = []
    if parameters := _parameters(each, models):
        described["parameters"] = parameters
    if each.body or each.body_kinds:
        content: dict[str, Json] = {kind: {"schema": _body(kind)} for kind in each.body_kinds}
        if each.body:
            content[JSON] = {"schema": schemas[each.body]}
        described["requestBody"] = {"required": each.needs_body, "content": content}
    return described


def _refusal(status: HTTPStatus, schema: Json) -> Json:
    said: Json = {"description": status.phrase, "content": {PROBLEM: {"schema": schema}}}
    if status in _SAYS:
        name, kind, what = _SAYS[status]
        said["headers"] = {name: {"description": what, "schema": {"type": kind}}}
    return said


def _anything(kind: type) -> Json:
    if kind is not object:
        raise TypeError(f"{kind} has no schema")
    return {"description": "any JSON"}


def _schema(kind: str, schema: Json) -> Json:
    return schema if kind == JSON else {"type": "string"} if kind in _TEXTS else _bytes(kind)


def _body(kind: str) -> Json:
    return _FILE if kind == FORM else _bytes(kind)


def _bytes(kind: str) -> Json:
    return {"type": "string", "contentMediaType": kind, "description": "bytes"} if kind != BINARY else {}


def _parameters(each: Operation, models: Collection[str]) -> list[Json]:
    found: list[Json] = [
        {
            "name": name,
            "in": "path",
            "required": True,
            "description": _PLACES[name],
            "schema": {"type": "string", **({"examples": list(models)} if name == "model" and models else {})},
        }
        for name in re.findall(r"{(\w+)}", each.path)
    ]
    if each.path.startswith("/model/"):
        what = "Which model, where the device serves several"
        found.append({"name": "model", "in": "query", "description": what, "schema": {"type": "string"}})
    return found
