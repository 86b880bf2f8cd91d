"""Requests that a device wrote down, from its disk to the controller's store, over real TLS."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import msgspec
import pytest
import structlog

from agent.link.https import DeviceApi
from agent.link.request_uploads import RequestUploads
from agent.serving.recording.segments import KEPT, UP
from controller.telemetry.requests import KEPT_FOR, RequestRecords
from shared.errors import InvalidInputError
from shared.ids import DeviceId
from shared.request_log import MAX_RECORD_BYTES, MAX_SEGMENT_BYTES, LoggedRequest, RequestEvent
from tests.integration.controller.fleet.test_device_routes import Listening, listening, status_of
from tests.support.ports import free_port

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["listening"]

CAM = DeviceId("cam-1")


def line(number: int, *, model: str = "digits", top: str = "3") -> bytes:
    """One record as a device writes it."""
    said = LoggedRequest(
        model=model,
        variant="main",
        version="1",
        release_id="r1",
        protocol="oip",
        inputs=(),
        outputs=(),
        top=top,
        confidence=0.9,
        latency_ms=2.0,
        invoke_ms=1.0,
        sample_rate=1.0,
    )
    event = RequestEvent(
        source="/models/digits/releases/r1", id=f"boot-{number:09d}", time="2026-11-22T12:00:00Z", data=said
    )
    return msgspec.json.encode(event) + b"\n"


def records(listening: Listening) -> RequestRecords:
    """The controller's store."""
    return RequestRecords(database=listening.world.database)


async def ids(
    listening: Listening, *, model: str | None = None, after: str | None = None, limit: int = 100
) -> list[str]:
    """What the store has of the device."""
    found = await records(listening).listed(CAM, model=model, after=after, limit=limit)
    return [each.event_id for each in found]


async def test_files_are_sent_oldest_first_and_stay_on_the_device(listening: Listening, tmp_path: Path) -> None:
    await listening.enrolled(CAM)
    folder = tmp_path / "log"
    folder.mkdir()
    (folder / f"2-boot-3{UP}").write_bytes(line(3))
    (folder / f"1-boot-1{UP}").write_bytes(line(1) + line(2))
    (folder / f"3-boot-4{KEPT}").write_bytes(line(4))
    async with listening.api(CAM) as api:
        assert await RequestUploads(api, folder, chance=random.Random(1)).send_ready()
    assert await ids(listening) == ["boot-000000001", "boot-000000002", "boot-000000003"]
    assert {path.suffix for path in folder.iterdir()} == {KEPT}


async def test_file_that_is_sent_again_counts_once(listening: Listening) -> None:
    await listening.enrolled(CAM)
    async with listening.api(CAM) as api:
        await api.send_requests(line(1))
        await api.send_requests(line(1) + line(2) + line(2))
    assert await ids(listening) == ["boot-000000001", "boot-000000002"]


async def test_file_waits_while_the_controller_is_away(listening: Listening, tmp_path: Path) -> None:
    await listening.enrolled(CAM)
    folder = tmp_path / "log"
    folder.mkdir()
    (folder / f"1-boot-1{UP}").write_bytes(line(1))
    async with DeviceApi(controller_url=f"https://localhost:{free_port()}", tls=listening.tls(CAM)) as away:
        assert not await RequestUploads(away, folder, chance=random.Random(1)).send_ready()
    assert [path.suffix for path in folder.iterdir()] == [UP]
    assert await ids(listening) == []


@pytest.mark.parametrize("refused", [b"no record\n", b" " * (MAX_SEGMENT_BYTES + 1)])
async def test_file_that_the_controller_will_never_take_stays_and_holds_up_no_other(
    listening: Listening, tmp_path: Path, refused: bytes
) -> None:
    await listening.enrolled(CAM)
    folder = tmp_path / "log"
    folder.mkdir()
    (folder / f"1-boot-1{UP}").write_bytes(refused)
    (folder / f"2-boot-2{UP}").write_bytes(line(2))
    async with listening.api(CAM) as api:
        with structlog.testing.capture_logs() as logged:
            assert await RequestUploads(api, folder, chance=random.Random(1)).send_ready()
    assert await ids(listening) == ["boot-000000002"]
    assert (folder / f"1-boot-1{KEPT}").read_bytes() == refused
    assert [(each["event"], each["file"]) for each in logged] == [("requests_refused", f"1-boot-1{UP}")]


async def test_records_are_paged_and_chosen_by_model(listening: Listening) -> None:
    await listening.enrolled(CAM)
    await records(listening).take(CAM, b"".join([line(1), line(2, model="door"), line(3), line(4)]))
    assert await ids(listening, model="digits", limit=2) == ["boot-000000001", "boot-000000003"]
    assert await ids(listening, model="digits", after="boot-000000003") == ["boot-000000004"]


@pytest.mark.parametrize(
    "body",
    [
        b"{}\n",
        b"[]\n",
        b"\xff\n",
        line(1) + b"{",
        line(1).replace(b"dev.litefleet", b"org.kubeflow"),
        line(1, model="m" * 64),
        line(1, top="\0"),
        line(1, top="x" * MAX_RECORD_BYTES),
    ],
)
async def test_body_with_anything_but_records_is_refused_whole(listening: Listening, body: bytes) -> None:
    with pytest.raises(InvalidInputError, match="line"):
        await records(listening).take(CAM, line(7) + body)
    assert await ids(listening) == []


async def test_only_devices_may_send_and_no_more_than_a_file(listening: Listening) -> None:
    await listening.enrolled(CAM)
    url = f"{listening.url}/device/v1/request-log"
    assert (await status_of(url, listening.anonymous(), method="POST", data=line(1)))[0] == 401
    large = b" " * (MAX_SEGMENT_BYTES + 1)
    assert (await status_of(url, listening.tls(CAM), method="POST", data=large))[0] == 413


async def test_device_keeps_its_newest_records_and_none_for_ever(listening: Listening) -> None:
    few = RequestRecords(database=listening.world.database, per_device=3)
    await few.take(CAM, b"".join(line(number) for number in range(1, 4)))
    await few.take(DeviceId("cam-2"), line(1))
    await few.take(CAM, b"".join(line(number) for number in (4, 5)))
    assert await ids(listening) == ["boot-000000003", "boot-000000004", "boot-000000005"]
    assert len(await records(listening).listed(DeviceId("cam-2"), model=None, after=None, limit=10)) == 1
    listening.world.clock.forward(seconds=KEPT_FOR.total_seconds() + 1)
    await records(listening).clear_out()
    assert await ids(listening) == []
