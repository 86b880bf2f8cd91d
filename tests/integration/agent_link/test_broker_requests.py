"""Inference for applications that have only the broker: real mosquitto, link, unix socket, engine and model."""

from __future__ import annotations

import asyncio
import json
import random
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Never

import msgspec
import numpy as np
import pytest

from agent.core.plan import AskInference
from agent.link.identity import BrokerAddress
from agent.link.mqtt import InferenceAsked, LinkEvent, MqttLink
from agent.link.requests import BrokerRequests
from agent.link.serving_lines import ServingLines
from agent.serving.engine import Engine
from agent.serving.models.loading import load_slot, open_litert
from agent.serving.planned.link import ServingLink
from agent.serving.planned.sockets import listen_unix
from agent.serving.protocols.mqtt_requests import MqttRequests
from controller.trust.tls import client_context
from shared.broker_inference import BrokerRequest, RequestKind
from shared.clock import SystemClock
from shared.ids import BootId, DeviceId
from tests.support import models
from tests.support.broker_application import KEY, OTHER_KEY, ApplicationBroker, asking
from tests.support.grants import granted
from tests.support.inference_api import image_slot, picture
from tests.support.serving import MODEL, infer_body, make_slot, one_hot, plan_of
from tests.support.waiting import wait_until_async

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

    from agent.core.plan import FromServing, SlotSpec, ToServing
    from shared.applications import ApplicationGrant

CAM = DeviceId("cam-1")
TILL, DESK, RIVAL = "shop.till", "shop.desk", "rival.main"


@pytest.fixture(scope="module")
def broker() -> Iterator[ApplicationBroker]:
    with ApplicationBroker({TILL: KEY, DESK: KEY, RIVAL: OTHER_KEY}) as running:
        yield running


@dataclass(frozen=True, slots=True)
class OneDevice:
    """A device of which only the way from the broker to the model is there."""

    engine: Engine
    requests: BrokerRequests
    link: MqttLink


@asynccontextmanager
async def device(
    broker: ApplicationBroker, folder: Path, slot: SlotSpec, grants: tuple[ApplicationGrant, ...]
) -> AsyncIterator[OneDevice]:
    async def nothing_else(_message: object) -> Never:
        raise AssertionError

    engine = Engine(boot_id=BootId("boot"), load=partial(load_slot, cores=1, open_interpreter=open_litert))
    await engine.apply(msgspec.structs.replace(plan_of(slot), applications=grants))
    answering = MqttRequests(engine, otherwise=nothing_else)

    async def answer(message: ToServing) -> FromServing:
        assert isinstance(message, AskInference)
        return await answering.answer(message)

    serving = ServingLink(answer)
    await serving.start(listen_unix(folder / "serving.sock"))
    lines = ServingLines([folder / "serving.sock"])
    address = BrokerAddress(host=broker.host, port=broker.port, tls=True)
    link = MqttLink(
        broker=address, device_id=CAM, security=client_context(broker.device_files(CAM)), chance=random.Random(1)
    )
    async with asyncio.TaskGroup() as group:
        requests = BrokerRequests(
            device_id=CAM, ask=lines.ask, publish=link.publish, clock=SystemClock(), start=group.create_task
        )

        async def deliver(event: LinkEvent) -> None:
            if isinstance(event, InferenceAsked):
                requests.take(event.topic, event.payload)

        running = group.create_task(link.run(deliver))
        await wait_until_async(lambda: link.connected, what="the device is at the broker")
        yield OneDevice(engine, requests, link)
        running.cancel()
    await lines.close()
    await serving.close()
    await engine.close()


def grant(application: str, *asked: str, per_minute: int | None = None) -> ApplicationGrant:
    # Of another key than the broker knows: the device takes the broker's word for who asks.
    return granted(application, *asked, key="x" * 40, per_minute=per_minute)


def question(number: int, **more: object) -> BrokerRequest:
    said = {"id": f"r{number}", "reply": "c1", "model": MODEL, "body": msgspec.Raw(infer_body(one_hot(3)))}
    return BrokerRequest(**(said | more))  # type: ignore[arg-type] # fields by name, checked where they are read


@pytest.fixture
def slot(tmp_path: Path) -> SlotSpec:
    return make_slot(tmp_path / "releases", models.one_hot_classifier())


async def test_request_in_json_is_answered_as_over_http(
    broker: ApplicationBroker, tmp_path: Path, slot: SlotSpec
) -> None:
    async with (
        device(broker, tmp_path, slot, (grant("shop", MODEL),)) as one,
        asking(broker, CAM, TILL, KEY) as till,
    ):
        reply, body = await till.ask(question(1))
        said = json.loads(body)
        assert reply.status == 200
        assert said["model_name"] == MODEL
        assert int(np.argmax(said["outputs"][0]["data"])) == 3
        assert one.engine.applications.tallies["shop"].requests_by_model == {MODEL: 1}


