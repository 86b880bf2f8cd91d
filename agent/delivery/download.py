"""One file of the repository onto the disk: resumable, bounded in every direction, and visible only when whole."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from http import HTTPStatus
from typing import TYPE_CHECKING, TypeVar

import aiohttp

from agent.delivery.durable import sha256_of
from agent.delivery.partfile import PartFile
from agent.delivery.rate import RateFloor
from agent.link.answers import retry_after_s
from shared.errors import DigestMismatchError, InvalidInputError, UnreachableError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from shared.wire import TargetRef

T = TypeVar("T")

_BLOCK_BYTES = 256 * 1024
"""Hashed and written in one go off the loop: some milliseconds on a small board, so that handing over costs little."""
_NO_TOTAL = aiohttp.ClientTimeout(total=None)
"""A large file may take hours; the rate floor and the timeout of every single read bound it instead."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DownloadLimits:
    """What a download may take of the device."""

    max_bytes: int
    """Larger files are refused before a byte is asked for."""
    min_rate_bytes_s: int = 1024
    """A server slower than this is refused, so that it cannot hold a device for ever."""
    grace_s: float = 10.0
    """The rate is judged over spans of this length, and no answer at all may take longer."""
    reserve_bytes: int = 16 * 1024 * 1024
    """Space that must stay free for journal, metadata and the rest of the machine."""


