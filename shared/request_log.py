"""What of requests and answers may be written down: off unless a release consents and the device's Desired asks.

A record is a CloudEvent 1.0 in JSON, one a line. No key, header or name of a caller is part of it.
"""

from __future__ import annotations

from typing import Annotated, Any, Final

import msgspec

from shared.ids import ModelName

REQUEST_TYPE: Final = "dev.litefleet.inference.request.v1"
MAX_RECORD_BYTES: Final = 64 * 1024
"""Of one line; values that would make it longer are left out of it."""
MAX_SEGMENT_BYTES: Final = 512 * 1024
"""Of one file of lines, which is also what one upload carries."""


ENCODED: Final = "encoded"
"""Name of each encoded image or sound of a request."""


class LogConsent(msgspec.Struct, frozen=True, kw_only=True):
    """What a release allows of its requests; a release without it allows nothing."""

    inputs: bool = False
    """Tensors or image of the request; otherwise their shapes alone."""
    outputs: bool = True
    upstream: bool = False
    """Records may leave the device."""
    redact: tuple[str, ...] = ()
    """Names of inputs and outputs whose values are never written, whatever else is allowed. A name that nothing is
    called hides all values; an input's own hides its encoded image too."""


class LogWish(msgspec.Struct, frozen=True, kw_only=True):
    """What an operator asks a device to write down of a model."""

    model: ModelName
    sample_rate: Annotated[float, msgspec.Meta(ge=0, le=1)]
    """Share (0..1) of the requests."""
    upstream: bool = False
    """Send them to the controller too."""


class LoggedTensor(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One input or output."""

    name: str
    datatype: str
    """numpy's name; `bytes` for an encoded image or sound."""
    shape: tuple[int, ...]
    data: list[Any] | bytes | None = None
    """Numbers in nested lists, or the encoded bytes in base64."""
    omitted: str = ""
    """Why there is no data: `no_consent`, `redacted`, `too_large`; empty when there is."""


class LoggedRequest(msgspec.Struct, frozen=True, kw_only=True):
    """One answered request."""

    model: str
    variant: str
    version: str
    release_id: str
    protocol: str
    inputs: tuple[LoggedTensor, ...]
    outputs: tuple[LoggedTensor, ...]
    top: str
    """The first item's best label; empty where there is none, or the release does not allow outputs."""
    confidence: float | None
    latency_ms: float
    invoke_ms: float
    sample_rate: float
    """Share (0..1) of the requests that were being written down."""


class RequestEvent(msgspec.Struct, frozen=True, kw_only=True):
    """The envelope. Source: CloudEvents 1.0.2, JSON event format."""

    specversion: str = "1.0"
    type: str = REQUEST_TYPE
    source: str
    """`/models/{model}/releases/{release}`."""
    id: str
    """One of all that any device ever wrote."""
    time: str
    """When the request was received, RFC 3339."""
    datacontenttype: str = "application/json"
    data: LoggedRequest
