"""One real device (supervisor, control, serving) against a real broker and the controller as devices see it."""

from __future__ import annotations

import asyncio
import contextlib
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Self

import aiomqtt
import msgspec
from msgspec.structs import replace

from agent.link.identity import BrokerAddress
from shared import topics
from shared.hardware import GENERIC
from shared.ids import Epoch, Generation, ReleaseId, RolloutId, Sha256
from shared.manifest import Component, artifact_path, digest, encode, manifest_path
from shared.pipeline import MODEL_ONLY
from shared.signing import same_mac, uplink_mac
from shared.topics import Channel, device_topic
from shared.wire import (
    Acked,
    AssignmentReport,
    Desired,
    DesiredBody,
    DesiredComponent,
    DesiredModel,
    HaltMode,
    ProbationPolicy,
    Pulse,
    Report,
    TargetRef,
    Uplink,
)
from tests.support.device_api import INSTALLATION, DeviceServer
from tests.support.models import release_manifest
from tests.support.serving import MODEL, Device
from tests.support.waiting import wait_until_async

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path
    from types import TracebackType

    from shared.manifest import GoldenCheck
    from shared.pipeline import PipelineSpec
    from shared.request_log import LogConsent, LogWish
    from shared.traffic import TrafficRule
    from tests.support.mosquitto import Mosquitto

POLICY = ProbationPolicy(min_pairs=20, probation_s=1.0, max_flip_rate=0.2, max_latency_ratio=50.0)
"""Quick; the latency gate is left wide, because busy test machines are slow at random."""


