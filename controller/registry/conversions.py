"""Conversions: ordered, queued in the database, worked off, and remembered."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING

import msgspec
import structlog

from controller.db.retry import retrying
from controller.registry import store
from controller.registry.core.choice import wanted_profiles, wanted_schemes
from controller.registry.core.conversion import Outcome, after_restart, judge, storable
from controller.registry.core.types import ArtifactSummary, Conversion, ConversionState
from shared import pipeline
from shared.clock import mint_id
from shared.errors import InvalidInputError, NotFoundError, RetryableError
from shared.ids import ConversionId

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from controller.blobs import Blobs
    from controller.db.engine import Database
    from controller.db.unit_of_work import UnitOfWork
    from controller.registry.core.types import ConversionOrder
    from controller.registry.ports import Worker
    from shared.clock import Clock
    from shared.conversion import ConversionProgress, ConversionResult
    from shared.ids import Sha256

log = structlog.get_logger(__name__)

# Writing every line of progress would make the database the slowest part of a conversion.
_PROGRESS_S = 0.5
# An order wakes a worker at once; looking anyway covers an order by another controller on the same database.
_LOOK_S = 5.0
_ALL = 1000
# As wide as its column: the conversion program may say anything.
_STEP_CHARACTERS = 200


class Conversions:
    """The queue, its customers and its workers."""

    def __init__(self, *, database: Database, blobs: Blobs, worker: Worker, clock: Clock) -> None:
        self._database = database
        self._blobs = blobs
        self._worker = worker
        self._clock = clock
        self._ordered = asyncio.Event()
        self._held: set[ConversionId] = set()
        """Conversions that a worker of this process is at."""

    async def order(self, order: ConversionOrder, *, actor: str) -> Conversion:
        """Queue a conversion; the same order as one that is under way or succeeded is that one.

        Raises:
            InvalidInputError: names the member that cannot be used.
        """
        pipeline.check(order.pipeline)
        order = replace(order, schemes=wanted_schemes(order.schemes), profiles=wanted_profiles(order.profiles))
        async with self._database.unit_of_work(actor=actor) as uow:
            await self._check_inputs(uow, order)
            for earlier in await store.conversions_of(uow.session, order):
                if earlier.state is not ConversionState.FAILED:
                    return earlier
            queued = Conversion(
                conversion_id=ConversionId(mint_id(self._clock)),
                order=order,
                state=ConversionState.QUEUED,
                step="",
                fraction=0.0,
                failure=None,
                message="",
                artifacts=(),
                result_sha256=None,
                attempts=0,
                created_at=self._clock.now(),
            )
            await store.save_conversion(uow.session, queued)
            uow.audit("conversion.order", queued.conversion_id, {"version": f"{order.model}/{order.version_number}"})
            uow.after_commit(self._ordered.set)
        return queued

    async def conversion(self, conversion_id: str) -> Conversion:
        """Return a conversion. Raises NotFoundError."""
        async with self._database.unit_of_work(read_only=True) as uow:
            return await store.conversion(uow.session, conversion_id)

    async def conversions(self, *, after: str | None, limit: int) -> list[Conversion]:
        """Return conversions, newest first."""
        async with self._database.unit_of_work(read_only=True) as uow:
            return await store.conversions(uow.session, after=after, limit=limit)

    async def recover(self) -> None:
        """Queue again what is called running though no worker is at it: the controller ended, or a worker broke."""
        async with self._database.unit_of_work() as uow:
            for cut in await store.conversions_in(uow.session, ConversionState.RUNNING, limit=_ALL):
                if cut.conversion_id not in self._held:
                    await store.save_conversion(uow.session, _judged(cut, after_restart(cut.attempts)))

    async def work(self) -> None:
        """Work the queue off, one conversion at a time, for ever; run it as often as there are cores for it."""
        # A worker that broke is started again, and what it left must not wait for the next start of the controller.
        await retrying(self.recover, what="take up conversions that were left")
        while True:
            claimed = await retrying(self._claim, what="claim a conversion")
            if claimed is None:
                await self._await_order()
                continue
            conversion, source = claimed
            try:
                await self._convert(conversion, source)
            finally:
                self._held.discard(conversion.conversion_id)

    async def _await_order(self) -> None:
        self._ordered.clear()
        try:
            async with asyncio.timeout(_LOOK_S):
                await self._ordered.wait()
        except TimeoutError:
            return

    async def _claim(self) -> tuple[Conversion, Sha256] | None:
        async with self._database.unit_of_work(read_only=True) as uow:
            if not await store.conversions_in(uow.session, ConversionState.QUEUED, limit=1):
                return None
        async with self._database.unit_of_work() as uow:
            queued = await store.conversions_in(uow.session, ConversionState.QUEUED, limit=1)
            if not queued:
                return None
            claimed = replace(
                queued[0], state=ConversionState.RUNNING, attempts=queued[0].attempts + 1, step="start", message=""
            )
            await store.save_conversion(uow.session, claimed)
            version = await store.version(uow.session, claimed.order.model, claimed.order.version_number)
            # Before the commit, so that no other worker that starts just now takes it for one that was left.
            self._held.add(claimed.conversion_id)
        return claimed, version.sha256

    async def _convert(self, conversion: Conversion, source: Sha256) -> None:
        log.info("conversion_started", conversion_id=conversion.conversion_id, attempt=conversion.attempts)
        progress = self._progress_of(conversion)

        async def convert_and_keep() -> tuple[ConversionResult, Sha256]:
            result = await self._worker.convert(conversion, source, progress)
            return result, await self._blobs.put_bytes(msgspec.json.encode(result))

        # A full disk holds the queue up, and is no fault of the model: it goes on when there is room.
        result, result_sha256 = await retrying(convert_and_keep, what="convert")
        finished = replace(
            _judged(conversion, judge(result)),
            fraction=1.0,
            artifacts=tuple(
                ArtifactSummary(
                    scheme=artifact.scheme,
                    sha256=artifact.sha256,
                    length_bytes=artifact.length_bytes,
                    accuracy=artifact.accuracy,
                    refused=artifact.refused,
                )
                for artifact in result.artifacts
            ),
            result_sha256=result_sha256,
        )
        await retrying(lambda: self._save(finished, audited=True), what="keep a conversion's outcome")
        log.info(
            "conversion_finished",
            conversion_id=conversion.conversion_id,
            state=finished.state,
            failure=finished.failure,
            message=finished.message,
        )

    def _progress_of(self, conversion: Conversion) -> Callable[[ConversionProgress], Awaitable[None]]:
        written_at = self._clock.monotonic() - _PROGRESS_S
        step = conversion.step

        async def progress(line: ConversionProgress) -> None:
            nonlocal written_at, step
            now = self._clock.monotonic()
            if line.step == step and now - written_at < _PROGRESS_S:
                return
            written_at, step = now, line.step
            try:
                shown = replace(conversion, step=storable(line.step)[:_STEP_CHARACTERS], fraction=line.fraction)
                await self._save(shown, audited=False)
            except RetryableError as error:
                # Progress is for watching only: the conversion does not wait for the database to come back.
                log.info("progress_not_written", conversion_id=conversion.conversion_id, reason=error.reason)

        return progress

    async def _save(self, conversion: Conversion, *, audited: bool) -> None:
        async with self._database.unit_of_work() as uow:
            await store.save_conversion(uow.session, conversion)
            if audited:
                uow.audit(
                    "conversion.finish",
                    conversion.conversion_id,
                    {"state": conversion.state, "failure": conversion.failure},
                )

    async def _check_inputs(self, uow: UnitOfWork, order: ConversionOrder) -> None:
        try:
            await store.version(uow.session, order.model, order.version_number)
        except NotFoundError as exc:
            raise InvalidInputError(
                field="version_number",
                problem=f"model {order.model} has no version {order.version_number}",
                remedy=f"see GET /api/v1/models/{order.model}/versions",
            ) from exc
        for field, sha256 in (
            ("calibration_sha256", order.calibration_sha256),
            ("evaluation_sha256", order.evaluation_sha256),
        ):
            if await store.find_dataset(uow.session, sha256) is None:
                raise InvalidInputError(
                    field=field, problem="no such dataset", remedy="register it first: POST /api/v1/datasets"
                )


def _judged(conversion: Conversion, outcome: Outcome) -> Conversion:
    return replace(conversion, state=outcome.state, failure=outcome.failure, message=storable(outcome.message))
