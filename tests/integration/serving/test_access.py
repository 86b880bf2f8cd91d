"""Who may call: by TLS with a key from elsewhere, by the unix socket from this machine."""

from __future__ import annotations

import asyncio
import base64
import json
import ssl
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import aiohttp
import grpc
import msgspec
import pytest
from cryptography import x509

from agent.core.plan import AskInference, InferenceAnswered, Route
from agent.serving.protocols import open_inference_pb2 as wire
from agent.serving.protocols.mqtt_requests import MqttRequests
from agent.serving.protocols.oip_grpc import SERVICE
from shared.ids import ModelName
from tests.support.grants import KEY, bearer, granted
from tests.support.inference_api import image_slot, picture
from tests.support.open_inference import opened
from tests.support.serving import MODEL, infer_body, one_hot, plan_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    from agent.core.plan import Applied, GetStats, Plan, SetPlan, SlotSpec, Stats
    from shared.applications import ApplicationGrant
    from tests.support.inference_api import Served
    from tests.support.open_inference import Opened

    # Any of the generated messages.
    Message = Any

LASTING = timedelta(days=1)
PAGE = "https://shop.example"
INFER = f"/v2/models/{MODEL}/infer"


def plan(slot: SlotSpec, *grants: ApplicationGrant) -> Plan:
    return msgspec.structs.replace(plan_of(slot), applications=grants)


@pytest.fixture
async def wide(tmp_path: Path) -> AsyncIterator[Opened]:
    async with opened(tmp_path, lasting=LASTING, origins=(PAGE,)) as api:
        yield api


async def call(
    api: Opened, method: str, kind: str, metadata: tuple[tuple[str, str], ...] = (), **more: object
) -> Message:
    credentials = grpc.ssl_channel_credentials(api.pair.certificate.read_bytes())
    async with grpc.aio.secure_channel(api.grpc, credentials) as channel:
        ask: grpc.aio.UnaryUnaryMultiCallable[Message, Message] = channel.unary_unary(
            f"/{SERVICE}/{method}",
            request_serializer=lambda asked: asked.SerializeToString(),
            response_deserializer=getattr(wire, f"{method}Response").FromString,
        )
        asked = getattr(wire, f"{method}Request")(**({kind: MODEL} if kind else {}), **more)
        return await ask(asked, metadata=metadata, timeout=10)


async def test_key_of_an_application_opens_its_model(wide: Opened, stable: SlotSpec) -> None:
    await wide.engine.apply(plan(stable, granted("shop", MODEL)))
    status, body, _ = await wide.get(f"/v2/models/{MODEL}", bearer())
    assert (status, body["name"]) == (200, MODEL)
    tally = wide.engine.applications.tallies["shop"]
    assert (tally.requests, tally.requests_by_model) == (1, {MODEL: 1})


async def test_attack_no_key_from_elsewhere_is_refused(wide: Opened, stable: SlotSpec) -> None:
    await wide.engine.apply(plan(stable, granted("shop", MODEL)))
    for path in (f"/v2/models/{MODEL}", "/v2", "/v1/models/digits", "/model/metadata", "/metrics", "/absent"):
        status, body, headers = await wide.get(path)
        assert (status, body["reason"]) == (401, "key_refused"), path
        assert headers["WWW-Authenticate"] == 'Bearer realm="litefleet"'
    assert wide.engine.applications.missing_keys == 6


@pytest.mark.parametrize(
    "authorization",
    [
        "Bearer wrong",
        f"Bearer {KEY}x",
        "Bearer ",
        "Bearer",
        f"Basic {KEY}",
        KEY,
        f"Bearer {KEY[:-1]}",
        "Bearer é\udcff",
    ],
)
async def test_attack_wrong_key_is_refused_and_repeated_nowhere(
    wide: Opened, stable: SlotSpec, authorization: str, capsys: pytest.CaptureFixture[str]
) -> None:
    await wide.engine.apply(plan(stable, granted("shop", MODEL)))
    given = authorization.encode("utf-8", "surrogateescape").decode("latin-1")
    status, body, headers = await wide.get(f"/v2/models/{MODEL}", {"Authorization": given})
    assert status == 401
    assert headers["WWW-Authenticate"].startswith("Bearer realm=")
    said = capsys.readouterr()
    # `Bearer` itself is named in the remedy.
    secret = authorization.removeprefix("Bearer").removeprefix("Basic").strip()
    assert not secret or secret not in f"{body}{headers}{said.out}{said.err}"