async def test_request_with_binary_tensors_is_answered_with_them(
    broker: ApplicationBroker, tmp_path: Path, slot: SlotSpec
) -> None:
    tensor = np.asarray([one_hot(7)], dtype=np.float32)
    head = {
        "inputs": [
            {"name": "input", "shape": [1, 10], "datatype": "FP32", "parameters": {"binary_data_size": tensor.nbytes}}
        ],
        "parameters": {"binary_data_output": True},
    }
    text = json.dumps(head).encode()
    async with device(broker, tmp_path, slot, (grant("shop", "*"),)), asking(broker, CAM, TILL, KEY) as till:
        asked = question(1, body=msgspec.UNSET, header_bytes=len(text))
        reply, body = await till.ask(asked, text + tensor.tobytes())
        assert reply.header_bytes is not None
        scores = np.frombuffer(body[reply.header_bytes :], dtype=np.float32)
        assert (reply.status, int(np.argmax(scores))) == (200, 7)


async def test_image_is_answered_with_labels(broker: ApplicationBroker, tmp_path: Path) -> None:
    slot = image_slot(tmp_path / "releases")
    async with device(broker, tmp_path, slot, (grant("shop", "*"),)), asking(broker, CAM, TILL, KEY) as till:
        reply, body = await till.ask(question(1, body=msgspec.UNSET, kind=RequestKind.CLASSIFY), picture(6))
        assert (reply.status, json.loads(body)["labels"][0]["label"]) == (200, "g")


@pytest.mark.parametrize(
    ("more", "status"),
    [
        ({"model": "absent"}, 404),
        ({"version": "9"}, 404),
        ({"body": msgspec.Raw(b"{}")}, 400),
        ({"body": msgspec.Raw(infer_body([1.0]))}, 400),
    ],
)
async def test_request_that_cannot_be_answered_gets_a_problem(
    broker: ApplicationBroker, tmp_path: Path, slot: SlotSpec, more: dict[str, object], status: int
) -> None:
    async with device(broker, tmp_path, slot, (grant("shop", "*"),)), asking(broker, CAM, TILL, KEY) as till:
        reply, body = await till.ask(question(1, **more))
        said = json.loads(body)
        assert (reply.status, said["status"]) == (status, status)
        assert said["reason"]


async def test_attack_application_out_of_its_scope_is_refused_on_the_device(
    broker: ApplicationBroker, tmp_path: Path, slot: SlotSpec
) -> None:
    grants = (grant("shop", "another-model"),)
    async with (
        device(broker, tmp_path, slot, grants) as one,
        asking(broker, CAM, TILL, KEY) as till,
        asking(broker, CAM, RIVAL, OTHER_KEY) as rival,
    ):
        reply, _ = await till.ask(question(1))
        unknown, _ = await rival.ask(question(2))
        assert (reply.status, unknown.status) == (403, 403)
        assert one.engine.applications.tallies["shop"].scope_refusals == 1


async def test_programs_of_an_application_share_its_quota(
    broker: ApplicationBroker, tmp_path: Path, slot: SlotSpec
) -> None:
    grants = (grant("shop", "*", per_minute=2),)
    async with (
        device(broker, tmp_path, slot, grants),
        asking(broker, CAM, TILL, KEY) as till,
        asking(broker, CAM, DESK, KEY) as desk,
    ):
        assert (await till.ask(question(1)))[0].status == 200
        assert (await desk.ask(question(1)))[0].status == 200
        over, body = await till.ask(question(2))
        assert (over.status, json.loads(body)["reason"]) == (429, "quota_spent")
        assert over.retry_after_s is not None
        assert 0 < over.retry_after_s <= 30


async def test_request_repeated_or_expired_or_to_nowhere_gets_no_word(
    broker: ApplicationBroker, tmp_path: Path, slot: SlotSpec
) -> None:
    async with (
        device(broker, tmp_path, slot, (grant("shop", "*"),)) as one,
        asking(broker, CAM, TILL, KEY) as till,
    ):
        await till.ask(question(1))
        silent = [
            question(1),
            question(2, expires_at=SystemClock().now() - timedelta(seconds=1)),
            question(3, reply="../../up/report"),
            question(4, reply=f"lf/v1/00/{CAM}/up/report"),
            question(5, reply="a/b"),
        ]
        for asked in silent:
            await till.client.publish(till.topic, msgspec.json.encode(asked), qos=1)
        for payload in (b"", b"{", b"\x00\x00\xff\xff{}", b"\x00", b"[]", b'{"id": ""}'):
            await till.client.publish(till.topic, payload, qos=1)
        await till.ask(question(6))
        assert one.requests.dropped == len(silent) + 6
        assert one.engine.applications.tallies["shop"].requests == 2


async def test_request_whose_reply_is_named_in_full_is_answered_there(
    broker: ApplicationBroker, tmp_path: Path, slot: SlotSpec
) -> None:
    async with device(broker, tmp_path, slot, (grant("shop", "*"),)), asking(broker, CAM, TILL, KEY) as till:
        reply, _ = await till.ask(question(1, reply=f"{till.topic}/reply/c1"))
        assert reply.status == 200


async def test_many_requests_at_once_are_each_answered_once(
    broker: ApplicationBroker, tmp_path: Path, slot: SlotSpec
) -> None:
    async with device(broker, tmp_path, slot, (grant("shop", "*"),)), asking(broker, CAM, TILL, KEY) as till:
        async with asyncio.TaskGroup() as group:
            asked = [group.create_task(till.ask(question(number))) for number in range(16)]
        statuses = [each.result()[0].status for each in asked]
        assert set(statuses) <= {200, 429}
        assert statuses.count(200) >= 1
