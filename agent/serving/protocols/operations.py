"""The one table of the inference API's operations: its description and its page follow from it.

That the table and the served routes are the same is a test.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Final

import msgspec

from agent.serving.protocols import max as max_api
from agent.serving.protocols import oip_messages as oip
from agent.serving.protocols import traffic_messages as traffic
from agent.serving.protocols.api import JSON
from agent.serving.protocols.classification import BODY_TYPES
from agent.serving.protocols.drift_api import ModelDrift
from agent.serving.protocols.exposition import OPEN_TYPE, TEXT_TYPE
from agent.serving.protocols.multipart import FORM
from agent.serving.protocols.tensors import InferBody
from agent.serving.protocols.tfserving import ExamplesBody, PredictBody
from shared.pages import KINDS

BINARY: Final = "application/octet-stream"
HTML: Final = "text/html"
TEXT, OPEN_METRICS = (kind.partition(";")[0] for kind in (TEXT_TYPE, OPEN_TYPE))
PAGE_FILES: Final = tuple(sorted(kind.split(";")[0] for suffix, kind in KINDS.items() if suffix != ".wasm"))
"""Media types of what a page consists of."""


class Anything(msgspec.Struct, frozen=True, kw_only=True):
    """A JSON object whose members depend on the model."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """One method of one path."""

    method: str
    path: str
    tag: str
    summary: str
    answer: object
    """Type of the answer in JSON."""
    answer_kinds: tuple[str, ...] = (JSON,)
    body: object | None = None
    """Type of the request in JSON."""
    body_kinds: tuple[str, ...] = ()
    """Media types of a request that is not JSON, or may be something else."""
    needs_body: bool = True
    refusals: frozenset[HTTPStatus] = field(default_factory=frozenset)


_ASKS: Final = frozenset({HTTPStatus.BAD_REQUEST, HTTPStatus.NOT_FOUND, HTTPStatus.SERVICE_UNAVAILABLE})
"""Of everything that names a model."""
_SENDS: Final = frozenset({HTTPStatus.BAD_REQUEST, HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.REQUEST_ENTITY_TOO_LARGE})
"""Of everything with a body."""
_INFERS: Final = _ASKS | _SENDS | {HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.INTERNAL_SERVER_ERROR}
_KEEPS: Final = _ASKS | _SENDS | {HTTPStatus.FORBIDDEN}


def _get(path: str, tag: str, summary: str, answer: object, refusals: frozenset[HTTPStatus] = _ASKS) -> Operation:
    return Operation(method="get", path=path, tag=tag, summary=summary, answer=answer, refusals=refusals)


def _oip() -> list[Operation]:
    tag = "Open Inference Protocol v2"
    never: frozenset[HTTPStatus] = frozenset()
    index = list[oip.IndexEntry]
    table = [
        _get("/v2", tag, "Who the server is, and which extensions it has", oip.ServerMetadata, never),
        _get("/v2/health/live", tag, "Whether the server runs", oip.Live, never),
        _get("/v2/health/ready", tag, "Whether every model answers", oip.Ready, _ASKS),
        _get("/v2/models/stats", tag, "What the requests of every model took", oip.Statistics),
        Operation(
            method="post",
            path="/v2/repository/index",
            tag=tag,
            summary="Every model, and whether it answers",
            answer=index,
            body=oip.IndexBody,
            needs_body=False,
            refusals=_SENDS,
        ),
    ]
    for verb, does in (("load", "Load a model (development server only)"), ("unload", "Stop answering for a model")):
        keep = Operation(
            method="post",
            path=f"/v2/repository/models/{{model}}/{verb}",
            tag=tag,
            summary=does,
            answer=oip.Done,
            body=oip.LoadBody,
            needs_body=False,
            refusals=_KEEPS,
        )
        table.append(keep)
    for model in ("/v2/models/{model}", "/v2/models/{model}/versions/{version}"):
        table += [
            _get(model, tag, "What a model takes and gives", oip.ModelMetadata),
            _get(f"{model}/ready", tag, "Whether a model answers", oip.ModelReady),
            _get(f"{model}/stats", tag, "What a model's requests took", oip.Statistics),
            _get(f"{model}/drift", tag, "Whether what a model is asked is like what it was judged on", ModelDrift),
            _infer(f"{model}/infer", tag),
            _classify(f"{model}/classify", tag),
        ]
    return table


def _infer(path: str, tag: str) -> Operation:
    return Operation(
        method="post",
        path=path,
        tag=tag,
        summary="Tensors in, tensors out; as JSON, or as bytes behind it",
        answer=oip.InferAnswer,
        answer_kinds=(JSON, BINARY),
        body=InferBody,
        body_kinds=(BINARY,),
        refusals=_INFERS,
    )


def _classify(path: str, tag: str) -> Operation:
    return Operation(
        method="post",
        path=path,
        tag=tag,
        summary="Images or sounds in, and what the pipeline says of each out",
        answer=oip.ClassifyAnswer,
        body=oip.ClassifyBody,
        body_kinds=tuple(sorted(BODY_TYPES)),
        refusals=_INFERS | {HTTPStatus.UNSUPPORTED_MEDIA_TYPE},
    )


def _traffic() -> list[Operation]:
    tag = "Traffic"
    feedback = Operation(
        method="post",
        path="/v2/feedback",
        tag=tag,
        summary="What an answer was worth, once for each answer of a model whose traffic is learned",
        answer=traffic.FeedbackAnswer,
        body=traffic.FeedbackBody,
        refusals=_SENDS | {HTTPStatus.NOT_FOUND, HTTPStatus.CONFLICT},
    )
    model = "/v2/models/{model}"
    return [
        _get(f"{model}/traffic", tag, "How a model's requests are divided among its variants", traffic.TrafficState),
        _get(f"{model}/comparison", tag, "How a model's releases compare on the same requests", traffic.Comparisons),
        feedback,
    ]


def _tfserving() -> list[Operation]:
    tag = "TensorFlow Serving"
    table: list[Operation] = []
    for place in ("", "/versions/{version}", "/labels/{label}"):
        model = f"/v1/models/{{model}}{place}"
        table += [
            _get(model, tag, "The versions that answer", Anything),
            _get(f"{model}/metadata", tag, "What a model takes and gives", Anything),
        ]
        for verb, does, body in (
            ("predict", "Instances or columns in, predictions out", PredictBody),
            ("classify", "Examples in, labels and scores out", ExamplesBody),
            ("regress", "Examples in, one number each out", ExamplesBody),
        ):
            path = f"{model}:{verb}"
            table.append(
                Operation(method="post", path=path, tag=tag, summary=does, answer=Anything, body=body, refusals=_INFERS)
            )
    return table


def _max() -> list[Operation]:
    tag = "Model Asset Exchange"
    predict = Operation(
        method="post",
        path="/model/predict",
        tag=tag,
        summary="A file in, predictions out",
        answer=max_api.Predictions,
        body=max_api.FileBody,
        body_kinds=(FORM,),
        refusals=_INFERS,
    )
    return [
        _get("/model/metadata", tag, "What is served", max_api.Metadata),
        _get("/model/labels", tag, "Every class that the model knows", max_api.Labels),
        predict,
    ]


def _about() -> list[Operation]:
    def shown(path: str, summary: str, *kinds: str, refusals: frozenset[HTTPStatus] = frozenset()) -> Operation:
        return Operation(
            method="get", path=path, tag="About", summary=summary, answer=str, answer_kinds=kinds, refusals=refusals
        )

    return [
        shown("/", "This API for people", HTML),
        shown("/try", "Pictures to a model, from a file or the camera", HTML),
        shown("/web/{file}", "What these pages consist of", *PAGE_FILES, refusals=frozenset({HTTPStatus.NOT_FOUND})),
        shown("/metrics", "What was counted, for Prometheus", TEXT, OPEN_METRICS),
        _get("/openapi.json", "About", "This API for programs", Anything, frozenset()),
    ]


OPERATIONS: Final = (*_oip(), *_traffic(), *_tfserving(), *_max(), *_about())
