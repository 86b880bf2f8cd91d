"""Brings sealed documents to the broker: what changed at once, and everything, at a pace, when it lost its memory."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import TYPE_CHECKING, Never

import structlog

from controller.db.retry import retrying
from controller.desired import store
from controller.facts import OutgoingMessage
from shared import topics

if TYPE_CHECKING:
    from controller.db.engine import Database
    from controller.desired.ports import Broker
    from controller.desired.service import DesiredService

log = structlog.get_logger(__name__)

# Two thousand documents a second at most: a broker that has just lost a fleet's documents is a broker in trouble.
_BATCH = 500
_PAUSE_S = 0.25
# A killed broker has lost what it was given since it last saved: once a minute, as we configure mosquitto.
_UNSAVED = timedelta(minutes=2)
# What was marked without a wake-up call, or could not be sent, is looked for this often.
_LOOK_EVERY_S = 2.0


class DesiredPublisher:
    """One loop; everything that it must remember is in the database, so that a crash loses nothing."""

    def __init__(self, *, database: Database, desired: DesiredService, broker: Broker) -> None:
        self._database = database
        self._desired = desired
        self._broker = broker
        self._checked_connection = 0

    async def run(self) -> Never:
        """Publish what is to be published, until cancelled."""
        while True:
            self._desired.changed.clear()
            sent = await retrying(self.publish_pending, what="publish desired state")
            # A full page means that more waits: go on, but leave the broker time to breathe.
            if sent == _BATCH:
                await asyncio.sleep(_PAUSE_S)
                continue
            try:
                async with asyncio.timeout(_LOOK_EVERY_S):
                    await self._desired.changed.wait()
            except TimeoutError:
                continue

    async def publish_pending(self, limit: int = _BATCH) -> int:
        """Publish documents that the broker does not have, and return how many it confirmed."""
        if not self._broker.connected:
            return 0
        await self._check_memory()
        async with self._database.unit_of_work(read_only=True) as uow:
            documents = await store.unpublished(uow.session, limit)
        if not documents:
            return 0
        messages = [
            OutgoingMessage(
                topic=topics.device_topic(document.device_id, topics.Channel.DESIRED),
                payload=document.sealed or b"",
                retain=True,
            )
            for document in documents
        ]
        confirmed = await self._broker.publish(messages)
        told = [document for document, took in zip(documents, confirmed, strict=True) if took]
        async with self._database.unit_of_work() as uow:
            await store.mark_published(uow.session, told, uow.clock.now())
        return len(told)

    async def _check_memory(self) -> None:
        """After each connection see whether the broker still has our sentinel; else it may have lost everything."""
        connection = self._broker.connections
        if connection == self._checked_connection:
            return
        async with self._database.unit_of_work() as uow:
            expected = await store.sentinel(uow.session)
            # A broker that was killed has its sentinel, and an older Pulse than we gave it: one that may lack a halt.
            # Devices tell whether their documents are old too; what they activate in the meantime nobody takes back.
            await store.mark_pulse_unpublished(uow.session)
            await store.mark_recent_unpublished(uow.session, uow.clock.now() - _UNSAVED)
        if await self._broker.sentinel() != expected:
            log.warning("broker_lost_its_memory", meaning="every document is published again")
            async with self._database.unit_of_work() as uow:
                await store.mark_all_unpublished(uow.session)
            # Only now: a crash before this line finds the sentinel missing again.
            await self._broker.publish([OutgoingMessage(topic=topics.SENTINEL, payload=expected, retain=True)])
        self._checked_connection = connection
