"""Inference requests of the plainest form, answered without what aiohttp does for requests of every form.

That is most of what a small model's answer costs. This lane takes a request only if it came whole, alone, and byte for
byte as plain as below, on a connection on which aiohttp has nothing to do. All else goes on to aiohttp as it came:
aiohttp says what is right, and what is taken here is answered as it would have been.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import re
from time import monotonic
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import aiohttp
import structlog
from aiohttp import web
from aiohttp.helpers import rfc822_formatted_time
from aiohttp.http import SERVER_SOFTWARE
from multidict import CIMultiDict, CIMultiDictProxy
from typing_extensions import override

from agent.serving.protocols import http_server
from agent.serving.protocols.api import UNVERIFIED_HEADER, Answer, refusal, reply_headers
from agent.serving.protocols.http_server import HttpRunner
from agent.serving.protocols.oip import Inference
from shared.errors import LitefleetError
from shared.ids import ModelName

if TYPE_CHECKING:
    from collections.abc import Coroutine, Generator

    from agent.serving.callers.access import Access
    from agent.serving.callers.in_flight import Traffic
    from agent.serving.engine import Engine

_PROVEN_AIOHTTP: Final = "3.14."
"""The versions with which both ways have been shown to answer alike."""

_MAX_HEAD_BYTES: Final = 4096
_MAX_HEADERS: Final = 32
_MAX_BODY_BYTES: Final = 256 * 1024
"""No more is ever read at once, so that nothing larger could come whole."""

_UNKNOWN: Final = -1

_END: Final = b"\r\n\r\n"
_INFER = re.compile(r"POST /v2/models/([a-z0-9][a-z0-9-]{0,62})(?:/versions/([0-9]{1,9}))?/infer HTTP/1\.1")
_OTHER = re.compile(r"(?:GET|POST) /[A-Za-z0-9/._-]* HTTP/1\.1")
_HEADER = re.compile(r"([A-Za-z0-9-]+): ([!-~](?:[ -~]*[!-~])?)")
_HOST = re.compile(r"[A-Za-z0-9.-]+(?::[0-9]{1,5})?|\[[0-9a-f:]+\](?::[0-9]{1,5})?")
_LENGTH = re.compile(r"[1-9][0-9]{0,8}")
_NOT_PLAIN: Final = frozenset(
    {
        "content-encoding",
        "expect",
        "http2-settings",
        "origin",
        "proxy-connection",
        "sec-websocket-key1",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    }
)
"""Headers that ask for more than an answer to a body."""

_log = structlog.get_logger(__name__)


class _Head(NamedTuple):
    """The head of a plain request: it can be told where the request ends."""

    size: int
    length: int
    """Of the body."""
    headers: CIMultiDictProxy[str]
    model: ModelName | None
    """None where the lane does not lead."""
    version: str | None


class Lane(NamedTuple):
    """Where the requests lead, by the same functions as aiohttp's do."""

    engine: Engine
    inference: Inference
    traffic: Traffic
    access: Access
    unverified: str


class FastRunner(HttpRunner):
    """Runs an application with the fast lane before it, on every socket that it is given."""

    __slots__ = ("_lane",)

    def __init__(self, app: web.Application, lane: Lane, *, shutdown_timeout_s: float = 60.0) -> None:
        """`lane` leads to what `app` leads to."""
        super().__init__(app, shutdown_timeout_s=shutdown_timeout_s)
        self._lane = lane

    @override
    async def _make_server(self) -> web.Server:
        made = await super()._make_server()
        if not aiohttp.__version__.startswith(_PROVEN_AIOHTTP):
            # The lane looks into aiohttp's connection. Without it every answer is the same, and dearer.
            _log.warning("fast_lane_closed", aiohttp=aiohttp.__version__, proven=_PROVEN_AIOHTTP)
            return made
        return _Server(made, self._lane)


def lane_of(engine: Engine, traffic: Traffic, access: Access, *, unverified: str = "") -> Lane:
    """Return the lane to an engine; the rest as `create_app` and `endpoints.routes` are given it."""
    return Lane(engine, Inference(engine, unverified=unverified), traffic, access, unverified)


