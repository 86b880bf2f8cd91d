"""Variants, shadows and rewards as callers see them: headers, parameters, endpoints, and every process of a device."""

from __future__ import annotations

import json
import struct
from functools import partial
from typing import TYPE_CHECKING

import grpc
import pytest
from msgspec.structs import replace

from agent.core.plan import Plan, Route
from agent.serving.protocols import open_inference_pb2 as wire
from agent.serving.protocols.oip_grpc import SERVICE
from shared.ids import ReleaseId
from shared.traffic import MAIN, Arm, StickyBy, TrafficMode, TrafficRule, line_of
from tests.support import models
from tests.support.serving import MODEL, Device, http, infer_body, make_slot, one_hot
from tests.support.waiting import wait_until, wait_until_async

if TYPE_CHECKING:
    from pathlib import Path

    from agent.core.plan import SlotSpec
    from tests.support.inference_api import Served

BLUE = line_of(MODEL, "blue")
INFER = f"/v2/models/{MODEL}/infer"
BODY = infer_body(one_hot(0))


def slot(releases: Path, version: int, *, variant: str = MAIN) -> SlotSpec:
    """A release that adds its version to the position."""
    made = make_slot(
        releases, models.one_hot_classifier(shift=version), release=ReleaseId(f"r{version}"), version=version
    )
    return replace(made, model=line_of(MODEL, variant))


def plan(releases: Path, rule: TrafficRule | None, *, serial: int = 1) -> Plan:
    """Version 1 on the main line, version 2 on `blue`."""
    slots = (slot(releases, 1), slot(releases, 2, variant="blue"))
    routes = tuple(Route(model=each.model, primary=each.release_id) for each in slots)
    return Plan(serial=serial, slots=slots, routes=routes, traffic=(rule,) if rule else ())


EVEN = TrafficRule(model=MODEL, arms=(Arm(variant=MAIN, weight=1), Arm(variant="blue", weight=1)))
LEARNED = replace(EVEN, mode=TrafficMode.BANDIT)
PINNED = replace(EVEN, sticky_by=StickyBy.KEY, pins={"one": MAIN, "two": "blue"})


async def test_reply_says_which_variant_answered_in_header_and_parameters(served: Served, tmp_path: Path) -> None:
    await served.engine.apply(plan(tmp_path, PINNED))
    for key, variant in (("one", MAIN), ("two", "blue")):
        _, body, headers = await served.post(INFER, BODY, {"Litefleet-Key": key})
        assert (headers["Litefleet-Variant"], body["parameters"]["variant"]) == (variant, variant)
        assert "Litefleet-Reply-Id" not in headers


async def test_without_a_rule_nothing_is_said_of_variants(served: Served, tmp_path: Path) -> None:
    await served.engine.apply(plan(tmp_path, None))
    _, body, headers = await served.post(INFER, BODY)
    assert ("Litefleet-Variant" in headers, "variant" in body["parameters"]) == (False, False)


async def test_every_protocol_over_http_divides_and_says_who_answered(served: Served, tmp_path: Path) -> None:
    await served.engine.apply(plan(tmp_path, PINNED))
    row = json.dumps({"instances": [one_hot(0)]}).encode()
    file = json.dumps({"input": [one_hot(0)]}).encode()
    json_body = {"Content-Type": "application/json", "Litefleet-Key": "two"}
    for path, data in ((f"/v1/models/{MODEL}:predict", row), ("/model/predict", file)):
        status, _, headers = await served.post(path, data, json_body)
        assert (status, headers["Litefleet-Variant"]) == (200, "blue")


async def test_grpc_divides_by_its_metadata_and_says_who_answered(served: Served, tmp_path: Path) -> None:
    await served.engine.apply(plan(tmp_path, replace(LEARNED, sticky_by=StickyBy.KEY, pins=PINNED.pins)))

    async def ask(key: str) -> dict[str, str]:
        asked = wire.ModelInferRequest(model_name=MODEL, raw_input_contents=[struct.pack("<10f", *one_hot(0))])
        asked.inputs.add(name="input", datatype="FP32", shape=[1, 10])
        async with grpc.aio.insecure_channel(served.grpc) as channel:
            call = channel.unary_unary(
                f"/{SERVICE}/ModelInfer",
                request_serializer=wire.ModelInferRequest.SerializeToString,
                response_deserializer=wire.ModelInferResponse.FromString,
            )
            answer = await call(asked, metadata=(("litefleet-key", key),), timeout=20)
            return {name: value.string_param for name, value in answer.parameters.items()}

    for key, variant in (("one", MAIN), ("two", "blue")):
        parameters = await ask(key)
        assert (parameters["variant"], len(parameters["reply_id"])) == (variant, 44)


async def test_label_names_a_variant(served: Served, tmp_path: Path) -> None:
    await served.engine.apply(plan(tmp_path, EVEN))
    row = json.dumps({"instances": [one_hot(0)]}).encode()
    for label, position in (("stable", 1), ("blue", 2), ("main", 1)):
        _, body, _ = await served.post(f"/v1/models/{MODEL}/labels/{label}:predict", row)
        assert body["predictions"][0].index(max(body["predictions"][0])) == position
    status, _, _ = await served.post(f"/v1/models/{MODEL}/labels/canary:predict", row)
    assert status == 404