async def test_attack_key_in_the_url_opens_nothing(wide: Opened, stable: SlotSpec) -> None:
    await wide.engine.apply(plan(stable, granted("shop", MODEL)))
    for query in (f"key={KEY}", f"access_token={KEY}", f"authorization=Bearer%20{KEY}"):
        assert (await wide.get(f"/v2/models/{MODEL}?{query}"))[0] == 401


async def test_model_out_of_scope_is_refused_by_every_protocol(wide: Opened, stable: SlotSpec) -> None:
    await wide.engine.apply(plan(stable, granted("shop", "faces")))
    for path in (f"/v2/models/{MODEL}", f"/v2/models/{MODEL}/versions/4/ready", f"/v1/models/{MODEL}/metadata"):
        status, body, _ = await wide.get(path, bearer())
        assert (status, body["reason"]) == (403, "not_allowed"), path
    assert (await wide.get("/model/metadata", bearer()))[0] == 403
    assert (await wide.get(f"/model/labels?model={MODEL}", bearer()))[0] == 403
    for path in (f"/v1/models/{MODEL}:predict", INFER, f"/v2/models/{MODEL}/classify"):
        assert (await wide.get(path, bearer(), method="POST"))[0] == 403, path
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await call(wide, "ModelMetadata", "name", (("authorization", f"Bearer {KEY}"),))
    assert refused.value.code() is grpc.StatusCode.PERMISSION_DENIED


async def test_figures_of_all_models_need_a_grant_for_all(wide: Opened, stable: SlotSpec) -> None:
    every = granted("watch", "*", key="w" * 40)
    await wide.engine.apply(plan(stable, granted("shop", MODEL), every))
    assert (await wide.get("/v2/models/stats", bearer()))[0] == 403
    assert (await wide.get("/v2/models/stats", bearer("w" * 40)))[0] == 200


async def test_quota_spent_says_when_to_come_again(wide: Opened, stable: SlotSpec) -> None:
    await wide.engine.apply(plan(stable, granted("shop", MODEL, per_minute=2)))
    statuses = [(await wide.get(f"/v2/models/{MODEL}", bearer()))[0] for _ in range(2)]
    status, body, headers = await wide.get(f"/v2/models/{MODEL}", bearer())
    assert (statuses, status, body["reason"]) == ([200, 200], 429, "quota_spent")
    assert 1 <= int(headers["Retry-After"]) <= 30
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await call(wide, "ModelMetadata", "name", (("authorization", f"Bearer {KEY}"),))
    assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert dict(refused.value.trailing_metadata())["retry-after"]


def rows(count: int) -> list[list[float]]:
    return [one_hot(each % 10) for each in range(count)]


@pytest.mark.parametrize(
    ("path", "body"),
    [
        (INFER, lambda count: infer_body(*rows(count))),
        (f"/v1/models/{MODEL}:predict", lambda count: json.dumps({"instances": rows(count)}).encode()),
        ("/model/predict", lambda count: json.dumps({"input": rows(count)}).encode()),
    ],
)
async def test_quota_counts_the_items_of_a_batch_by_every_protocol(
    wide: Opened, stable: SlotSpec, path: str, body: Callable[[int], bytes]
) -> None:
    await wide.engine.apply(plan(stable, granted("shop", MODEL, per_minute=10)))
    assert (await wide.get(path, bearer(), method="POST", data=body(11)))[0] == 400
    assert (await wide.get(path, bearer(), method="POST", data=body(8)))[0] == 200
    status, told, headers = await wide.get(path, bearer(), method="POST", data=body(2))
    assert (status, told["reason"]) == (429, "quota_spent")
    assert 1 <= int(headers["Retry-After"]) <= 12
    assert wide.engine.applications.tallies["shop"].over_quota == 2


async def test_quota_counts_the_images_of_a_classify(wide: Opened, tmp_path: Path) -> None:
    await wide.engine.apply(plan(image_slot(tmp_path), granted("shop", MODEL, per_minute=5)))
    image = base64.b64encode(picture(1)).decode()
    path, body = f"/v2/models/{MODEL}/classify", json.dumps({"items": [image] * 3}).encode()
    headers = {**bearer(), "Content-Type": "application/json"}
    assert (await wide.get(path, headers, method="POST", data=body))[0] == 200
    status, told, _ = await wide.get(path, headers, method="POST", data=body)
    assert (status, told["reason"]) == (429, "quota_spent")


