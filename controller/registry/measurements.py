"""Measurements on devices: asked for, sent a few at a time, taken in with reports, and given up in time."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING, Never

import msgspec
import structlog

from controller.db.retry import retrying
from controller.facts import PublishedFile
from controller.registry import measurement_store, store
from controller.registry.core.measurement import (
    AT_ONCE,
    OPEN,
    Measurement,
    MeasurementState,
    classes_of,
    measurable,
    timed_out,
)
from shared.clock import mint_id
from shared.errors import ConflictError, InvalidInputError, PermanentError
from shared.hardware import misfit
from shared.ids import ConversionId, MeasurementId, device_id
from shared.manifest import measurement_path
from shared.wire import MeasurementReport, TargetRef, WantedMeasurement

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from controller.db.engine import Database
    from controller.db.unit_of_work import UnitOfWork
    from controller.facts import VerifiedReport
    from controller.registry.core.types import ArtifactSummary, Conversion
    from controller.registry.ports import Desires, Devices, Publisher
    from shared.clock import Clock
    from shared.hardware import DeviceHardware
    from shared.ids import DeviceId

log = structlog.get_logger(__name__)

_LOOK_S = 5.0
"""Looking without being woken covers orders by another controller, and what has had its time."""
_PAGE = 200
_REASON_CHARACTERS = 500
NO_RELEASE = 0
"""Release counter of what is only measured: those of releases begin at 1, and no minimum of a fleet lets it pass."""


class Measurements:
    """The queue of what devices are to time, and what they answered."""

    def __init__(
        self, *, database: Database, devices: Devices, desires: Desires, publisher: Publisher, clock: Clock
    ) -> None:
        self._database, self._clock = database, clock
        self._devices, self._desires, self._publisher = devices, desires, publisher
        self._changed = asyncio.Event()

    async def order(self, conversion_id: str, device: str, *, actor: str) -> list[Measurement]:
        """Have a device time every artifact that it could be given; one that is under way already goes on.

        Raises:
            NotFoundError: no such conversion.
            ConflictError: it made no artifact that could be sent.
            InvalidInputError, InvalidIdError: no such device, or it belongs to no profile of the conversion.
        """
        name = device_id(device)
        async with self._database.unit_of_work(actor=actor) as uow:
            conversion = await store.conversion(uow.session, conversion_id)
            hardware = await self._hardware(uow, name)
            artifacts = _artifacts(conversion, hardware)
            known = await measurement_store.of_conversion(uow.session, conversion_id)
            earlier = {one.sha256: one for one in known if one.device_id == name}
            fresh = [
                self._queued(conversion, artifact, name, hardware, earlier.get(artifact.sha256))
                for artifact in artifacts
                if artifact.sha256 not in earlier or earlier[artifact.sha256].state not in OPEN
            ]
            await measurement_store.save(uow.session, fresh)
            uow.audit("conversion.measure", conversion_id, {"device": name, "artifacts": len(fresh)})
            uow.after_commit(self._changed.set)
            asked = {artifact.sha256 for artifact in artifacts}
            known = await measurement_store.of_conversion(uow.session, conversion_id)
        return [one for one in known if one.device_id == name and one.sha256 in asked]

    async def of_conversion(self, conversion_id: str) -> list[Measurement]:
        """Return the measurements of a conversion, oldest first. Raises NotFoundError when there is none such."""
        async with self._database.unit_of_work(read_only=True) as uow:
            await store.conversion(uow.session, conversion_id)
            return await measurement_store.of_conversion(uow.session, conversion_id)

    async def run(self) -> Never:
        """Send what is queued and give up what took too long, until cancelled."""
        while True:
            self._changed.clear()
            await retrying(self.send_due, what="send measurements to devices")
            await retrying(self.give_up_due, what="give up measurements")
            try:
                async with asyncio.timeout(_LOOK_S):
                    await self._changed.wait()
            except TimeoutError:
                continue

    async def send_due(self) -> None:
        """Ask each device for as many as it may have at a time, oldest first."""
        async with self._database.unit_of_work(read_only=True) as uow:
            queued = await measurement_store.in_state(uow.session, MeasurementState.QUEUED, limit=_PAGE)
            open_ = await measurement_store.open_on(uow.session, {one.device_id for one in queued})
        for device in dict.fromkeys(one.device_id for one in queued):
            mine = [one for one in open_ if one.device_id == device]
            sent = sum(one.state is MeasurementState.SENT for one in mine)
            due = [one for one in mine if one.state is MeasurementState.QUEUED][: max(0, AT_ONCE - sent)]
            if due:
                await self._send(device, due)

    async def give_up_due(self) -> None:
        """Fail what devices have not answered in time, and ask them no more."""
        async with self._database.unit_of_work(read_only=True) as uow:
            sent = await measurement_store.in_state(uow.session, MeasurementState.SENT, limit=_PAGE)
        now = self._clock.now()
        late = [one for one in sent if timed_out(one, now)]
        if not late:
            return
        async with self._database.unit_of_work() as uow:
            still = await measurement_store.by_id(uow.session, [one.measurement_id for one in late])
            waiting = [one for one in still.values() if one.state is MeasurementState.SENT]
            ended = [self._failed(one, f"timed_out: {one.device_id} has not answered in an hour") for one in waiting]
            await self._end(uow, ended)

    async def accept(self, uow: UnitOfWork, batch: Sequence[VerifiedReport]) -> None:
        """Take in what devices tell of measurements, in the caller's transaction."""
        told = {
            said.measurement_id: (report, said)
            for report in batch
            if isinstance(report.report.measurements, tuple)
            for said in report.report.measurements
        }
        if not told:
            return
        known = await measurement_store.by_id(uow.session, list(told))
        ended = []
        for one in known.values():
            report, said = told[one.measurement_id]
            # A device speaks for itself alone, of what it was asked, once.
            if one.device_id != report.device_id or one.sha256 != said.sha256 or one.state not in OPEN:
                continue
            ended.append(self._answered(one, said, report))
        # A device that goes on telling what nobody asks (a restored database) needs a Desired that says so.
        silent = {report.device_id for report, said in told.values() if said.measurement_id not in known}
        await self._end(uow, ended, also=silent)

    # --- steps ---

    async def _send(self, device: DeviceId, due: Sequence[Measurement]) -> None:
        """Vouch first, then ask: a device that is asked can always fetch."""
        try:
            await self._publisher.publish([_file(one) for one in due])
        except PermanentError as error:
            # The key is kept elsewhere: nobody else's fault, and no reason to hold up the others.
            async with self._database.unit_of_work() as uow:
                await self._end(uow, [self._failed(one, f"not_published: {error}") for one in due])
            return
        async with self._database.unit_of_work() as uow:
            facts = (await self._devices.facts(uow, [device])).get(device)
            if facts is None:
                await self._end(uow, [self._failed(one, "removed: the device is gone") for one in due])
                return
            now = self._clock.now()
            asked = [replace(one, state=MeasurementState.SENT, sent_at=now) for one in due]
            await measurement_store.save(uow.session, asked)
            await self._ask(uow, device)
        log.info("measurements_sent", device_id=device, measurements=len(due))

    async def _end(self, uow: UnitOfWork, ended: Sequence[Measurement], also: Iterable[DeviceId] = ()) -> None:
        await measurement_store.save(uow.session, ended)
        for device in sorted({one.device_id for one in ended} | set(also)):
            await self._ask(uow, device)
        for one in ended:
            log.info("measurement_ended", device_id=one.device_id, sha256=one.sha256, state=one.state, why=one.reason)
        # There may be room for the next ones now.
        uow.after_commit(self._changed.set)

    async def _ask(self, uow: UnitOfWork, device: DeviceId) -> None:
        """Have the device's Desired list what was sent to it and has not ended."""
        sent = [
            one for one in await measurement_store.open_on(uow.session, [device]) if one.state is MeasurementState.SENT
        ]
        wanted = [WantedMeasurement(measurement_id=one.measurement_id, artifact=_target(one)) for one in sent]
        await self._desires.set_measurements(uow, device, wanted)

    async def _hardware(self, uow: UnitOfWork, device: DeviceId) -> DeviceHardware:
        facts = (await self._devices.facts(uow, [device])).get(device)
        if facts is None:
            raise InvalidInputError(field="device_id", problem=f"no device {device}", remedy="see GET /api/v1/devices")
        if facts.hardware is None:
            raise InvalidInputError(
                field="device_id", problem=f"{device} has not enrolled", remedy="measure on one that has"
            )
        return facts.hardware

    def _queued(
        self,
        conversion: Conversion,
        artifact: ArtifactSummary,
        device: DeviceId,
        hardware: DeviceHardware,
        earlier: Measurement | None,
    ) -> Measurement:
        return Measurement(
            conversion_id=ConversionId(conversion.conversion_id),
            sha256=artifact.sha256,
            device_id=device,
            measurement_id=MeasurementId(mint_id(self._clock)),
            length_bytes=artifact.length_bytes,
            state=MeasurementState.QUEUED,
            hardware=hardware,
            figures=None if earlier is None else earlier.figures,
            reason="",
            ordered_at=self._clock.now(),
            sent_at=None,
            ended_at=None,
        )

    def _answered(self, one: Measurement, said: MeasurementReport, report: VerifiedReport) -> Measurement:
        if said.figures is None:
            return self._failed(one, said.reason or "failed")
        return replace(
            one,
            state=MeasurementState.DONE,
            figures=said.figures,
            # As it was timed: the agent may have another runtime by the time that it tells.
            hardware=_with_runtime(report.report.hardware, said),
            ended_at=self._clock.now(),
        )

    def _failed(self, one: Measurement, reason: str) -> Measurement:
        return replace(
            one,
            state=MeasurementState.FAILED,
            figures=None,
            reason=reason[:_REASON_CHARACTERS],
            ended_at=self._clock.now(),
        )


