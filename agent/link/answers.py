"""Reading what a controller answers over HTTP: bounded in bytes and time, and told in our own errors."""

from __future__ import annotations

import asyncio
import contextlib
import math
from typing import TYPE_CHECKING

import aiohttp
import msgspec

from shared.decoding import MALFORMED
from shared.errors import UnreachableError
from shared.signing import MAX_SEALED_BYTES

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

MAX_ANSWER_BYTES = MAX_SEALED_BYTES
"""No answer but a file of the repository is larger than a sealed document."""
_MAX_RETRY_AFTER_S = 3600.0
"""A controller that says "in a year" must not silence a device for a year."""
_DEFAULT_RETRY_AFTER_S = 5.0


class Problem(msgspec.Struct, frozen=True, kw_only=True):
    """The parts of an RFC 9457 problem that a device shows."""

    title: str = ""
    detail: str = ""
    reason: str = ""


@contextlib.asynccontextmanager
async def answer_within(url: str, timeout_s: float) -> AsyncIterator[None]:
    """Bound the block in time, and turn every failure of the network into UnreachableError."""
    try:
        async with asyncio.timeout(timeout_s):
            yield
    except (aiohttp.ClientError, OSError) as exc:
        # TimeoutError is an OSError too.
        raise UnreachableError(f"{url}: {str(exc) or type(exc).__name__}") from exc


async def read_bounded(response: aiohttp.ClientResponse) -> bytes:
    """Return the whole body. Raises UnreachableError when it is larger than any answer is."""
    body = bytearray()
    while chunk := await response.content.readany():
        body += chunk
        if len(body) > MAX_ANSWER_BYTES:
            raise UnreachableError(f"{response.url} answers with more than {MAX_ANSWER_BYTES} bytes")
    return bytes(body)


def problem_in(body: bytes) -> Problem:
    """Return the problem that a body tells, empty when it tells none."""
    try:
        return msgspec.json.decode(body, type=Problem)
    except MALFORMED:
        return Problem()


def story(status: int, body: bytes) -> str:
    """Say in one line how a call was refused."""
    problem = problem_in(body)
    words = [word for word in (problem.reason, problem.detail or problem.title) if word]
    return ": ".join([f"status {status}", *words])


def retry_after_s(response: aiohttp.ClientResponse) -> float:
    """Return how long the answer asks to wait, within reason."""
    try:
        asked_s = float(response.headers.get("Retry-After", _DEFAULT_RETRY_AFTER_S))
    except ValueError:
        # The other form is a date, and a device may have no clock to compare it with.
        return _DEFAULT_RETRY_AFTER_S
    # Of what is no number, `min` and `max` would make no number either.
    return _DEFAULT_RETRY_AFTER_S if math.isnan(asked_s) else min(max(asked_s, 0.0), _MAX_RETRY_AFTER_S)
