"""What devices say: believed with a proof, in order, once; acknowledged when it is stored."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING

import msgspec
import pytest
import sqlalchemy as sa
from sqlmodel import col

from controller.db.audit import AuditEntryRow
from controller.inbox import IncomingMessage
from shared.hardware import DeviceHardware
from shared.ids import BootId, DeviceId, ReleaseId
from shared.metrics import METRICS
from shared.sketches import Sketch
from shared.topics import Channel, device_topic
from shared.wire import Uplink
from tests.support.fleet_world import (
    DIGITS,
    HARDWARE,
    NOW,
    OPERATOR,
    FleetWorld,
    TestClock,
    TestDevice,
    heartbeat,
    report,
    telemetry,
)

if TYPE_CHECKING:
    from controller.telemetry.measurements import Measured

CAM = DeviceId("cam-1")


def altered(message: IncomingMessage, **changes: object) -> IncomingMessage:
    """Change fields of a message's envelope, as a hostile broker can."""
    uplink = msgspec.structs.replace(msgspec.json.decode(message.payload, type=Uplink), **changes)
    return replace(message, payload=msgspec.json.encode(uplink))


async def test_report_is_stored_handed_on_and_acknowledged(world: FleetWorld) -> None:
    device = await world.device("cam-1")
    await world.ingest.take([device.says(Channel.REPORT, report(generation=3))])
    assert [(said.device_id, said.report.generation) for said in world.reports.taken] == [("cam-1", 3)]
    assert world.acks(device) == [1]
    story = await world.fleet.show("cam-1")
    assert story.device.report is not None
    assert story.device.sighting is not None
    assert story.device.sighting.at == NOW


async def test_batch_hands_on_the_newest_report_of_each_device(world: FleetWorld) -> None:
    one, two = await world.device("cam-1"), await world.device("cam-2")
    batch = [one.says(Channel.REPORT, report(generation=number)) for number in range(5)]
    await world.ingest.take([*reversed(batch), two.says(Channel.REPORT, report())])
    assert [(said.device_id, said.seq) for said in world.reports.taken] == [("cam-1", 5), ("cam-2", 1)]
    assert (world.acks(one), world.acks(two)) == ([5], [1])


async def test_report_repeated_is_acknowledged_again_but_not_handed_on(world: FleetWorld) -> None:
    device = await world.device("cam-1")
    message = device.says(Channel.REPORT, report())
    await world.ingest.take([message])
    await world.ingest.take([message])
    assert len(world.reports.taken) == 1
    assert world.acks(device) == [1, 1]
    assert world.ingest.dropped["repeated"] == 1


async def test_attack_forged_mac_is_dropped_and_counted(world: FleetWorld) -> None:
    device = await world.device("cam-1")
    honest = device.says(Channel.REPORT, report())
    await world.ingest.take([altered(honest, mac="0" * 64), altered(honest, mac=""), altered(honest, mac="ü")])
    assert world.reports.taken == []
    assert world.acks(device) == []
    assert world.ingest.dropped == {"forged": 3}


async def test_attack_changed_body_sequence_or_boot_is_dropped(world: FleetWorld) -> None:
    device = await world.device("cam-1")
    honest = device.says(Channel.REPORT, report())
    body = msgspec.Raw(msgspec.json.encode(report(generation=99)))
    changes: list[dict[str, object]] = [{"body": body}, {"seq": 9}, {"boot_id": BootId("000000000009")}]
    await world.ingest.take([altered(honest, **change) for change in changes])
    assert world.ingest.dropped == {"forged": 3}


async def test_attack_message_moved_to_another_devices_topic_is_dropped(world: FleetWorld) -> None:
    device, victim = await world.device("cam-1"), await world.device("cam-2")
    message = device.says(Channel.REPORT, report())
    await world.ingest.take([replace(message, topic=device_topic(victim.device_id, Channel.REPORT))])
    assert world.reports.taken == []
    assert world.ingest.dropped == {"forged": 1}