async def fetch(session: aiohttp.ClientSession, url: str, ref: TargetRef, into: Path, limits: DownloadLimits) -> None:
    """Bring the file that `ref` names to `into`, going on from an earlier cut where there was one.

    Raises:
        DigestMismatchError: the bytes, or how many there are, differ from `ref`; nothing of them is kept.
        UnreachableError: refused, too slow, redirected or cut; what came so far is kept for the next try.
        StorageFullError: no room; nothing of the download is kept.
        InvalidInputError: the file is larger than this device takes.
    """
    if ref.length_bytes > limits.max_bytes:
        raise InvalidInputError(
            field=ref.path,
            problem=f"has {ref.length_bytes} bytes, this device takes {limits.max_bytes}",
            remedy="raise max_download_bytes",
        )
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="download") as disk:
        transfer = _Transfer(session=session, url=url, ref=ref, limits=limits, disk=disk)
        if not await transfer.off_loop(lambda: _holds(into, ref)):
            await transfer.complete(into)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Transfer:
    """One call of `fetch`: everything that does not change while bytes come."""

    session: aiohttp.ClientSession
    url: str
    ref: TargetRef
    limits: DownloadLimits
    disk: ThreadPoolExecutor

    async def off_loop(self, work: Callable[[], T]) -> T:
        """Run something that blocks where nobody waits for the loop."""
        return await asyncio.get_running_loop().run_in_executor(self.disk, work)

    async def complete(self, into: Path) -> None:
        """Bring the whole file to `into`."""
        part = await self.off_loop(lambda: PartFile(into, self.ref))
        try:
            resumed = part.size_bytes > 0
            await self._receive(part)
            if resumed and not part.is_right:
                # What lay there from before may be what is wrong, not the server.
                await self.off_loop(part.restart)
                await self._receive(part)
            await self.off_loop(part.publish)
        finally:
            await self.off_loop(part.close)

    async def _receive(self, part: PartFile) -> None:
        """Ask for what is missing, and take it in. Raises as `fetch`."""
        if part.missing_bytes == 0:
            return
        await self.off_loop(lambda: part.check_room(self.limits.reserve_bytes))
        try:
            async with asyncio.timeout(self.limits.grace_s):
                response = await self.session.get(
                    self.url, headers=self._headers(part), allow_redirects=False, timeout=_NO_TOTAL
                )
            async with response:
                await self._accept(response, part)
                await self._copy(response, part)
        except (aiohttp.ClientError, OSError) as exc:
            # TimeoutError is an OSError, and aiohttp's own timeouts are both.
            raise UnreachableError(f"{self.url}: {str(exc) or type(exc).__name__}") from exc
        if part.missing_bytes > 0:
            raise UnreachableError(f"{self.url} was cut {part.missing_bytes} bytes before its end")

    def _headers(self, part: PartFile) -> dict[str, str]:
        headers = {"Accept-Encoding": "identity"}
        if part.size_bytes > 0:
            # If-Range: a server whose file changed meanwhile sends the whole of it, never a tail that does not fit.
            headers |= {"Range": f"bytes={part.size_bytes}-", "If-Range": f'"{self.ref.sha256}"'}
        return headers

    async def _accept(self, response: aiohttp.ClientResponse, part: PartFile) -> None:
        """Judge an answer by its head, before any of its bytes is kept."""
        # Redirects and everything unknown are refusals: the address was ours to choose, not the server's.
        match response.status:
            case HTTPStatus.OK:
                await self.off_loop(part.restart)
            case HTTPStatus.PARTIAL_CONTENT:
                self._check_range(response, part)
            case HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
                await self.off_loop(part.restart)
                raise UnreachableError(f"{self.url} cannot go on where the last try ended; the next one starts anew")
            case status:
                raise UnreachableError(f"{self.url} answers {status}", retry_after_s=retry_after_s(response))
        if response.headers.get("Content-Encoding", "identity") != "identity":
            raise UnreachableError(f"{self.url} comes encoded, which nobody asked for")
        length = response.content_length
        # Endless-data attack (TUF specification, 1.5.2): not a byte beyond the signed length is taken.
        if length is not None and length != part.missing_bytes:
            await self.off_loop(part.discard)
            raise self._wrong_length(f"{length} bytes where {part.missing_bytes} were missing")

    def _check_range(self, response: aiohttp.ClientResponse, part: PartFile) -> None:
        wanted = f"bytes {part.size_bytes}-{self.ref.length_bytes - 1}/{self.ref.length_bytes}"
        actual = response.headers.get("Content-Range", "nothing")
        if actual != wanted:
            raise UnreachableError(f"{self.url} sends {actual!r} where {wanted!r} was asked for")

    async def _copy(self, response: aiohttp.ClientResponse, part: PartFile) -> None:
        """Take in the body, at no less than the minimum rate and no more than is missing."""
        loop = asyncio.get_running_loop()
        floor = RateFloor(bytes_per_s=self.limits.min_rate_bytes_s, span_s=self.limits.grace_s, started=loop.time())
        buffered = bytearray()
        try:
            while chunk := await self._next(response):
                buffered += chunk
                if len(buffered) > part.missing_bytes:
                    buffered.clear()
                    await self.off_loop(part.discard)
                    raise self._wrong_length(f"more than {self.ref.length_bytes} bytes")
                # Slow-retrieval attack (TUF specification, 1.5.2).
                if floor.too_slow(len(chunk), loop.time()):
                    raise UnreachableError(f"{self.url} sends less than {self.limits.min_rate_bytes_s} bytes a second")
                if len(buffered) >= _BLOCK_BYTES:
                    block = bytes(buffered)
                    buffered.clear()
                    await self.off_loop(partial(part.append, block))
        finally:
            # Whatever ended it, what came is worth keeping: the next try goes on from there.
            if buffered:
                await self.off_loop(partial(part.append, bytes(buffered)))

    async def _next(self, response: aiohttp.ClientResponse) -> bytes:
        async with asyncio.timeout(self.limits.grace_s):
            return await response.content.readany()

    def _wrong_length(self, actual: str) -> DigestMismatchError:
        return DigestMismatchError(expected=self.ref.sha256, actual=f"not even asked for: {actual}", path=self.ref.path)


def _holds(path: Path, ref: TargetRef) -> bool:
    """Say whether the file is there already."""
    try:
        return path.stat().st_size == ref.length_bytes and sha256_of(path) == ref.sha256
    except FileNotFoundError:
        return False
