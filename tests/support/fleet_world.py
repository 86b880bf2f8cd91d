"""The controller's device side, wired as in the product, on a clock that tests move and a broker in memory."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import msgspec
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from controller.desired.publisher import DesiredPublisher
from controller.desired.pulse import PulseService
from controller.desired.service import DesiredService, DesiredTimes
from controller.facts import ArtifactChoice, OutgoingMessage, SetRelease
from controller.fleet.cohorts import Cohorts, Identities
from controller.fleet.service import FleetService
from controller.fleet.settings import BrokerAddress, FleetSettings
from controller.fleet.uplinks import Uplinks
from controller.inbox import IncomingMessage
from controller.ingest import Ingest, Sinks
from controller.telemetry.service import TelemetryService
from controller.trust.broker_config import BrokerAccess
from controller.trust.installation import Trust
from shared.hardware import GENERIC, DeviceHardware, Runtime
from shared.ids import BootId, DeviceId, Epoch, Generation, ModelName, ReleaseId, RolloutId, Sha256
from shared.signing import unseal, uplink_mac
from shared.topics import Channel, device_topic
from shared.wire import (
    DESIRED_TYPE,
    NO_BODY,
    PULSE_TYPE,
    Acked,
    Desired,
    Heartbeat,
    ProbationPolicy,
    Pulse,
    Report,
    TargetRef,
    Telemetry,
    Uplink,
)
from tests.support.fleet_broker import signing_request

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from controller.db.engine import Database
    from controller.db.unit_of_work import UnitOfWork
    from controller.facts import VerifiedReport

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)
OPERATOR = "operator"
HARDWARE = DeviceHardware(
    architecture="aarch64", memory_bytes=2**30, cores=4, runtime=Runtime.AI_EDGE_LITERT, runtime_version="2.3.0"
)
DIGITS = ModelName("digits")
NO_BOOT = BootId("")


class TestClock:
    """Stands still until a test moves it."""

    __test__ = False

    def __init__(self, at: datetime = NOW) -> None:
        self.at = at

    def now(self) -> datetime:
        return self.at

    def monotonic(self) -> float:
        return self.at.timestamp()

    def forward(self, **by: float) -> None:
        """Let time pass."""
        self.at += timedelta(**by)


@dataclass
class MemoryBroker:
    """A broker in this process: keeps what is retained, and can be away or lose its memory."""

    connected: bool = True
    connections: int = 1
    retained: dict[str, bytes] = field(default_factory=dict)
    published: list[OutgoingMessage] = field(default_factory=list)
    hints: list[OutgoingMessage] = field(default_factory=list)
    waiting: list[IncomingMessage] = field(default_factory=list)

    async def publish(self, messages: Sequence[OutgoingMessage]) -> list[bool]:
        if self.connected:
            self.published += messages
            self.retained |= {message.topic: message.payload for message in messages if message.retain}
        return [self.connected for _ in messages]

    def send(self, messages: Sequence[OutgoingMessage]) -> None:
        self.hints += messages

    async def batch(self) -> list[IncomingMessage]:
        taken, self.waiting = self.waiting, []
        return taken

    async def sentinel(self) -> bytes | None:
        return self.retained.get("lf/v1/sentinel")

    def lose_memory(self) -> None:
        """Restart without persistence."""
        self.retained.clear()
        self.connections += 1


@dataclass
class ReportsTaken:
    """A sink of the test's own, that can refuse."""

    taken: list[VerifiedReport] = field(default_factory=list)
    refuse: set[str] = field(default_factory=set)

    async def accept(self, _uow: UnitOfWork, batch: Sequence[VerifiedReport]) -> None:
        for said in batch:
            if said.device_id in self.refuse:
                raise ValueError(f"cannot store what {said.device_id} says")
        self.taken += batch


@dataclass
class TestDevice:
    """A device as far as the controller can see: keys, a boot, a sequence."""

    __test__ = False

    device_id: DeviceId
    key: ec.EllipticCurvePrivateKey
    fingerprint: Sha256
    boot_id: BootId = NO_BOOT
    mac_key: bytes = b""
    seq: int = 0

    def says(
        self, channel: Channel, body: msgspec.Struct | bytes, *, at: datetime = NOW, seq: int | None = None
    ) -> IncomingMessage:
        """Return a message as the broker would hand it over."""
        if seq is None:
            self.seq += 1
            seq = self.seq
        topic = device_topic(self.device_id, channel)
        raw = body if isinstance(body, bytes) else msgspec.json.encode(body)
        mac = uplink_mac(self.mac_key, topic=topic, boot_id=self.boot_id, seq=seq, body=raw)
        uplink = Uplink(boot_id=self.boot_id, seq=seq, mac=mac, body=msgspec.Raw(raw))
        return IncomingMessage(topic=topic, payload=msgspec.json.encode(uplink), received_at=at)


def report(*, generation: int = 0, hardware: DeviceHardware = HARDWARE) -> Report:
    """Return a report of a device that does nothing."""
    return Report(
        epoch=Epoch(1), generation=Generation(generation), body_digest=NO_BODY, agent_version="1", hardware=hardware
    )


def heartbeat(document: Desired | None = None, digest: Sha256 = NO_BODY) -> Heartbeat:
    """Return a heartbeat of a device that has accepted a document, or none."""
    if document is None:
        return Heartbeat(epoch=Epoch(0), generation=Generation(0), body_digest=digest, pulse_serial=0)
    return Heartbeat(epoch=document.epoch, generation=document.generation, body_digest=digest, pulse_serial=1)