async def test_attack_message_moved_to_another_channel_is_dropped(world: FleetWorld) -> None:
    device = await world.device("cam-1")
    message = device.says(Channel.HEARTBEAT, heartbeat())
    await world.ingest.take([replace(message, topic=device_topic(device.device_id, Channel.REPORT))])
    assert world.ingest.dropped == {"forged": 1}


async def test_attack_replayed_older_report_changes_nothing(world: FleetWorld) -> None:
    device = await world.device("cam-1")
    old = device.says(Channel.REPORT, report(generation=1))
    await world.ingest.take([old])
    await world.ingest.take([device.says(Channel.REPORT, report(generation=2))])
    await world.ingest.take([old])
    assert [said.report.generation for said in world.reports.taken] == [1, 2]
    assert world.acks(device) == [1, 2, 2]


async def test_attack_message_of_an_ended_boot_is_dropped(world: FleetWorld) -> None:
    device = await world.device("cam-1")
    old = device.says(Channel.REPORT, report(), seq=1_000_000)
    await world.boot(device)
    await world.ingest.take([old])
    assert world.reports.taken == []
    assert world.ingest.dropped == {"refused": 1}


async def test_new_boot_begins_its_sequence_again(world: FleetWorld) -> None:
    device = await world.device("cam-1")
    await world.ingest.take([device.says(Channel.REPORT, report(), seq=500)])
    await world.boot(device)
    await world.ingest.take([device.says(Channel.REPORT, report())])
    assert world.acks(device) == [500, 1]


async def test_attack_removed_device_is_believed_nothing_any_more(world: FleetWorld) -> None:
    device = await world.device("cam-1")
    await world.fleet.remove("cam-1", actor=OPERATOR)
    await world.device("cam-1")
    for channel, body in ((Channel.REPORT, report()), (Channel.HEARTBEAT, heartbeat())):
        await world.ingest.take([device.says(channel, body)])
    await world.ingest.take([device.says(Channel.TELEMETRY, measurements(requests=5))])
    assert world.reports.taken == []
    assert world.ingest.dropped["refused"] == 3
    assert (await world.fleet.show("cam-1")).device.sighting is None


@pytest.mark.parametrize(
    ("topic", "payload"),
    [
        ("lf/v1/00/cam-1/up/report", b"{}"),
        ("lf/v1/report", b"{}"),
        (device_topic(CAM, Channel.DESIRED), b"{}"),
        (device_topic(CAM, Channel.REPORT), b""),
        (device_topic(CAM, Channel.REPORT), b"\xff\xfe"),
        (device_topic(CAM, Channel.REPORT), b"[" * 5000),
        (device_topic(CAM, Channel.REPORT), b'{"x":' + b"[" * 60_000),
    ],
    ids=["other shard", "short topic", "down", "empty", "binary", "deep", "deep in an unknown field"],
)
async def test_attack_malformed_message_is_dropped(world: FleetWorld, topic: str, payload: bytes) -> None:
    await world.ingest.take([IncomingMessage(topic=topic, payload=payload, received_at=NOW)])
    assert world.ingest.dropped == {"malformed": 1}


@pytest.mark.parametrize(
    "body",
    [
        b'{"epoch":0}',
        b'{"epoch":99999999999,"generation":0,"body_digest":"","pulse_serial":0}',
        b'{"epoch":-1,"generation":0,"body_digest":"","pulse_serial":0}',
        b'{"epoch":0,"generation":0,"body_digest":"\\u0000","pulse_serial":0}',
    ],
    ids=["missing", "huge", "negative", "nul"],
)
async def test_attack_enrolled_device_sends_what_no_column_holds_is_dropped(world: FleetWorld, body: bytes) -> None:
    device = await world.device("cam-1")
    await world.ingest.take([device.says(Channel.HEARTBEAT, body)])
    assert world.ingest.dropped == {"malformed": 1}


async def test_attack_sequence_beyond_all_bounds_is_dropped(world: FleetWorld) -> None:
    device = await world.device("cam-1")
    await world.ingest.take([device.says(Channel.REPORT, report(), seq=2**70)])
    assert world.ingest.dropped == {"malformed": 1}


