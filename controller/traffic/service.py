"""Sets variants, traffic rules and request logs on devices: a page of a cohort in one transaction, each device checked.

A change that was cut short between two pages is asked for again: what is set already stays as it is.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from controller.traffic.edits import LogEdit, TrafficEdit
from shared.clock import mint_id
from shared.errors import ConflictError, InvalidInputError, NotFoundError
from shared.ids import DeviceId, RolloutId
from shared.wire import TRAFFIC

if TYPE_CHECKING:
    from collections.abc import Sequence

    from controller.db.engine import Database
    from controller.db.unit_of_work import UnitOfWork
    from controller.facts import DesiredFacts, DeviceFacts, ModelTraffic
    from controller.traffic.core.change import LogOrder, TrafficOrder
    from controller.traffic.edits import Edit
    from controller.traffic.ports import Desires, Devices, Pulses, Releases
    from shared.clock import Clock
    from shared.wire import HaltMode

PAGE = 200
"""Devices in one transaction: each one's document is sealed in it."""
_NAMED = 100
"""Refused devices that are told by name; all of them are counted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scope:
    """Which devices: one by its name, or a cohort by its query."""

    device: str = ""
    cohort: str = ""

    @property
    def words(self) -> str:
        """For the audit log."""
        return f"device={self.device}" if self.device else self.cohort


@dataclass(slots=True, kw_only=True)
class Outcome:
    """What a change came to, or would."""

    change_id: RolloutId
    """What a halt names. Of a change that brought no variant nothing knows it."""
    devices: int = 0
    changed: int = 0
    unchanged: int = 0
    refused: int = 0
    refusals: dict[DeviceId, str] = field(default_factory=dict)
    """Why, of the first ones."""
    without_consent: int = 0
    """On how many a request log will stay empty, since no release that they should run consents to one."""


class TrafficService:
    """The door to what operators set of devices' traffic."""

    def __init__(
        self,
        *,
        database: Database,
        devices: Devices,
        releases: Releases,
        desires: Desires,
        pulses: Pulses,
        clock: Clock,
    ) -> None:
        self._database, self._clock = database, clock
        self._devices, self._releases = devices, releases
        self._desires, self._pulses = desires, pulses

    async def set_traffic(self, order: TrafficOrder, scope: Scope, *, actor: str, dry_run: bool = False) -> Outcome:
        """Change variants and rule of a model, or say what would change.

        Raises:
            NotFoundError: no such device.
            InvalidInputError: the order or the query cannot be meant, or the one device that is named cannot do it.
        """
        change_id = RolloutId(mint_id(self._clock))
        edit = TrafficEdit(order, change_id=change_id, releases=self._releases, desires=self._desires)
        return await self._walk(edit, scope, change_id, actor=actor, dry_run=dry_run)

    async def set_log(self, order: LogOrder, scope: Scope, *, actor: str, dry_run: bool = False) -> Outcome:
        """Change what of a model's requests is written down. Raises as `set_traffic`."""
        edit = LogEdit(order, releases=self._releases, desires=self._desires)
        return await self._walk(edit, scope, RolloutId(mint_id(self._clock)), actor=actor, dry_run=dry_run)

    async def show(self, device: str) -> DesiredFacts | None:
        """Return what one device should run, with variants and rules; None for nothing. Raises NotFoundError."""
        name = DeviceId(device)
        async with self._database.unit_of_work(read_only=True) as uow:
            if name not in await self._devices.facts(uow, [name]):
                raise NotFoundError(kind="device", name=device)
            return (await self._desires.show(uow, [name])).get(name)

    async def halt(self, change_id: str, mode: HaltMode, *, actor: str) -> None:
        """Take back on every device, within seconds, the variants that one change brought.

        Raises:
            NotFoundError: no variant of any device came with it.
        """
        async with self._database.unit_of_work(actor=actor) as uow:
            change = RolloutId(change_id)
            if not await self._desires.set_by(uow, change):
                raise NotFoundError(kind="traffic change", name=change_id)
            uow.audit("traffic.halted", change_id, {"mode": mode.value})
            await self._pulses.halt(uow, change, mode)

    async def _walk(self, edit: Edit, scope: Scope, change_id: RolloutId, *, actor: str, dry_run: bool) -> Outcome:
        async with self._database.unit_of_work(read_only=True) as uow:
            await edit.check(uow)
            if not scope.device:
                await self._devices.check(uow, scope.cohort)
        outcome = Outcome(change_id=change_id)
        after: DeviceId | None = None
        while True:
            # A page in one transaction, so that others may write in between.
            async with self._database.unit_of_work(actor=actor, read_only=dry_run) as uow:
                page = await self._members(uow, scope, after)
                await self._edit(uow, edit, page, scope, outcome, dry_run=dry_run)
            if len(page) < PAGE:
                break
            after = page[-1].device_id
        outcome.without_consent = edit.without_consent
        if not outcome.devices:
            problem = f"{scope.cohort!r} holds no device"
            raise InvalidInputError(field="cohort", problem=problem, remedy="see `litefleet device ls`")
        return outcome

    async def _members(self, uow: UnitOfWork, scope: Scope, after: DeviceId | None) -> list[DeviceFacts]:
        if not scope.device:
            return await self._devices.iterate(uow, scope.cohort, after, PAGE)
        found = await self._devices.facts(uow, [DeviceId(scope.device)])
        if not found:
            raise NotFoundError(kind="device", name=scope.device)
        return list(found.values())

    async def _edit(
        self, uow: UnitOfWork, edit: Edit, page: Sequence[DeviceFacts], scope: Scope, outcome: Outcome, *, dry_run: bool
    ) -> None:
        facts = {one.device_id: one for one in page}
        before = await self._desires.traffic(uow, list(facts), edit.model)
        wanted: dict[DeviceId, ModelTraffic] = {}
        refused: dict[DeviceId, str] = {}
        old = await self._devices.not_understanding(uow, list(facts), TRAFFIC)
        for device, edited in (await edit.apply(uow, facts, before)).items():
            # What takes everything away is for every agent: it is the way back from a mistake.
            after = _too_old(device) if device in old and _sets(edited) else edited
            if isinstance(after, InvalidInputError):
                if scope.device:
                    raise after
                refused[device] = str(after)
            elif after != before[device]:
                wanted[device] = after
        if wanted and not dry_run:
            too_large = await self._desires.set_traffic(uow, edit.model, wanted)
            if too_large and scope.device:
                raise ConflictError(kind="device", name=scope.device, problem=too_large[DeviceId(scope.device)])
            refused |= too_large
            told = {**edit.told(), "model": edit.model, "scope": scope.words, "devices": len(wanted) - len(too_large)}
            uow.audit(edit.action, outcome.change_id, told)
        outcome.devices += len(page)
        outcome.refused += len(refused)
        outcome.changed += len(wanted.keys() - refused.keys())
        outcome.unchanged += len(page) - len(wanted.keys() | refused.keys())
        named = sorted(refused.items())[: _NAMED - len(outcome.refusals)]
        outcome.refusals.update(named)


def _sets(edited: ModelTraffic | InvalidInputError) -> bool:
    return not isinstance(edited, InvalidInputError) and not edited.is_empty


def _too_old(device: DeviceId) -> InvalidInputError:
    """Say that a device's agent would refuse the whole document, or never agree with the controller on its digest."""
    return InvalidInputError(
        field="device",
        problem=f"the agent of {device} understands no variants, traffic rules or request logs",
        remedy="update litefleet on the device",
    )
