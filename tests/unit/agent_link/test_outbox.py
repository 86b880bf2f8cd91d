"""What a device says until it is known to be heard; the broker here is a list, the clock the test's own."""

from __future__ import annotations

import asyncio
import random
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import TYPE_CHECKING

import msgspec

from agent.core.plan import SeriesStats, Stats
from agent.link.https import Session
from agent.link.outbox import Outbox, OutboxTimes
from shared.errors import UnreachableError
from shared.hardware import DeviceHardware, Runtime
from shared.ids import BootId, DeviceId, Epoch, Generation, ModelName, ReleaseId
from shared.signing import same_mac, uplink_mac
from shared.topics import Channel, parse
from shared.wire import NO_BODY, Acked, Heartbeat, Report, Telemetry, Uplink
from tests.support.waiting import wait_until_async

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

BOOT = BootId("000000000003")
KEY = b"k" * 32
HARDWARE = DeviceHardware(
    architecture="x86_64", memory_bytes=1, cores=1, runtime=Runtime.AI_EDGE_LITERT, runtime_version="2.1"
)


@dataclass(slots=True)
class TestClock:
    """Stands still until it is moved."""

    __test__ = False
    seconds: float = 0.0

    def now(self) -> datetime:
        return datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=self.seconds)

    def monotonic(self) -> float:
        return self.seconds


@dataclass(slots=True)
class Broker:
    """Keeps what it is given, unless it is away."""

    away: bool = False
    taken: list[tuple[str, Uplink]] = field(default_factory=list)
    refused: int = 0

    async def publish(self, topic: str, payload: bytes, *, qos: int = 1, retain: bool = False) -> None:
        assert (qos, retain) == (1, False)
        if self.away:
            self.refused += 1
            raise UnreachableError("away")
        self.taken.append((topic, msgspec.json.decode(payload, type=Uplink)))

    def on(self, channel: Channel) -> list[Uplink]:
        return [uplink for topic, uplink in self.taken if parse(topic).channel is channel]


@dataclass(slots=True)
class Bench:
    """An outbox, its broker and its clock."""

    outbox: Outbox
    broker: Broker
    clock: TestClock

    async def settle(self) -> None:
        """Let everything that is due happen: a clock that stands still leaves nothing else to wait for."""
        self.outbox._wake.set()
        for _ in range(50):
            await asyncio.sleep(0)

    async def pass_time(self, seconds: float) -> None:
        self.clock.seconds += seconds
        await self.settle()

    def ack(self, seq: int, boot: BootId = BOOT) -> int | None:
        return self.outbox.acknowledged(Acked(boot_id=boot, acked_seq=seq))

    def report_seqs(self) -> list[int]:
        return [uplink.seq for uplink in self.broker.on(Channel.REPORT)]


@asynccontextmanager
async def bench(*, seed: int = 1) -> AsyncIterator[Bench]:
    clock, broker = TestClock(), Broker()
    outbox = Outbox(
        device_id=DeviceId("dev-1"),
        session=Session(boot_id=BOOT, mac_key=KEY),
        publish=broker.publish,
        clock=clock,
        chance=random.Random(seed),
        times=OutboxTimes(heartbeat_s=30.0, telemetry_window_s=60.0, resend_first_s=5.0, resend_ceiling_s=40.0),
    )
    async with asyncio.TaskGroup() as group:
        running = group.create_task(outbox.run())
        yield Bench(outbox=outbox, broker=broker, clock=clock)
        running.cancel()


def report(generation: int) -> Report:
    return Report(
        epoch=Epoch(1),
        generation=Generation(generation),
        body_digest=NO_BODY,
        agent_version="0",
        hardware=HARDWARE,
    )


def heartbeat(generation: int) -> Heartbeat:
    return Heartbeat(epoch=Epoch(1), generation=Generation(generation), body_digest=NO_BODY, pulse_serial=9)


def generations(uplinks: list[Uplink]) -> list[int]:
    return [msgspec.json.decode(uplink.body, type=Report).generation for uplink in uplinks]


def served(requests: int) -> Stats:
    series = SeriesStats(model=ModelName("digits"), release_id=ReleaseId("r1"), counts={"requests": requests})
    return Stats(boot_id=BootId("serving"), series=(series,))


async def test_report_is_proved_by_its_mac() -> None:
    async with bench() as at:
        at.outbox.report(report(1), revision=1)
        await at.settle()
        topic, uplink = at.broker.taken[0]
        body = bytes(uplink.body)
        mac = uplink_mac(KEY, topic=topic, boot_id=BOOT, seq=uplink.seq, body=body)
        assert same_mac(uplink.mac, mac)
        assert msgspec.json.decode(body, type=Report) == report(1)


