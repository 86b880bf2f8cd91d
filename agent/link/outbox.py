"""What the device has to say, until it is known to be heard."""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Never, Protocol

import msgspec

from agent.link.telemetry import TelemetryWindow
from shared.errors import UnreachableError
from shared.signing import uplink_mac
from shared.topics import Channel, device_topic
from shared.wire import Uplink

if TYPE_CHECKING:
    import random

    from agent.core.plan import Stats
    from agent.link.https import Session
    from shared.clock import Clock
    from shared.ids import DeviceId
    from shared.wire import Acked, Heartbeat, Report, Telemetry

_HEARTBEAT_SPREAD = 0.2
"""Share by which a wait is shortened or lengthened, so that a fleet does not beat in step."""
_MAX_WINDOWS = 60
"""Telemetry kept while the broker is away: an hour of one-minute windows, some tens of kilobytes. Oldest go first."""
_PATIENCE_CEILING_S = 3600.0
"""Longest time between new sessions that do not help: then it is not the session that is wrong."""
_MAX_SENDINGS = 64
"""Sequence numbers remembered of one report; far more than can be on the way between two resends."""


class Publish(Protocol):
    """How the outbox reaches the broker: `MqttLink.publish`."""

    async def __call__(self, topic: str, payload: bytes, *, qos: int = 1, retain: bool = False) -> None:
        """Publish. Raises UnreachableError when there is no connection."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class OutboxTimes:
    """How often the outbox speaks."""

    heartbeat_s: float = 30.0
    telemetry_window_s: float = 60.0
    resend_first_s: float = 5.0
    """First wait for an acknowledgement; doubles with every resend."""
    resend_ceiling_s: float = 300.0
    unheard_s: float = 180.0
    """How long the broker may take reports without the controller acknowledging any, before the session is in doubt."""


class Outbox:
    """The newest Report until it is acknowledged, heartbeats, and telemetry in windows.

    Every sending takes a fresh number, a resend too: whoever orders by (boot_id, seq) must not find a resent report
    older than the heartbeat that overtook it.
    """

    def __init__(
        self,
        *,
        device_id: DeviceId,
        session: Session,
        publish: Publish,
        clock: Clock,
        chance: random.Random,
        times: OutboxTimes,
    ) -> None:
        self._device_id, self._session, self._publish = device_id, session, publish
        self._clock, self._chance, self._times = clock, chance, times
        self._seq = 0
        self._report: Report | None = None
        self._revision = 0
        self._sendings: deque[int] = deque(maxlen=_MAX_SENDINGS)
        self._resend_s = times.resend_first_s
        self._unheard_since: float | None = None
        self._patience_s = self._spread(times.unheard_s)
        self._heartbeat: Heartbeat | None = None
        self._window = TelemetryWindow()
        self._windows: deque[Telemetry] = deque(maxlen=_MAX_WINDOWS)
        self._report_due = self._heartbeat_due = clock.monotonic()
        self._window_due = clock.monotonic() + times.telemetry_window_s
        self._wake = asyncio.Event()

    def report(self, report: Report, *, revision: int) -> None:
        """Send this snapshot until it is acknowledged; it replaces the one before it."""
        self._report, self._revision = report, revision
        self._sendings.clear()
        self._send_report_soon()

    def heartbeat(self, heartbeat: Heartbeat) -> None:
        """From now on, say this with every heartbeat."""
        self._heartbeat = heartbeat
        self._wake.set()

    def measured(self, stats: Stats) -> None:
        """Take in cumulative measurements; what they add to the ones before goes into the open window."""
        self._window.add(stats, self._clock.now())

    def acknowledged(self, acked: Acked) -> int | None:
        """Take in an acknowledgement, and return the revision that it confirms, once; None when it confirms none.

        Only the number of a sending of the report that still waits counts, so that an acknowledgement that is late,
        repeated, or of another life of this process, does no harm.
        """
        if acked.boot_id != self._session.boot_id or acked.acked_seq not in self._sendings:
            return None
        self._report = None
        self._sendings.clear()
        self._unheard_since, self._patience_s = None, self._spread(self._times.unheard_s)
        return self._revision

    def connected(self) -> None:
        """The broker is back: speak now, not at the end of a wait."""
        self._unheard_since = None
        self._heartbeat_due = self._clock.monotonic()
        self._send_report_soon()

    @property
    def is_unheard(self) -> bool:
        """Whether reports have been leaving for long without an acknowledgement of any.

        The broker may be to blame, or a controller that is busy; but one whose database or keys were restored knows
        this session no more, will never believe a word of it, and cannot say so.
        """
        since = self._unheard_since
        return since is not None and self._clock.monotonic() - since >= self._patience_s

    def renew(self, session: Session) -> None:
        """Speak under a new session from now on, and doubt that one later than the one before it."""
        self._session = session
        # Numbers go on: they order within a session only, and an acknowledgement of the old one must fit none of them.
        self._sendings.clear()
        self._unheard_since, self._patience_s = None, min(2 * self._patience_s, _PATIENCE_CEILING_S)
        self._heartbeat_due = self._clock.monotonic()
        self._send_report_soon()

    async def run(self) -> Never:
        """Send what is due, until cancelled."""
        while True:
            self._wake.clear()
            await self._send_due()
            wait_s = self._next_due() - self._clock.monotonic()
            try:
                async with asyncio.timeout(max(wait_s, 0.0)):
                    await self._wake.wait()
            except TimeoutError:
                continue

    def _send_report_soon(self) -> None:
        self._resend_s = self._times.resend_first_s
        self._report_due = self._clock.monotonic()
        self._wake.set()

    def _next_due(self) -> float:
        due = [self._window_due]
        if self._report is not None:
            due.append(self._report_due)
        if self._heartbeat is not None:
            due.append(self._heartbeat_due)
        return min(due)

    async def _send_due(self) -> None:
        now = self._clock.monotonic()
        if self._heartbeat is not None and now >= self._heartbeat_due:
            self._heartbeat_due = now + self._spread(self._times.heartbeat_s)
            # Lost when the broker is away: the next one says the same.
            await self._send(Channel.HEARTBEAT, self._heartbeat)
        if self._report is not None and now >= self._report_due:
            await self._send_report(self._report, now)
        if now >= self._window_due:
            self._window_due = now + self._times.telemetry_window_s
            await self._send_windows()

    async def _send_report(self, report: Report, now: float) -> None:
        """Send a report and say when to send it again, unless it was replaced or acknowledged meanwhile."""
        # Half certain, half chance: never at once, and never all devices together.
        self._report_due = now + self._resend_s / 2 + self._chance.uniform(0.0, self._resend_s / 2)
        self._resend_s = min(self._resend_s * 2, self._times.resend_ceiling_s)
        self._seq += 1
        # Before it is sent: the acknowledgement may be here before the broker's own.
        self._sendings.append(self._seq)
        taken = await self._publish_numbered(Channel.REPORT, report, self._seq)
        if not taken:
            # It did not leave, so that silence is the broker's and says nothing of the session.
            self._unheard_since = None
        elif self._unheard_since is None and self._report is not None:
            self._unheard_since = now

    async def _send_windows(self) -> None:
        window = self._window.close(self._clock.now())
        if window is not None:
            self._windows.append(window)
        while self._windows and await self._send(Channel.TELEMETRY, self._windows[0]):
            self._windows.popleft()

    async def _send(self, channel: Channel, message: Heartbeat | Telemetry) -> bool:
        self._seq += 1
        return await self._publish_numbered(channel, message, self._seq)

    async def _publish_numbered(self, channel: Channel, message: Report | Heartbeat | Telemetry, seq: int) -> bool:
        """Publish in its envelope, and say whether the broker has it."""
        topic = device_topic(self._device_id, channel)
        body = msgspec.json.encode(message)
        boot_id = self._session.boot_id
        mac = uplink_mac(self._session.mac_key, topic=topic, boot_id=boot_id, seq=seq, body=body)
        uplink = Uplink(boot_id=boot_id, seq=seq, mac=mac, body=msgspec.Raw(body))
        try:
            await self._publish(topic, msgspec.json.encode(uplink), qos=1)
        except UnreachableError:
            return False
        return True

    def _spread(self, wait_s: float) -> float:
        return wait_s * self._chance.uniform(1 - _HEARTBEAT_SPREAD, 1 + _HEARTBEAT_SPREAD)