async def test_quota_counts_the_rows_of_a_call_over_grpc(wide: Opened, stable: SlotSpec) -> None:
    await wide.engine.apply(plan(stable, granted("shop", MODEL, per_minute=5)))
    contents = {"fp32_contents": [each for row in rows(4) for each in row]}
    asked = {"inputs": [{"name": "input", "datatype": "FP32", "shape": [4, 10], "contents": contents}]}
    key = (("authorization", f"Bearer {KEY}"),)
    assert (await call(wide, "ModelInfer", "model_name", key, **asked)).outputs[0].shape == [4, 10]
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await call(wide, "ModelInfer", "model_name", key, **asked)
    assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


async def test_quota_counts_the_rows_of_a_request_by_the_broker(wide: Opened, stable: SlotSpec) -> None:
    await wide.engine.apply(plan(stable, granted("shop", MODEL, per_minute=5)))
    asked = AskInference(application="shop", model=ModelName(MODEL), body=infer_body(*rows(4)), timeout_s=10)
    requests = MqttRequests(wide.engine, otherwise=_nothing_else)
    said = [await requests.answer(asked) for _ in range(2)]
    assert [each.status for each in said if isinstance(each, InferenceAnswered)] == [200, 429]


async def _nothing_else(message: SetPlan | GetStats) -> Applied | Stats:
    raise AssertionError(message)


async def test_grant_taken_away_closes_at_once(wide: Opened, stable: SlotSpec) -> None:
    await wide.engine.apply(plan(stable, granted("shop", MODEL)))
    assert (await wide.get(f"/v2/models/{MODEL}", bearer()))[0] == 200
    await wide.engine.apply(plan(stable))
    assert (await wide.get(f"/v2/models/{MODEL}", bearer()))[0] == 401


async def test_health_is_told_without_a_key(wide: Opened, stable: SlotSpec) -> None:
    await wide.engine.apply(plan(stable))
    assert [(await wide.get(f"/v2/health/{each}"))[0] for each in ("live", "ready")] == [200, 200]
    assert (await call(wide, "ServerLive", "")).live


async def test_unix_socket_asks_for_no_key_and_checks_one_that_is_sent(wide: Opened, stable: SlotSpec) -> None:
    await wide.engine.apply(plan(stable, granted("shop", "faces")))
    assert (await wide.get(f"/v2/models/{MODEL}", unix=True))[0] == 200
    assert (await wide.get(f"/v2/models/{MODEL}", bearer("wrong"), unix=True))[0] == 401
    assert (await wide.get(f"/v2/models/{MODEL}", bearer(), unix=True))[0] == 403


async def test_loopback_asks_for_no_key_and_checks_one_that_is_sent(served: Served, stable: SlotSpec) -> None:
    await served.engine.apply(plan(stable, granted("shop", MODEL)))
    body = infer_body(one_hot(3))
    assert (await served.post(INFER, body))[0] == 200
    assert (await served.post(INFER, body, bearer()))[0] == 200
    assert (await served.post(INFER, body, bearer("wrong")))[0] == 401
    assert served.engine.applications.tallies["shop"].requests == 1


async def test_grpc_asks_for_a_key_as_http_does(wide: Opened, stable: SlotSpec) -> None:
    await wide.engine.apply(plan(stable, granted("shop", MODEL)))
    assert (await call(wide, "ModelMetadata", "name", (("authorization", f"Bearer {KEY}"),))).name == MODEL
    for metadata in ((), (("authorization", "Bearer wrong"),)):
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await call(wide, "ModelMetadata", "name", metadata)
        assert refused.value.code() is grpc.StatusCode.UNAUTHENTICATED
        assert KEY not in str(refused.value.details())


@pytest.mark.parametrize("metadata", [(), (("authorization", "Bearer wrong"),)])
async def test_attack_message_of_a_stranger_is_refused_before_it_is_sent(
    wide: Opened, stable: SlotSpec, metadata: tuple[tuple[str, str], ...]
) -> None:
    await wide.engine.apply(plan(stable, granted("shop", MODEL)))
    credentials = grpc.ssl_channel_credentials(wide.pair.certificate.read_bytes())
    async with grpc.aio.secure_channel(wide.grpc, credentials) as channel:
        ask: grpc.aio.StreamUnaryMultiCallable[Message, Message] = channel.stream_unary(f"/{SERVICE}/ModelInfer")
        assert await ask(metadata=metadata, timeout=10).code() is grpc.StatusCode.UNAUTHENTICATED


