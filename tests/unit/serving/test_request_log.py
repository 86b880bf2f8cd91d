from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
import pytest

from agent.serving.recording import segments
from agent.serving.recording.observation import QUEUE_BYTES
from agent.serving.recording.request_log import RequestLog
from agent.serving.recording.segments import KEPT, OPEN, OPEN_UP, UP, Segment
from agent.serving.requests import ClassifyRequest, InferRequest, NamedTensor
from shared.clock import SystemClock
from shared.request_log import MAX_RECORD_BYTES, REQUEST_TYPE, LogConsent, LogWish
from tests.support import models
from tests.support.file_size import file_size_limit
from tests.support.inference_api import IMAGE_PIPELINE, picture
from tests.support.serving import MODEL, one_hot, plan_of
from tests.support.waiting import wait_until
from tests.support.watching import BOOT, ask, watched_slot, watching_engine

if TYPE_CHECKING:
    from pathlib import Path

    from agent.core.plan import Plan
    from agent.serving.engine import Engine

EVERYTHING = LogConsent(inputs=True, outputs=True, upstream=True)


def log_in(folder: Path, *, segment_bytes: int = 4096, budget_bytes: int = 64 * 1024) -> RequestLog:
    """A log of small files."""
    return RequestLog(
        folder=folder, boot_id=BOOT, clock=SystemClock(), segment_bytes=segment_bytes, budget_bytes=budget_bytes
    )


def wished(plan: Plan, *, rate: float = 1.0, upstream: bool = False) -> Plan:
    """The same plan, with requests of its model written down."""
    return msgspec.structs.replace(plan, request_logs=(LogWish(model=MODEL, sample_rate=rate, upstream=upstream),))


async def watched(engine: Engine, plan: Plan) -> None:
    """Apply a plan, and wait until its releases are watched as it says."""
    await engine.apply(plan)
    observer = engine.observer
    assert observer is not None
    (wish,) = plan.request_logs or (None,)
    wait_until(lambda: any(each.wish == wish for each in observer.watches.values()), what="release is watched")


async def logged(engine: Engine, folder: Path) -> list[dict[str, Any]]:
    """Close everything, and return what was written."""
    assert engine.observer is not None
    engine.observer.close()
    await engine.close()
    return [json.loads(line) for line in segments.lines(folder)]


async def test_request_is_written_as_a_cloud_event_without_a_word_of_its_caller(tmp_path: Path) -> None:
    engine = watching_engine(log_in(tmp_path / "log"))
    await watched(engine, wished(plan_of(watched_slot(tmp_path, consent=EVERYTHING))))
    await ask(engine, one_hot(3), headers={"authorization": "Bearer secret-key"})
    (event,) = await logged(engine, tmp_path / "log")
    assert (event["specversion"], event["type"], event["id"]) == ("1.0", REQUEST_TYPE, "boot-000000001")
    assert event["source"] == f"/models/{MODEL}/releases/release-stable"
    assert event["time"].endswith("Z")
    data = event["data"]
    assert (data["model"], data["version"], data["variant"], data["protocol"]) == (MODEL, "4", "main", "oip")
    assert data["inputs"] == [{"name": "input", "datatype": "float32", "shape": [1, 10], "data": [one_hot(3)]}]
    assert data["top"] == "3"
    assert data["latency_ms"] > 0
    assert not any(word in json.dumps(event) for word in ("secret-key", "customer-7", "shop", "authorization"))


@pytest.mark.parametrize("consent", [LogConsent(), LogConsent(inputs=True, redact=("input",))])
async def test_input_without_consent_or_redacted_is_its_shape_alone(tmp_path: Path, consent: LogConsent) -> None:
    engine = watching_engine(log_in(tmp_path / "log"))
    await watched(engine, wished(plan_of(watched_slot(tmp_path, consent=consent))))
    await ask(engine, one_hot(3))
    (event,) = await logged(engine, tmp_path / "log")
    (given,) = event["data"]["inputs"]
    assert given["shape"] == [1, 10]
    assert "data" not in given
    assert given["omitted"] == ("redacted" if consent.redact else "no_consent")


@pytest.mark.parametrize("redact", [("input",), ("encoded",), ("serving_default_image:0",)])
async def test_attack_input_under_another_name_is_redacted_all_the_same(
    tmp_path: Path, redact: tuple[str, ...]
) -> None:
    engine = watching_engine(log_in(tmp_path / "log"))
    consent = msgspec.structs.replace(EVERYTHING, redact=redact)
    await watched(engine, wished(plan_of(watched_slot(tmp_path, consent=consent))))
    given = NamedTensor(name="x" * MAX_RECORD_BYTES, array=np.array([one_hot(3)], np.float32))
    await ask(engine, InferRequest(inputs=(given,)))
    (event,) = await logged(engine, tmp_path / "log")
    assert event["data"]["inputs"] == [
        {"name": "input", "datatype": "float32", "shape": [1, 10], "omitted": "redacted"}
    ]