async def test_message_that_no_sink_takes_does_not_keep_the_others_out(world: FleetWorld) -> None:
    devices = [await world.device(f"cam-{number}") for number in range(5)]
    world.reports.refuse.add("cam-3")
    await world.ingest.take([device.says(Channel.REPORT, report()) for device in devices])
    assert {said.device_id for said in world.reports.taken} == {"cam-0", "cam-1", "cam-2", "cam-4"}
    assert [world.acks(device) for device in devices] == [[1], [1], [1], [], [1]]
    assert world.ingest.dropped["cannot_be_stored"] == 1


async def test_heartbeats_say_when_a_device_was_seen_and_a_replay_does_not(world: FleetWorld, clock: TestClock) -> None:
    device = await world.device("cam-1")
    message = device.says(Channel.HEARTBEAT, heartbeat())
    await world.ingest.take([message])
    clock.forward(hours=1)
    await world.ingest.take([replace(message, received_at=clock.now())])
    story = await world.fleet.show("cam-1")
    assert story.device.sighting is not None
    assert story.device.sighting.at == NOW
    assert story.explanation.startswith("silent since 2026-11-22 12:00:00")


async def test_hardware_that_changed_is_noted(world: FleetWorld) -> None:
    device = await world.device("cam-1")
    larger = DeviceHardware(
        architecture="x86_64",
        memory_bytes=2**33,
        cores=8,
        runtime=HARDWARE.runtime,
        runtime_version=HARDWARE.runtime_version,
    )
    await world.ingest.take([device.says(Channel.REPORT, report(hardware=larger))])
    assert [story.device.device_id for story in await world.fleet.listed("arch=x86_64", after=None, limit=9)] == [
        "cam-1"
    ]


async def test_drops_are_audited_in_aggregate_and_not_each(world: FleetWorld, clock: TestClock) -> None:
    device = await world.device("cam-1")
    forged = altered(device.says(Channel.REPORT, report()), mac="0" * 64)
    for _ in range(50):
        await world.ingest.take([forged])
    clock.forward(seconds=61)
    await world.ingest.take([forged])
    assert await audited_drops(world) == [{"forged": 51}]


async def audited_drops(world: FleetWorld) -> list[object]:
    async with world.database.unit_of_work(read_only=True) as uow:
        statement = sa.select(col(AuditEntryRow.detail)).where(col(AuditEntryRow.action) == "uplinks_dropped")
        return list((await uow.session.execute(statement)).scalars())


def measurements(*, requests: int, latency_ms: float = 2.0, start_s: float = 0.0) -> msgspec.Struct:
    sketch = Sketch()
    for _ in range(requests):
        sketch.add(latency_ms)
    series = {
        "model": DIGITS,
        "release_id": "r1",
        "counts": {"requests": requests, "unheard_of": 7},
        "sketches": {"latency_ms": msgspec.to_builtins(sketch, str_keys=True)},
    }
    return telemetry(start=NOW + timedelta(seconds=start_s), series=(series,))


async def sums_of(world: FleetWorld, device: TestDevice) -> Measured | None:
    async with world.database.unit_of_work(read_only=True) as uow:
        sums = await world.telemetry.sums(uow, [device.device_id])
    found = [total for key, total in sums.items() if key.release_id == ReleaseId("r1")]
    return found[0] if found else None


async def test_telemetry_windows_add_up_to_running_sums(world: FleetWorld) -> None:
    device = await world.device("cam-1")
    windows = [measurements(requests=number, start_s=60.0 * number) for number in (1, 2, 3)]
    await world.ingest.take([device.says(Channel.TELEMETRY, window) for window in windows[:2]])
    await world.ingest.take([device.says(Channel.TELEMETRY, windows[2])])
    total = await sums_of(world, device)
    assert total is not None
    assert total.counts == {"requests": 6}
    assert total.sketches["latency_ms"].count == 6
    assert total.sketches["latency_ms"].mean == pytest.approx(2.0)


