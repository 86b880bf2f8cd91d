"""`python -m agent.control`: the composition root of the control process, started by the supervisor.

One queue of events, one loop: event → decide → journal → execute. Everything else only feeds the queue.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import random
import sys
from collections import deque
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Final, Never

import structlog

from agent import config, logs
from agent.assembly import broker_security, core_settings, repository_settings
from agent.core.events import PulseReceived, ReportAcked, StatsMeasured, Tick
from agent.core.reducer import decide
from agent.core.reporting import heartbeat_of, with_trouble
from agent.core.state import new_state
from agent.delivery.download import DownloadLimits
from agent.delivery.slots import Slots
from agent.documents import Documents
from agent.execute import Executor
from agent.fetching import Fetcher
from agent.grants import Grants
from agent.journal import Journal
from agent.link.backoff import FullJitter
from agent.link.certificates import renew, renew_at
from agent.link.https import DeviceApi, Session
from agent.link.identity import client_tls, identity_files, load_identity
from agent.link.mqtt import (
    AckArrived,
    Connected,
    Disconnected,
    InferenceAsked,
    LinkEvent,
    MqttLink,
    SealedDesired,
    SealedPulse,
)
from agent.link.outbox import Outbox, OutboxTimes
from agent.link.request_uploads import RequestUploads
from agent.link.requests import BrokerRequests
from agent.link.serving_lines import ServingLines
from agent.serving.planned.pool import serving_of
from agent.started import look_around
from agent.stopping import Stopped, return_memory, until_stopped
from shared.clock import SystemClock
from shared.errors import (
    InvalidInputError,
    LitefleetError,
    NotFoundError,
    RetryableError,
    StorageFullError,
    UntrustedError,
)

if TYPE_CHECKING:
    import ssl

    from agent.config import AgentConfig
    from agent.core.events import Event
    from agent.core.state import AgentState
    from agent.link.identity import Identity
    from agent.serving.planned.pool import Serving
    from shared.clock import Clock

MAX_WAITING: Final = 256
"""Events between their sources and the loop. Full: ticks and counters are dropped, for the next ones say the same;
everything else waits, which slows its source down."""

_SESSION_CEILING_S: Final = 120.0

_log = structlog.get_logger(__name__)


class Control:
    """The control process: its parts, and the loop that joins them."""

    def __init__(
        self,
        *,
        settings: AgentConfig,
        identity: Identity,
        tls: ssl.SSLContext,
        api: DeviceApi,
        journal: Journal,
        clock: Clock,
    ) -> None:
        self._settings, self._identity, self._tls = settings, identity, tls
        self._api, self._journal, self._clock = api, journal, clock
        self._chance = random.Random()  # noqa: S311 - spreads load; guards nothing
        self._slots = Slots(settings.releases_dir)
        self._queue: asyncio.Queue[Event] = asyncio.Queue(maxsize=MAX_WAITING)
        self._documents = Documents(
            api=api,
            settings=repository_settings(settings, identity, api),
            installation_id=identity.installation_id,
            cache=settings.state_dir / "director.json",
            clock=clock,
            emit=self._emit,
        )
        self._mqtt = MqttLink(
            broker=identity.broker,
            device_id=identity.device_id,
            security=broker_security(settings, identity, tls),
            chance=self._chance,
        )
        self._grants = Grants(settings.grants_path)
        self._uploads = RequestUploads(api, settings.request_log_dir, chance=self._chance)
        self._outbox: Outbox | None = None
        self._requests: BrokerRequests | None = None
        self._state = new_state(core_settings(settings, identity))
        self._remembered: AgentState | None = None
        self._held: deque[Event] = deque()
        self._is_troubled = False

    async def run(self) -> None:
        """Run until the supervisor dies or a signal says stop; inference is not touched by either."""
        # Before anything else runs: no event may meet a state that has not been held against the disk.
        start = await self._restore()
        return_memory()
        serving, lines = serving_of(self._settings, self._clock), ServingLines(self._settings.serving_sockets)
        try:
            async with asyncio.TaskGroup() as group:
                # The one TaskGroup: any part that fails takes all with it, and the supervisor starts the whole again.
                executor = self._executor(serving, group)
                self._requests = BrokerRequests(
                    device_id=self._identity.device_id,
                    ask=lines.ask,
                    publish=self._mqtt.publish,
                    clock=self._clock,
                    start=group.create_task,
                )
                group.create_task(until_stopped())
                group.create_task(self._tick())
                group.create_task(self._mqtt.run(self._deliver))
                group.create_task(self._speak(executor))
                group.create_task(self._keep_session())
                group.create_task(self._keep_certificate())
                group.create_task(self._keep_grants(executor))
                group.create_task(self._uploads.run())
                group.create_task(self._decide_all(executor, start))
        except* Stopped:
            _log.info("control_stopped")
        finally:
            await lines.close()
            await serving.close()

    def _executor(self, serving: Serving, group: asyncio.TaskGroup) -> Executor:
        settings = self._settings
        limits = DownloadLimits(max_bytes=settings.max_download_bytes, min_rate_bytes_s=settings.min_rate_bytes_s)
        return Executor(
            clock=self._clock,
            slots=self._slots,
            boot_path=self._settings.boot_path,
            serving=serving,
            fetcher=Fetcher(api=self._api, documents=self._documents, slots=self._slots, limits=limits),
            documents=self._documents,
            grants=self._grants,
            emit=self._emit,
            start=group.create_task,
        )

    async def _restore(self) -> Event:
        """Read the journal, look at the disk, and return what the core is to make of both."""
        self._grants.refresh()
        opened = await self._journal.open()
        if opened.problem:
            _log.error("journal_damaged", problem=opened.problem)
        self._remembered = opened.state
        self._state = opened.state or self._state
        return await asyncio.to_thread(
            look_around,
            self._state,
            self._slots,
            self._settings.boot_path,
            at=self._clock.now(),
            settings=core_settings(self._settings, self._identity),
            journal_problem=opened.problem,
        )

    async def _decide_all(self, executor: Executor, start: Event) -> Never:
        await self._decide(executor, start)
        while True:
            await self._decide(executor, self._held.popleft() if self._held else await self._queue.get())

    async def _decide(self, executor: Executor, event: Event) -> None:
        """Decide, remember, and only then act; while the disk is full the event waits, and halts go before it."""
        while True:
            decision = decide(self._state, event)
            wait_s = await self._remember(decision.state)
            if not wait_s:
                break
            await self._wait_for_room(executor, wait_s)
        self._state = decision.state
        self._report_recovery()
        if decision.reason:
            _log.info("decided", on=type(event).__name__, reason=decision.reason)
        for command in decision.commands:
            await executor.execute(command)
        if self._outbox is not None:
            self._outbox.heartbeat(heartbeat_of(self._state))

    async def _remember(self, state: AgentState) -> float:
        """Have it on the disk and return 0; or tell that there is no room, and return how long to wait for some."""
        if state is self._remembered:
            return 0.0
        try:
            await self._journal.commit(state)
        except StorageFullError as exc:
            _log.error("journal_full", error=str(exc))
            self._report_trouble(f"{exc.reason}: {exc}")
            return exc.retry_after_s
        self._remembered = state
        return 0.0

    async def _wait_for_room(self, executor: Executor, wait_s: float) -> None:
        """Let halts act meanwhile: to go back, nothing has to be remembered first. All else keeps its order."""
        ends = self._clock.monotonic() + wait_s
        while (left_s := ends - self._clock.monotonic()) > 0:
            if len(self._held) >= MAX_WAITING:
                await asyncio.sleep(left_s)
                return
            try:
                async with asyncio.timeout(left_s):
                    event = await self._queue.get()
            except TimeoutError:
                return
            if isinstance(event, PulseReceived):
                await self._obey(executor, event)
            if not isinstance(event, Tick | StatsMeasured):
                self._held.append(event)

    async def _obey(self, executor: Executor, event: PulseReceived) -> None:
        """Do what a Pulse takes back. A death before it is remembered costs nothing: the Pulse will come again."""
        decision = decide(self._state, replace(event, halts_only=True))
        if not event.pulse.halted or decision.state.plan == self._state.plan:
            return
        self._state = decision.state
        _log.warning("halted_unremembered", reason=decision.reason)
        for command in decision.commands:
            await executor.execute(command)

    def _report_recovery(self) -> None:
        if self._is_troubled and self._outbox is not None and self._state.report is not None:
            self._outbox.report(self._state.report, revision=self._state.report_revision)
        self._is_troubled = False

    def _report_trouble(self, trouble: str) -> None:
        self._is_troubled = True
        report = self._state.report
        if self._outbox is not None and report is not None:
            self._outbox.report(with_trouble(report, trouble), revision=self._state.report_revision)

    # --- what feeds it ---

    async def _emit(self, event: Event) -> None:
        # Both say again next time what they would have said now.
        if isinstance(event, Tick | StatsMeasured) and self._queue.full():
            return
        await self._queue.put(event)

    async def _tick(self) -> Never:
        while True:
            await asyncio.sleep(self._settings.tick_s)
            await self._emit(Tick(at=self._clock.now()))

    async def _deliver(self, event: LinkEvent) -> None:
        """Take in what the broker brings; the link waits meanwhile, so that nothing piles up."""
        match event:
            case Connected():
                _log.info("broker_connected")
                if self._outbox is not None:
                    self._outbox.connected()
            case Disconnected(reason=reason):
                _log.info("broker_away", reason=reason)
            case SealedDesired(sealed=sealed):
                await self._documents.take_desired(sealed)
            case SealedPulse(sealed=sealed):
                await self._documents.take_pulse(sealed)
            case InferenceAsked(topic=topic, payload=payload):
                if self._requests is not None:
                    self._requests.take(topic, payload)
            case AckArrived(acked=acked):
                revision = self._outbox.acknowledged(acked) if self._outbox is not None else None
                if revision is not None:
                    await self._emit(ReportAcked(at=self._clock.now(), revision=revision))

    async def _speak(self, executor: Executor) -> Never:
        """Open a session, and speak under its number and key until it is in doubt."""
        settings = self._settings
        outbox = Outbox(
            device_id=self._identity.device_id,
            session=await self._open_session(),
            publish=self._mqtt.publish,
            clock=self._clock,
            chance=self._chance,
            times=OutboxTimes(heartbeat_s=settings.heartbeat_s, telemetry_window_s=settings.telemetry_window_s),
        )
        self._outbox = outbox
        outbox.heartbeat(heartbeat_of(self._state))
        executor.attach(outbox)
        await outbox.run()

    async def _keep_session(self) -> Never:
        """Open another session when nobody seems to hear this one: a restored controller may have forgotten its key."""
        while True:
            await asyncio.sleep(self._settings.tick_s)
            if self._outbox is not None and self._outbox.is_unheard:
                self._outbox.renew(await self._open_session())
                _log.warning("session_opened_again", because="reports stay unacknowledged")

    async def _open_session(self) -> Session:
        wait = FullJitter(first_s=1.0, ceiling_s=_SESSION_CEILING_S, chance=self._chance)
        while True:
            try:
                return await self._api.session()
            except RetryableError as exc:
                _log.info("session_not_opened", error=str(exc))
            except UntrustedError as exc:
                # Revoked, perhaps by mistake: inference goes on, and the question is worth repeating.
                _log.warning("session_refused", error=str(exc))
            await asyncio.sleep(wait.wait_s())

    async def _keep_grants(self, executor: Executor) -> Never:
        """Tell serving of applications that an operator has added or removed."""
        # What serving started from may be older than the file.
        await executor.regrant(self._state.plan)
        while True:
            await asyncio.sleep(self._settings.tick_s)
            if self._grants.refresh():
                await executor.regrant(self._state.plan)

    async def _keep_certificate(self) -> Never:
        """Have the certificate renewed at half its life; connections show the new one from the next on."""
        files = identity_files(self._settings.state_dir)
        while True:
            try:
                if self._clock.now() >= renew_at(files):
                    again_at = await renew(self._api, files, device=self._identity.device_id, tls=self._tls)
                    _log.info("certificate_renewed", again_at=again_at.isoformat())
            except LitefleetError as exc:
                # Weeks are left; each hour is another try.
                _log.warning("certificate_not_renewed", error=str(exc))
            await asyncio.sleep(self._settings.refresh_s * self._chance.uniform(0.8, 1.2))


async def run(settings: AgentConfig, identity: Identity) -> None:
    """Run the control process."""
    tls = client_tls(identity_files(settings.state_dir))
    async with (
        DeviceApi(controller_url=identity.controller_url, tls=tls) as api,
        Journal(settings.journal_path) as journal,
    ):
        control = Control(settings=settings, identity=identity, tls=tls, api=api, journal=journal, clock=SystemClock())
        await control.run()


def main() -> int:
    """Read arguments, settings and identity, and run."""
    parser = argparse.ArgumentParser(prog="python -m agent.control", description=__doc__)
    parser.add_argument("--config", type=Path, required=True, help="TOML file with the agent's settings")
    try:
        settings = config.load(parser.parse_args().config, os.environ)
    except InvalidInputError as exc:
        return _complain(exc, os.EX_CONFIG)
    try:
        identity = load_identity(settings.state_dir)
    except NotFoundError as exc:
        return _complain(exc, os.EX_CONFIG)
    except InvalidInputError as exc:
        # A file that rotted, not a setting that was never right: at EX_CONFIG the supervisor would end inference too.
        return _complain(exc, os.EX_DATAERR)
    logs.set_up(settings.log_level)
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(run(settings, identity))
    return os.EX_OK


def _complain(error: LitefleetError, code: int) -> int:
    print(f"litefleet-agent: {error}", file=sys.stderr)  # noqa: T201 - logging is set up by the settings
    return code


if __name__ == "__main__":
    sys.exit(main())