@pytest.mark.parametrize("redact", ["input", "encoded", "image"])
async def test_image_of_a_redacted_input_is_not_told_encoded_either(tmp_path: Path, redact: str) -> None:
    slot = watched_slot(
        tmp_path,
        model=models.one_hot_classifier(input_shape=(1, 10, 1)),
        pipeline=IMAGE_PIPELINE,
        consent=msgspec.structs.replace(EVERYTHING, redact=(redact,)),
    )
    engine = watching_engine(log_in(tmp_path / "log"))
    await watched(engine, wished(plan_of(slot)))
    await ask(engine, ClassifyRequest.of([picture(3)]))
    (event,) = await logged(engine, tmp_path / "log")
    assert [each["omitted"] for each in event["data"]["inputs"]] == ["redacted"]


@pytest.mark.parametrize("redact", ["scores", "what nothing is called"])
async def test_redacted_output_is_told_by_no_other_field(tmp_path: Path, redact: str) -> None:
    engine = watching_engine(log_in(tmp_path / "log"))
    consent = msgspec.structs.replace(EVERYTHING, redact=(redact,))
    await watched(engine, wished(plan_of(watched_slot(tmp_path, consent=consent))))
    await ask(engine, one_hot(3))
    (event,) = await logged(engine, tmp_path / "log")
    assert event["data"]["outputs"][0]["omitted"] == "redacted"
    assert (event["data"]["top"], event["data"]["confidence"]) == ("", None)


async def test_outputs_that_may_not_be_told_are_told_by_no_other_field(tmp_path: Path) -> None:
    engine = watching_engine(log_in(tmp_path / "log"))
    await watched(engine, wished(plan_of(watched_slot(tmp_path, consent=LogConsent(outputs=False)))))
    await ask(engine, one_hot(3))
    (event,) = await logged(engine, tmp_path / "log")
    assert "data" not in event["data"]["outputs"][0]
    assert (event["data"]["top"], event["data"]["confidence"]) == ("", None)


@pytest.mark.parametrize(("consent", "rate"), [(None, 1.0), (EVERYTHING, 0.0)])
async def test_nothing_is_written_unless_release_and_desired_both_say_so(
    tmp_path: Path, consent: LogConsent | None, rate: float
) -> None:
    slot = watched_slot(tmp_path, consent=consent, references=())
    engine = watching_engine(log_in(tmp_path / "log"))
    await engine.apply(wished(plan_of(slot), rate=rate))
    for _ in range(20):
        await ask(engine, one_hot(3))
    assert await logged(engine, tmp_path / "log") == []
    assert not (tmp_path / "log").exists()


async def test_share_of_the_requests_is_written(tmp_path: Path) -> None:
    log = log_in(tmp_path / "log", segment_bytes=64 * 1024, budget_bytes=10**7)
    engine = watching_engine(log)
    await watched(engine, wished(plan_of(watched_slot(tmp_path, consent=EVERYTHING)), rate=0.25))
    for _ in range(400):
        await ask(engine, one_hot(3))
    events = await logged(engine, tmp_path / "log")
    assert 60 <= len(events) + sum(log.dropped.values()) <= 140
    assert {event["data"]["sample_rate"] for event in events} == {0.25}
    assert len({event["id"] for event in events}) == len(events)


async def test_values_too_large_for_a_line_are_left_out_of_it(tmp_path: Path) -> None:
    slot = watched_slot(tmp_path, model=models.random_classifier(30_000, 4, seed=1), consent=EVERYTHING)
    engine = watching_engine(log_in(tmp_path / "log"))
    await watched(engine, wished(plan_of(slot)))
    await ask(engine, [1.0] * 30_000)
    (event,) = await logged(engine, tmp_path / "log")
    assert event["data"]["inputs"][0]["omitted"] == "too_large"
    assert len(json.dumps(event)) < MAX_RECORD_BYTES