async def test_drift_is_told_of_the_last_day_and_what_alarmed_first(world: FleetWorld) -> None:
    device = await world.device("cam-1")

    def window(start: timedelta, **counts: int) -> msgspec.Struct:
        named = {name.replace("__", "/"): count for name, count in counts.items()}
        series = {"model": DIGITS, "release_id": "r1", "counts": {"requests": 1, **named}}
        return telemetry(start=NOW - start, series=(series,))

    windows = [
        window(timedelta(days=2), drift_looks__confidence=7, drift_alarms__confidence=7),
        window(timedelta(hours=2), drift_looks__class=2, drift_looks__confidence=2, drift_alarms__confidence=1),
        window(timedelta(hours=1), drift_looks__class=1, drift_looks__confidence=1, drift_alarms__confidence=1),
    ]
    await world.ingest.take([device.says(Channel.TELEMETRY, each) for each in windows])
    found = await world.telemetry.drift(device.device_id)
    assert [(each.figure, each.looks, each.alarms) for each in found] == [("confidence", 3, 2), ("class", 3, 0)]


@pytest.mark.parametrize("counts", [{f"classes/{number}": 1 for number in range(300)}, {"classes/" + "x" * 300: 1}])
async def test_series_with_more_or_longer_labels_than_any_recorder_has_is_refused(
    world: FleetWorld, counts: dict[str, int]
) -> None:
    device = await world.device("cam-1")
    series = {"model": DIGITS, "release_id": "r1", "counts": counts}
    await world.ingest.take([device.says(Channel.TELEMETRY, telemetry(series=(series,)))])
    assert world.ingest.dropped == {"implausible_telemetry": 1}


async def test_telemetry_repeated_counts_once_however_it_comes(world: FleetWorld) -> None:
    device = await world.device("cam-1")
    window = measurements(requests=5)
    first = device.says(Channel.TELEMETRY, window)
    await world.ingest.take([first, first])
    await world.ingest.take([first, device.says(Channel.TELEMETRY, window)])
    total = await sums_of(world, device)
    assert total is not None
    assert total.counts == {"requests": 5}


async def test_telemetry_that_comes_late_is_not_lost(world: FleetWorld) -> None:
    device = await world.device("cam-1")
    early = device.says(Channel.TELEMETRY, measurements(requests=1))
    late = device.says(Channel.TELEMETRY, measurements(requests=2, start_s=60))
    await world.ingest.take([late])
    await world.ingest.take([early])
    total = await sums_of(world, device)
    assert total is not None
    assert total.counts == {"requests": 3}


@pytest.mark.parametrize("days", [-8, 1], ids=["older than kept", "of the future"])
async def test_telemetry_of_a_wrong_clock_is_refused(world: FleetWorld, days: int) -> None:
    device = await world.device("cam-1")
    await world.ingest.take([device.says(Channel.TELEMETRY, measurements(requests=5, start_s=days * 86_400))])
    assert await sums_of(world, device) is None
    assert world.ingest.dropped == {"implausible_telemetry": 1}


async def test_attack_replay_of_a_window_that_was_cleared_out_counts_nothing(
    world: FleetWorld, clock: TestClock
) -> None:
    device = await world.device("cam-1")
    message = device.says(Channel.TELEMETRY, measurements(requests=5))
    await world.ingest.take([message])
    clock.forward(days=8)
    await world.telemetry.clear_out()
    await world.ingest.take([message])
    total = await sums_of(world, device)
    assert total is not None
    assert total.counts == {"requests": 5}


async def test_attack_impossible_measurements_are_refused(world: FleetWorld) -> None:
    device = await world.device("cam-1")
    wrong: list[dict[str, object]] = [
        {"counts": {"requests": -1}},
        {"counts": {"requests": 10**15}},
        {"sketches": {"latency_ms": {"bins": {"1": -5}}}},
        {"sketches": {"latency_ms": {"bins": {"999999": 1}}}},
        {"sketches": {"latency_ms": {"total": -1.0}}},
        {"model": "m" * 64},
    ]
    series = tuple({"model": DIGITS, "release_id": "r1", **fields} for fields in wrong)
    await world.ingest.take([device.says(Channel.TELEMETRY, telemetry(series=series))])
    assert await sums_of(world, device) is None
    assert world.ingest.dropped == {"implausible_telemetry": len(wrong)}


def test_metrics_under_test_are_rows_of_the_table() -> None:
    assert {"requests", "latency_ms"} <= {metric.name for metric in METRICS}
