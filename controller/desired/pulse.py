"""The Pulse: a sealed broadcast without which no device activates anything, and by which a halt reaches all at once."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING, Never

import structlog

from controller.db.retry import retrying
from controller.desired import store
from controller.desired.store import PulseState
from controller.facts import OutgoingMessage
from shared import topics
from shared.wire import HaltMode, Pulse

if TYPE_CHECKING:
    from controller.db.engine import Database
    from controller.db.unit_of_work import UnitOfWork
    from controller.desired.ports import Broker, Sealer
    from shared.ids import InstallationId, RolloutId

log = structlog.get_logger(__name__)

# After twice a document's lifetime no device can still act on a document that names the rollout.
_HALT_MEMORY = timedelta(days=28)
# 64 KiB sealed hold some 900 halts in base64; the newest matter most.
_MAX_HALTS = 800
_RETRY_S = 1.0


class PulseService:
    """Halts work in the caller's transaction; the loop only brings to the broker what is stored."""

    def __init__(
        self,
        *,
        database: Database,
        sealer: Sealer,
        broker: Broker,
        installation_id: InstallationId,
        interval_s: float = 300.0,
    ) -> None:
        self._database = database
        self._sealer = sealer
        self._broker = broker
        self._installation_id = installation_id
        self._interval = timedelta(seconds=interval_s)
        self._changed = asyncio.Event()

    async def halt(self, uow: UnitOfWork, rollout_id: RolloutId, mode: HaltMode) -> None:
        """Name a rollout as halted, for ever: repeated it changes nothing, and only `stop` may become `revert`."""
        known = await store.halt(uow.session, rollout_id)
        if known is mode or known is HaltMode.REVERT:
            return
        await store.write_halt(uow.session, rollout_id, mode, uow.clock.now())
        uow.audit("rollout_halted", rollout_id, {"mode": mode.value})
        await self._beat(uow)
        uow.after_commit(self._changed.set)

    async def sealed_pulse(self) -> bytes:
        """Return the newest sealed pulse; devices that the broker does not reach ask for it over HTTPS."""
        state = await self._newest_if_fresh() or await self._beat_now()
        return state.sealed

    async def beat_if_due(self) -> None:
        """Issue the next pulse when the newest is an interval old, and publish what the broker does not have."""
        state = await self._newest_if_fresh() or await self._beat_now()
        if not state.published and self._broker.connected:
            await self._publish(state)

    async def run(self) -> Never:
        """Beat, until cancelled."""
        while True:
            self._changed.clear()
            await retrying(self.beat_if_due, what="pulse")
            try:
                async with asyncio.timeout(min(_RETRY_S, self._interval.total_seconds())):
                    await self._changed.wait()
            except TimeoutError:
                continue

    async def _newest_if_fresh(self) -> PulseState | None:
        async with self._database.unit_of_work(read_only=True) as uow:
            state = await store.pulse(uow.session)
            # One from the future was issued under a wrong clock: to wait for it would leave the fleet without a Pulse.
            fresh = state is not None and timedelta() <= uow.clock.now() - state.issued_at < self._interval
            return state if fresh else None

    async def _beat_now(self) -> PulseState:
        async with self._database.unit_of_work() as uow:
            state = await self._beat(uow)
        self._changed.set()
        return state

    async def _publish(self, state: PulseState) -> None:
        message = OutgoingMessage(topic=topics.PULSE, payload=state.sealed, retain=True)
        confirmed = await self._broker.publish([message])
        if not all(confirmed):
            return
        async with self._database.unit_of_work() as uow:
            newest = await store.pulse(uow.session)
            # A halt may have beaten meanwhile; its pulse is not the one that was confirmed.
            if newest is not None and newest.serial == state.serial:
                await store.write_pulse(uow.session, replace(newest, published=True))

    async def _beat(self, uow: UnitOfWork) -> PulseState:
        before = await store.pulse(uow.session)
        now = uow.clock.now()
        halted = await store.halts(uow.session, since=now - _HALT_MEMORY, limit=_MAX_HALTS)
        if len(halted) == _MAX_HALTS:
            log.warning("halts_full", halts=_MAX_HALTS, meaning="the oldest halts are no longer broadcast")
        serial = (before.serial if before else 0) + 1
        document = Pulse(
            installation_id=self._installation_id,
            epoch=await store.epoch(uow.session),
            serial=serial,
            issued_at=now,
            halted=halted,
        )
        sealed = self._sealer.pulse(document)
        state = PulseState(serial=serial, sealed=sealed, issued_at=now, published=False)
        await store.write_pulse(uow.session, state)
        return state
