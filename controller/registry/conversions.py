"""Conversions: ordered, queued in the database, worked off, and remembered."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING

import msgspec
import structlog

from controller.db.retry import retrying
from controller.registry import store
from controller.registry.core.choice import checked_budget, wanted_profiles, wanted_schemes
from controller.registry.core.conversion import AGAIN, ENDED, Outcome, after_restart, judge, storable, summary
from controller.registry.core.types import Conversion, ConversionState
from shared import pipeline
from shared.clock import mint_id
from shared.errors import ConflictError, InvalidInputError, NotFoundError, RetryableError
from shared.ids import ConversionId

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from controller.blobs import Blobs
    from controller.db.engine import Database
    from controller.db.unit_of_work import UnitOfWork
    from controller.registry.core.types import Card, ConversionOrder, ModelVersion
    from controller.registry.ports import Runtimes, Worker
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

    def __init__(self, *, database: Database, blobs: Blobs, worker: Worker, runtimes: Runtimes, clock: Clock) -> None:
        self._database = database
        self._blobs = blobs
        self._worker = worker
        self._runtimes = runtimes
        self._clock = clock
        self._ordered = asyncio.Event()
        self._held: dict[ConversionId, asyncio.Event] = {}
        """Conversions that a worker of this process is at, and what is set to have it stop."""

    async def order(self, order: ConversionOrder, *, actor: str) -> Conversion:
        """Queue a conversion; the same order as one that is under way or succeeded is that one.

        Raises:
            InvalidInputError: names the member that cannot be used.
        """
        pipeline.check(order.pipeline)
        checked_budget(order.budget)
        order = replace(order, schemes=wanted_schemes(order.schemes), profiles=wanted_profiles(order.profiles))
        async with self._database.unit_of_work(actor=actor) as uow:
            await self._check_inputs(uow, order)
            # As the fleet is now: what was judged on fewer interpreters is not the same order.
            order = replace(order, runtimes=await self._runtimes.runtimes(uow))
            for earlier in await store.conversions_of(uow.session, order):
                if earlier.state not in AGAIN:
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
                candidates=(),
                card=None,
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

    async def card(self, conversion_id: str) -> Card:
        """Return the model card of a conversion. Raises NotFoundError."""
        found = await self.conversion(conversion_id)
        if found.card is None:
            raise NotFoundError(kind="model card", name=conversion_id)
        return found.card

    async def cancel(self, conversion_id: str, *, actor: str) -> Conversion:
        """End a conversion that waits or runs; its worker is gone within seconds.

        Raises:
            NotFoundError: no such conversion.
            ConflictError: it ended in another way.
        """
        async with self._database.unit_of_work(actor=actor) as uow:
            found = await store.conversion(uow.session, conversion_id)
            if found.state is ConversionState.CANCELED:
                return found
            if found.state in ENDED:
                raise ConflictError(kind="conversion", name=conversion_id, problem=f"has {found.state} already")
            canceled = replace(found, state=ConversionState.CANCELED, message=f"canceled by {actor}")
            await store.save_conversion(uow.session, canceled)
            uow.audit("conversion.cancel", conversion_id, {"state": found.state})
            uow.after_commit(lambda: self._stop(canceled.conversion_id))
        return canceled

    def _stop(self, conversion_id: ConversionId) -> None:
        if conversion_id in self._held:
            self._held[conversion_id].set()

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
            conversion, version = claimed
            try:
                await self._convert(conversion, version)
            finally:
                self._held.pop(conversion.conversion_id, None)

    async def _await_order(self) -> None:
        self._ordered.clear()
        try:
            async with asyncio.timeout(_LOOK_S):
                await self._ordered.wait()
        except TimeoutError:
            return

    async def _claim(self) -> tuple[Conversion, ModelVersion] | None:
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
            self._held[claimed.conversion_id] = asyncio.Event()
        return claimed, version

    async def _convert(self, conversion: Conversion, version: ModelVersion) -> None:
        log.info("conversion_started", conversion_id=conversion.conversion_id, attempt=conversion.attempts)
        finished = await self._until_stopped(conversion, version)
        if finished is None:
            log.info("conversion_canceled", conversion_id=conversion.conversion_id)
            return
        await retrying(lambda: self._save(finished, audited=True), what="keep a conversion's outcome")
        log.info(
            "conversion_finished",
            conversion_id=conversion.conversion_id,
            state=finished.state,
            failure=finished.failure,
            message=finished.message,
        )

    async def _until_stopped(self, conversion: Conversion, version: ModelVersion) -> Conversion | None:
        """Return the conversion as it ended, or None when it was canceled before."""
        async with asyncio.TaskGroup() as group:
            working = group.create_task(self._worked(conversion, version))
            stopped = group.create_task(self._held[conversion.conversion_id].wait())
            await asyncio.wait([working, stopped], return_when=asyncio.FIRST_COMPLETED)
            # Whichever is left; a task that ended takes no notice.
            working.cancel()
            stopped.cancel()
        return None if working.cancelled() else working.result()

    async def _worked(self, conversion: Conversion, version: ModelVersion) -> Conversion:
        progress = self._progress_of(conversion)

        async def convert_and_keep() -> tuple[ConversionResult, Card | None, Sha256]:
            result, card = await self._worker.convert(conversion, version, progress)
            return result, card, await self._blobs.put_bytes(msgspec.json.encode(result))

        # A full disk holds the queue up, and is no fault of the model: it goes on when there is room.
        result, card, result_sha256 = await retrying(convert_and_keep, what="convert")
        return replace(
            _judged(conversion, judge(result)),
            fraction=1.0,
            artifacts=tuple(summary(artifact) for artifact in result.artifacts),
            candidates=result.candidates,
            card=card,
            result_sha256=result_sha256,
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
            # What was canceled stays so, though its worker may just have come to an end or to a next step.
            if (await store.conversion(uow.session, conversion.conversion_id)).state is ConversionState.CANCELED:
                self._stop(conversion.conversion_id)
                return
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
        if await store.find_dataset(uow.session, order.dataset_sha256) is None:
            raise InvalidInputError(
                field="dataset_sha256", problem="no such dataset", remedy="register it first: POST /api/v1/datasets"
            )


def _judged(conversion: Conversion, outcome: Outcome) -> Conversion:
    return replace(conversion, state=outcome.state, failure=outcome.failure, message=storable(outcome.message))