@pytest.mark.parametrize(
    "path",
    [
        f"/web/../v2/models/{MODEL}",
        f"/web/%2e%2e/v2/models/{MODEL}",
        f"/web/..%2fv2/models/{MODEL}",
        f"/web//../v2/models/{MODEL}",
        f"/try/../v2/models/{MODEL}",
        f"//v2/models/{MODEL}",
        f"/v2/health/ready/../../models/{MODEL}",
        f"/v2/health/live?/v2/models/{MODEL}",
        f"/web/x?x=/../../v2/models/{MODEL}",
        f"https://localhost/v2/models/{MODEL}",
        f"/%76%32/models/{MODEL}",
        "/metrics;/web/",
        "/%6detrics",
        "/v2/models/st%61ts",
    ],
)
async def test_attack_path_in_disguise_opens_nothing_without_a_key(wide: Opened, stable: SlotSpec, path: str) -> None:
    await wide.engine.apply(plan(stable, granted("shop", MODEL)))
    host, _, port = wide.url.removeprefix("https://").partition(":")
    for key in ("", f"Authorization: Bearer {'l' * 40}\r\n"):
        reader, writer = await asyncio.open_connection(host, int(port), ssl=wide.pair.trusted())
        writer.write(f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{key}\r\n".encode())
        told = await reader.read()
        writer.close()
        assert b"artifact_sha256" not in told
        assert b"litefleet_requests" not in told
        assert b"model_stats" not in told


async def test_attack_application_learns_of_no_model_but_its_own(wide: Opened, stable: SlotSpec) -> None:
    await wide.engine.apply(plan(stable, granted("shop", "other"), granted("lab", MODEL, key="l" * 40)))
    for path, method in (("/v2/repository/index", "POST"), ("/", "GET"), ("/openapi.json", "GET")):
        _, refused, _ = await wide.get(path, bearer(), method=method)
        assert MODEL not in str(refused), path
        status, known, _ = await wide.get(path, bearer("l" * 40), method=method)
        assert status == 200
        assert MODEL in str(known), path
    index = await call(wide, "RepositoryIndex", "", (("authorization", f"Bearer {KEY}"),))
    assert not index.models


async def test_health_of_a_model_that_cannot_answer_is_told_without_its_name(wide: Opened, stable: SlotSpec) -> None:
    unavailable = Route(model=ModelName(MODEL), primary=None, unavailable_reason="reverted")
    await wide.engine.apply(msgspec.structs.replace(plan(stable), slots=(), routes=(unavailable,)))
    status, told, _ = await wide.get("/v2/health/ready")
    assert (status, MODEL in str(told)) == (503, False)
    status, told, _ = await wide.get("/v2/health/ready", unix=True)
    assert (status, MODEL in str(told)) == (503, True)


async def test_plain_text_on_the_tls_port_gets_no_answer(wide: Opened) -> None:
    async with aiohttp.ClientSession() as session:
        with pytest.raises(aiohttp.ClientError):
            await session.get(wide.url.replace("https", "http"))


async def test_new_certificate_serves_new_connections_and_keeps_the_old_ones(wide: Opened, stable: SlotSpec) -> None:
    await wide.engine.apply(plan(stable, granted("shop", MODEL)))
    host, _, port = wide.url.removeprefix("https://").partition(":")
    reader, writer = await asyncio.open_connection(host, int(port), ssl=wide.pair.trusted())
    assert await _status_on(reader, writer) == 200
    serial = wide.pair.write("second", lasting=LASTING)
    assert wide.certificate.refresh()
    assert await _status_on(reader, writer) == 200
    writer.close()
    assert (await wide.get(f"/v2/models/{MODEL}", bearer()))[0] == 200
    assert await _serial(wide) == serial
    assert (await call(wide, "ServerLive", "")).live


async def test_half_of_a_new_certificate_leaves_the_old_one_in_use(wide: Opened, stable: SlotSpec) -> None:
    await wide.engine.apply(plan(stable, granted("shop", MODEL)))
    serial, trusted = await _serial(wide), wide.pair.trusted()
    key = wide.pair.key.read_bytes()
    wide.pair.write("second", lasting=LASTING)
    wide.pair.key.write_bytes(key)
    assert not wide.certificate.refresh()
    connector = aiohttp.TCPConnector(ssl=trusted)
    async with aiohttp.ClientSession(connector=connector) as session, session.get(f"{wide.url}/v2/health/live") as told:
        assert told.status == 200
    assert await _serial(wide) == serial


async def _status_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> int:
    """Ask for the model on a connection that stays open, and return the status."""
    writer.write(f"GET /v2/models/{MODEL} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {KEY}\r\n\r\n".encode())
    head = await reader.readuntil(b"\r\n\r\n")
    length = next(line for line in head.split(b"\r\n") if line.lower().startswith(b"content-length"))
    await reader.readexactly(int(length.partition(b":")[2]))
    return int(head.split()[1])


async def _serial(api: Opened) -> int:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    host, _, port = api.url.removeprefix("https://").partition(":")
    _, writer = await asyncio.open_connection(host, int(port), ssl=context)
    found = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
    writer.close()
    return x509.load_der_x509_certificate(found).serial_number


async def test_preflight_of_a_listed_page_is_answered_before_any_key(wide: Opened) -> None:
    asked = {"Origin": PAGE, "Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization"}
    status, _, headers = await wide.get(INFER, asked, method="OPTIONS")
    assert (status, headers["Access-Control-Allow-Origin"], headers["Vary"]) == (204, PAGE, "Origin")
    assert "Authorization" in headers["Access-Control-Allow-Headers"]
    assert "Access-Control-Allow-Credentials" not in headers


async def test_listed_page_reads_answers_and_refusals(wide: Opened, stable: SlotSpec) -> None:
    await wide.engine.apply(plan(stable, granted("shop", MODEL)))
    for key, expected in ((bearer(), 200), ({}, 401)):
        status, _, headers = await wide.get(f"/v2/models/{MODEL}", {"Origin": PAGE, **key})
        assert (status, headers["Access-Control-Allow-Origin"]) == (expected, PAGE)
        assert "Retry-After" in headers["Access-Control-Expose-Headers"]


@pytest.mark.parametrize("origin", ["https://evil.example", "http://shop.example", f"{PAGE}.evil.example", "null"])
async def test_attack_page_that_is_not_listed_is_refused(wide: Opened, stable: SlotSpec, origin: str) -> None:
    await wide.engine.apply(plan(stable, granted("shop", MODEL)))
    status, _, headers = await wide.get(f"/v2/models/{MODEL}", {"Origin": origin, **bearer()})
    assert (status, "Access-Control-Allow-Origin" in headers) == (403, False)
    asked = {"Origin": origin, "Access-Control-Request-Method": "POST"}
    assert (await wide.get(INFER, asked, method="OPTIONS"))[0] == 403


async def test_page_of_the_server_itself_may_call(wide: Opened, stable: SlotSpec) -> None:
    await wide.engine.apply(plan(stable, granted("shop", MODEL)))
    assert (await wide.get(f"/v2/models/{MODEL}", {"Origin": wide.url, **bearer()}))[0] == 200


async def test_attack_page_asks_the_loopback_behind_a_users_back(served: Served, stable: SlotSpec) -> None:
    await served.engine.apply(plan(stable))
    status, _, _ = await served.post(INFER, infer_body(one_hot(3)), {"Origin": "https://evil.example"})
    assert status == 403


@pytest.mark.parametrize("path", ["/", "/metrics", "/v2", f"/v2/models/{MODEL}", "/v2/models/stats"])
async def test_attack_page_whose_name_leads_to_the_loopback_reads_nothing(
    served: Served, stable: SlotSpec, path: str
) -> None:
    await served.engine.apply(plan(stable, granted("shop", "*")))
    async with aiohttp.ClientSession(headers={"Host": "evil.example:8080"}) as session:
        async with session.get(f"{served.url}{path}") as told:
            assert told.status == 403
            assert MODEL not in await told.text()
        async with session.get(f"{served.url}{path}", headers=bearer()) as told:
            assert told.status == 200
        async with session.get(f"{served.url}/v2/health/live") as told:
            assert told.status == 200


async def test_pages_are_shown_without_a_key_and_name_no_model(wide: Opened, stable: SlotSpec) -> None:
    await wide.engine.apply(plan(stable, granted("shop", MODEL)))
    for path in ("/", "/try", "/web/page.css", "/openapi.json"):
        status, body, _ = await wide.get(path)
        assert status == 200, path
        assert MODEL not in str(body), path
