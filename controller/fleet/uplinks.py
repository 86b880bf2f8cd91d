"""What devices say, as the fleet takes it in: who may speak, in which order, and when each was heard last."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from controller.fleet import store
from shared.ids import BootId

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from controller.db.unit_of_work import UnitOfWork
    from controller.facts import SeenHeartbeat, VerifiedReport
    from shared.ids import DeviceId
    from shared.topics import Channel


@dataclass(frozen=True, slots=True, kw_only=True)
class Advance:
    """What became of the newest message of each device."""

    accepted: frozenset[DeviceId]
    """Newer than all before, and now the newest."""
    repeated: Mapping[DeviceId, tuple[BootId, int]]
    """Not newer: device → the newest that is stored, which may be acknowledged again."""
    refused: frozenset[DeviceId]
    """Unknown or removed devices, and boots that a newer session has ended."""


class Uplinks:
    """Compare-and-set on (boot_id, seq), and the fleet's own share of reports and heartbeats."""

    async def advance(
        self, uow: UnitOfWork, channel: Channel, newest: Mapping[DeviceId, tuple[BootId, int]]
    ) -> Advance:
        """Move each device's place on a channel forward, where its message is newer; in bulk.

        A boot that is newer than the newest session known here is one of before a restored backup: its MAC proved that
        this controller issued it.
        """
        serials = await store.boot_serials(uow.session, list(newest))
        speaking = {d: p for d, p in newest.items() if d in serials and p[0] >= f"{serials[d]:012d}"}
        # Each channel by itself: a heartbeat that overtakes a report must not make it old.
        stored = await store.places(uow.session, channel, list(speaking))
        fresh = {d: p for d, p in speaking.items() if d not in stored or p > stored[d]}
        await store.write_places(uow.session, channel, fresh)
        await store.raise_boots(uow.session, {d: int(p[0]) for d, p in fresh.items() if int(p[0]) > serials[d]})
        return Advance(
            accepted=frozenset(fresh),
            repeated={d: (BootId(stored[d][0]), stored[d][1]) for d in speaking if d not in fresh},
            refused=frozenset(newest.keys() - speaking.keys()),
        )

    async def accept(self, uow: UnitOfWork, batch: Sequence[VerifiedReport]) -> None:
        """Store reports, and note hardware that changed."""
        await store.write_reports(uow.session, batch)
        await store.write_hardware(uow.session, batch)

    async def seen(self, uow: UnitOfWork, batch: Sequence[SeenHeartbeat]) -> None:
        """Note that devices are alive, and what they have accepted."""
        await store.write_sightings(uow.session, batch)