async def test_report_unacknowledged_is_sent_again_under_a_new_number() -> None:
    async with bench() as at:
        at.outbox.report(report(1), revision=1)
        await at.settle()
        for _ in range(3):
            await at.pass_time(40.0)
        assert generations(at.broker.on(Channel.REPORT)) == [1, 1, 1, 1]
        assert at.report_seqs() == sorted(set(at.report_seqs()))


async def test_report_resent_waits_longer_each_time_up_to_the_ceiling() -> None:
    async with bench() as at:
        at.outbox.report(report(1), revision=1)
        await at.settle()
        sent_at: list[float] = [0.0]
        for _ in range(3000):
            before = len(at.report_seqs())
            at.clock.seconds += 0.1
            at.outbox._wake.set()
            for _ in range(6):
                await asyncio.sleep(0)
            if len(at.report_seqs()) > before:
                sent_at.append(at.clock.seconds)
        gaps = [later - earlier for earlier, later in pairwise(sent_at)]
        for gap, ceiling in zip(gaps, [5.0, 10.0, 20.0, 40.0, 40.0, 40.0], strict=False):
            assert ceiling / 2 - 0.2 <= gap <= ceiling + 0.2


async def test_report_acknowledged_is_not_sent_again_and_names_its_revision_once() -> None:
    async with bench() as at:
        at.outbox.report(report(1), revision=7)
        await at.settle()
        seq = at.report_seqs()[0]
        assert at.ack(seq) == 7
        assert at.ack(seq) is None
        await at.pass_time(500.0)
        assert len(at.report_seqs()) == 1


async def test_acknowledgement_lost_is_made_good_by_that_of_the_resend() -> None:
    async with bench() as at:
        at.outbox.report(report(1), revision=7)
        await at.settle()
        await at.pass_time(5.0)
        first, second = at.report_seqs()
        assert at.ack(second) == 7
        assert at.ack(first) is None


async def test_acknowledgement_of_the_report_before_confirms_nothing_of_the_newest() -> None:
    async with bench() as at:
        at.outbox.report(report(1), revision=1)
        await at.settle()
        old = at.report_seqs()[0]
        at.outbox.report(report(2), revision=2)
        await at.settle()
        assert at.ack(old) is None
        await at.pass_time(5.0)
        assert generations(at.broker.on(Channel.REPORT)) == [1, 2, 2]


async def test_acknowledgement_forged_for_another_boot_or_number_confirms_nothing() -> None:
    async with bench() as at:
        at.outbox.heartbeat(heartbeat(1))
        at.outbox.report(report(1), revision=1)
        await at.settle()
        seq = at.report_seqs()[0]
        assert at.ack(seq, BootId("000000000002")) is None
        assert at.ack(seq + 1) is None
        assert at.ack(seq - 1) is None
        assert at.ack(seq) == 1


async def test_report_while_the_broker_is_away_is_sent_as_soon_as_it_is_back_newest_only() -> None:
    async with bench() as at:
        at.broker.away = True
        at.outbox.report(report(1), revision=1)
        await at.pass_time(100.0)
        at.outbox.report(report(2), revision=2)
        await at.pass_time(100.0)
        at.broker.away = False
        at.outbox.connected()
        await at.settle()
        assert generations(at.broker.on(Channel.REPORT)) == [2]
        assert at.broker.refused >= 2


async def test_heartbeats_come_within_a_fifth_of_their_interval_and_say_the_newest() -> None:
    async with bench() as at:
        at.outbox.heartbeat(heartbeat(1))
        await at.settle()
        for _ in range(600):
            await at.pass_time(1.0)
        at.outbox.heartbeat(heartbeat(2))
        await at.pass_time(36.0)
        beats = at.broker.on(Channel.HEARTBEAT)
        assert 600 / 37 <= len(beats) - 1 <= 600 / 24 + 1
        assert msgspec.json.decode(beats[-1].body, type=Heartbeat) == heartbeat(2)


async def beat_times(seed: int) -> list[float]:
    """Return when a device beat in five minutes."""
    times: list[float] = []
    async with bench(seed=seed) as at:
        at.outbox.heartbeat(heartbeat(1))
        for _ in range(300):
            before = len(at.broker.taken)
            await at.pass_time(1.0)
            times += [at.clock.seconds] * (len(at.broker.taken) - before)
    return times


