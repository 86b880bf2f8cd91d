"""Requests and replies of applications that have only the broker: what stands in the payload.

MQTT 3.1.1 knows neither reply topics nor deadlines, so that the payload carries them. It is JSON, or where there are
bytes to carry (tensors, an image): 4 bytes with the length of the JSON, big-endian, the JSON, and the bytes. The first
of the four is 0, and JSON never begins with that.
"""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Annotated, Final

import msgspec

from shared.decoding import MALFORMED
from shared.errors import InvalidInputError

MAX_PAYLOAD_BYTES: Final = 512 * 1024
"""Largest payload that is read; brokers of this fleet take no larger packet."""

_LENGTH_BYTES: Final = 4
_BYTES_FOLLOW: Final = 0

RequestId = Annotated[str, msgspec.Meta(min_length=1, max_length=64)]


class RequestKind(StrEnum):
    """What the body of a request is."""

    INFER = "infer"
    """Of `POST /v2/models/{model}/infer`."""
    CLASSIFY = "classify"
    """Of `POST /v2/models/{model}/classify`: one image, as bytes."""


class BrokerRequest(msgspec.Struct, frozen=True, kw_only=True):
    """What an application asks."""

    schema_version: int = 1
    id: RequestId
    """Of the application's choice, and another one for every request: the same again is not answered again."""
    reply: str
    """Where the answer goes: the name of a client, or the whole topic `…/infer/{login}/reply/{client}`."""
    model: str
    version: str = ""
    """Empty: whichever answers."""
    kind: RequestKind = RequestKind.INFER
    key: Annotated[str, msgspec.Meta(max_length=256)] = ""
    """Whatever the application wants answered by the same variant each time."""
    expires_at: Annotated[datetime, msgspec.Meta(tz=True)] | None = None
    """When nobody waits for the answer any more; none is given then."""
    header_bytes: Annotated[int, msgspec.Meta(ge=0, le=MAX_PAYLOAD_BYTES)] | None = None
    """Of the bytes that follow, how many are the body's JSON, before binary tensors; None: all."""
    body: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    """The body in JSON, where no bytes follow."""


class BrokerReply(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a device answers."""

    schema_version: int = 1
    id: str
    """Of the request."""
    status: int
    """As HTTP has it: 200, or that of a problem."""
    retry_after_s: float | None = None
    header_bytes: int | None = None
    """Of the bytes that follow, how many are the body's JSON, before binary tensors."""
    body: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    """The body in JSON, where no bytes follow."""


def pack(said: BrokerRequest | BrokerReply, follows: bytes | None = None) -> bytes:
    """Return the payload; `follows` is what stands behind the JSON."""
    head = msgspec.json.encode(said)
    return head if follows is None else b"".join((len(head).to_bytes(_LENGTH_BYTES, "big"), head, follows))


def unpack_request(payload: bytes) -> tuple[BrokerRequest, bytes]:
    """Return a request, and its body. Raises InvalidInputError."""
    head, follows = _split(payload)
    try:
        asked = msgspec.json.decode(head, type=BrokerRequest)
    except MALFORMED as exc:
        raise InvalidInputError(field="payload", problem=str(exc)) from exc
    return asked, _body(asked, follows)


def unpack_reply(payload: bytes) -> tuple[BrokerReply, bytes]:
    """Return a reply, and its body. Raises InvalidInputError."""
    head, follows = _split(payload)
    try:
        said = msgspec.json.decode(head, type=BrokerReply)
    except MALFORMED as exc:
        raise InvalidInputError(field="payload", problem=str(exc)) from exc
    return said, _body(said, follows)


def _split(payload: bytes) -> tuple[bytes, bytes | None]:
    if not payload or payload[0] != _BYTES_FOLLOW:
        return payload, None
    end = _LENGTH_BYTES + int.from_bytes(payload[:_LENGTH_BYTES], "big")
    if end > len(payload):
        raise InvalidInputError(field="payload", problem=f"its JSON would end at byte {end} of {len(payload)}")
    return payload[_LENGTH_BYTES:end], payload[end:]


def _body(said: BrokerRequest | BrokerReply, follows: bytes | None) -> bytes:
    given = b"" if isinstance(said.body, msgspec.UnsetType) else bytes(said.body)
    if follows is not None and given:
        raise InvalidInputError(field="body", problem="stands in the JSON and behind it, too")
    return given if follows is None else follows
