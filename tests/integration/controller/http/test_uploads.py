"""Uploads and downloads over real HTTP, cut and resumed."""

from __future__ import annotations

import asyncio
import hashlib
import random
from typing import TYPE_CHECKING

import pytest

from controller.blobs import Blobs
from controller.http.blob_routes import endpoints
from shared.ids import Sha256
from tests.support.api import TOKEN, served_api
from tests.support.waiting import wait_until_async

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    import aiohttp

DATA = random.Random(7).randbytes(900_000)
NAME = Sha256(hashlib.sha256(DATA).hexdigest())


@pytest.fixture
def blobs(tmp_path: Path) -> Blobs:
    return Blobs(tmp_path / "blobs", max_blob_bytes=10_000_000)


@pytest.fixture
async def api(blobs: Blobs) -> AsyncIterator[aiohttp.ClientSession]:
    async with served_api(endpoints(blobs)) as session:
        yield session
    blobs.close()


async def _declare(api: aiohttp.ClientSession, size_bytes: int = len(DATA)) -> dict[str, object]:
    async with api.post("/api/v1/uploads", json={"sha256": NAME, "size_bytes": size_bytes}) as reply:
        assert reply.status == 200, await reply.text()
        state: dict[str, object] = await reply.json()
        return state


async def _send(api: aiohttp.ClientSession, offset: int, data: bytes) -> aiohttp.ClientResponse:
    reply = await api.patch(f"/api/v1/uploads/{NAME}", data=data, headers={"Upload-Offset": str(offset)})
    await reply.read()
    return reply


async def test_upload_in_two_pieces_is_complete_and_readable(api: aiohttp.ClientSession) -> None:
    assert (await _declare(api))["offset_bytes"] == 0
    half = len(DATA) // 2
    assert (await (await _send(api, 0, DATA[:half])).json())["offset_bytes"] == half
    assert (await (await _send(api, half, DATA[half:])).json())["complete"] is True
    async with api.get(f"/api/v1/blobs/{NAME}") as reply:
        assert await reply.read() == DATA


async def test_upload_declared_again_says_where_to_go_on(api: aiohttp.ClientSession) -> None:
    await _declare(api)
    await _send(api, 0, DATA[:1000])
    assert (await _declare(api))["offset_bytes"] == 1000


async def test_upload_complete_declared_again_is_complete(api: aiohttp.ClientSession) -> None:
    await _declare(api)
    await _send(api, 0, DATA)
    assert (await _declare(api))["complete"] is True


async def test_upload_at_wrong_offset_is_409_and_nothing_is_written(api: aiohttp.ClientSession) -> None:
    await _declare(api)
    await _send(api, 0, DATA[:1000])
    assert (await _send(api, 0, DATA[:1000])).status == 409
    assert (await _declare(api))["offset_bytes"] == 1000


async def test_upload_cut_in_the_middle_keeps_what_arrived(api: aiohttp.ClientSession, blobs: Blobs) -> None:
    await _declare(api)
    url = api._build_url("/api/v1/uploads")
    reader, writer = await asyncio.open_connection(url.host, url.port)
    head = f"PATCH /api/v1/uploads/{NAME} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {TOKEN}\r\nUpload-Offset: 0\r\n"
    writer.write(f"{head}Content-Length: {len(DATA)}\r\n\r\n".encode() + DATA[:500_000])
    await writer.drain()

    async def arrived() -> bool:
        return (await blobs.upload(NAME)).offset_bytes > 0

    await wait_until_async(arrived)
    writer.transport.abort()
    del reader
    state = await _settled(blobs)
    reply = await _send(api, state, DATA[state:])
    assert (await reply.json())["complete"] is True


async def _settled(blobs: Blobs) -> int:
    """Return the offset once the server has noticed that its caller is gone."""

    async def free() -> bool:
        lock = blobs._locks.get(NAME)
        return lock is None or not lock.locked()

    await wait_until_async(free)
    return (await blobs.upload(NAME)).offset_bytes


async def test_upload_with_wrong_bytes_is_422_and_starts_over(api: aiohttp.ClientSession) -> None:
    await _declare(api)
    reply = await _send(api, 0, bytes(len(DATA)))
    assert (reply.status, (await reply.json())["reason"]) == (422, "digest_mismatch")
    assert (await _declare(api))["offset_bytes"] == 0


async def test_upload_longer_than_declared_is_422(api: aiohttp.ClientSession) -> None:
    await _declare(api, 1000)
    assert (await _send(api, 0, DATA)).status == 422


@pytest.mark.parametrize("size_bytes", [0, -1, 10_000_001])
async def test_upload_of_unusable_size_is_422(api: aiohttp.ClientSession, size_bytes: int) -> None:
    async with api.post("/api/v1/uploads", json={"sha256": NAME, "size_bytes": size_bytes}) as reply:
        assert reply.status == 422
        assert (await reply.json())["errors"][0]["pointer"] == "#/size_bytes"


@pytest.mark.parametrize("offset", ["", "x", "-1", "\u0661"])
async def test_upload_with_unusable_offset_is_422(api: aiohttp.ClientSession, offset: str) -> None:
    await _declare(api)
    async with api.patch(f"/api/v1/uploads/{NAME}", data=b"x", headers={"Upload-Offset": offset}) as reply:
        assert reply.status == 422


async def test_upload_never_declared_is_404(api: aiohttp.ClientSession) -> None:
    assert (await _send(api, 0, DATA)).status == 404


@pytest.mark.parametrize("name", ["..%2f..%2foperator-token", "parts", NAME.upper(), NAME[:-1]])
async def test_attack_blob_name_that_is_no_digest_is_refused(api: aiohttp.ClientSession, name: str) -> None:
    async with api.get(f"/api/v1/blobs/{name}") as reply:
        assert reply.status == 422


async def test_blob_range_gives_that_part(api: aiohttp.ClientSession) -> None:
    await _declare(api)
    await _send(api, 0, DATA)
    async with api.get(f"/api/v1/blobs/{NAME}", headers={"Range": "bytes=1000-1999"}) as reply:
        assert (reply.status, await reply.read()) == (206, DATA[1000:2000])


async def test_blob_range_beyond_the_end_is_416(api: aiohttp.ClientSession) -> None:
    await _declare(api)
    await _send(api, 0, DATA)
    async with api.get(f"/api/v1/blobs/{NAME}", headers={"Range": f"bytes={len(DATA)}-"}) as reply:
        assert reply.status == 416
