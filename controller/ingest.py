"""Takes in what devices say: believed only with a MAC, in order only, and acknowledged only once it is stored."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Never, Protocol

import msgspec
import structlog
from sqlalchemy.exc import SQLAlchemyError

from controller.db.retry import retrying
from controller.facts import OutgoingMessage, SeenHeartbeat, SeenTelemetry, VerifiedReport
from shared import topics
from shared.decoding import MALFORMED
from shared.errors import InvalidIdError, PermanentError
from shared.topics import Channel
from shared.wire import Acked, Heartbeat, Report, Telemetry, Uplink

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from datetime import datetime

    from controller.db.engine import Database
    from controller.db.unit_of_work import UnitOfWork
    from controller.inbox import IncomingMessage
    from shared.clock import Clock
    from shared.ids import BootId, DeviceId
    from shared.topics import DeviceTopic

log = structlog.get_logger(__name__)

_UP = frozenset({Channel.REPORT, Channel.TELEMETRY, Channel.HEARTBEAT})
_BOOT = re.compile(r"[0-9]{12}")
# Whole-number columns hold 31 bits; a device that counts further is broken or worse.
_MAX_NUMBER = 2**31 - 1
# PostgreSQL stores no NUL in a text; no honest message has one.
_ESCAPED_NUL = b"\\u0000"
_AUDIT_EVERY_S = 60.0


class Proof(Protocol):
    """Judges MACs (trust)."""

    def proves(self, uplink: Uplink, *, device: DeviceId, topic: str) -> bool:
        """Whether the device made this message for this topic."""
        ...


class Advance(Protocol):
    """What became of the newest message of each device (fleet)."""

    @property
    def accepted(self) -> frozenset[DeviceId]:
        """Newer than all before."""
        ...

    @property
    def repeated(self) -> Mapping[DeviceId, tuple[BootId, int]]:
        """Not newer: device → the newest that is stored."""
        ...

    @property
    def refused(self) -> frozenset[DeviceId]:
        """Not of the fleet, or of a life that has ended."""
        ...


class Order(Protocol):
    """Compare-and-set on (boot_id, seq) (fleet)."""

    async def advance(
        self, uow: UnitOfWork, channel: Channel, newest: Mapping[DeviceId, tuple[BootId, int]]
    ) -> Advance:
        """Move devices' places on a channel forward, where their messages are newer."""
        ...


class ReportSink(Protocol):
    """Whoever needs to know what devices report."""

    async def accept(self, uow: UnitOfWork, batch: Sequence[VerifiedReport]) -> None:
        """Take reports in, one a device, in this transaction."""
        ...


class HeartbeatSink(Protocol):
    """Whoever needs to know that devices are alive."""

    async def __call__(self, uow: UnitOfWork, batch: Sequence[SeenHeartbeat], /) -> None:
        """Take heartbeats in, one a device, in this transaction."""
        ...


class TelemetrySink(Protocol):
    """Whoever counts measurements."""

    async def accept(self, uow: UnitOfWork, batch: Sequence[SeenTelemetry]) -> int:
        """Take measurements in, in this transaction; return how many were refused."""
        ...


