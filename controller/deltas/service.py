"""Deltas for running rollouts, made in the background: no rollout waits for one.

A device that comes before its delta is published fetches the whole artifact. Each pair is made once, one at a time.
"""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING

import structlog

from controller.db.retry import retrying
from controller.deltas import store
from controller.deltas.core.pairs import MAX_PER_ARTIFACT, DeltaRecord, DeltaState, Pair, pairs, to_make
from controller.facts import PublishedFile
from shared.delta import delta_path
from shared.errors import NotFoundError, PermanentError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from controller.db.engine import Database
    from controller.db.unit_of_work import UnitOfWork
    from controller.deltas.ports import Desires, MadeDelta, Maker, Publisher, Releases, Rollouts
    from controller.facts import ArtifactFacts, RunningRollout
    from shared.clock import Clock
    from shared.ids import HardwareProfileId, ReleaseId, RolloutId, Sha256

log = structlog.get_logger(__name__)

_LOOK_S = 2.0
"""Between looks for new rollouts: shorter than it takes a device to be told and to ask."""
_LOOK_AGAIN_S = 600.0
"""Before what the devices of one rollout hold is counted again, which reads the wishes of all of them."""


class DeltaService:
    """Finds the pairs that running rollouts need, and sees to them."""

    def __init__(
        self,
        *,
        database: Database,
        rollouts: Rollouts,
        desires: Desires,
        releases: Releases,
        publisher: Publisher,
        maker: Maker,
        clock: Clock,
    ) -> None:
        self._database, self._clock = database, clock
        self._rollouts, self._desires, self._releases = rollouts, desires, releases
        self._publisher, self._maker = publisher, maker
        self._looked_at_s: dict[RolloutId, float] = {}

    async def run(self) -> None:
        """Work for ever."""
        while True:
            await self.make_due()
            await asyncio.sleep(_LOOK_S)

    async def make_due(self) -> list[DeltaRecord]:
        """Make and publish what running rollouts need and is not there; return what became of it."""
        made = []
        for rollout in await retrying(self._to_look_at, what="look for rollouts that need deltas"):
            for pair, artifact in await retrying(partial(self._due, rollout), what="look for deltas to make"):
                made.append(await self._make(pair, artifact))
            # Only now: what a restart or an error cuts short is looked for again.
            self._looked_at_s[rollout.rollout_id] = self._clock.monotonic()
        return made

    async def _to_look_at(self) -> list[RunningRollout]:
        async with self._database.unit_of_work(read_only=True) as uow:
            running = await self._rollouts.running(uow)
        alive = {one.rollout_id for one in running}
        self._looked_at_s = {one: at for one, at in self._looked_at_s.items() if one in alive}
        due = self._clock.monotonic() - _LOOK_AGAIN_S
        return [one for one in running if self._looked_at_s.get(one.rollout_id, due) <= due]

    async def _due(self, rollout: RunningRollout) -> list[tuple[Pair, ArtifactFacts]]:
        """Return the pairs to make for a rollout, each with the artifact that it leads to."""
        async with self._database.unit_of_work(read_only=True) as uow:
            new = await self._artifacts(uow, rollout.release_id)
            held = await self._desires.releases_of(uow, rollout.model, MAX_PER_ARTIFACT + 1)
            old = [await self._artifacts(uow, one) for one in held if one != rollout.release_id]
            by_digest = {artifact.sha256: artifact for artifact in new.values()}
            known = await store.leading_to(uow.session, list(by_digest))
        wanted = pairs([_digests(one) for one in old], _digests(new))
        return [(pair, by_digest[pair.new]) for pair in to_make(wanted, known, self._clock.now())]

    async def _artifacts(self, uow: UnitOfWork, release_id: ReleaseId) -> Mapping[HardwareProfileId, ArtifactFacts]:
        try:
            return await self._releases.artifacts(uow, release_id)
        except NotFoundError:
            # Deleted since: its devices keep it, but nobody knows any more what it was made of.
            return {}

    async def _make(self, pair: Pair, artifact: ArtifactFacts) -> DeltaRecord:
        # A full disk holds deltas up, and is no fault of theirs.
        made = await retrying(lambda: self._maker.make(pair.old, pair.new), what="make a delta")
        state, problem = await self._published(pair, made, artifact.release_counter)
        record = DeltaRecord(
            pair=pair,
            state=state,
            length_bytes=made.length_bytes,
            full_bytes=artifact.length_bytes,
            delta_sha256=made.sha256 if state is DeltaState.MADE else None,
            message=problem,
            at=self._clock.now(),
        )
        await retrying(lambda: self._save(record), what="keep what became of a delta")
        log.info(
            "delta_finished",
            old=pair.old,
            new=pair.new,
            state=state,
            length_bytes=made.length_bytes,
            full_bytes=artifact.length_bytes,
            problem=problem,
        )
        return record

    async def _published(self, pair: Pair, made: MadeDelta, release_counter: int) -> tuple[DeltaState, str]:
        if made.problem:
            return DeltaState.FAILED, made.problem
        if made.sha256 is None:
            return DeltaState.NOT_WORTH_IT, ""
        file = PublishedFile(
            path=delta_path(pair.old, pair.new),
            sha256=made.sha256,
            length_bytes=made.length_bytes,
            release_counter=release_counter,
            profiles=(),
        )
        try:
            await retrying(lambda: self._publisher.publish([file]), what="publish a delta")
        except PermanentError as error:
            # The key is kept elsewhere, or another zstandard once made other bytes of the same pair.
            return DeltaState.FAILED, str(error)
        return DeltaState.MADE, ""

    async def _save(self, record: DeltaRecord) -> None:
        async with self._database.unit_of_work() as uow:
            await store.save(uow.session, record)


def _digests(artifacts: Mapping[HardwareProfileId, ArtifactFacts]) -> dict[HardwareProfileId, Sha256]:
    return {profile: artifact.sha256 for profile, artifact in artifacts.items()}
