"""The repository's signed metadata for operators' machines, as devices read them over a listener of their own."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from aiohttp import web

from controller.http.endpoint import Call, Endpoint
from shared.errors import NotFoundError

if TYPE_CHECKING:
    from pathlib import Path

METADATA_NAME = re.compile(r"(?:[1-9][0-9]{0,9}\.)?[a-z]+(?:-[0-9a-f]{2})?\.json")
"""`timestamp.json`, `3.snapshot.json`, `2.bins-a7.json`."""
_MEDIA = "application/octet-stream"


def endpoints(folder: Path) -> tuple[Endpoint, ...]:
    """Return the part of the API that reads what `folder` holds."""

    async def show(call: Call) -> web.StreamResponse:
        name = call.path["name"]
        path = folder / name
        if not METADATA_NAME.fullmatch(name) or not path.is_file():
            raise NotFoundError(kind="metadata", name=name[:80])
        return web.FileResponse(path, headers={"Content-Type": _MEDIA, "Cache-Control": "no-cache"})

    return (
        Endpoint(
            method="GET",
            path="/tuf/metadata/{name}",
            summary="Read a file of the repository's signed metadata (TUF)",
            handler=show,
            media=_MEDIA,
            also=(206,),
            errors=(404, 416),
        ),
    )
