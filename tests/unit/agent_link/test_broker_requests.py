from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING

import msgspec
import pytest

from agent.core.plan import InferenceAnswered
from agent.link.requests import DEADLINE_S, MAX_IN_FLIGHT, MAX_REPLY_BYTES, MAX_TURNED_AWAY, BrokerRequests
from shared.broker_inference import MAX_PAYLOAD_BYTES, BrokerReply, BrokerRequest, pack, unpack_reply
from shared.errors import UnreachableError
from shared.ids import DeviceId
from shared.topics import inference_topic
from tests.support.waiting import wait_until_async

if TYPE_CHECKING:
    from agent.core.plan import AskInference

CAM = DeviceId("cam-1")
TOPIC = inference_topic(CAM, "shop.till")
ANSWERED = InferenceAnswered(status=200, body=b'{"outputs":[]}')
NOW = datetime(2026, 1, 1, tzinfo=UTC)


class Clock:
    """Stands still."""

    def now(self) -> datetime:
        return NOW

    def monotonic(self) -> float:
        return 0.0


@dataclass
class Serving:
    """Answers when it is told to."""

    asked: list[AskInference] = field(default_factory=list)
    may_answer: asyncio.Event = field(default_factory=asyncio.Event)
    is_away: bool = False
    answer: InferenceAnswered = ANSWERED

    async def ask(self, asked: AskInference) -> InferenceAnswered:
        self.asked.append(asked)
        if self.is_away:
            raise UnreachableError("serving is away", retry_after_s=0.5)
        await self.may_answer.wait()
        return self.answer


@dataclass
class Broker:
    """Keeps what is published."""

    said: list[tuple[str, BrokerReply, bytes]] = field(default_factory=list)
    is_away: bool = False

    async def publish(self, topic: str, payload: bytes, *, qos: int = 1, retain: bool = False) -> None:
        assert (qos, retain) == (1, False)
        if self.is_away:
            raise UnreachableError("the broker is away")
        self.said.append((topic, *unpack_reply(payload)))

    def has_said(self, count: int) -> bool:
        return len(self.said) >= count

    @property
    def statuses(self) -> list[int]:
        return [reply.status for _, reply, _ in self.said]


def question(number: int, **more: object) -> bytes:
    request = BrokerRequest(id=f"r{number}", reply="c1", model="digits", body=msgspec.Raw(b"{}"))
    return pack(msgspec.structs.replace(request, **more))


async def taken(
    *payloads: bytes, topic: str = TOPIC, serving: Serving | None = None, broker: Broker | None = None
) -> tuple[BrokerRequests, Serving, Broker]:
    """Take the payloads while serving answers none, then let it answer all."""
    serving, broker = serving or Serving(), broker or Broker()
    async with asyncio.TaskGroup() as group:
        requests = BrokerRequests(
            device_id=CAM, ask=serving.ask, publish=broker.publish, clock=Clock(), start=group.create_task
        )
        for payload in payloads:
            requests.take(topic, payload)
        serving.may_answer.set()
    return requests, serving, broker


async def test_request_reaches_serving_as_its_application() -> None:
    _, serving, broker = await taken(question(1, version="4", key="camera-9"))
    (asked,) = serving.asked
    assert (asked.application, asked.model, asked.version, asked.key) == ("shop", "digits", "4", "camera-9")
    assert broker.said == [(f"{TOPIC}/reply/c1", broker.said[0][1], b'{"outputs":[]}')]


async def test_requests_beyond_the_bound_are_turned_away_and_then_dropped() -> None:
    flood = MAX_IN_FLIGHT + MAX_TURNED_AWAY + 100
    requests, serving, broker = await taken(*(question(number) for number in range(flood)))
    assert len(serving.asked) == MAX_IN_FLIGHT
    assert broker.statuses.count(429) == MAX_TURNED_AWAY
    assert requests.dropped == 100
    assert next(reply for _, reply, _ in broker.said if reply.status == 429).retry_after_s