def telemetry(*, start: datetime = NOW, series: tuple[object, ...] = ()) -> Telemetry:
    """Return one window."""
    return msgspec.convert({"window_start": start, "window_s": 60.0, "series": series}, Telemetry, str_keys=True)


def choice(letter: str = "a") -> ArtifactChoice:
    """Return an artifact named by one hexadecimal letter."""
    digest = Sha256(letter * 64)
    return ArtifactChoice(
        manifest=TargetRef(path=f"releases/{letter}.json", length_bytes=10, sha256=digest),
        artifact=TargetRef(path=f"artifacts/{digest}.tflite", length_bytes=10, sha256=digest),
        profile_id=GENERIC.profile_id,
        release_counter=1,
    )


def intent(device: DeviceId, release: str | None = "r1", *, model: ModelName = DIGITS, letter: str = "a") -> SetRelease:
    """Return the intent that a device should run a release, or none."""
    return SetRelease(
        device_id=device,
        model=model,
        release_id=None if release is None else ReleaseId(release),
        rollout_id=RolloutId("rollout-1"),
        attempt=1,
        choice=None if release is None else choice(letter),
        policy=ProbationPolicy(),
    )


class FleetWorld:
    """Everything between a device and the database."""

    def __init__(self, database: Database, clock: TestClock, folder: Path) -> None:
        self.database, self.clock = database, clock
        self.trust = Trust.open(folder / "state", clock=clock)
        self.broker = MemoryBroker()
        self.desired = DesiredService(
            database=database,
            sealer=self.trust.director,
            identities=Identities(),
            installation_id=self.trust.installation_id,
            times=DesiredTimes(),
        )
        self.pulse = PulseService(
            database=database,
            sealer=self.trust.director,
            broker=self.broker,
            installation_id=self.trust.installation_id,
        )
        self.publisher = DesiredPublisher(database=database, desired=self.desired, broker=self.broker)
        self.acl_file = folder / "acl"
        self.fleet = FleetService(
            database=database,
            certificates=self.trust.authority,
            mac_keys=self.trust.report_keys,
            desires=self.desired,
            access=BrokerAccess(acl_file=self.acl_file),
            settings=FleetSettings(
                installation_id=self.trust.installation_id,
                controller_url="https://127.0.0.1:8471",
                broker=BrokerAddress(host="127.0.0.1", port=8883, tls=True),
                tuf_root=self.trust.repository.bootstrap_root,
            ),
        )
        self.cohorts = Cohorts()
        self.uplinks = Uplinks()
        self.telemetry = TelemetryService(database=database)
        self.reports = ReportsTaken()
        self.ingest = Ingest(
            database=database,
            source=self.broker,
            proof=self.trust.report_keys,
            order=self.uplinks,
            sinks=Sinks(
                reports=(self.uplinks, self.reports),
                heartbeats=(self.uplinks.seen, self.desired.observed),
                telemetry=self.telemetry,
            ),
            clock=clock,
        )

    async def device(self, name: str, *, site: str = "north", labels: dict[str, str] | None = None) -> TestDevice:
        """Register, enrol and boot a device."""
        invite = await self.fleet.register(name, site=site, labels=labels or {}, actor=OPERATOR)
        key = ec.generate_private_key(ec.SECP256R1())
        enrolled = await self.fleet.enrol(token=invite.token, csr_pem=signing_request(key), hardware=HARDWARE)
        device = TestDevice(enrolled.device_id, key, enrolled.certificate.fingerprint)
        await self.boot(device)
        return device

    async def boot(self, device: TestDevice) -> None:
        """Begin a new life of a device."""
        session = await self.fleet.open_session(device.device_id)
        device.boot_id, device.mac_key, device.seq = session.boot_id, session.mac_key, 0

    async def desire(self, *intents: SetRelease) -> None:
        """Take intents over in a transaction of their own."""
        async with self.database.unit_of_work() as uow:
            await self.desired.set_releases(uow, intents)

    async def document(self, device: TestDevice) -> Desired:
        """Return what the device would be given over HTTPS, as it would read it."""
        sealed = await self.desired.sealed_for(device.device_id)
        assert sealed is not None, f"nothing is desired of {device.device_id}"
        return self.opened(sealed)

    def opened(self, sealed: bytes) -> Desired:
        """Unseal a document as a device would."""
        payload, _ = unseal(sealed, payload_type=DESIRED_TYPE, keys={self.trust.director.key_id: self._director_key})
        return msgspec.json.decode(payload, type=Desired)

    def opened_pulse(self, sealed: bytes) -> Pulse:
        """Unseal a pulse as a device would."""
        payload, _ = unseal(sealed, payload_type=PULSE_TYPE, keys={self.trust.director.key_id: self._director_key})
        return msgspec.json.decode(payload, type=Pulse)

    def retained_for(self, device: TestDevice) -> bytes | None:
        """Return what the broker keeps for a device."""
        return self.broker.retained.get(device_topic(device.device_id, Channel.DESIRED))

    def acks(self, device: TestDevice) -> list[int]:
        """Return the sequence numbers that were acknowledged to a device."""
        topic = device_topic(device.device_id, Channel.ACKED)
        sent = [message.payload for message in self.broker.hints if message.topic == topic]
        return [msgspec.json.decode(payload, type=Acked).acked_seq for payload in sent]

    @property
    def _director_key(self) -> Ed25519PublicKey:
        return Ed25519PublicKey.from_public_bytes(bytes.fromhex(self.trust.director.public_hex))
