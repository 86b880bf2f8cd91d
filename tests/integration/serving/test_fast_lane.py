"""The fast lane answers as aiohttp does: the same bytes go to a server with it, and to one without it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import socket
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Final

import numpy as np
import pytest
from aiohttp import web
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.core.plan import Plan, Route
from agent.serving.callers.access import Access
from agent.serving.callers.in_flight import Traffic
from agent.serving.engine import Engine
from agent.serving.models.loading import load_slot, open_litert
from agent.serving.protocols import endpoints
from agent.serving.protocols.api import create_app
from agent.serving.protocols.fast_lane import FastRunner, lane_of
from agent.serving.protocols.http_server import HttpRunner
from shared.applications import ApplicationGrant, key_hash
from shared.ids import BootId
from tests.support import models
from tests.support.ports import LOOPBACK
from tests.support.serving import make_slot
from tests.support.waiting import wait_until_async

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator
    from pathlib import Path

_TURNS: Final = 40
"""Of the loop: more than any answer of a model that runs on the loop takes."""

_ROWS: Final = 400
"""More than are answered on the loop, and fewer than come whole."""

_DATE = re.compile(rb"Date: [^\r]*\r\n")
_LENGTH = re.compile(rb"\nContent-Length: ([0-9]+)\r\n", re.IGNORECASE)
ROW = np.arange(10, dtype=np.float32).reshape(1, 10)
BODY = json.dumps(
    {"id": "a", "inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 10], "data": ROW.ravel().tolist()}]}
).encode()
PATH = b"/v2/models/digits/infer"


def binary() -> tuple[bytes, bytes]:
    """A body of JSON and bytes, and the header that goes with it."""
    tensor = {"name": "x", "datatype": "FP32", "shape": [1, 10], "parameters": {"binary_data_size": ROW.nbytes}}
    text = json.dumps({"inputs": [tensor], "parameters": {"binary_data_output": True}}).encode()
    return text + ROW.tobytes(), b"Inference-Header-Content-Length: %d" % len(text)


def request(*headers: bytes, path: bytes = PATH, body: bytes = BODY, length: bytes | None = None) -> bytes:
    """A request, plain unless told otherwise."""
    lines = [b"POST %s HTTP/1.1" % path, b"Host: localhost", *headers]
    lines.append(b"Content-Length: %d" % len(body) if length is None else length)
    return b"\r\n".join([*filter(None, lines), b"", body])


MANY = request(
    body=json.dumps(
        {
            "id": "many",
            "inputs": [
                {"name": "x", "datatype": "FP32", "shape": [_ROWS, 10], "data": np.tile(ROW, _ROWS).ravel().tolist()}
            ],
        }
    ).encode()
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Said:
    """What came back on a connection."""

    answers: tuple[tuple[bytes, ...], ...]
    """Status line, headers by their order in the alphabet, body."""
    is_closed: bool


class Both:
    """A server with the lane and one without, over one engine."""

    def __init__(
        self, loop: asyncio.Runner, engine: Engine, traffic: Traffic, fast: FastRunner, plain: web.AppRunner
    ) -> None:
        self.loop, self.engine, self.traffic, self.fast, self.plain = loop, engine, traffic, fast, plain

    def answer(self, *chunks: bytes, turns: int = 4) -> Said:
        """Send the chunks to both, one after the other with so many turns between; the answers must be the same."""
        by_lane = self.loop.run(said(self.fast, chunks, turns))
        by_aiohttp = self.loop.run(said(self.plain, chunks, turns))
        assert by_lane == by_aiohttp, chunks
        return by_lane

    def passed_on(self) -> int:
        """How many requests aiohttp has seen of those that were sent to the server with the lane."""
        assert self.fast.server is not None
        return self.fast.server.requests_count


async def said(runner: web.AppRunner, chunks: tuple[bytes, ...], turns: int) -> Said:
    """Send chunks so that each is read by itself; what comes back within some turns of the loop."""
    with socket.create_connection(runner.addresses[0][:2]) as caller:
        caller.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        caller.setblocking(False)
        await _turns(4)
        got = b""
        is_closed = False
        for chunk in chunks:
            with contextlib.suppress(ConnectionError):
                caller.send(chunk)
            await _turns(turns)
        await _turns(_TURNS)
        try:
            while data := caller.recv(1 << 20):
                got += data
            is_closed = True
        except BlockingIOError:
            pass
        except ConnectionError:
            is_closed = True
    await _turns(2)
    return Said(answers=tuple(_split(got)), is_closed=is_closed)


async def _turns(count: int) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


def _split(got: bytes) -> Iterator[tuple[bytes, ...]]:
    while got:
        head, _, rest = _DATE.sub(b"", got, count=1).partition(b"\r\n\r\n")
        first, *headers = head.split(b"\r\n")
        length = _LENGTH.search(head + b"\r\n")
        size = int(length[1]) if length else len(rest)
        yield first, *sorted(headers), rest[:size]
        got = rest[size:]


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Both]:
    """Both servers, with a model that answers on the loop and an application that may ask it."""
    with asyncio.Runner() as loop:
        opened = loop.run(_open(tmp_path_factory.mktemp("releases"), loop))
        yield opened
        loop.run(opened.fast.cleanup())
        loop.run(opened.plain.cleanup())
        loop.run(opened.engine.close())


async def _open(folder: Path, loop: asyncio.Runner) -> Both:
    engine = Engine(boot_id=BootId("boot"), load=partial(load_slot, cores=1, open_interpreter=open_litert))
    slot = make_slot(folder, models.one_hot_classifier(), version=4)
    grants = tuple(
        ApplicationGrant(application=name, key_sha256=key_hash(name), models=(allowed,), requests_per_minute=quota)
        for name, allowed, quota in (("kiosk", "*", None), ("other", "none", None), ("spent", "*", 0))
    )
    plan = Plan(
        serial=1, slots=(slot,), routes=(Route(model=slot.model, primary=slot.release_id),), applications=grants
    )
    await engine.apply(plan)
    assert engine.answers_at_once(slot.model)
    traffic, access = Traffic(), Access(engine)
    app = partial(create_app, unverified="a test")
    routes = endpoints.routes(engine, unverified="a test")
    fast = FastRunner(app(routes, traffic, access), lane_of(engine, traffic, access, unverified="a test"))
    plain = HttpRunner(app(routes, traffic, access))
    for runner in (fast, plain):
        await runner.setup()
        await web.TCPSite(runner, LOOPBACK, 0).start()
    return Both(loop, engine, traffic, fast, plain)


PLAIN = {
    "json": request(),
    "binary": request(binary()[1], body=binary()[0]),
    "version": request(path=b"/v2/models/digits/versions/4/infer"),
    "key": request(b"Authorization: Bearer kiosk", b"Connection: keep-alive", b"X-Request-Id: 7"),
    "lower case": request(b"litefleet-timeout-ms: 5000", b"user-agent: x y (z)"),
    "no such version": request(path=b"/v2/models/digits/versions/9/infer"),
    "no such model": request(path=b"/v2/models/none/infer"),
    "no json": request(body=b"{"),
    "nobody's key": request(b"Authorization: Bearer nobody"),
    "no key": request(b"Authorization: Basic eDp5"),
    "not its model": request(b"Authorization: Bearer other"),
    "no quota": request(b"Authorization: Bearer spent"),
    "no time": request(b"Litefleet-Timeout-Ms: soon"),
    "no length": request(b"Inference-Header-Content-Length: -1"),
    "led here": request().replace(b"localhost", b"shop.example"),
    "wrong shape": request(body=BODY.replace(b"10]", b"9]", 1)),
}


@pytest.mark.parametrize("sent", PLAIN.values(), ids=PLAIN)
def test_plain_request_takes_the_lane_and_is_answered_as_by_aiohttp(both: Both, sent: bytes) -> None:
    before = both.passed_on()
    first, second = both.answer(sent, sent).answers
    assert first == second
    assert both.passed_on() == before


ODD = {
    "two lengths": request(b"Content-Length: 5"),
    "length and chunks": request(b"Transfer-Encoding: chunked"),
    "chunks": request(b"Transfer-Encoding: chunked", length=b"", body=b"0\r\n\r\n"),
    "signed length": request(length=b"Content-Length: +%d" % len(BODY)),
    "length of zeros": request(length=b"Content-Length: 0%d" % len(BODY)),
    "length after space": request(length=b"Content-Length : %d" % len(BODY)),
    "no length": request(length=b"", body=b""),
    "folded": request(b"X-A: b\r\n c"),
    "bare line feed": request(b"X-A: b\nX-C: d"),
    "bare return": request(b"X-A: b\rX-C: d"),
    "zero byte": request(b"X-A: b\x00"),
    "latin": request(b"X-A: \xe9"),
    "empty header": request(b"X-A:"),
    "two hosts": request(b"Host: localhost"),
    "no host": request().replace(b"Host: localhost\r\n", b""),
    "close": request(b"Connection: close"),
    "upgrade": request(b"Connection: upgrade", b"Upgrade: websocket"),
    "expect": request(b"Expect: 100-continue"),
    "foreign page": request(b"Origin: https://shop.example"),
    "zipped": request(b"Content-Encoding: gzip"),
    "lower method": request().replace(b"POST", b"post"),
    "old": request().replace(b"HTTP/1.1", b"HTTP/1.0"),
    "query": request(path=PATH + b"?a=b"),
    "percent": request(path=b"/v2/models/d%69gits/infer"),
    "absolute": request(path=b"http://localhost" + PATH),
    "dots": request(path=b"/v2/models/../models/digits/infer"),
    "long version": request(path=b"/v2/models/digits/versions/00000000004/infer"),
    "many headers": request(*(b"X-%d: a" % number for number in range(140))),
    "long header": request(b"X-A: " + b"a" * 9000),
    "get": b"GET /v2/models/digits HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "no http": b"\x16\x03\x01\x02\x00\x01\x00\r\n\r\n",
}


@pytest.mark.parametrize("sent", ODD.values(), ids=ODD)
def test_odd_request_is_answered_as_by_aiohttp_alone_and_before_or_behind_a_plain_one(both: Both, sent: bytes) -> None:
    before = both.passed_on()
    both.answer(sent)
    if both.passed_on() == before:
        # Not whole for aiohttp either.
        assert not both.answer(sent).answers
    both.answer(request(), sent, request())
    both.answer(sent, request(), request())
    both.answer(sent + request())
    both.answer(request() + sent)
    both.answer(request() + sent[:20], sent[20:] + request())


def test_request_cut_anywhere_is_answered_as_by_aiohttp(both: Both) -> None:
    sent = request()
    for at in range(1, len(sent)):
        assert len(both.answer(sent[:at], sent[at:], request()).answers) == 2


def test_lane_is_open_again_behind_a_request_that_aiohttp_has_answered(both: Both) -> None:
    sent = request()
    end = sent.index(BODY)
    before = both.passed_on()
    both.answer(sent[:end], sent[end:], sent, ODD["get"], sent, sent, turns=_TURNS)
    assert both.passed_on() == before + 2


def test_lane_when_the_server_is_ending_says_so_and_closes(both: Both) -> None:
    before, both.traffic.is_ending = both.passed_on(), True
    try:
        ended = both.answer(request())
    finally:
        both.traffic.is_ending = False
    assert ended.is_closed
    assert b"Connection: close" in ended.answers[0]
    assert both.passed_on() == before


def test_request_behind_one_that_a_thread_answers_waits_for_its_turn(both: Both) -> None:
    before = both.passed_on()
    assert both.loop.run(_ids(both, [MANY, request()] * 2, is_read=True)) == ["many", "a"] * 2
    assert both.passed_on() < before + 4


def test_caller_that_leaves_before_its_answer_leaves_nothing_behind(both: Both) -> None:
    both.loop.run(_ids(both, [MANY, request()], is_read=False))
    both.loop.run(wait_until_async(lambda: both.traffic.in_flight == 0))


def test_caller_that_reads_late_is_written_no_more_than_fits_and_then_gets_all(both: Both) -> None:
    async def held_up() -> None:
        await wait_until_async(lambda: both.traffic.in_flight == 1 and _is_paused(both))

    assert both.loop.run(_ids(both, [MANY] * 100, is_read=True, first=held_up)) == ["many"] * 100
    assert both.traffic.in_flight == 0


def _is_paused(both: Both) -> bool:
    assert both.fast.server is not None
    return any(each.writing_paused for each in both.fast.server.connections)


async def _ids(
    both: Both, requests: list[bytes], *, is_read: bool, first: Callable[[], Awaitable[None]] | None = None
) -> list[str]:
    """Send requests on one connection, and return the ids of the answers if they are to be read, `first` before."""
    host, port = both.fast.addresses[0][:2]
    reader, writer = await asyncio.open_connection(host, port, limit=1 << 12)
    ids = []
    async with asyncio.timeout(20):
        for sent in requests:
            writer.write(sent)
            await _turns(3)
        if first is not None:
            await first()
        for _ in requests if is_read else ():
            head = await reader.readuntil(b"\r\n\r\n")
            length = _LENGTH.search(head)
            assert length is not None
            ids.append(json.loads(await reader.readexactly(int(length[1])))["id"])
    writer.transport.abort()
    return ids


PIECES = st.sampled_from([*PLAIN.values(), *PLAIN.values(), *ODD.values()])
NOISE = st.one_of(
    st.binary(min_size=1, max_size=3),
    st.sampled_from([b"\r\n", b"\r", b"\n", b" ", b"\t", b":", b"0", b"\x00", b"\r\n\r\n", b"Content-Length: 3\r\n"]),
)


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    """A request with bytes put in, taken out or replaced, mostly in its head."""
    sent = draw(PIECES)
    for _ in range(draw(st.integers(0, 3))):
        head = sent.find(b"\r\n\r\n") + 4
        at = draw(st.integers(0, max(0, draw(st.sampled_from([head, len(sent)])))))
        sent = sent[:at] + draw(st.one_of(st.just(b""), NOISE)) + sent[at + draw(st.integers(0, 2)) :]
    return sent


@given(parts=st.lists(mutated(), min_size=1, max_size=3), data=st.data())
@settings(max_examples=300)
def test_any_bytes_are_answered_as_by_aiohttp(both: Both, parts: list[bytes], data: st.DataObject) -> None:
    chunks = list(parts)
    if data.draw(st.booleans(), label="cut elsewhere"):
        sent = b"".join(parts)
        cuts = sorted(data.draw(st.sets(st.integers(0, len(sent)), max_size=4), label="cuts"))
        chunks = [sent[start:end] for start, end in zip([0, *cuts], [*cuts, len(sent)], strict=True)]
    both.answer(*filter(None, chunks))