class _Server(web.Server):
    """aiohttp's server, of which each connection has the lane."""

    def __init__(self, made: web.Server, lane: Lane) -> None:
        # All that aiohttp has set up, and nothing of it again.
        self.__dict__.update(vars(made))
        self._lane = lane

    @override
    def __call__(self) -> web.RequestHandler:
        return _Connection(self, self._lane, loop=self._loop, **self._kwargs)


class _Connection(http_server.Connection):
    """One connection: aiohttp's, which sees no request that the lane takes."""

    __slots__ = ("_answering", "_held", "_lane", "_owed")

    def __init__(self, server: web.Server, lane: Lane, **settings: Any) -> None:  # noqa: ANN401 - aiohttp's own
        super().__init__(server, **settings)
        self._lane = lane
        self._answering: asyncio.Task[None] | None = None
        """What is written next, if the model did not answer at once."""
        self._held = b""
        """What came behind the request that is being answered."""
        self._owed = 0
        """Bytes that aiohttp still needs to have a request whole; `_UNKNOWN`: the lane cannot tell, and is closed."""

    @override
    def data_received(self, data: bytes) -> None:
        """Take what is plain, pass on what is not."""
        if not data:
            # So aiohttp tells itself to go on with what it has.
            super().data_received(data)
            return
        if self._answering is not None:
            self._held += data
            if self.transport is not None:
                self.transport.pause_reading()
            return
        if self._owed == 0:
            head = _read_head(data)
            if head is not None and self._is_mine(head, data):
                self._take(head, data)
                return
            self._owed = _UNKNOWN if head is None else _beyond(head.size + head.length, data)
        elif self._owed > 0:
            self._owed = _beyond(self._owed, data)
        super().data_received(data)

    @override
    async def shutdown(self, timeout: float | None = 15.0) -> None:
        """Let the answer that is under way be written, then end."""
        if self._answering is not None:
            await asyncio.wait({self._answering}, timeout=timeout)
        await super().shutdown(timeout)

    def _is_mine(self, head: _Head, data: bytes) -> bool:
        """Whether it is whole and alone, and aiohttp waits for a request on a connection that is to stay."""
        waiter = self._waiter
        return (
            head.model is not None
            and head.size + head.length == len(data)
            and waiter is not None
            and not waiter.done()
            and not self._messages
            and not (self._close or self._force_close or self._paused or self._upgraded or self._reading_paused)
            and self.transport is not None
        )

    def _take(self, head: _Head, data: bytes) -> None:
        answer: Coroutine[Any, Any, None] = self._answer(head, data)
        if head.model is not None and self._lane.engine.answers_at_once(head.model):
            # Nothing there asks which task it runs in; a task of its own would cost a turn of the loop.
            try:
                awaited = answer.send(None)
            except StopIteration:
                return
            answer = _go_on(answer, awaited)
        task = self._answering = self._loop.create_task(answer)
        task.add_done_callback(self._answered)

    async def _answer(self, head: _Head, data: bytes) -> None:
        engine, inference, traffic, access, _ = self._lane
        model, reply = head.model or ModelName(""), None
        with traffic.request(self):
            try:
                by_unix = isinstance(self.sockname, str)
                application = access.enter_model(model, head.headers, is_by_unix=by_unix)
                engine.route(model)  # an unknown model is told before its tensors are judged
                reply, answer = await inference.answer(
                    data[head.size :], head.headers, model=model, version=head.version, application=application
                )
            except LitefleetError as exc:
                answer = refusal(exc)
            except Exception:  # noqa: BLE001 - whatever nobody foresaw is aiohttp's to answer, too: nothing is written yet
                _log.exception("fast_lane_failed")
                super().data_received(data)
                return
            ready_s = monotonic()
            try:
                await self._send(answer, reply_headers(reply) if reply else {})
            finally:
                if reply is not None:
                    engine.finish(reply, ready_s=ready_s)

    async def _send(self, answer: Answer, said: dict[str, str]) -> None:
        """Write an answer; waits only for a reader who does not read."""
        transport, is_ending = self.transport, self._lane.traffic.is_ending
        if transport is None:
            return
        transport.write(_written(answer, said, unverified=self._lane.unverified, is_ending=is_ending))
        if self._paused:
            with contextlib.suppress(ConnectionError):
                await self._drain_helper()
        if is_ending:
            self.force_close()
        # By this aiohttp's timer tells how long nobody has asked.
        self._next_keepalive_close_time = self._loop.time() + self._keepalive_timeout

    def _answered(self, task: asyncio.Task[None]) -> None:
        """Go on with what came meanwhile."""
        self._answering = None
        failure = None if task.cancelled() else task.exception()
        if failure is not None:
            _log.error("fast_lane_failed", exc_info=failure)
        if failure is not None or task.cancelled():
            self.force_close()
        held, self._held = self._held, b""
        if held and self.transport is not None:
            self.transport.resume_reading()
            self.data_received(held)