async def test_heartbeats_of_two_devices_do_not_keep_step() -> None:
    assert await beat_times(1) != await beat_times(2)


async def test_telemetry_of_a_window_is_sent_at_its_end() -> None:
    async with bench() as at:
        at.outbox.measured(served(10))
        await at.pass_time(30.0)
        at.outbox.measured(served(15))
        assert at.broker.on(Channel.TELEMETRY) == []
        await at.pass_time(30.0)
        [uplink] = at.broker.on(Channel.TELEMETRY)
        window = msgspec.json.decode(uplink.body, type=Telemetry)
        assert (window.window_s, window.series[0].counts) == (60.0, {"requests": 15})


async def test_telemetry_while_the_broker_is_away_waits_an_hour_of_windows_and_no_more() -> None:
    async with bench() as at:
        at.broker.away = True
        for minute in range(1, 71):
            at.outbox.measured(served(minute))
            await at.pass_time(60.0)
        at.broker.away = False
        at.outbox.measured(served(71))
        await at.pass_time(60.0)
        windows = [msgspec.json.decode(up.body, type=Telemetry) for up in at.broker.on(Channel.TELEMETRY)]
        assert len(windows) == 60
        assert len({window.window_start for window in windows}) == 60
        assert [window.series[0].counts["requests"] for window in windows] == [1] * 60


async def test_every_message_has_a_number_of_its_own() -> None:
    async with bench() as at:
        at.outbox.heartbeat(heartbeat(1))
        at.outbox.report(report(1), revision=1)
        at.outbox.measured(served(1))
        for _ in range(100):
            await at.pass_time(3.0)
        numbers = [uplink.seq for _, uplink in at.broker.taken]
        assert numbers == sorted(set(numbers))
        assert {parse(topic).channel for topic, _ in at.broker.taken} == {
            Channel.HEARTBEAT,
            Channel.REPORT,
            Channel.TELEMETRY,
        }


async def test_outbox_wakes_by_itself_when_something_is_due() -> None:
    async with bench() as at:
        at.outbox.report(report(1), revision=1)
        await wait_until_async(at.report_seqs, within_s=5.0)


# --- a session that the controller has forgotten ---


async def report_unheard(outbox_bench: Bench, seconds: float) -> None:
    """Report, and let time pass without any acknowledgement, in steps in which resends happen."""
    outbox_bench.outbox.report(report(1), revision=1)
    await outbox_bench.settle()
    for _ in range(int(seconds / 10)):
        await outbox_bench.pass_time(10)


async def test_session_unacknowledged_for_minutes_is_in_doubt() -> None:
    async with bench() as it:
        await report_unheard(it, 120)
        assert not it.outbox.is_unheard
        for _ in range(12):
            await it.pass_time(10)
        assert it.outbox.is_unheard


async def test_session_renewed_is_spoken_under_at_once_and_its_acks_count() -> None:
    async with bench() as it:
        await report_unheard(it, 300)
        old = it.report_seqs()
        it.outbox.renew(Session(boot_id=BootId("000000000004"), mac_key=b"n" * 32))
        await it.settle()
        newest = it.broker.on(Channel.REPORT)[-1]
        assert (newest.boot_id, newest.seq > max(old)) == ("000000000004", True)
        topic = it.broker.taken[-1][0]
        mac = uplink_mac(b"n" * 32, topic=topic, boot_id=newest.boot_id, seq=newest.seq, body=bytes(newest.body))
        assert same_mac(newest.mac, mac)
        assert not it.outbox.is_unheard
        assert it.ack(old[-1]) is None
        assert it.ack(newest.seq, BootId("000000000004")) == 1


async def test_session_renewed_in_vain_is_doubted_later_the_next_time() -> None:
    async with bench() as it:
        await report_unheard(it, 300)
        it.outbox.renew(Session(boot_id=BootId("000000000004"), mac_key=KEY))
        for _ in range(25):
            await it.pass_time(10)
        assert not it.outbox.is_unheard
        for _ in range(20):
            await it.pass_time(10)
        assert it.outbox.is_unheard


async def test_session_is_not_in_doubt_while_the_broker_is_away() -> None:
    async with bench() as it:
        it.broker.away = True
        await report_unheard(it, 600)
        assert not it.outbox.is_unheard


async def test_session_that_is_acknowledged_is_not_in_doubt() -> None:
    async with bench() as it:
        await report_unheard(it, 120)
        it.ack(it.report_seqs()[-1])
        for _ in range(30):
            await it.pass_time(10)
        assert not it.outbox.is_unheard