class DeviceWorld:
    """Publishes Desired and Pulse, takes reports and acknowledges them."""

    def __init__(self, folder: Path, broker: Mosquitto, *, control: str = "agent.control") -> None:
        self._broker = broker
        address = BrokerAddress(host=broker.host, port=broker.port, tls=False)
        self.server = DeviceServer(folder, broker=address)
        self.device = Device(folder / "state", control=control)
        self.reports: list[Report] = []
        self.generation = 0
        self.serial = 0
        self._counter = 0
        self._halted: dict[RolloutId, HaltMode] = {}
        self._mqtt: aiomqtt.Client | None = None
        self._group = asyncio.TaskGroup()
        self._listening: asyncio.Task[None] | None = None
        self._undo = contextlib.AsyncExitStack()

    async def __aenter__(self) -> Self:
        await self._undo.enter_async_context(self.server)
        self.identity = self.server.enrol_here(self.device.state)
        self._mqtt = await self._undo.enter_async_context(
            aiomqtt.Client(self._broker.host, self._broker.port, identifier="controller-twin")
        )
        await self._mqtt.subscribe(topics.uplink_filter())
        await self._group.__aenter__()
        self._listening = self._group.create_task(self._listen(self._mqtt))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await asyncio.to_thread(self.device.stop)
        for channel in (device_topic(self.identity.device_id, Channel.DESIRED), topics.PULSE):
            await self.client.publish(channel, b"", retain=True)
        if self._listening is not None:
            self._listening.cancel()
        await self._group.__aexit__(None, None, None)
        await self._undo.aclose()

    @property
    def client(self) -> aiomqtt.Client:
        """The connection to the broker."""
        assert self._mqtt is not None
        return self._mqtt

    async def _listen(self, client: aiomqtt.Client) -> None:
        async for message in client.messages:
            assert isinstance(message.payload, bytes)
            parsed = topics.parse(message.topic.value)
            if parsed.channel is not Channel.REPORT:
                continue
            uplink = msgspec.json.decode(message.payload, type=Uplink)
            body = bytes(uplink.body)
            expected = uplink_mac(
                self.server.mac_key, topic=message.topic.value, boot_id=uplink.boot_id, seq=uplink.seq, body=body
            )
            assert same_mac(uplink.mac, expected)
            self.reports.append(msgspec.json.decode(body, type=Report))
            acked = Acked(boot_id=uplink.boot_id, acked_seq=uplink.seq)
            await client.publish(device_topic(parsed.device, Channel.ACKED), msgspec.json.encode(acked), qos=0)

    def release(
        self,
        name: str,
        model: bytes,
        *,
        golden: GoldenCheck | None = None,
        pipeline: PipelineSpec = MODEL_ONLY,
        components: Mapping[str, bytes] | None = None,
        log_consent: LogConsent | None = None,
    ) -> DesiredModel:
        """Put a release of a model into the repository, and return how a Desired names it."""
        self._counter += 1
        others = components or {}
        made = release_manifest(
            model,
            release_id=name,
            name=MODEL,
            version_number=self._counter,
            release_counter=self._counter,
            golden=golden,
            pipeline=pipeline,
        )
        made = replace(
            made,
            components=tuple(_component(each, other) for each, other in others.items()),
            log_consent=log_consent,
        )
        for other in others.values():
            self.server.repository.add(artifact_path(digest(other)), other, release_counter=self._counter)
        data, sha256 = encode(made), digest(model)
        self.server.repository.add(manifest_path(ReleaseId(name)), data, release_counter=self._counter)
        self.server.repository.add(artifact_path(sha256), model, release_counter=self._counter)
        self.server.repository.publish()
        return DesiredModel(
            model=MODEL,
            release_id=ReleaseId(name),
            rollout_id=RolloutId(f"rollout-{name}"),
            attempt=1,
            manifest=_ref(manifest_path(ReleaseId(name)), data),
            artifact=_ref(artifact_path(sha256), model),
            profile_id=GENERIC.profile_id,
            release_counter=self._counter,
            policy=POLICY,
            components=tuple(
                DesiredComponent(name=each, artifact=_ref(artifact_path(digest(other)), other))
                for each, other in others.items()
            )
            or msgspec.UNSET,
        )

    def desired(
        self, *models: DesiredModel, traffic: tuple[TrafficRule, ...] = (), request_logs: tuple[LogWish, ...] = ()
    ) -> Desired:
        """Return a Desired of the next generation."""
        self.generation += 1
        now = datetime.now(UTC)  # noqa: TID251 - the device reads the real clock
        return Desired(
            installation_id=INSTALLATION,
            device_id=self.identity.device_id,
            key_fingerprint=self.identity.key_fingerprint,
            epoch=Epoch(1),
            generation=Generation(self.generation),
            body=DesiredBody(
                models=models, traffic=traffic or msgspec.UNSET, request_logs=request_logs or msgspec.UNSET
            ),
            issued_at=now,
            expires_at=now + timedelta(days=1),
        )

    async def desire(
        self, *models: DesiredModel, traffic: tuple[TrafficRule, ...] = (), request_logs: tuple[LogWish, ...] = ()
    ) -> None:
        """Seal, serve and publish what the device should run."""
        desired = self.desired(*models, traffic=traffic, request_logs=request_logs)
        await self.publish_desired(self.server.set_desired(desired))

    async def publish_desired(self, sealed: bytes) -> None:
        """Publish sealed bytes retained, whatever they are."""
        topic = device_topic(self.identity.device_id, Channel.DESIRED)
        await self.client.publish(topic, sealed, qos=1, retain=True)

    async def pulse(self, halted: dict[RolloutId, HaltMode] | None = None) -> None:
        """Seal, serve and publish a fresh Pulse; rollouts once halted stay so."""
        self._halted |= halted or {}
        self.serial += 1
        now = datetime.now(UTC)  # noqa: TID251 - the device reads the real clock
        pulse = Pulse(
            installation_id=INSTALLATION, epoch=Epoch(1), serial=self.serial, issued_at=now, halted=dict(self._halted)
        )
        await self.client.publish(topics.PULSE, self.server.set_pulse(pulse), qos=1, retain=True)

    def assignment(self, name: str) -> AssignmentReport | None:
        """Return how the newest report tells of an assignment."""
        found = [a for a in (self.reports[-1].assignments if self.reports else ()) if a.release_id == name]
        return found[0] if found else None

    def reason(self, name: str) -> str:
        """Return the reason of an assignment in the newest report, or "" when it is not listed."""
        found = self.assignment(name)
        return found.reason if found is not None else ""

    async def reported(self, name: str, status: str, *, within_s: float = 60.0) -> AssignmentReport:
        """Wait until an assignment is reported with a status."""

        def look() -> AssignmentReport | None:
            found = self.assignment(name)
            return found if found is not None and found.status == status else None

        return await wait_until_async(look, within_s=within_s, what=f"{name} is {status}")


def _component(name: str, model: bytes) -> Component:
    made = release_manifest(model, release_id=f"release-of-{name}", name=name)
    return Component(name=name, model=made.model, release_id=made.release_id, artifacts=made.artifacts)


def _ref(path: str, data: bytes) -> TargetRef:
    return TargetRef(path=path, length_bytes=len(data), sha256=Sha256(digest(data)))
