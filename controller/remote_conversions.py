"""Runs conversions on other machines, over a Dask cluster: the one file of the controller that knows Dask.

The registry's queue stays the only queue; the cluster places one task for each conversion on a machine with a free
slot, notices when that machine is gone, and places it on another. Files go and come in pieces, by digest.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import shutil
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeVar

import msgspec
import structlog
from distributed import Client, KilledWorker, Security

from controller.blobs import FULL
from controller.conversion_order import request_of
from controller.conversion_outcome import keep
from controller.registry.core.conversion import MAX_ATTEMPTS
from controller.source_files import scratch_name
from shared import cluster, dataset
from shared.cluster import Began, Ended, NamedContent, OfferedFile, RemoteOrder, Said
from shared.conversion import ConversionProgress, ConversionResult, FailureKind
from shared.conversion_process import crashed
from shared.errors import InvalidInputError, NotFoundError, RetryableError, StorageFullError, UnreachableError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
    from pathlib import Path

    from distributed import Future

    from controller.blobs import Blobs
    from controller.registry.core.types import Card, Conversion, ModelVersion
    from shared.cluster_address import ClusterCertificates
    from shared.conversion_process import ConvertLimits, Progress
    from shared.ids import Sha256

T = TypeVar("T")

log = structlog.get_logger(__name__)

_CONNECT_S = 10.0
_AGAIN_S = 10.0
_PIECE_S = 120.0
"""For one piece through the scheduler, over a slow line too."""
_CLOSE_S = 5.0
# Between looks at whether the task still lives, when its machine says nothing.
_LOOK_S = 1.0
# Far more than a machine says while one piece is on its way.
_HEARD = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterSettings:
    """Where the cluster is."""

    scheduler: str
    certificates: ClusterCertificates | None
    """None: no TLS, on loopback only."""


class DaskConverter:
    """Runs conversions on the machines of a cluster."""

    def __init__(self, *, settings: ClusterSettings, blobs: Blobs, scratch: Path, limits: ConvertLimits) -> None:
        self._settings = settings
        self._blobs = blobs
        self._scratch = scratch
        self._limits = limits
        shutil.rmtree(scratch, ignore_errors=True)
        scratch.mkdir(parents=True)

    async def convert(
        self,
        conversion: Conversion,
        version: ModelVersion,
        progress: Callable[[ConversionProgress], Awaitable[None]],
    ) -> tuple[ConversionResult, Card | None]:
        """Return the outcome and the model card; passing artifacts and the card are then among the blobs.

        Raises:
            StorageFullError: no room here, or on the machine that was to convert; it is named.
            UnreachableError: the cluster is away, or went away.
        """
        out = self._scratch / conversion.conversion_id
        shutil.rmtree(out, ignore_errors=True)
        try:
            out.mkdir()
            order = await self._order(conversion, version)
            result = await self._placed(order, out, progress)
            return await keep(self._blobs, result, out)
        except NotFoundError as exc:
            return ConversionResult(failure=FailureKind.BAD_INPUT, message=f"a file of it is gone: {exc}"), None
        except InvalidInputError as exc:
            return ConversionResult(failure=FailureKind.BAD_INPUT, message=str(exc)), None
        except RetryableError as error:
            # Whoever waits for it reads why; the registry tries again.
            await progress(ConversionProgress(step=f"waiting: {error}", fraction=0.0))
            raise
        except OSError as exc:
            if exc.errno in FULL:
                raise StorageFullError("the disk has no room for a conversion", retry_after_s=30.0) from exc
            return crashed(f"the scratch folder cannot be used: {exc}"), None
        finally:
            await asyncio.to_thread(shutil.rmtree, out, ignore_errors=True)

    async def _order(self, conversion: Conversion, version: ModelVersion) -> RemoteOrder:
        content = self._blobs.path(version.sha256)
        document = await self._blobs.read(conversion.order.dataset_sha256)
        shards = dataset.decode(document).shards
        return RemoteOrder(
            # New each time: what an earlier try left running is not this one.
            key=f"conversion-{conversion.conversion_id}-{secrets.token_hex(4)}",
            request=request_of(conversion, version, self._limits),
            limits=self._limits,
            source=NamedContent(sha256=version.sha256, length_bytes=content.stat().st_size),
            source_name=scratch_name(version.source_format, content),
            document=document,
            shards=tuple(
                NamedContent(sha256=one.sha256, length_bytes=self._blobs.size_bytes(one.sha256)) for one in shards
            ),
        )

    async def _placed(self, order: RemoteOrder, out: Path, progress: Progress) -> ConversionResult:
        try:
            async with self._connected() as client, _task(client, order) as task:
                await progress(ConversionProgress(step="waiting for a worker", fraction=0.0))
                return await _Conversation(task, self._blobs, out, progress).result()
        except OSError as exc:
            if exc.errno in FULL:
                raise
            # Dask's own errors of connections are OSErrors, and so is a timeout.
            problem = f"the cluster at {self._settings.scheduler} cannot be reached: {exc}"
            raise UnreachableError(problem, retry_after_s=_AGAIN_S) from exc

    @contextlib.asynccontextmanager
    async def _connected(self) -> AsyncIterator[Client]:
        """Connect for one conversion: what the cluster did for it ends with the connection, however that ends."""
        client = Client(
            self._settings.scheduler,
            security=_security(self._settings.certificates),
            asynchronous=True,
            set_as_default=False,
            timeout=_CONNECT_S,
        )
        try:
            async with asyncio.timeout(2 * _CONNECT_S):
                await client
            yield client
        finally:
            with contextlib.suppress(OSError):
                async with asyncio.timeout(_CLOSE_S):
                    await client.close(_CLOSE_S)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Task:
    """A conversion in the cluster."""

    client: Client
    order: RemoteOrder
    future: Future[Coroutine[object, object, None]]
    heard: asyncio.Queue[Said] = field(default_factory=lambda: asyncio.Queue(_HEARD))
    """What its machine said; full, the newest is lost, which can be progress only."""


@contextlib.asynccontextmanager
async def _task(client: Client, order: RemoteOrder) -> AsyncIterator[_Task]:
    """Have the cluster take the order up, and forget it in the end."""
    heard: asyncio.Queue[Said] = asyncio.Queue(_HEARD)

    def hear(event: tuple[float, bytes]) -> None:
        said = msgspec.json.decode(event[1], type=Said)
        if said.key == order.key:
            with contextlib.suppress(asyncio.QueueFull):
                heard.put_nowait(said)

    client.subscribe_topic(cluster.TOPIC, hear)
    future = client.submit(
        cluster.convert,
        msgspec.json.encode(order),
        key=order.key,
        resources={cluster.RESOURCE: 1},
        pure=False,
    )
    try:
        yield _Task(client=client, order=order, future=future, heard=heard)
    finally:
        with contextlib.suppress(OSError):
            async with asyncio.timeout(_CLOSE_S):
                await client.cancel([future], force=True)


class _Conversation:
    """What is said about one conversion, from its being placed to its files being here."""

    def __init__(self, task: _Task, blobs: Blobs, out: Path, progress: Progress) -> None:
        self._task = task
        self._blobs = blobs
        self._out = out
        self._progress = progress
        self._attempts = 0
        self._newest = ""

    async def result(self) -> ConversionResult:
        """Return what the conversion program said; its files are then in `out`.

        Raises:
            OSError: the cluster, or the machine, went away in the middle.
            RetryableError: the machine cannot take it up now.
        """
        while True:
            said = await self._next()
            if isinstance(said, ConversionResult):
                return said
            match said.what:
                case Began(missing=missing):
                    self._attempts, self._newest = self._attempts + 1, said.attempt
                    if self._attempts > MAX_ATTEMPTS:
                        return _worn_out(self._attempts - 1)
                    log.info("conversion_placed", key=said.key, host=said.host, attempt=self._attempts)
                    again = "" if self._attempts == 1 else f", attempt {self._attempts}: its worker was lost"
                    await self._progress(ConversionProgress(step=f"start on {said.host}{again}", fraction=0.0))
                    for sha256 in missing:
                        await self._send(said, sha256)
                case ConversionProgress() as line if said.attempt == self._newest:
                    await self._progress(line)
                case Ended() as ended if said.attempt == self._newest:
                    return await self._take(said, ended)
                case _:
                    # Of a machine that was given up, and does not know it yet.
                    continue

    async def _next(self) -> Said | ConversionResult:
        """Return what is said next; when nothing is, say why nothing will be any more."""
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_LOOK_S):
                    return await self._task.heard.get()
            future, client = self._task.future, self._task.client
            if future.status == "error":
                return self._failed(await future.exception())
            if future.status != "pending" or client.status != "running":
                problem = f"the cluster lost the conversion: its scheduler ended or cannot be reached ({future.status})"
                raise UnreachableError(problem, retry_after_s=_AGAIN_S)

    def _failed(self, error: BaseException | None) -> ConversionResult:
        if isinstance(error, RetryableError):
            raise error
        if isinstance(error, KilledWorker):
            return _worn_out(max(1, self._attempts))
        return crashed(f"the worker broke: {error}")

    async def _send(self, to: Said, sha256: Sha256) -> None:
        path = self._blobs.path(sha256)
        for offset in range(0, path.stat().st_size, cluster.PIECE_BYTES):
            piece = await asyncio.to_thread(_piece, path, offset)
            await self._call(to, cluster.put_piece, sha256, offset, piece)

    async def _take(self, said: Said, ended: Ended) -> ConversionResult:
        """Fetch what is offered; only then is anything of it looked at."""
        if not cluster.are_plain(ended.files):
            return crashed("the worker offers files outside of its folder")
        too_long = [one.name for one in ended.files if one.length_bytes > self._task.order.limits.file_bytes]
        if too_long:
            return crashed(f"the worker offers a file that is longer than allowed: {too_long[0]}")
        for offered in ended.files:
            await self._fetch(said, offered)
        try:
            told = await asyncio.to_thread((self._out / cluster.RESULT_FILE).read_bytes)
            result = msgspec.json.decode(told, type=ConversionResult)
        except (FileNotFoundError, msgspec.DecodeError) as exc:
            return crashed(f"the worker offers no result: {exc}")
        if result.failure is None:
            return result
        # Whoever mends a missing front end, or memory that is short, must know where.
        return msgspec.structs.replace(result, message=f"{result.message} (on {said.host})")

    async def _fetch(self, said: Said, offered: OfferedFile) -> None:
        place = self._out / offered.name
        await asyncio.to_thread(place.touch)
        for offset in range(0, offered.length_bytes, cluster.PIECE_BYTES):
            piece = await self._call(said, cluster.get_piece, offered.name, offset)
            if len(piece) != min(cluster.PIECE_BYTES, offered.length_bytes - offset):
                raise UnreachableError(f"worker {said.host} sent {len(piece)} bytes too few", retry_after_s=_AGAIN_S)
            await asyncio.to_thread(_append, place, piece)

    async def _call(self, to: Said, function: Callable[..., Awaitable[T]], *rest: object) -> T:
        """Call a function on the machine that said something, about its attempt."""
        async with asyncio.timeout(_PIECE_S):
            answers: dict[str, T] = await self._task.client.run(function, to.attempt, *rest, workers=[to.worker])
        if to.worker not in answers:
            raise UnreachableError(f"worker {to.host} is gone", retry_after_s=_AGAIN_S)
        return answers[to.worker]


def _worn_out(attempts: int) -> ConversionResult:
    return crashed(f"its worker was lost during each of {attempts} attempts")


def _security(certificates: ClusterCertificates | None) -> Security:
    if certificates is None:
        return Security(require_encryption=False)
    return Security(
        require_encryption=True,
        tls_ca_file=str(certificates.ca),
        tls_client_cert=str(certificates.certificate),
        tls_client_key=str(certificates.key),
    )


def _piece(path: Path, offset_bytes: int) -> bytes:
    with path.open("rb") as file:
        file.seek(offset_bytes)
        return file.read(cluster.PIECE_BYTES)


def _append(path: Path, piece: bytes) -> None:
    with path.open("ab") as file:
        file.write(piece)
