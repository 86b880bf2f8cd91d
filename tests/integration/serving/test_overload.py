"""More than a device can do, and callers that do not behave: right statuses, bounded memory, and well again at once."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from tests.support import models
from tests.support.ports import LOOPBACK
from tests.support.serving import MODEL, Device, http, infer_body, make_slot, one_hot, plan_of
from tests.support.waiting import wait_until_async

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

MIB = 2**20
PATH = f"/v2/models/{MODEL}/infer"
SIZE = 1200


@pytest.fixture(scope="module")
def device(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Device]:
    """A device whose model takes a millisecond or so and answers with as many numbers as it is given."""
    with Device(tmp_path_factory.mktemp("device") / "state") as made:
        weights = np.eye(SIZE, dtype=np.float32)
        model = models.dense_classifier(weights, np.zeros(SIZE, np.float32), batch=-1, softmax=False)
        made.write_boot(plan_of(make_slot(made.releases, model)))
        made.start()
        made.wait_ready(within_s=40)
        yield made


def memory_bytes(device: Device) -> int:
    """Resident memory of the serving process."""
    pid = device.serving_pid()
    status = Path(f"/proc/{pid}/status").read_text()
    return int(next(line.split()[1] for line in status.splitlines() if line.startswith("VmRSS"))) * 1024


def binary_request(rows: int) -> bytes:
    """A whole HTTP request whose tensor follows the JSON, and whose answer comes as bytes."""
    numbers = np.zeros((rows, SIZE), "<f4").tobytes()
    said = {
        "name": "input",
        "shape": [rows, SIZE],
        "datatype": "FP32",
        "parameters": {"binary_data_size": len(numbers)},
    }
    text = json.dumps({"inputs": [said], "parameters": {"binary_data_output": True}}).encode()
    head = f"POST {PATH} HTTP/1.1\r\nHost: device\r\nInference-Header-Content-Length: {len(text)}\r\n"
    return head.encode() + f"Content-Length: {len(text) + len(numbers)}\r\n\r\n".encode() + text + numbers


async def read_answer(reader: asyncio.StreamReader) -> tuple[int, dict[str, str]]:
    """Status and headers of the next answer; its body is read and forgotten."""
    head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
    headers = dict(line.lower().split(": ", 1) for line in head[1:] if line)
    await reader.readexactly(int(headers.get("content-length", "0")))
    return int(head[0].split()[1]), headers


@contextlib.asynccontextmanager
async def connected(device: Device) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """A connection."""
    reader, writer = await asyncio.open_connection(LOOPBACK, device.port)
    try:
        yield reader, writer
    finally:
        writer.transport.abort()


async def hammer(device: Device, request: bytes, *, until_s: float, seen: Counter[int]) -> None:
    """Ask again and again on one connection, whatever is answered."""
    async with connected(device) as (reader, writer):
        while time.monotonic() < until_s:
            writer.write(request)
            status, headers = await read_answer(reader)
            seen[status] += 1
            if status != 200:
                assert int(headers["retry-after"]) >= 1


async def answers(device: Device) -> bool:
    """Whether a small request is answered as it should be."""
    reply = await asyncio.to_thread(http, f"{device.url}{PATH}", infer_body(one_hot(3, size=SIZE)))
    return reply.status == 200


async def test_ten_times_what_it_can_do_is_refused_in_order_and_forgotten_at_once(device: Device) -> None:
    await answers(device)
    before, seen = memory_bytes(device), Counter[int]()
    request, until_s = binary_request(64), time.monotonic() + 4.0
    async with asyncio.timeout(60), asyncio.TaskGroup() as group:
        for _ in range(160):
            group.create_task(hammer(device, request, until_s=until_s, seen=seen))
    assert set(seen) <= {200, 429, 503}
    assert seen[200] > 50
    assert seen[429] + seen[503] > 10, "this was no overload"
    # 160 callers of 300 kB each, their answers, and what waits.
    assert memory_bytes(device) - before < 400 * MIB
    assert await answers(device)


async def test_readers_that_do_not_read_cost_others_nothing(device: Device) -> None:
    before = memory_bytes(device)
    async with contextlib.AsyncExitStack() as lines:
        for _ in range(20):
            _, writer = await lines.enter_async_context(connected(device))
            # An answer of 2.4 MB, which no socket's buffers hold, and which nobody takes.
            writer.write(binary_request(512))
        await wait_until_async(lambda: answers(device), what="others are answered", within_s=20)
        for _ in range(20):
            assert await answers(device)
        assert memory_bytes(device) - before < 400 * MIB
    await wait_until_async(lambda: answers(device), what="answered when they have gone", within_s=20)


async def test_connections_that_say_nothing_cost_others_nothing(device: Device) -> None:
    async with contextlib.AsyncExitStack() as lines:
        for number in range(400):
            _, writer = await lines.enter_async_context(connected(device))
            # Some say half a head, others nothing at all.
            writer.write(b"POST /v2/models/digits/infer HTTP/1.1\r\nHost: dev" if number % 2 else b"")
        for _ in range(10):
            assert await answers(device)


async def test_bodies_that_together_would_fill_the_memory_are_refused_before_they_arrive(device: Device) -> None:
    head = f"POST {PATH} HTTP/1.1\r\nHost: device\r\nContent-Length: {30 * MIB}\r\n\r\n".encode()
    async with contextlib.AsyncExitStack() as lines, asyncio.timeout(30):
        readers = []
        for _ in range(6):
            reader, writer = await lines.enter_async_context(connected(device))
            writer.write(head + b" " * 1000)
            readers.append(reader)
        # The first four wait for the rest of their bodies; there is no room for two more.
        refused = [await read_answer(reader) for reader in readers[4:]]
        assert [status for status, _ in refused] == [429, 429]
        assert all(headers["retry-after"] == "1" for _, headers in refused)
    assert await answers(device)


async def test_body_over_the_limit_is_refused_without_being_read(device: Device) -> None:
    async with connected(device) as (reader, writer), asyncio.timeout(20):
        writer.write(f"POST {PATH} HTTP/1.1\r\nHost: device\r\nContent-Length: {2**40}\r\n\r\n".encode())
        status, _ = await read_answer(reader)
    assert status == 413


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b'{"inputs":[{"name":"input","shape":[1,3],"datatype":"FP32","data":[1,2,3]}]}', 400),
        (b'{"inputs":[{"name":"input","shape":[1,1200],"datatype":"INT8","data":[]}]}', 400),
        (b'{"inputs":[{"name":"input","shape":[1,1],"datatype":"FP32","data":[NaN]}]}', 400),
        (b'{"inputs":[{"name":"input","shape":[1,1],"datatype":"FP32","data":[1e999]}]}', 400),
        (b'{"inputs":[{"name":"input","shape":[-1,-1],"datatype":"FP32","data":[1]}]}', 400),
        (b'{"inputs":[{"name":"input","shape":[9999999999,9999999999],"datatype":"FP32","data":[1]}]}', 400),
        (b"[" * 100_000, 400),
        (b'{"inputs":[{"name":"input","shape":[1,1200],"datatype":"FP32","data":' + b"[" * 50_000, 400),
    ],
)
async def test_what_no_model_takes_is_the_callers_error(device: Device, body: bytes, status: int) -> None:
    reply = await asyncio.to_thread(http, f"{device.url}{PATH}", body)
    assert reply.status == status
    assert reply.body["error"]
    assert await answers(device)
