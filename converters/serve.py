"""`python -m converters.serve`: lend this machine to a controller's conversions, as a worker of a Dask cluster.

The one file of this package that knows Dask. Whoever may connect to the cluster may run code on every machine of it, so
that all parts prove themselves by certificates of an authority that vouches for nobody else.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import fcntl
import logging
import os
import signal
import socket
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from distributed import Security, Worker

from converters.remote_task import Bench, BenchSettings
from shared import cluster
from shared.clock import SystemClock
from shared.cluster_address import ClusterCertificates, checked_address
from shared.conversion_process import environments_folder
from shared.errors import InvalidInputError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

log = logging.getLogger(__name__)

_EXIT_USAGE = 2
_AGAIN_S = 5.0
_CLOSE_S = 10.0
_GIB = 1024**3
_MAX_SLOTS = 64
_EXECUTING = frozenset({"executing", "long-running"})


@dataclass(frozen=True, slots=True, kw_only=True)
class ServeSettings:
    """How this machine takes part."""

    scheduler: str
    certificates: ClusterCertificates | None
    slots: int
    host: str | None
    port: int
    bench: BenchSettings


class DaskLink:
    """What a Bench needs of the Dask worker around it."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker

    @property
    def address(self) -> str:
        """What this machine is called in the cluster."""
        return str(self._worker.address)

    def say(self, said: bytes) -> None:
        """Have everybody who listens hear a Said in JSON."""
        self._worker.log_event(cluster.TOPIC, said)

    def wanted(self, key: str) -> bool:
        """Whether an order of this machine still stands; Dask calls a running task that nobody wants canceled."""
        task = self._worker.state.tasks.get(key)
        return task is not None and task.state in _EXECUTING


async def serve(settings: ServeSettings) -> None:
    """Take part until SIGTERM or SIGINT, also when the scheduler is away for a while.

    Raises:
        InvalidInputError: another worker has the folder.
    """
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    with _alone(settings.bench.folder):
        while not stop.is_set():
            await _take_part(settings, stop)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_AGAIN_S):
                    await stop.wait()


async def _take_part(settings: ServeSettings, stop: asyncio.Event) -> None:
    """Be a worker until there is no scheduler, or nobody wants one any longer."""
    worker = _worker(settings)
    cluster.open_workplace(Bench(settings.bench, DaskLink(worker), SystemClock()))
    async with asyncio.TaskGroup() as group:
        # Until it has found its scheduler, which may take as long as it likes.
        taking_part = group.create_task(_started_and_ended(worker))
        stopping = group.create_task(stop.wait())
        await asyncio.wait([taking_part, stopping], return_when=asyncio.FIRST_COMPLETED)
        taking_part.cancel()
        stopping.cancel()
    with contextlib.suppress(TimeoutError, OSError):
        async with asyncio.timeout(_CLOSE_S):
            await worker.close(reason="the machine is taken out")


async def _started_and_ended(worker: Worker) -> None:
    try:
        await worker
        await worker.finished()
    except OSError as exc:
        # A scheduler that refuses this certificate, or is not there: it is asked again.
        log.warning("the cluster cannot be reached: %s", exc)


def _worker(settings: ServeSettings) -> Worker:
    return Worker(
        settings.scheduler,
        nthreads=settings.slots,
        resources={cluster.RESOURCE: settings.slots},
        security=_security(settings.certificates),
        local_directory=str(settings.bench.folder / "dask"),
        name=f"{socket.gethostname()}-{os.getpid()}",
        host=settings.host,
        port=settings.port,
        # Its limits are for data in this process, which holds none: conversions are processes with limits of their own.
        memory_limit=0,
        # What Dask serves over HTTP asks nobody who they are.
        dashboard_address="127.0.0.1:0",
    )


def _security(certificates: ClusterCertificates | None) -> Security:
    if certificates is None:
        return Security(require_encryption=False)
    return Security(
        require_encryption=True,
        tls_ca_file=str(certificates.ca),
        tls_worker_cert=str(certificates.certificate),
        tls_worker_key=str(certificates.key),
    )


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Hold the folder for this process alone; the kernel lets go of it however the process ends."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    with (folder / "lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as exc:
            problem = f"{folder} belongs to a worker that is running"
            raise InvalidInputError(field="--folder", problem=problem, remedy="name another, or use --slots") from exc
        yield


def main(arguments: Sequence[str] | None = None) -> int:
    """Read the options and take part."""
    try:
        asyncio.run(serve(settings_of(sys.argv[1:] if arguments is None else arguments)))
    except InvalidInputError as exc:
        sys.stderr.write(f"error: {exc}\n")
        return _EXIT_USAGE
    return 0


def settings_of(arguments: Sequence[str]) -> ServeSettings:
    """Read the options. Raises InvalidInputError."""
    given = _parser().parse_args(arguments)
    certificates = checked_address(
        given.scheduler,
        field="--scheduler",
        files={"--ca": given.ca, "--certificate": given.certificate, "--key": given.key},
    )
    bench = BenchSettings(
        command=(sys.executable, "-m", "converters"),
        folder=given.folder.expanduser().absolute(),
        environments=(given.root or environments_folder(os.environ)).expanduser().absolute(),
        kept_bytes=int(given.keep_gib * _GIB),
    )
    return ServeSettings(
        scheduler=given.scheduler,
        certificates=certificates,
        slots=given.slots,
        host=given.host,
        port=given.port,
        bench=bench,
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m converters.serve",
        description="Lend this machine to a controller's conversions, until told to end.",
    )
    parser.add_argument("--scheduler", required=True, help="the cluster's scheduler, e.g. tls://scheduler.example:8786")
    parser.add_argument("--ca", type=Path, help="PEM: who vouches for all parts of the cluster, and for nobody else")
    parser.add_argument("--certificate", type=Path, help="PEM: this machine's certificate in the cluster")
    parser.add_argument("--key", type=Path, help="PEM: key of that certificate")
    slots = range(1, _MAX_SLOTS + 1)
    parser.add_argument("--slots", type=int, choices=slots, metavar="N", default=1, help="conversions at once")
    folder = Path("~/.cache/litefleet/cluster")
    parser.add_argument("--folder", type=Path, default=folder, help="of this worker alone; default: %(default)s")
    parser.add_argument("--keep-gib", type=float, default=8.0, help="models and data to keep; default: %(default)s")
    parser.add_argument("--root", type=Path, help="folder of the front ends; default: LITEFLEET_WORKERS_DIR")
    parser.add_argument("--host", help="address at which the scheduler reaches this machine; default: found")
    parser.add_argument("--port", type=int, default=0, help="TCP port for that; default: any that is free")
    return parser


if __name__ == "__main__":
    sys.exit(main())