async def test_requests_that_wait_hold_little_memory_and_those_beyond_it_are_counted(tmp_path: Path) -> None:
    log = log_in(tmp_path / "log")
    slot = watched_slot(tmp_path, model=models.random_classifier(30_000, 4, seed=1), consent=EVERYTHING)
    engine = watching_engine(log)
    await watched(engine, wished(plan_of(slot)))
    items = np.ones((QUEUE_BYTES // 120_000 + 1, 30_000), np.float32)
    await ask(engine, InferRequest(inputs=(NamedTensor(name="input", array=items),)))
    assert await logged(engine, tmp_path / "log") == []
    assert log.dropped == {"queue_full": 1}


async def test_images_are_written_as_they_were_sent(tmp_path: Path) -> None:
    slot = watched_slot(
        tmp_path,
        model=models.one_hot_classifier(input_shape=(1, 10, 1)),
        pipeline=IMAGE_PIPELINE,
        consent=EVERYTHING,
    )
    engine = watching_engine(log_in(tmp_path / "log"))
    await watched(engine, wished(plan_of(slot)))
    encoded = picture(3)
    await ask(engine, ClassifyRequest.of([encoded, picture(4)]))
    (event,) = await logged(engine, tmp_path / "log")
    given, _ = event["data"]["inputs"]
    assert (given["datatype"], given["shape"]) == ("bytes", [len(encoded)])
    assert msgspec.json.decode(json.dumps(given["data"]).encode(), type=bytes) == encoded


async def test_records_that_may_leave_the_device_lie_apart_from_those_that_may_not(tmp_path: Path) -> None:
    for name, consent in (("may", EVERYTHING), ("may-not", LogConsent())):
        folder = tmp_path / name
        engine = watching_engine(log_in(folder / "log"))
        await watched(engine, wished(plan_of(watched_slot(folder, consent=consent)), upstream=True))
        await ask(engine, one_hot(3))
        assert len(await logged(engine, folder / "log")) == 1
    assert len(segments.files(tmp_path / "may" / "log", UP)) == 1
    assert len(segments.files(tmp_path / "may-not" / "log", KEPT)) == 1


async def test_oldest_files_give_way_within_the_budget(tmp_path: Path) -> None:
    folder = tmp_path / "log"
    log = log_in(folder, segment_bytes=2048, budget_bytes=10_000)
    slot = watched_slot(tmp_path, consent=EVERYTHING)
    engine = watching_engine()
    await engine.apply(plan_of(slot))
    reply = await ask(engine, one_hot(3))
    wish = LogWish(model=MODEL, sample_rate=1.0)
    for _ in range(60):
        log.write(reply, ready_s=reply.ask.received_s, wish=wish, consent=EVERYTHING)
        assert sum(path.stat().st_size for path in folder.iterdir()) <= 10_000
    numbers = [int(json.loads(line)["id"].partition("-")[2]) for line in segments.lines(folder)]
    assert numbers == list(range(numbers[0], 61))
    assert numbers[0] > 1
    await engine.close()


async def test_full_disk_drops_records_counts_them_and_leaves_only_whole_lines(tmp_path: Path) -> None:
    folder = tmp_path / "log"
    log = log_in(folder, segment_bytes=64 * 1024)
    engine = watching_engine()
    await engine.apply(plan_of(watched_slot(tmp_path, consent=EVERYTHING)))
    reply = await ask(engine, one_hot(3))
    wish = LogWish(model=MODEL, sample_rate=1.0)
    with file_size_limit(2_000):
        for _ in range(10):
            log.write(reply, ready_s=reply.ask.received_s, wish=wish, consent=EVERYTHING)
    log.close()
    lines = list(segments.lines(folder))
    assert [json.loads(line)["id"] for line in lines] == [f"boot-{number + 1:09d}" for number in range(len(lines))]
    assert log.dropped == {"disk_full": 10 - len(lines)}
    assert log.written == len(lines) > 0
    await engine.close()


@pytest.mark.parametrize(("suffix", "final"), [(OPEN, KEPT), (OPEN_UP, UP)])
def test_file_of_a_process_that_died_is_cut_to_whole_lines_and_closed(tmp_path: Path, suffix: str, final: str) -> None:
    (tmp_path / f"1-dead-1{suffix}").write_bytes(b'{"a":1}\n{"b":')
    segments.take_orphans(tmp_path)
    assert (tmp_path / f"1-dead-1{final}").read_bytes() == b'{"a":1}\n'
    assert list(tmp_path.iterdir()) == [tmp_path / f"1-dead-1{final}"]


def test_file_of_a_process_that_lives_is_left_to_it(tmp_path: Path) -> None:
    segment = Segment(tmp_path / f"1-alive-1{OPEN}", now_s=0.0)
    segment.append(b"{}\n")
    segments.take_orphans(tmp_path)
    assert [path.suffix for path in tmp_path.iterdir()] == [OPEN]
    segment.close()
    assert [path.suffix for path in tmp_path.iterdir()] == [KEPT]


def test_what_waits_to_be_sent_gives_way_last(tmp_path: Path) -> None:
    for name in (f"1{UP}", f"2{KEPT}", f"3{KEPT}"):
        (tmp_path / name).write_bytes(b"x" * 100)
    segments.make_room(tmp_path, budget_bytes=250, needed_bytes=100)
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"1{UP}"]
