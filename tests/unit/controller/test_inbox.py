"""What waits between broker and database is bounded."""

from __future__ import annotations

from datetime import UTC, datetime

from controller.inbox import Inbox, IncomingMessage, Overflow
from shared.ids import DeviceId
from shared.topics import Channel, device_topic

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)
CAM = DeviceId("cam-1")
# Three messages of 1,000 bytes of payload fit a lane, a fourth does not.
SMALL = 2 * 3 * 1512


def message(channel: Channel, number: int, size: int = 1000) -> IncomingMessage:
    payload = str(number).encode().ljust(size)
    return IncomingMessage(topic=device_topic(CAM, channel), payload=payload, received_at=NOW)


def numbers(messages: list[IncomingMessage]) -> list[int]:
    return [int(one.payload) for one in messages]


def test_inbox_says_once_a_burst_that_something_waits() -> None:
    inbox = Inbox()
    assert [inbox.put(message(Channel.REPORT, number)) for number in range(3)] == [True, False, False]
    inbox.take(10)
    assert inbox.put(message(Channel.TELEMETRY, 4))


def test_inbox_keeps_order_and_lets_telemetry_wait() -> None:
    inbox = Inbox()
    for number, channel in enumerate([Channel.TELEMETRY, Channel.REPORT, Channel.HEARTBEAT, Channel.TELEMETRY]):
        inbox.put(message(channel, number))
    assert numbers(inbox.take(3)) == [1, 2, 0]
    assert numbers(inbox.take(3)) == [3]
    assert inbox.waiting() == 0


def test_inbox_full_of_reports_drops_the_newest() -> None:
    inbox = Inbox(max_bytes=SMALL)
    for number in range(5):
        inbox.put(message(Channel.REPORT, number))
    assert numbers(inbox.take(10)) == [0, 1, 2]
    assert inbox.dropped() == {Overflow.DROP_NEWEST: 2, Overflow.DROP_OLDEST: 0}


def test_inbox_full_of_telemetry_drops_the_oldest() -> None:
    inbox = Inbox(max_bytes=SMALL)
    for number in range(5):
        inbox.put(message(Channel.TELEMETRY, number))
    assert numbers(inbox.take(10)) == [2, 3, 4]
    assert inbox.dropped() == {Overflow.DROP_NEWEST: 0, Overflow.DROP_OLDEST: 2}


def test_attack_telemetry_flood_costs_no_report() -> None:
    inbox = Inbox(max_bytes=SMALL)
    for number in range(100):
        inbox.put(message(Channel.TELEMETRY, number))
    inbox.put(message(Channel.REPORT, 7))
    assert numbers(inbox.take(1)) == [7]


def test_inbox_refuses_what_is_larger_than_itself_and_has_room_again_after() -> None:
    inbox = Inbox(max_bytes=SMALL)
    inbox.put(message(Channel.TELEMETRY, 1, size=SMALL))
    inbox.put(message(Channel.REPORT, 2, size=SMALL))
    assert inbox.waiting() == 0
    for _ in range(3):
        for number in range(3):
            inbox.put(message(Channel.REPORT, number))
        assert numbers(inbox.take(10)) == [0, 1, 2]