async def test_index_and_metadata_tell_every_version_under_the_models_name(served: Served, tmp_path: Path) -> None:
    await served.engine.apply(plan(tmp_path, EVEN))
    _, body, _ = await served.post_raw("/v2/repository/index", b"")
    assert [(entry["name"], entry["version"]) for entry in json.loads(body)] == [(MODEL, "1"), (MODEL, "2")]
    assert (await served.get(f"/v2/models/{MODEL}"))[1]["versions"] == ["1", "2"]
    assert (await served.get(f"/v2/models/{MODEL}/versions/2"))[0] == 200
    assert (await served.get(f"/v2/models/{BLUE}"))[0] == 404


async def test_traffic_tells_rule_arms_and_counts(served: Served, tmp_path: Path) -> None:
    await served.engine.apply(plan(tmp_path, PINNED))
    for key in ("one", "two", "two"):
        await served.post(INFER, BODY, {"Litefleet-Key": key})
    _, body = await served.get(f"/v2/models/{MODEL}/traffic")
    assert (body["mode"], body["sticky_by"], body["pins"]) == ("weighted", "key", 2)
    assert [(arm["variant"], arm["version"], arm["share"], arm["requests"]) for arm in body["arms"]] == [
        (MAIN, "1", 0.5, 1),
        ("blue", "2", 0.5, 2),
    ]
    assert (await served.get("/v2/models/nobody/traffic"))[0] == 404


async def test_comparison_tells_what_the_shadow_showed(served: Served, tmp_path: Path) -> None:
    rule = TrafficRule(model=MODEL, arms=(Arm(variant=MAIN, weight=1),), shadow="blue")
    await served.engine.apply(plan(tmp_path, rule))
    for done in range(0, 40, 4):
        for _ in range(4):
            await served.post(INFER, BODY)
        await wait_until_async(partial(_has_pairs, served, done + 4))
    _, body = await served.get(f"/v2/models/{MODEL}/comparison")
    (found,) = body["comparisons"]
    assert (found["variant"], found["by_rule"], found["candidate"], found["stable"]) == ("blue", True, "r2", "r1")
    assert (found["pairs"], found["flips"], found["flips_verdict"]) == (40, 40, "fail")
    assert sum(found["distances"]["counts"]) == sum(found["latency_ratios"]["counts"]) == 40


def _has_pairs(served: Served, count: int) -> bool:
    return sum(pair.counts.pairs for pair in served.engine.stats().pairs) >= count


async def test_feedback_is_taken_once_for_an_answer_that_was_given(served: Served, tmp_path: Path) -> None:
    await served.engine.apply(plan(tmp_path, LEARNED))
    _, body, headers = await served.post(INFER, BODY)
    reply_id = headers["Litefleet-Reply-Id"]
    assert body["parameters"]["reply_id"] == reply_id
    said = json.dumps({"reply_id": reply_id, "reward": 0.5}).encode()
    assert (await served.post("/v2/feedback", said))[:2] == (200, {"counted": True})
    status, problem, _ = await served.post("/v2/feedback", said)
    assert (status, problem["reason"]) == (409, "conflict")
    unknown = json.dumps({"reply_id": "a" * 44, "reward": 0.5}).encode()
    assert (await served.post("/v2/feedback", unknown))[0] == 404


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b'{"reply_id": "x"}',
        b'{"reply_id": "x", "reward": 1.5}',
        b'{"reply_id": "x", "reward": -0.1}',
        b'{"reply_id": "x", "reward": NaN}',
        b'{"reply_id": "x", "reward": "1"}',
        b'{"reply_id": 7, "reward": 1}',
    ],
)
async def test_attack_feedback_that_is_none_is_refused(served: Served, body: bytes) -> None:
    assert (await served.post("/v2/feedback", body))[0] == 400


def test_reward_counts_in_every_process_and_outlives_a_restart(tmp_path: Path) -> None:
    with Device(tmp_path / "state", processes=2) as device:
        device.write_boot(plan(device.releases, LEARNED))
        device.start()
        device.wait_ready()
        # Each request is a connection of its own, and lands on either process.
        for _ in range(40):
            answer = http(f"{device.url}{INFER}", BODY)
            reward = float(answer.headers["Litefleet-Variant"] == "blue")
            said = json.dumps({"reply_id": answer.headers["Litefleet-Reply-Id"], "reward": reward}).encode()
            assert http(f"{device.url}/v2/feedback", said).status == 200
            assert http(f"{device.url}/v2/feedback", said).status == 409
        assert _trials(device) == 40
        learned = _posteriors(device)
        device.stop()
        device.start()
        wait_until(device.is_ready, within_s=20, what="serving is ready again")
        assert _posteriors(device) == learned


def _posteriors(device: Device) -> dict[str, tuple[float, float]]:
    arms = http(f"{device.url}/v2/models/{MODEL}/traffic").body["arms"]
    return {arm["variant"]: (arm["posterior"]["alpha"], arm["posterior"]["beta"]) for arm in arms}


def _trials(device: Device) -> float:
    return sum(alpha + beta - 2 for alpha, beta in _posteriors(device).values())