class Source(Protocol):
    """The broker connection."""

    async def batch(self) -> list[IncomingMessage]:
        """Wait for messages."""
        ...

    def send(self, messages: Sequence[OutgoingMessage]) -> None:
        """Send hints that may be lost."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Sinks:
    """Everybody who takes something in; all of a batch in one transaction."""

    reports: tuple[ReportSink, ...]
    heartbeats: tuple[HeartbeatSink, ...]
    telemetry: TelemetrySink


@dataclass(slots=True, kw_only=True)
class _Batch:
    """What of a batch is proved; the newest report and heartbeat of each device, and all telemetry."""

    reports: dict[DeviceId, VerifiedReport] = field(default_factory=dict)
    heartbeats: dict[DeviceId, SeenHeartbeat] = field(default_factory=dict)
    telemetry: list[SeenTelemetry] = field(default_factory=list)
    telemetry_places: dict[DeviceId, tuple[BootId, int]] = field(default_factory=dict)


class Ingest:
    """One loop. `dropped` counts, by reason, what was not believed; the audit log gets it in aggregate."""

    def __init__(
        self, *, database: Database, source: Source, proof: Proof, order: Order, sinks: Sinks, clock: Clock
    ) -> None:
        self._database = database
        self._source = source
        self._proof = proof
        self._order = order
        self._sinks = sinks
        self._clock = clock
        self.dropped: Counter[str] = Counter()
        self._audited: Counter[str] = Counter()
        self._audit_due = clock.monotonic() + _AUDIT_EVERY_S

    async def run(self) -> Never:
        """Take batches in, until cancelled; while the database is away they wait, and nothing is acknowledged."""
        while True:
            await self.take(await self._source.batch())

    async def take(self, messages: Sequence[IncomingMessage]) -> None:
        """Store a batch and acknowledge it; a message that no storage takes is found, logged and dropped."""
        try:
            acks = await retrying(lambda: self._store(messages), what="store what devices say")
        except (PermanentError, SQLAlchemyError, ValueError) as exc:
            if len(messages) == 1:
                # No traceback: an enrolled device must not be able to fill the disk with them.
                log.warning("uplink_cannot_be_stored", topic=messages[0].topic, problem=str(exc)[:500])
                self.dropped["cannot_be_stored"] += 1
                return
            # Halving finds one bad message among 500 in nine steps, and loses no other.
            middle = len(messages) // 2
            await self.take(messages[:middle])
            await self.take(messages[middle:])
            return
        self._source.send([_ack(device, place) for device, place in acks.items()])
        await self._audit_if_due()

    async def _store(self, messages: Iterable[IncomingMessage]) -> dict[DeviceId, tuple[BootId, int]]:
        drops: Counter[str] = Counter()
        batch = _Batch()
        for message in messages:
            if reason := self._sort(message, batch):
                drops[reason] += 1
        async with self._database.unit_of_work(actor="ingest") as uow:
            acks = await self._store_reports(uow, batch, drops)
            await self._store_heartbeats(uow, batch, drops)
            await self._store_telemetry(uow, batch, drops)
        self.dropped += drops
        return acks

    async def _store_reports(
        self, uow: UnitOfWork, batch: _Batch, drops: Counter[str]
    ) -> dict[DeviceId, tuple[BootId, int]]:
        """Return what may be acknowledged: what is stored now, and what was stored before."""
        if not batch.reports:
            return {}
        newest = {device: (said.boot_id, said.seq) for device, said in batch.reports.items()}
        advance = await self._order.advance(uow, Channel.REPORT, newest)
        accepted = [batch.reports[device] for device in sorted(advance.accepted)]
        if accepted:
            for sink in self._sinks.reports:
                await sink.accept(uow, accepted)
        _count(drops, advance)
        return {**advance.repeated, **{device: newest[device] for device in advance.accepted}}

    async def _store_heartbeats(self, uow: UnitOfWork, batch: _Batch, drops: Counter[str]) -> None:
        if not batch.heartbeats:
            return
        newest = {device: (seen.boot_id, seen.seq) for device, seen in batch.heartbeats.items()}
        advance = await self._order.advance(uow, Channel.HEARTBEAT, newest)
        accepted = [batch.heartbeats[device] for device in sorted(advance.accepted)]
        if accepted:
            for sink in self._sinks.heartbeats:
                await sink(uow, accepted)
        _count(drops, advance)

    async def _store_telemetry(self, uow: UnitOfWork, batch: _Batch, drops: Counter[str]) -> None:
        """Here the window says what is new, so that a late one is not lost; only who sent it is checked."""
        if not batch.telemetry:
            return
        advance = await self._order.advance(uow, Channel.TELEMETRY, batch.telemetry_places)
        known = [seen for seen in batch.telemetry if seen.device_id not in advance.refused]
        drops["refused"] += len(batch.telemetry) - len(known)
        drops["implausible_telemetry"] += await self._sinks.telemetry.accept(uow, known)

    def _sort(self, message: IncomingMessage, batch: _Batch) -> str:
        """Put a message where it belongs, or return why it is not believed."""
        try:
            topic = topics.parse(message.topic)
            uplink = msgspec.json.decode(message.payload, type=Uplink)
        except (InvalidIdError, *MALFORMED):
            return "malformed"
        if topic.channel not in _UP or not _BOOT.fullmatch(uplink.boot_id) or not 0 <= uplink.seq <= _MAX_NUMBER:
            return "malformed"
        # Before the body is decoded: nothing that a stranger wrote is parsed any further.
        if not self._proof.proves(uplink, device=topic.device, topic=message.topic):
            return "forged"
        try:
            _keep(batch, topic, uplink, message.received_at)
        except MALFORMED:
            return "malformed"
        return ""

    async def _audit_if_due(self) -> None:
        """Write what was dropped into the audit log, a row a minute at most: an attacker must not fill it."""
        if self._clock.monotonic() < self._audit_due:
            return
        self._audit_due = self._clock.monotonic() + _AUDIT_EVERY_S
        fresh = self.dropped - self._audited
        if not fresh:
            return
        log.warning("uplinks_dropped", **fresh)
        await retrying(lambda: self._audit(fresh), what="audit dropped uplinks")
        self._audited += fresh

    async def _audit(self, fresh: Counter[str]) -> None:
        async with self._database.unit_of_work(actor="ingest") as uow:
            uow.audit("uplinks_dropped", "ingest", dict(fresh))


def _keep(batch: _Batch, topic: DeviceTopic, uplink: Uplink, at: datetime) -> None:
    """Decode the body of a proved message and keep it. Raises msgspec.DecodeError."""
    device, boot, seq, body = topic.device, uplink.boot_id, uplink.seq, bytes(uplink.body)
    if _ESCAPED_NUL in body:
        raise msgspec.ValidationError("holds a NUL")
    if topic.channel is Channel.REPORT:
        report = msgspec.json.decode(body, type=Report)
        _check_numbers(report.epoch, report.generation)
        said = VerifiedReport(device_id=device, boot_id=boot, seq=seq, report=report, received_at=at)
        if device not in batch.reports or _place(said) > _place(batch.reports[device]):
            batch.reports[device] = said
    elif topic.channel is Channel.HEARTBEAT:
        heartbeat = msgspec.json.decode(body, type=Heartbeat)
        _check_numbers(heartbeat.epoch, heartbeat.generation, heartbeat.pulse_serial)
        seen = SeenHeartbeat(device_id=device, boot_id=boot, seq=seq, heartbeat=heartbeat, received_at=at)
        if device not in batch.heartbeats or _place(seen) > _place(batch.heartbeats[device]):
            batch.heartbeats[device] = seen
    else:
        telemetry = msgspec.json.decode(body, type=Telemetry)
        batch.telemetry.append(SeenTelemetry(device_id=device, boot_id=boot, telemetry=telemetry))
        batch.telemetry_places[device] = max(batch.telemetry_places.get(device, (boot, seq)), (boot, seq))


def _place(said: VerifiedReport | SeenHeartbeat) -> tuple[BootId, int]:
    return said.boot_id, said.seq


def _count(drops: Counter[str], advance: Advance) -> None:
    drops["repeated"] += len(advance.repeated)
    drops["refused"] += len(advance.refused)


def _check_numbers(*numbers: int) -> None:
    if not all(0 <= number <= _MAX_NUMBER for number in numbers):
        raise msgspec.ValidationError("a number out of range")


def _ack(device: DeviceId, place: tuple[BootId, int]) -> OutgoingMessage:
    boot, seq = place
    payload = msgspec.json.encode(Acked(boot_id=boot, acked_seq=seq))
    return OutgoingMessage(topic=topics.device_topic(device, Channel.ACKED), payload=payload, retain=False)
