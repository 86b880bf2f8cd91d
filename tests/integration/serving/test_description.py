"""The API's description: it is true, whole, and answers nothing that it does not say."""

from __future__ import annotations

import asyncio
import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from openapi_spec_validator import validate

from agent.serving.protocols import endpoints
from tests.support.clients import run_schemathesis
from tests.support.inference_api import image_slot
from tests.support.serving import MODEL, infer_body, one_hot, plan_of

if TYPE_CHECKING:
    from agent.core.plan import SlotSpec
    from tests.support.inference_api import Served

GOLDEN = Path(__file__).parents[2] / "golden" / "open_inference_rest.json"
NAMES = {
    "model": [MODEL, "nobody"],
    "version": ["1", "4"],
    "label": ["stable", "canary"],
    "file": ["page.css", "try.html", "nothing.js"],
    "model_name": [MODEL, "nobody"],
    "model_version": ["4", "5"],
}
VERBS = ("get", "post")


def with_names(document: dict[str, Any]) -> dict[str, Any]:
    """Let paths name what is served, or all that is asked would be refused for its name; ask without keys, too."""
    document.pop("security", None)
    document["components"].pop("securitySchemes", None)
    for operations in document["paths"].values():
        for operation in operations.values():
            for parameter in operation.get("parameters", ()):
                if parameter["in"] == "path":
                    parameter["schema"] = {"type": "string", "enum": NAMES[parameter["name"]]}
            body = operation.get("requestBody", {}).get("content", {}).get("application/json")
            if body is not None and operation["operationId"].endswith(("infer", "infer_version")):
                body["example"] = json.loads(infer_body(one_hot(3)))
    return document


async def check(served: Served, document: dict[str, Any], folder: Path) -> None:
    path = folder / "openapi.json"
    path.write_text(json.dumps(with_names(document)))
    report = await asyncio.to_thread(run_schemathesis, path, served.url)
    assert "No issues found" in report


async def test_description_is_openapi_and_names_every_route(served: Served) -> None:
    status, document = await served.get("/openapi.json")
    assert (status, document["openapi"]) == (200, "3.1.0")
    validate(document)
    described = {(verb, path) for path, item in document["paths"].items() for verb in VERBS if verb in item}
    spoken = {
        (route.method.lower(), re.sub(r"{(\w+):[^{}]+}", r"{\1}", route.path))
        for route in endpoints.routes(served.engine)
    }
    assert described == spoken
    ids = [operation["operationId"] for item in document["paths"].values() for operation in item.values()]
    assert len(ids) == len(set(ids))


async def test_every_operation_but_health_says_how_a_key_is_refused(served: Served) -> None:
    _, document = await served.get("/openapi.json")
    assert document["components"]["securitySchemes"]["applicationKey"]["scheme"] == "bearer"
    for path, item in document["paths"].items():
        for operation in item.values():
            tells = {"401", "403", "429"} <= set(operation["responses"])
            assert tells is not path.startswith("/v2/health"), path
    refused = document["paths"]["/v2/models/{model}/infer"]["post"]["responses"]
    assert refused["401"]["headers"].keys() == {"WWW-Authenticate"}
    assert refused["429"]["headers"].keys() == {"Retry-After"}


@pytest.mark.parametrize("takes", ["tensors", "images"])
async def test_every_answer_is_one_that_the_description_names(
    served: Served, stable: SlotSpec, tmp_path: Path, takes: str
) -> None:
    await served.engine.apply(plan_of(stable if takes == "tensors" else image_slot(tmp_path)))
    await check(served, (await served.get("/openapi.json"))[1], tmp_path)


async def test_every_answer_is_one_that_the_open_inference_protocol_names(
    served: Served, stable: SlotSpec, tmp_path: Path
) -> None:
    await served.engine.apply(plan_of(stable))
    await check(served, json.loads(GOLDEN.read_text()), tmp_path)
