"""The fleet as rollouts see it: cohorts by query, facts of devices."""

from __future__ import annotations

from typing import TYPE_CHECKING

from controller.fleet import store
from controller.fleet.core import query as language
from shared.conversion import RuntimeVersion

if TYPE_CHECKING:
    from collections.abc import Sequence

    from controller.db.unit_of_work import UnitOfWork
    from controller.facts import DeviceFacts
    from shared.ids import DeviceId, Sha256


class Cohorts:
    """Answers in the caller's transaction; devices that were removed belong to no cohort."""

    async def check(self, uow: UnitOfWork, query: str) -> None:
        """Refuse a query that cannot be read, or that names a label which no device has.

        Raises:
            InvalidInputError: says what is wrong, and which keys are known.
        """
        language.check_keys(language.parse(query), await store.label_keys(uow.session))

    async def iterate(self, uow: UnitOfWork, query: str, after: DeviceId | None, limit: int) -> list[DeviceFacts]:
        """Return up to `limit` devices of the cohort that follow `after`, ordered by id.

        A label that no device has any more chooses nobody: a rollout under way must be able to find its cohort empty.

        Raises:
            InvalidInputError: the query cannot be read.
        """
        ids = await store.chosen(uow.session, language.parse(query), after=after or "", limit=limit)
        return await store.facts(uow.session, ids)

    async def facts(self, uow: UnitOfWork, ids: Sequence[DeviceId]) -> dict[DeviceId, DeviceFacts]:
        """Return facts of devices; unknown and removed ones are absent."""
        return {fact.device_id: fact for fact in await store.facts(uow.session, ids)}

    async def not_understanding(self, uow: UnitOfWork, ids: Sequence[DeviceId], what: str) -> set[DeviceId]:
        """Return devices whose agent, by its newest report, does not understand something of a Desired.

        One that has not reported yet is not among them: nothing speaks against it.
        """
        return await store.not_understanding(uow.session, ids, what)


class FleetRuntimes:
    """Which interpreters the fleet has, for whoever makes what they are to run."""

    async def runtimes(self, uow: UnitOfWork) -> tuple[RuntimeVersion, ...]:
        """Return each interpreter of an enrolled device once, by name and version."""
        found = {
            RuntimeVersion(runtime=hardware.runtime, version=hardware.runtime_version)
            for hardware in await store.hardware_kinds(uow.session)
        }
        return tuple(sorted(found, key=lambda one: (one.runtime, one.version)))


class Identities:
    """Which key speaks for which device."""

    async def fingerprints(self, uow: UnitOfWork, ids: Sequence[DeviceId]) -> dict[DeviceId, Sha256]:
        """Return the key fingerprints of the devices that are enrolled and not removed."""
        return await store.fingerprints(uow.session, ids)
