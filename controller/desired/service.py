"""The only writer of generations: composes what each device should run, seals it, and notices who is behind."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import TYPE_CHECKING

import structlog

from controller.desired import store, traffic_store
from controller.desired.core.compose import Wishes, apply, compose, too_large
from controller.desired.core.document import Document, Standing, standing
from controller.facts import DesiredFacts, ModelTraffic
from shared.ids import Epoch, Generation, ReleaseId
from shared.wire import Desired, body_digest

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence
    from datetime import datetime

    from controller.db.engine import Database
    from controller.db.unit_of_work import UnitOfWork
    from controller.desired.core.compose import Traffic
    from controller.desired.ports import Identities, Sealer
    from controller.facts import SeenHeartbeat, SetRelease
    from shared.ids import DeviceId, InstallationId, ModelName, RolloutId, Sha256
    from shared.wire import DesiredBody, WantedMeasurement

log = structlog.get_logger(__name__)

_FIRST = Generation(0)


@dataclass(frozen=True, slots=True, kw_only=True)
class DesiredTimes:
    """How long documents live, and how patient their sender is."""

    lifetime: timedelta = timedelta(days=14)
    """A device that was away for longer installs nothing until it has a fresh document; sealed again at half of it."""
    patience: timedelta = timedelta(seconds=60)
    """A device that is behind is told again after this long, not with each of its heartbeats."""


class DesiredService:
    """Works in the caller's transaction; `changed` is set after a commit that left something to publish."""

    def __init__(
        self,
        *,
        database: Database,
        sealer: Sealer,
        identities: Identities,
        installation_id: InstallationId,
        times: DesiredTimes | None = None,
    ) -> None:
        self._database = database
        self._sealer = sealer
        self._identities = identities
        self._installation_id = installation_id
        self._times = times or DesiredTimes()
        self.changed = asyncio.Event()
        self.changed.set()

    async def set_releases(self, uow: UnitOfWork, intents: Sequence[SetRelease]) -> dict[DeviceId, str]:
        """Take over intents, in their order; a device whose body thereby differs gets its next generation.

        Returns:
            Devices whose document would be too large to send, with the size: they keep what was desired before.

        Raises:
            ValueError: an intent that names a release without a file of it.
        """
        by_device: defaultdict[DeviceId, list[SetRelease]] = defaultdict(list)
        for intent in intents:
            by_device[intent.device_id].append(intent)
        before = await store.wishes(uow.session, list(by_device))
        wanted = {device: apply(before[device], asked) for device, asked in by_device.items()}
        bodies = await self._bodies(uow, wanted)
        refused = {device: why for device, body in bodies.items() if (why := too_large(body))}
        after = {device: wished for device, wished in wanted.items() if device not in refused}
        await store.write_wishes(uow.session, before, after)
        await self._write_documents(uow, {device: bodies[device] for device in after})
        return refused

    async def set_measurements(self, uow: UnitOfWork, device: DeviceId, wanted: Sequence[WantedMeasurement]) -> None:
        """Have a device time these artifacts, while it is at rest, and no others; what it runs stays as it is."""
        await store.write_measurements(uow.session, device, wanted)
        document = (await store.documents(uow.session, [device])).get(device)
        # Nothing was ever desired of it, or it is gone: to desire nothing is what holds already.
        if not wanted and (document is None or document.sealed == b""):
            return
        wishes = await store.wishes(uow.session, [device])
        await self._write_documents(uow, await self._bodies(uow, {device: wishes[device]}))

    async def traffic(self, uow: UnitOfWork, ids: Sequence[DeviceId], model: ModelName) -> dict[DeviceId, ModelTraffic]:
        """Return what operators have set of a model on each of these devices."""
        known = await traffic_store.traffic(uow.session, ids)
        return {device: known[device].get(model, ModelTraffic()) for device in ids}

    async def set_traffic(
        self, uow: UnitOfWork, model: ModelName, wanted: Mapping[DeviceId, ModelTraffic]
    ) -> dict[DeviceId, str]:
        """Set all of a model's variants, rule and request log on devices; generations move where that is news.

        Returns:
            As `set_releases`.
        """
        known = await traffic_store.traffic(uow.session, list(wanted))
        merged: dict[DeviceId, Traffic] = {device: {**known[device], model: one} for device, one in wanted.items()}
        wishes = await store.wishes(uow.session, list(wanted))
        bodies = await self._bodies(uow, {device: wishes[device] for device in wanted}, merged)
        refused = {device: why for device, body in bodies.items() if (why := too_large(body))}
        after = {device: one for device, one in wanted.items() if device not in refused}
        await traffic_store.write(uow.session, model, after)
        await self._write_documents(uow, {device: bodies[device] for device in after})
        return refused

    async def set_by(self, uow: UnitOfWork, rollout: RolloutId) -> bool:
        """Tell whether some device's variant came with the change of this id."""
        return await traffic_store.names_rollout(uow.session, rollout)

    async def halted(self, uow: UnitOfWork, rollouts: Collection[RolloutId]) -> set[RolloutId]:
        """Return which of these are halted, which is for ever."""
        return await store.halted(uow.session, rollouts)

    async def current(
        self, uow: UnitOfWork, ids: Sequence[DeviceId], model: ModelName
    ) -> dict[DeviceId, ReleaseId | None]:
        """Return what each of these devices should run of a model; None for none."""
        known = await store.current(uow.session, ids, model)
        return {device: known.get(device) for device in ids}

    async def show(self, uow: UnitOfWork, ids: Sequence[DeviceId]) -> dict[DeviceId, DesiredFacts]:
        """Return what devices should run, for people; devices of which nothing was ever desired are absent."""
        documents = await store.documents(uow.session, ids)
        wishes = await store.wishes(uow.session, ids)
        bodies = await self._bodies(uow, {device: wishes[device] for device in documents})
        return {device: _facts(document, bodies[device]) for device, document in documents.items()}

    async def releases_of(self, uow: UnitOfWork, model: ModelName, limit: int) -> list[ReleaseId]:
        """Return the releases of a model that devices should run now, the most common first."""
        return await store.releases_of(uow.session, model, limit)

    async def in_use(self, uow: UnitOfWork, release_id: ReleaseId) -> str:
        """Return by how many devices a release is used, in words; empty when by none."""
        count = await store.devices_of(uow.session, release_id)
        return f"desired of {count} device{'' if count == 1 else 's'}" if count else ""

    async def identity_changed(self, uow: UnitOfWork, device: DeviceId) -> None:
        """Seal what is desired of a device for the key that speaks for it now."""
        await self._reseal(uow, [device])

    async def clear(self, uow: UnitOfWork, device: DeviceId) -> None:
        """Desire nothing of a device any more, and have its topic emptied; the generation is kept for a successor."""
        before = await store.wishes(uow.session, [device])
        await store.write_wishes(uow.session, before, {device: {}})
        await store.write_measurements(uow.session, device, [])
        await traffic_store.forget(uow.session, device)
        document = (await store.documents(uow.session, [device])).get(device)
        if document is not None:
            digest = body_digest(compose({}))
            generation = Generation(document.generation + 1)
            # A successor under the same name goes on from here: its broker session may still hold an older document.
            emptied = replace(document, generation=generation, body_digest=digest, sealed=b"", published=False)
            await store.write_documents(uow.session, [emptied])
            uow.after_commit(self.changed.set)

    async def sealed_for(self, device: DeviceId) -> bytes | None:
        """Return the sealed document of a device, or None when nothing was ever desired of it."""
        async with self._database.unit_of_work(read_only=True) as uow:
            document = (await store.documents(uow.session, [device])).get(device)
        return document.sealed or None if document else None

    async def observed(self, uow: UnitOfWork, heartbeats: Sequence[SeenHeartbeat]) -> None:
        """Have documents published again to the devices whose heartbeats show that they missed them."""
        documents = await store.documents(uow.session, [seen.device_id for seen in heartbeats])
        behind: list[DeviceId] = []
        for seen in heartbeats:
            document = documents.get(seen.device_id)
            if document is None or not document.sealed:
                continue
            where = standing(document, seen.heartbeat, now=seen.received_at, patience=self._times.patience)
            if where is Standing.BEHIND:
                behind.append(seen.device_id)
            elif where is Standing.AHEAD:
                log.warning("database_older_than_fleet", device_id=seen.device_id, remedy="--recovered-from-backup")
        if behind:
            await store.mark_unpublished(uow.session, behind)
            uow.after_commit(self.changed.set)

    async def reseal_due(self, limit: int = 200) -> int:
        """Seal again what has used half its lifetime; return how many documents, up to `limit`."""
        async with self._database.unit_of_work() as uow:
            before = uow.clock.now() + self._times.lifetime / 2
            due = await store.to_reseal(uow.session, before=before, limit=limit)
            await self._reseal(uow, due)
        return len(due)

    async def raise_epoch(self, uow: UnitOfWork) -> Epoch:
        """Begin a new incarnation, after recovery from a backup: what is sealed from now on counts as newer."""
        epoch = await store.raise_epoch(uow.session, uow.clock.now())
        uow.audit("epoch_raised", "installation", {"epoch": epoch})
        return epoch

    async def _bodies(
        self, uow: UnitOfWork, wishes: Mapping[DeviceId, Wishes], traffic: Mapping[DeviceId, Traffic] | None = None
    ) -> dict[DeviceId, DesiredBody]:
        """Compose these wishes with what is stored beside them; with another `traffic` where one is given."""
        ids = list(wishes)
        measured = await store.measurements(uow.session, ids)
        set_ = traffic if traffic is not None else await traffic_store.traffic(uow.session, ids)
        return {device: compose(wished, measured[device], set_[device]) for device, wished in wishes.items()}

    async def _write_documents(self, uow: UnitOfWork, bodies: Mapping[DeviceId, DesiredBody]) -> None:
        known = await store.documents(uow.session, list(bodies))
        digests = {device: body_digest(body) for device, body in bodies.items()}
        moved = [d for d in bodies if d not in known or known[d].body_digest != digests[d] or known[d].sealed == b""]
        generations = {
            device: Generation((known[device].generation if device in known else _FIRST) + 1) for device in moved
        }
        await self._seal(uow, {device: bodies[device] for device in moved}, generations, known)

    async def _reseal(self, uow: UnitOfWork, ids: Sequence[DeviceId]) -> None:
        """Move issued_at, expires_at, key and epoch; what the device should run, and its generation, stay."""
        known = await store.documents(uow.session, ids)
        wishes = await store.wishes(uow.session, ids)
        generations = {device: document.generation for device, document in known.items() if document.sealed != b""}
        bodies = await self._bodies(uow, {device: wishes[device] for device in generations})
        await self._seal(uow, bodies, generations, known)

    async def _seal(
        self,
        uow: UnitOfWork,
        bodies: Mapping[DeviceId, DesiredBody],
        generations: Mapping[DeviceId, Generation],
        known: Mapping[DeviceId, Document],
    ) -> None:
        if not bodies:
            return
        prints = await self._identities.fingerprints(uow, list(bodies))
        epoch, now = await store.epoch(uow.session), uow.clock.now()
        sealed = [
            self._document(device, body, prints.get(device), epoch=epoch, generation=generations[device], now=now)
            for device, body in bodies.items()
        ]
        # Kept over a new seal: a device that hears it late is behind since the publication before.
        told = {device: document.published_at for device, document in known.items()}
        await store.write_documents(uow.session, [replace(d, published_at=told.get(d.device_id)) for d in sealed])
        uow.after_commit(self.changed.set)

    def _document(
        self,
        device: DeviceId,
        body: DesiredBody,
        fingerprint: Sha256 | None,
        *,
        epoch: Epoch,
        generation: Generation,
        now: datetime,
    ) -> Document:
        expires_at = now + self._times.lifetime
        sealed = None
        if fingerprint is not None:
            document = Desired(
                installation_id=self._installation_id,
                device_id=device,
                key_fingerprint=fingerprint,
                epoch=epoch,
                generation=generation,
                body=body,
                issued_at=now,
                expires_at=expires_at,
            )
            sealed = self._sealer.desired(document)
        return Document(
            device_id=device,
            epoch=epoch,
            generation=generation,
            body_digest=body_digest(body),
            sealed=sealed,
            issued_at=now,
            expires_at=expires_at,
            published=False,
            published_at=None,
        )


def _facts(document: Document, body: DesiredBody) -> DesiredFacts:
    return DesiredFacts(
        device_id=document.device_id,
        epoch=document.epoch,
        generation=document.generation,
        body_digest=document.body_digest,
        models=body.models,
        published=document.published,
        traffic=body.traffic or (),
        request_logs=body.request_logs or (),
    )
