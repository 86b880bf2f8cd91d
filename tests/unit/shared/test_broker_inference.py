from __future__ import annotations

from datetime import UTC, datetime

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.broker_inference import BrokerReply, BrokerRequest, RequestKind, pack, unpack_reply, unpack_request
from shared.errors import InvalidInputError
from shared.ids import DeviceId
from shared.topics import application_of, inference_topic, is_login, login_of, reply_topic

CAM = DeviceId("cam-1")
TOPIC = inference_topic(CAM, "shop.till")
GOLDEN = (
    b'{"schema_version":1,"id":"r1","reply":"c1","model":"digits","version":"","kind":"infer","key":"",'
    b'"expires_at":"2026-01-01T00:00:00Z","header_bytes":null,"body":{"inputs":[]}}'
)


def asked(**more: object) -> BrokerRequest:
    return msgspec.structs.replace(BrokerRequest(id="r1", reply="c1", model="digits"), **more)


def test_request_in_json_reads_as_it_was_written() -> None:
    request = asked(expires_at=datetime(2026, 1, 1, tzinfo=UTC), body=msgspec.Raw(b'{"inputs":[]}'))
    assert pack(request) == GOLDEN
    found, body = unpack_request(GOLDEN)
    assert (found.id, found.expires_at, body) == ("r1", request.expires_at, b'{"inputs":[]}')


@given(st.binary(max_size=2000))
def test_bytes_behind_the_json_come_back_as_they_were(follows: bytes) -> None:
    assert unpack_request(pack(asked(kind=RequestKind.CLASSIFY), follows))[1] == follows
    reply = BrokerReply(id="r1", status=200, header_bytes=3)
    assert unpack_reply(pack(reply, follows)) == (reply, follows)


@given(st.binary(max_size=300))
def test_attack_payload_of_anything_is_read_or_refused(payload: bytes) -> None:
    for data in (payload, b"\x00" + payload, b"\x00\x00\x00" + payload):
        try:
            unpack_request(data)
        except InvalidInputError:
            continue


@pytest.mark.parametrize(
    "more",
    [
        {"id": ""},
        {"id": "x" * 65},
        {"expires_at": "2026-01-01T00:00:00"},
        {"expires_at": "soon"},
        {"header_bytes": -1},
        {"kind": "explain"},
        {"model": None},
        {"key": "k" * 300},
    ],
)
def test_request_with_a_wrong_member_is_refused(more: dict[str, object]) -> None:
    whole = {"id": "r1", "reply": "c1", "model": "digits"} | more
    with pytest.raises(InvalidInputError):
        unpack_request(msgspec.json.encode(whole))


def test_request_with_two_bodies_is_refused() -> None:
    with pytest.raises(InvalidInputError, match="body"):
        unpack_request(pack(asked(body=msgspec.Raw(b"{}")), b"bytes"))


def test_request_of_a_later_version_with_more_members_is_read() -> None:
    whole = {"id": "r1", "reply": "c1", "model": "digits", "schema_version": 2, "colour": "red"}
    assert unpack_request(msgspec.json.encode(whole))[0].model == "digits"


@pytest.mark.parametrize("reply", ["c1", f"{TOPIC}/reply/c1"])
def test_reply_goes_below_the_topic_that_asked(reply: str) -> None:
    assert reply_topic(TOPIC, reply) == f"{TOPIC}/reply/c1"


@pytest.mark.parametrize(
    "reply",
    [
        "",
        "a/b",
        "+",
        "#",
        "..",
        "c 1",
        "c1\n",
        TOPIC,
        f"{TOPIC}/reply/",
        f"{TOPIC}/reply/#",
        f"{TOPIC}/reply/c1/deeper",
        inference_topic(CAM, "rival.main") + "/reply/c1",
        inference_topic(DeviceId("cam-2"), "shop.till") + "/reply/c1",
        "lf/v1/pulse",
        "x" * 65,
    ],
)
def test_attack_reply_elsewhere_is_none(reply: str) -> None:
    assert reply_topic(TOPIC, reply) is None


def test_login_names_its_application() -> None:
    assert login_of(TOPIC, CAM) == "shop.till"
    assert application_of("shop.till") == "shop"


@pytest.mark.parametrize(
    "topic",
    [
        TOPIC + "/reply/c1",
        inference_topic(DeviceId("cam-2"), "shop.till"),
        inference_topic(CAM, "shop"),
        inference_topic(CAM, "shop.till.more"),
        inference_topic(CAM, "+"),
        f"lf/v1/zz/{CAM}/infer/shop.till",
        "",
    ],
)
def test_topic_that_is_no_request_to_this_device_has_no_login(topic: str) -> None:
    assert login_of(topic, CAM) is None


@given(st.from_regex(r"[a-z0-9-]{1,63}", fullmatch=True))
def test_no_device_id_is_a_login(device: str) -> None:
    assert not is_login(device)
