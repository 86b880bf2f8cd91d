"""The composition root: opens everything, runs every loop in the one TaskGroup, and closes everything again."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import signal
from typing import TYPE_CHECKING, Protocol

import structlog

import controller.db.tables  # noqa: F401 - the tables must be known before the first session
from controller import listeners, wiring
from controller.blobs import Blobs
from controller.db.engine import Database
from controller.db.retry import retrying
from controller.status import program_version
from controller.ticker import Ticker
from controller.trust.installation import Publisher, Trust
from shared.clock import SystemClock
from shared.errors import ConflictError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
    from pathlib import Path

    from controller.config import ControllerConfig
    from controller.desired.service import DesiredService
    from controller.wiring import Ground, Services
    from shared.ids import Epoch

log = structlog.get_logger(__name__)

_RESTART_FIRST_S, _RESTART_LONGEST_S = 1.0, 30.0
_HOUSEKEEPING_S = 60.0
_CLEARING_OUT_S = 3600.0
_RESEAL_PAGE = 200


async def run(config: ControllerConfig) -> None:
    """Be a controller until SIGTERM or SIGINT.

    Raises:
        InvalidInputError: a setting cannot be used: a port that is taken, a file that is missing.
        ConflictError: another controller has the state folder, or a newer one has changed the database.
        UntrustedError: keys or metadata in the state folder are damaged.
    """
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    async with _opened(config) as ground:
        services = wiring.wire(ground)
        # Before the listeners: nobody may see a conversion run that nobody is at.
        await _recover(services)
        await _serve(ground, services, stop)
    log.info("controller_stopped")


async def begin_epoch(config: ControllerConfig) -> Epoch:
    """Make all that a restored database will seal newer than what devices saw before; no controller may be running.

    Raises:
        ConflictError: a controller has the state folder.
    """
    async with _opened(config) as ground:
        desired = wiring.wire(ground).desired
        async with ground.database.unit_of_work(actor="recovery") as uow:
            return await desired.raise_epoch(uow)


@contextlib.asynccontextmanager
async def _opened(config: ControllerConfig) -> AsyncIterator[Ground]:
    """Open what everything stands on, in the order in which it is needed."""
    clock = SystemClock()
    with contextlib.ExitStack() as stack:
        stack.enter_context(_only_controller(config.state_dir))
        database = Database(config.database, clock=clock)
        blobs = Blobs(config.state_dir / "blobs", max_blob_bytes=config.max_upload_bytes)
        stack.callback(blobs.close)
        # The first start makes 256 bins and syncs them, which takes a while.
        trust = await asyncio.to_thread(Trust.open, config.state_dir, clock=clock)
        publisher = Publisher(trust.repository)
        stack.callback(publisher.close)
        try:
            await retrying(database.migrate, what="migrate the database")
            yield wiring.Ground(
                config=config, clock=clock, database=database, blobs=blobs, trust=trust, publisher=publisher
            )
        finally:
            await database.close()


@contextlib.contextmanager
def _only_controller(state_dir: Path) -> Iterator[None]:
    """Hold the state folder for this process alone; the kernel lets go of it however the process ends."""
    state_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
    with (state_dir / "lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as exc:
            raise ConflictError(
                kind="state folder", name=str(state_dir), problem="belongs to a controller that is running"
            ) from exc
        yield


async def _recover(services: Services) -> None:
    """Take up what an earlier controller left unfinished, before anybody can ask."""
    await retrying(services.conversions.recover, what="queue interrupted conversions again")
    await retrying(services.fleet.apply_access, what="tell the broker whom to refuse")


async def _serve(ground: Ground, services: Services, stop: asyncio.Event) -> None:
    config = ground.config
    device_tls = listeners.DeviceTls(ground)
    async with contextlib.AsyncExitStack() as stack:
        api = listeners.api_application(ground, services)
        await stack.enter_async_context(
            listeners.listening(
                api, host=config.api_host, port=config.api_port, tls=listeners.api_tls(config), setting="api_port"
            )
        )
        device = listeners.device_application(ground, services)
        await stack.enter_async_context(
            listeners.listening(
                device, host=config.device_host, port=config.device_port, tls=device_tls.context, setting="device_port"
            )
        )
        async with asyncio.TaskGroup() as group:
            tasks = [
                group.create_task(supervised(name, loop), name=name) for name, loop in _loops(ground, services).items()
            ]
            tickers = _tickers(ground, services, device_tls)
            for ticker in tickers:
                ticker.start()
            log.info(
                "controller_started",
                version=program_version(),
                installation_id=ground.trust.installation_id,
                api=f"{config.api_host}:{config.api_port}",
                devices=f"{config.device_host}:{config.device_port}",
                operator_token_file=str(config.state_dir / "operator-token"),
            )
            # Everything below ends by cancellation: what is left to do is in the database, so that nothing is drained.
            await stop.wait()
            for ticker in tickers:
                ticker.stop()
            for task in tasks:
                task.cancel()


def _loops(ground: Ground, services: Services) -> dict[str, Callable[[], Awaitable[None]]]:
    """Return everything that runs all the time."""
    workers = {f"convert-{number}": services.conversions.work for number in range(ground.config.convert_parallel)}
    deltas = {"deltas": services.deltas.run} if ground.config.delta_command else {}
    return {
        "broker": services.broker.run,
        "ingest": services.ingest.run,
        "publisher": services.desired_publisher.run,
        "pulse": services.pulse.run,
        "dispatch": services.dispatch.run,
        "measurements": services.measurements.run,
        "releases": lambda: retrying(services.releases.recover, what="finish releases"),
        **deltas,
        **workers,
    }


def _tickers(ground: Ground, services: Services, device_tls: listeners.DeviceTls) -> list[Ticker]:
    return [
        Ticker({"rollouts": services.rollouts}, interval_s=ground.config.tick_s),
        Ticker(
            {
                "reseal": _Tick(lambda: _reseal(services.desired)),
                "signatures": _Tick(ground.publisher.refresh_expiring),
            },
            interval_s=_HOUSEKEEPING_S,
        ),
        Ticker(
            {
                "telemetry": _Tick(services.telemetry.clear_out),
                "requests": _Tick(services.requests.clear_out),
                "certificate": device_tls,
            },
            interval_s=_CLEARING_OUT_S,
        ),
    ]


async def _reseal(desired: DesiredService) -> None:
    """Seal again all that is due, a page at a time, so that others may write in between."""
    more = True
    while more:
        more = await desired.reseal_due(_RESEAL_PAGE) == _RESEAL_PAGE


class _Call(Protocol):
    async def __call__(self) -> object: ...


class _Tick:
    """Makes any call a thing that ticks."""

    def __init__(self, call: _Call) -> None:
        self._call = call

    async def tick(self) -> None:
        """Make the call."""
        await self._call()


async def supervised(name: str, loop: Callable[[], Awaitable[None]]) -> None:
    """Run a loop; one that fails is logged and started again, after a wait that doubles while it keeps failing."""
    clock = SystemClock()
    wait_s = _RESTART_FIRST_S
    while True:
        started = clock.monotonic()
        try:
            await loop()
        except Exception:
            # One loop's fault must not end the others; what it needs is in the database, and it starts from there.
            log.exception("loop_failed", loop=name, restart_in_s=wait_s)
        else:
            return
        if clock.monotonic() - started > _RESTART_LONGEST_S:
            wait_s = _RESTART_FIRST_S
        await asyncio.sleep(wait_s)
        wait_s = min(wait_s * 2, _RESTART_LONGEST_S)