async def test_bound_is_free_again_when_requests_are_answered() -> None:
    serving, broker = Serving(), Broker()
    serving.may_answer.set()
    async with asyncio.TaskGroup() as group:
        requests = BrokerRequests(
            device_id=CAM, ask=serving.ask, publish=broker.publish, clock=Clock(), start=group.create_task
        )
        for lap in range(5):
            for number in range(MAX_IN_FLIGHT):
                requests.take(TOPIC, question(lap * MAX_IN_FLIGHT + number))
            due = (lap + 1) * MAX_IN_FLIGHT
            await wait_until_async(partial(broker.has_said, due), what=f"{due} are answered")
    assert set(broker.statuses) == {200}


async def test_repeated_id_is_answered_once_for_each_login() -> None:
    requests, serving, _ = await taken(question(1), question(1), question(1))
    assert (len(serving.asked), requests.dropped) == (1, 2)
    requests.take(inference_topic(CAM, "shop.till"), question(1))
    assert requests.dropped == 3


@pytest.mark.parametrize("late_s", [0.0, 0.1, 3600.0])
async def test_expired_request_is_dropped(late_s: float) -> None:
    requests, serving, broker = await taken(question(1, expires_at=NOW - timedelta(seconds=late_s)))
    assert (serving.asked, broker.said, requests.dropped) == ([], [], 1)


@pytest.mark.parametrize(("in_s", "given_s"), [(2.0, 2.0), (86_400.0, DEADLINE_S), (None, DEADLINE_S)])
async def test_deadline_goes_with_the_request(in_s: float | None, given_s: float) -> None:
    expires_at = None if in_s is None else NOW + timedelta(seconds=in_s)
    _, serving, _ = await taken(question(1, expires_at=expires_at))
    assert serving.asked[0].timeout_s == pytest.approx(given_s)


async def test_serving_that_is_away_is_told_as_a_problem() -> None:
    _, _, broker = await taken(question(1), serving=Serving(is_away=True))
    ((_, reply, body),) = broker.said
    assert (reply.status, reply.retry_after_s) == (503, 1)
    assert msgspec.json.decode(body)["reason"] == "serving_away"


async def test_broker_that_goes_away_ends_nothing() -> None:
    await taken(question(1), broker=Broker(is_away=True))


async def test_answer_with_tensors_goes_back_as_bytes() -> None:
    serving = Serving(answer=InferenceAnswered(status=200, body=b"{}\x01\x02", header_bytes=2))
    _, _, broker = await taken(question(1), serving=serving)
    ((_, reply, body),) = broker.said
    assert (reply.header_bytes, body) == (2, b"{}\x01\x02")


@pytest.mark.parametrize("header_bytes", [None, 2])
async def test_attack_answer_that_the_broker_would_hang_up_on_is_told_as_a_problem(header_bytes: int | None) -> None:
    body = b"{}" + b" " * MAX_REPLY_BYTES
    serving = Serving(answer=InferenceAnswered(status=200, body=body, header_bytes=header_bytes))
    _, _, broker = await taken(question(1), serving=serving)
    ((_, reply, said),) = broker.said
    assert (reply.status, reply.header_bytes) == (413, None)
    assert msgspec.json.decode(said)["reason"] == "answer_too_large"


@pytest.mark.parametrize(
    ("topic", "payload"),
    [
        (TOPIC, b""),
        # More than the frame to serving can hold: it would end the process that writes it.
        (TOPIC, question(1).replace(b'"header_bytes":null', b'"header_bytes":' + b"9" * 30)),
        (TOPIC, b"{}"),
        (TOPIC, question(1, reply="../x")),
        (TOPIC, question(1) + b" " * MAX_PAYLOAD_BYTES),
        (f"{TOPIC}/reply/c1", question(1)),
        (inference_topic(DeviceId("cam-2"), "shop.till"), question(1)),
        (inference_topic(CAM, "shop"), question(1)),
    ],
)
async def test_attack_what_cannot_be_answered_is_dropped(topic: str, payload: bytes) -> None:
    requests, serving, broker = await taken(payload, topic=topic)
    assert (serving.asked, broker.said, requests.dropped) == ([], [], 1)
