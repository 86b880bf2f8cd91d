"""Files over HTTP: uploads that go on where they were cut, and downloads by Range."""

from __future__ import annotations

import asyncio
from http import HTTPStatus
from typing import TYPE_CHECKING, Self

from aiohttp import web
from pydantic import BaseModel, Field

from controller.http.endpoint import Body, Call, Endpoint
from shared.errors import InvalidInputError, UnreachableError
from shared.ids import Sha256, sha256_hex

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from controller.blobs import Blobs, UploadState

OFFSET_HEADER = "Upload-Offset"
_CHUNK_BYTES = 256 * 1024
# A sender that is silent for so long is gone; what it sent is kept.
_IDLE_S = 60.0
_RAW = "application/octet-stream"


class NewUpload(Body):
    """A file that is to come."""

    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    size_bytes: int


class UploadView(BaseModel):
    """How much of a file has arrived; send the rest from `offset_bytes`."""

    sha256: str
    size_bytes: int
    offset_bytes: int
    complete: bool

    @classmethod
    def of(cls, state: UploadState) -> Self:
        """Show an upload."""
        return cls(
            sha256=state.sha256,
            size_bytes=state.size_bytes,
            offset_bytes=state.offset_bytes,
            complete=state.complete,
        )


def endpoints(blobs: Blobs) -> tuple[Endpoint, ...]:
    """Return the part of the API that moves files."""
    return (
        Endpoint(
            method="POST",
            path="/uploads",
            summary="Declare a file; repeated, it says how much has arrived",
            handler=lambda call: _begin(blobs, call),
            body=NewUpload,
            returns=UploadView,
            errors=(507,),
        ),
        Endpoint(
            method="PATCH",
            path="/uploads/{sha256}",
            summary="Send bytes from Upload-Offset on, in one or many pieces",
            handler=lambda call: _append(blobs, call),
            returns=UploadView,
            raw_body=_RAW,
            errors=(404, 409, 422, 507),
        ),
        Endpoint(
            method="GET",
            path="/uploads/{sha256}",
            summary="Show how much of a file has arrived",
            handler=lambda call: _show(blobs, call),
            returns=UploadView,
            errors=(404, 422),
        ),
        Endpoint(
            method="GET",
            path="/blobs/{sha256}",
            summary="Read a complete file, whole or by Range",
            handler=lambda call: _download(blobs, call),
            media=_RAW,
            also=(HTTPStatus.PARTIAL_CONTENT,),
            errors=(404, 416, 422),
        ),
    )


async def _begin(blobs: Blobs, call: Call) -> UploadView:
    body = call.body_as(NewUpload)
    return UploadView.of(await blobs.begin(Sha256(body.sha256), body.size_bytes))


async def _append(blobs: Blobs, call: Call) -> UploadView:
    # Said by the sender as well as known here: two senders of one file must not interleave.
    given = call.request.headers.get(OFFSET_HEADER, "")
    # A file has fewer bytes than nineteen digits can say; Python would not even read thousands of them.
    if not (given.isascii() and given.isdecimal() and len(given) < len(str(2**63))):
        raise InvalidInputError(
            field=OFFSET_HEADER, problem="missing or no number", remedy="send the offset_bytes that /uploads tells"
        )
    sha256 = sha256_hex(call.path["sha256"])
    return UploadView.of(await blobs.append(sha256, int(given), _pieces(call.request)))


async def _show(blobs: Blobs, call: Call) -> UploadView:
    return UploadView.of(await blobs.upload(sha256_hex(call.path["sha256"])))


async def _download(blobs: Blobs, call: Call) -> web.StreamResponse:
    sha256 = sha256_hex(call.path["sha256"])
    # Named by what it holds, so it never changes: a cache may keep it for good.
    headers = {"Content-Type": _RAW, "Cache-Control": "private, max-age=31536000, immutable"}
    return web.FileResponse(blobs.path(sha256), headers=headers)


async def _pieces(request: web.Request) -> AsyncIterator[bytes]:
    while True:
        try:
            async with asyncio.timeout(_IDLE_S):
                piece = await request.content.read(_CHUNK_BYTES)
        except TimeoutError as exc:
            raise UnreachableError(f"the sender was silent for {_IDLE_S:g} s") from exc
        if not piece:
            return
        yield piece