class _GoOn:
    """The rest of a coroutine that was begun without a task, and waits for something."""

    def __init__(self, begun: Coroutine[Any, Any, None], awaited: object) -> None:
        self._begun, self._awaited = begun, awaited

    def __await__(self) -> Generator[Any, Any, None]:
        awaited = self._awaited
        while True:
            try:
                yield awaited
            except BaseException as exc:  # noqa: BLE001 - thrown in for the coroutine, which it ends or goes on with
                step = functools.partial(self._begun.throw, exc)
            else:
                step = functools.partial(self._begun.send, None)
            try:
                awaited = step()
            except StopIteration:
                return


async def _go_on(begun: Coroutine[Any, Any, None], awaited: object) -> None:
    await _GoOn(begun, awaited)


def _beyond(wanted: int, data: bytes) -> int:
    """Return how much is missing of a request; `_UNKNOWN` if another stands behind it."""
    return wanted - len(data) if len(data) <= wanted else _UNKNOWN


def _written(answer: Answer, said: dict[str, str], *, unverified: str, is_ending: bool) -> bytes:
    body, kind, status, headers = answer
    lines = [
        f"HTTP/1.1 {status.value} {status.phrase}\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n",
        f"Date: {rfc822_formatted_time()}\r\nServer: {SERVER_SOFTWARE}\r\n",
    ]
    lines += [f"{name}: {value}\r\n" for name, value in {**headers, **said}.items()]
    if unverified:
        lines.append(f"{UNVERIFIED_HEADER}: {unverified}\r\n")
    if is_ending:
        lines.append("Connection: close\r\n")
    lines.append("\r\n")
    return "".join(lines).encode() + body


def _read_head(data: bytes) -> _Head | None:
    """Return the head at the start; None if it is not whole, or not plain."""
    end = data.find(_END, 0, _MAX_HEAD_BYTES)
    return None if end < 0 else _parsed(data[: end + len(_END)])


@functools.lru_cache(maxsize=512)
def _parsed(head: bytes) -> _Head | None:
    """Read a head. Most callers send the same one again and again."""
    try:
        first, *lines = head[: -len(_END)].decode("ascii").split("\r\n")
    except UnicodeDecodeError:
        return None
    infer = _INFER.fullmatch(first)
    pairs = [(found[1], found[2]) for found in map(_HEADER.fullmatch, lines) if found]
    headers = CIMultiDictProxy(CIMultiDict(pairs))
    names = {name.lower() for name, _ in pairs}
    is_plain = (
        (infer or _OTHER.fullmatch(first))
        and len(pairs) == len(lines) <= _MAX_HEADERS
        and len(names) == len(pairs)
        and names.isdisjoint(_NOT_PLAIN)
        and headers.get("Connection", "keep-alive") == "keep-alive"
        and _HOST.fullmatch(headers.get("Host", ""))
        and ("content-length" in names or first.startswith("GET "))
    )
    if not is_plain:
        return None
    return _measured(head, headers, infer)


def _measured(head: bytes, headers: CIMultiDictProxy[str], infer: re.Match[str] | None) -> _Head | None:
    given = headers.get("Content-Length")
    if given is not None and not _LENGTH.fullmatch(given):
        return None
    length = int(given or 0)
    model, version = infer.groups() if infer and length <= _MAX_BODY_BYTES else (None, None)
    return _Head(len(head), length, headers, ModelName(model) if model else None, version)
