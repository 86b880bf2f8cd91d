"""The fleet's own doings: devices come, are labelled, enrol, open sessions, and go."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

from controller.errors import ForbiddenError
from controller.fleet import enrolment, store
from controller.fleet.core import query as language
from controller.fleet.core.device import Device, Session, explanation
from controller.fleet.tables import DeviceRow
from shared.errors import ConflictError, InvalidInputError, NotFoundError
from shared.ids import BootId, DeviceId, SiteId, device_id, slug

if TYPE_CHECKING:
    from collections.abc import Mapping

    from controller.db.engine import Database
    from controller.db.unit_of_work import UnitOfWork
    from controller.facts import DesiredFacts, IssuedCertificate
    from controller.fleet.enrolment import Invite
    from controller.fleet.ports import AccessList, Certificates, Desires, MacKeys
    from controller.fleet.settings import FleetSettings
    from shared.hardware import DeviceHardware
    from shared.ids import Sha256

_MAX_LABELS = 32
# The broker's certificate for the controller bears it: such a device would be taken for the controller.
_RESERVED = frozenset({"controller"})


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceStory:
    """A device, what it should run, and why the two differ."""

    device: Device
    desired: DesiredFacts | None
    explanation: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Enrolled:
    """A device that has just proved its invitation."""

    device_id: DeviceId
    site: SiteId
    certificate: IssuedCertificate


class FleetService:
    """The door to the fleet; each method is one transaction."""

    def __init__(
        self,
        *,
        database: Database,
        certificates: Certificates,
        mac_keys: MacKeys,
        desires: Desires,
        access: AccessList,
        settings: FleetSettings,
    ) -> None:
        self._database = database
        self._certificates = certificates
        self._mac_keys = mac_keys
        self._desires = desires
        self._access = access
        self.settings = settings

    @property
    def ca_pem(self) -> bytes:
        """The authority that devices must trust."""
        return self._certificates.ca_pem

    async def register(self, device: str, *, site: str, labels: Mapping[str, str], actor: str) -> Invite:
        """Make a device known, or invite one again that never enrolled or was removed.

        Raises:
            InvalidIdError, InvalidInputError: the name, the site or a label cannot be used.
            ConflictError: the device is enrolled: its identity would be given away.
        """
        name, place = _device_name(device), SiteId(slug(site, field="site"))
        checked = _checked_labels(labels)
        async with self._database.unit_of_work(actor=actor) as uow:
            now = uow.clock.now()
            known = (await store.devices(uow.session, [name])).get(name)
            # Its key speaks for it now; an invitation would let another take over its name.
            if known is not None and known.removed_at is None and known.enrolled:
                raise ConflictError(kind="device", name=name, problem="is enrolled; remove it to invite it anew")
            if known is None:
                uow.session.add(DeviceRow(device_id=name, site=place, created_at=now))
                await uow.session.flush()
            else:
                await store.write_device(uow.session, name, {"site": place, "removed_at": None})
            await store.write_labels(uow.session, name, checked)
            expires_at = now + timedelta(seconds=self.settings.invite_ttl_s)
            await enrolment.sweep(uow.session, now)
            invite = await enrolment.invite(uow.session, name, expires_at)
            uow.audit("device_invited", name, {"site": place, "labels": len(checked)})
        if known is not None and known.removed_at is not None:
            # Only for one that the broker turns away: the list of all removed devices grows with the fleet.
            await self.apply_access()
        return invite

    async def enrol(self, *, token: str, csr_pem: bytes, hardware: DeviceHardware) -> Enrolled:
        """Give the key of a signing request the name that its token stands for; what it asks to be called is ignored.

        Raises:
            InvalidInputError: the signing request cannot be used; the token is not spent.
            UnauthenticatedError: the token is not good for this key.
        """
        # Before the transaction: a stranger must not hold the only writer while a signature is checked.
        fingerprint = self._certificates.fingerprint_of_request(csr_pem)
        async with self._database.unit_of_work(read_only=True) as uow:
            await enrolment.check(uow.session, token, uow.clock.now())
        async with self._database.unit_of_work(actor="enrolment") as uow:
            now = uow.clock.now()
            device = await enrolment.redeem(uow.session, token, fingerprint, now)
            known = await self._known(uow, device)
            certificate = self._certificates.issue_device(csr_pem, device)
            values = {
                "fingerprint": fingerprint,
                "enrolled_at": now,
                "certificate_expires_at": certificate.expires_at,
                "hardware": hardware,
                "architecture": hardware.architecture,
            }
            await store.write_device(uow.session, device, values)
            # A sealed order names the key that it is for: with another key the device would refuse it.
            await self._desires.identity_changed(uow, device)
            uow.audit("device_enrolled", device, {"fingerprint": fingerprint, "architecture": hardware.architecture})
        return Enrolled(device_id=device, site=known.site, certificate=certificate)

    async def renew(self, device: DeviceId, csr_pem: bytes) -> IssuedCertificate:
        """Certify the key that a device is known by for another lifetime.

        Raises:
            InvalidInputError: the signing request cannot be used, or asks for another key.
        """
        fingerprint = self._certificates.fingerprint_of_request(csr_pem)
        async with self._database.unit_of_work(actor=f"device:{device}") as uow:
            known = await self._known(uow, device)
            if known.fingerprint != fingerprint:
                raise InvalidInputError(
                    field="csr_pem", problem="is for another key", remedy="remove the device and invite it anew"
                )
            certificate = self._certificates.issue_device(csr_pem, device)
            await store.write_device(uow.session, device, {"certificate_expires_at": certificate.expires_at})
        return certificate

    async def authenticate(self, common_name: str, fingerprint: Sha256) -> DeviceId:
        """Return who holds a verified client certificate.

        Raises:
            ForbiddenError: no such device, it was removed, or another key speaks for it now.
        """
        device = DeviceId(common_name)
        async with self._database.unit_of_work(read_only=True) as uow:
            known = await store.fingerprints(uow.session, [device])
        if known.get(device) != fingerprint:
            raise ForbiddenError("this certificate speaks for no device of the fleet")
        return device

    async def open_session(self, device: DeviceId) -> Session:
        """Begin a new life of a device's control process: everything it sends from now on is newer than all before."""
        async with self._database.unit_of_work(actor=f"device:{device}") as uow:
            serial = await store.next_boot(uow.session, device)
        boot = BootId(f"{serial:012d}")
        return Session(boot_id=boot, mac_key=self._mac_keys.mac_key(device, boot))

    async def listed(self, query: str, *, after: str | None, limit: int) -> list[DeviceStory]:
        """Return up to `limit` devices of a cohort that follow `after`. Raises InvalidInputError."""
        async with self._database.unit_of_work(read_only=True) as uow:
            parsed = language.parse(query)
            language.check_keys(parsed, await store.label_keys(uow.session))
            ids = await store.chosen(uow.session, parsed, after=after or "", limit=limit)
            return await self._stories(uow, ids)

    async def show(self, device: str) -> DeviceStory:
        """Return one device, a removed one too. Raises NotFoundError."""
        async with self._database.unit_of_work(read_only=True) as uow:
            stories = await self._stories(uow, [DeviceId(device)])
        if not stories:
            raise NotFoundError(kind="device", name=device)
        return stories[0]

    async def label(self, device: str, labels: Mapping[str, str], *, actor: str) -> DeviceStory:
        """Replace a device's labels; a rollout under way keeps the cohort that it was planned with.

        Raises:
            NotFoundError: no such device, or it was removed.
            InvalidInputError: a label cannot be used.
        """
        checked = _checked_labels(labels)
        async with self._database.unit_of_work(actor=actor) as uow:
            known = await self._known(uow, DeviceId(device))
            await store.write_labels(uow.session, known.device_id, checked)
            uow.audit("device_labelled", known.device_id, {"labels": len(checked)})
        return await self.show(device)

    async def remove(self, device: str, *, actor: str) -> None:
        """Take a device out of the fleet: nothing it says is believed and nothing is desired of it from now on.

        Raises:
            NotFoundError: no such device, or it was removed before.
        """
        async with self._database.unit_of_work(actor=actor) as uow:
            known = await self._known(uow, DeviceId(device))
            name = known.device_id
            await store.write_device(uow.session, name, {"removed_at": uow.clock.now(), "fingerprint": None})
            # Its keys end with its boot, also for a successor under the same name.
            await store.next_boot(uow.session, name)
            await store.write_labels(uow.session, name, {})
            await store.forget_reported(uow.session, name)
            await enrolment.revoke(uow.session, name)
            await self._desires.clear(uow, name)
            uow.audit("device_removed", name, {"site": known.site})
        await self.apply_access()

    async def apply_access(self) -> None:
        """Have the broker turn away every removed device, and nobody else; also at the controller's start."""
        async with self._database.unit_of_work(read_only=True) as uow:
            denied = await store.removed(uow.session)
        await self._access.deny(denied)

    async def count(self) -> int:
        """Return how many devices there are, removed ones not counted."""
        async with self._database.unit_of_work(read_only=True) as uow:
            return await store.count(uow.session)

    async def _known(self, uow: UnitOfWork, device: DeviceId) -> Device:
        known = (await store.devices(uow.session, [device])).get(device)
        if known is None or known.removed_at is not None:
            raise NotFoundError(kind="device", name=device)
        return known

    async def _stories(self, uow: UnitOfWork, ids: list[DeviceId]) -> list[DeviceStory]:
        devices = await store.devices(uow.session, ids)
        desired = await self._desires.show(uow, ids)
        now, timeout_s = uow.clock.now(), self.settings.silent_after_s
        return [
            DeviceStory(
                device=devices[name],
                desired=desired.get(name),
                explanation=explanation(devices[name], desired.get(name), now=now, timeout_s=timeout_s),
            )
            for name in ids
            if name in devices
        ]


def _device_name(text: str) -> DeviceId:
    if text in _RESERVED:
        raise InvalidInputError(
            field="device_id", problem=f"{text!r} is the controller's own name", remedy="choose another"
        )
    return device_id(text)


def _checked_labels(labels: Mapping[str, str]) -> dict[str, str]:
    if len(labels) > _MAX_LABELS:
        raise InvalidInputError(field="labels", problem=f"{len(labels)} of them, more than {_MAX_LABELS}")
    return {
        language.label_key(key): language.label_value(value, field=f"labels.{key}") for key, value in labels.items()
    }
