"""Encoded images and sounds in, and what the pipeline says of each: bodies and answers of `classify`."""

from __future__ import annotations

import base64
import binascii
from typing import TYPE_CHECKING, Any, Final

import msgspec
import numpy as np

from agent.serving.protocols import multipart
from agent.serving.protocols.oip_messages import ClassifyBody
from agent.serving.requests import MAX_ITEMS, ClassifyRequest
from shared.decoding import MALFORMED
from shared.errors import InvalidInputError
from shared.runtime.values import Answer, LabelScore, to_json

if TYPE_CHECKING:
    from collections.abc import Sequence

    from agent.serving.exchange import Reply
    from shared.errors import PipelineError

JSON_KIND: Final = "application/json"
ITEM_TYPES: Final = frozenset({"image/jpeg", "image/png", "audio/wav", "audio/x-wav", "application/octet-stream"})
"""Media types of a body that is one item."""
BODY_TYPES: Final = ITEM_TYPES | {multipart.FORM}
"""Those that are not JSON."""


def read_items(data: bytes, kind: str, content_type: str) -> tuple[ClassifyRequest, bool]:
    """Return the request of a body of media type `kind`, and whether it is a list, answered item by item.

    `content_type` is the whole header, with a form's boundary.

    Raises:
        InvalidInputError: no form, no JSON, no item, or too many.
    """
    if kind == multipart.FORM:
        return listed([content for _, content in multipart.read_files(data, content_type)], "body"), True
    if kind == JSON_KIND:
        try:
            body = msgspec.json.decode(data, type=ClassifyBody)
        except MALFORMED as exc:
            remedy = 'send {"items": ["base64 …"]}'
            raise InvalidInputError(field="body", problem=str(exc), remedy=remedy) from exc
        check_count(len(body.items), "items")  # before millions of them are decoded
        return listed([decoded(each, f"items[{number}]") for number, each in enumerate(body.items)], "items"), True
    return ClassifyRequest(encoded=data), False


def listed(items: Sequence[bytes], field: str, *, apart: bool = True) -> ClassifyRequest:
    """Return a request for all of several items. Raises InvalidInputError for none, or too many."""
    check_count(len(items), field)
    return ClassifyRequest.of(items, apart=apart)


def check_count(count: int, field: str) -> None:
    """Refuse no items, and too many. Raises InvalidInputError."""
    if not 1 <= count <= MAX_ITEMS:
        raise InvalidInputError(field=field, problem=f"holds {count} items", remedy=f"send 1 to {MAX_ITEMS}")


def decoded(text: str | bytes, field: str) -> bytes:
    """Return the bytes that base64 stands for. Raises InvalidInputError."""
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as exc:
        raise InvalidInputError(field=field, problem=f"holds no base64: {exc}") from exc


def told(reply: Reply, *, is_list: bool) -> dict[str, object]:
    """Return the answer to a request as JSON values."""
    slot, items = reply.instance.slot, reply.outcome.items
    head: dict[str, object] = {
        "model_name": reply.ask.model,
        "model_version": str(slot.version_number),
        "release_id": slot.release_id,
    }
    if is_list:
        return {**head, "results": [told_item(each) for each in items]}
    return {**head, **told_item(items[0])}


def told_item(item: Answer | PipelineError) -> dict[str, object]:
    """Return what was said of one item: its labels, bare scores where there are none, and answers of other kinds."""
    if not isinstance(item, Answer):
        return {"error": {"reason": item.reason, "detail": str(item)}}
    said: dict[str, object] = {"labels": [{"label": each.label, "score": each.score} for each in item.labels]}
    values = list(item.values.values())
    if len(values) > 1 or not (_is_labels(values[0]) or isinstance(values[0], np.ndarray)):
        said["answers"] = {name: to_json(value) for name, value in item.values.items()}
    elif not item.labels and isinstance(values[0], np.ndarray):
        # The pipeline names no labels: the bare scores say at least as much.
        said["scores"] = item.scores.tolist()
    return said


def row(item: Answer | PipelineError) -> object:
    """Return what was said of one item where only one value has room: the scores, or the answer itself."""
    if not isinstance(item, Answer):
        return {"error": str(item)}
    if item.scores.size and len(item.values) == 1:
        return item.scores.tolist()
    values = {name: to_json(value) for name, value in item.values.items()}
    return next(iter(values.values())) if len(values) == 1 else values


def _is_labels(value: Any) -> bool:  # noqa: ANN401 - any value of a pipeline
    # Nothing found may be no box as well as no label: it is told as an answer, too.
    return isinstance(value, tuple) and bool(value) and all(isinstance(each, LabelScore) for each in value)