def _artifacts(conversion: Conversion, hardware: DeviceHardware) -> tuple[ArtifactSummary, ...]:
    """Return what of a conversion a device may time. Raises ConflictError, InvalidInputError."""
    profiles = conversion.order.profiles
    classes = classes_of(profiles, hardware)
    if not classes:
        why = "; ".join(f"{profile.profile_id}: {misfit(profile, hardware)}" for profile in profiles)
        raise InvalidInputError(
            field="device_id", problem=f"of no class that the conversion is for ({why})", remedy="choose another device"
        )
    found = measurable(conversion.artifacts, classes)
    if not found:
        problem = f"is {conversion.state}, and has no artifact that such a device could be given"
        raise ConflictError(kind="conversion", name=conversion.conversion_id, problem=problem)
    return found


def _with_runtime(hardware: DeviceHardware, said: MeasurementReport) -> DeviceHardware:
    return msgspec.structs.replace(hardware, runtime=said.runtime, runtime_version=said.runtime_version)


def _file(one: Measurement) -> PublishedFile:
    return PublishedFile(
        path=measurement_path(one.sha256),
        sha256=one.sha256,
        length_bytes=one.length_bytes,
        release_counter=NO_RELEASE,
        profiles=(),
    )


def _target(one: Measurement) -> TargetRef:
    return TargetRef(path=measurement_path(one.sha256), length_bytes=one.length_bytes, sha256=one.sha256)
