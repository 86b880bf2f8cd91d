"""A worker machine's side of conversions for a controller elsewhere: files in, the conversion program, files out."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import hashlib
import os
import secrets
import shutil
import socket
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import msgspec

from shared import conversion_process
from shared.cluster import PIECE_BYTES, RESULT_FILE, Began, Ended, OfferedFile, RemoteOrder, Said
from shared.conversion_cache import prune
from shared.conversion_folder import lay_out, made
from shared.errors import StorageFullError, UnreachableError

if TYPE_CHECKING:
    from shared.clock import Clock
    from shared.conversion import ConversionProgress, ConversionResult
    from shared.ids import Sha256

_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
_MIN_FREE_BYTES = 64 * 1024 * 1024
_RETRY_S = 30.0
# How soon a conversion that nobody wants ends; looking costs a dictionary's look-up.
_LOOK_S = 0.25
# Nobody watches more closely, and whoever is between keeps what was said for a while.
_PROGRESS_S = 0.5


class Link(Protocol):
    """The way to whoever ordered."""

    @property
    def address(self) -> str:
        """What this machine is called in the cluster."""
        ...

    def say(self, said: bytes) -> None:
        """Have everybody who listens hear a Said in JSON."""
        ...

    def wanted(self, key: str) -> bool:
        """Whether an order that was taken up here still stands."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchSettings:
    """What a worker machine gives to conversions."""

    command: tuple[str, ...]
    """The conversion program."""
    folder: Path
    """Of this worker alone."""
    environments: Path
    """Where front ends are installed."""
    kept_bytes: int
    """Models and shards that were sent, so that the same dataset is sent once; and as much again of what was made."""


@dataclass(slots=True, kw_only=True)
class _Attempt:
    """One order that was taken up."""

    folder: Path
    missing: dict[Sha256, int]
    """Lengths of the files that are still to come."""
    arrived: asyncio.Event = field(default_factory=asyncio.Event)
    offered: frozenset[str] = frozenset()


class Bench:
    """Works orders off on this machine; as many at once as the engine calls for."""

    def __init__(self, settings: BenchSettings, link: Link, clock: Clock) -> None:
        self._settings = settings
        self._link = link
        self._clock = clock
        self._scratch = settings.folder / "scratch"
        self._kept = settings.folder / "files"
        self._cache = settings.folder / "cache"
        self._fetching = asyncio.Lock()
        """One at a time, so that two orders of the same data have it sent once."""
        self._attempts: dict[str, _Attempt] = {}
        shutil.rmtree(self._scratch, ignore_errors=True)
        for folder in (self._scratch, self._kept, self._cache):
            folder.mkdir(parents=True, exist_ok=True)

    async def convert(self, order: RemoteOrder) -> None:
        """Carry an order out and offer what it made, until nobody wants it any longer.

        Raises:
            StorageFullError: this machine has no room for it.
        """
        async with asyncio.TaskGroup() as group:
            working = group.create_task(self._worked(order))
            unwanted = group.create_task(self._until_unwanted(order.key))
            await asyncio.wait([working, unwanted], return_when=asyncio.FIRST_COMPLETED)
            working.cancel()
            unwanted.cancel()
        problem = None if working.cancelled() else working.result()
        if problem is not None:
            raise problem

    async def put(self, attempt: str, sha256: Sha256, offset_bytes: int, piece: bytes) -> None:
        """Take the next piece of a file that is missing.

        Raises:
            UnreachableError: nothing here waits for it, or it is not the next one, or the whole is another file: all of
                it must be ordered again.
            StorageFullError: this machine has no room for it.
        """
        waiting = self._attempts.get(attempt)
        if waiting is None or sha256 not in waiting.missing:
            raise self._gone(f"waits for no file {sha256}")
        part = waiting.folder / f"{sha256}.part"
        length_bytes = waiting.missing[sha256]
        try:
            if not await asyncio.to_thread(_append, part, offset_bytes, piece):
                raise self._gone(f"has another part of {sha256}")
            whole = offset_bytes + len(piece) >= length_bytes
            if whole and not await asyncio.to_thread(_publish, part, self._kept / sha256):
                raise self._gone(f"was sent another file than {sha256}")
        except OSError as exc:
            raise self._no_room(exc) from exc
        if whole:
            del waiting.missing[sha256]
        if not waiting.missing:
            waiting.arrived.set()

    async def get(self, attempt: str, name: str, offset_bytes: int) -> bytes:
        """Return a piece of a file that is offered. Raises UnreachableError."""
        found = self._attempts.get(attempt)
        if found is None or name not in found.offered:
            raise self._gone(f"offers no file {name}")
        place = found.folder / name if name == RESULT_FILE else made(found.folder) / name
        return await asyncio.to_thread(_piece, place, offset_bytes)

    async def _until_unwanted(self, key: str) -> None:
        while self._link.wanted(key):  # noqa: ASYNC110 - the engine tells nobody; it only forgets the order
            await asyncio.sleep(_LOOK_S)

    async def _worked(self, order: RemoteOrder) -> StorageFullError | None:
        """Do all of it; a full disk is returned, since a group of tasks would wrap what is raised in it."""
        attempt = secrets.token_hex(8)
        folder = self._scratch / attempt
        try:
            folder.mkdir()
            inputs = await self._fetch(order, attempt, folder)
            await self._run(order, attempt, inputs)
            # What is offered lies there until it is taken, or nobody wants it.
            await asyncio.Event().wait()
        except StorageFullError as error:
            return error
        except OSError as exc:
            return self._no_room(exc)
        finally:
            self._attempts.pop(attempt, None)
            await asyncio.to_thread(self._clear, folder)
        return None

    async def _fetch(self, order: RemoteOrder, attempt: str, folder: Path) -> Path:
        """Have what is missing sent; return a folder of all files by their digests, which nothing can take away."""
        wanted = {file.sha256: file.length_bytes for file in (order.source, *order.shards)}
        async with self._fetching:
            missing = {sha256: length for sha256, length in wanted.items() if not (self._kept / sha256).exists()}
            self._check_room(sum(missing.values()))
            arriving = _Attempt(folder=folder, missing=dict(missing))
            self._attempts[attempt] = arriving
            self._say(order, attempt, Began(missing=tuple(missing)))
            if missing:
                await arriving.arrived.wait()
            return await asyncio.to_thread(self._hold, list(wanted), folder / "in")

    async def _run(self, order: RemoteOrder, attempt: str, inputs: Path) -> None:
        folder = self._attempts[attempt].folder
        source = folder / order.source_name
        source.symlink_to(inputs / order.source.sha256)
        request = msgspec.structs.replace(
            order.request,
            cache_path=str(self._cache.resolve()),
            environments_path=str(self._settings.environments),
        )
        request = lay_out(
            folder, request, source=source, document=order.document, content=lambda sha256: inputs / sha256
        )
        result = await conversion_process.run(
            self._settings.command,
            request,
            folder=folder,
            limits=order.limits,
            progress=self._progress_of(order, attempt),
        )
        await self._offer(order, attempt, _with_names(result, made(folder)))

    async def _offer(self, order: RemoteOrder, attempt: str, result: ConversionResult) -> None:
        found = self._attempts[attempt]
        told = msgspec.json.encode(result)
        await asyncio.to_thread((found.folder / RESULT_FILE).write_bytes, told)
        files = (OfferedFile(name=RESULT_FILE, length_bytes=len(told)), *_offered(result, made(found.folder)))
        found.offered = frozenset(file.name for file in files)
        self._say(order, attempt, Ended(files=files))

    def _progress_of(self, order: RemoteOrder, attempt: str) -> conversion_process.Progress:
        said_at = self._clock.monotonic() - _PROGRESS_S

        async def progress(line: ConversionProgress) -> None:
            nonlocal said_at
            now = self._clock.monotonic()
            if now - said_at >= _PROGRESS_S:
                said_at = now
                self._say(order, attempt, line)

        return progress

    def _say(self, order: RemoteOrder, attempt: str, what: Began | ConversionProgress | Ended) -> None:
        said = Said(key=order.key, attempt=attempt, worker=self._link.address, host=socket.gethostname(), what=what)
        self._link.say(msgspec.json.encode(said))

    def _gone(self, problem: str) -> UnreachableError:
        """Return what crosses the cluster: its engine carries errors that are made of one text."""
        return UnreachableError(f"worker {socket.gethostname()} {problem}", retry_after_s=_RETRY_S)

    def _check_room(self, coming_bytes: int) -> None:
        free = shutil.disk_usage(self._scratch).free
        if free < coming_bytes + _MIN_FREE_BYTES:
            raise self._no_room(None)

    def _no_room(self, exc: OSError | None) -> StorageFullError:
        """Return what says which disk of which machine it is."""
        problem = "has no room for a conversion" if exc is None or exc.errno in _FULL else f"cannot be used: {exc}"
        where = f"worker {socket.gethostname()}: the disk of {self._settings.folder}"
        return StorageFullError(f"{where} {problem}", retry_after_s=_RETRY_S)

    def _hold(self, wanted: list[Sha256], folder: Path) -> Path:
        """Link files into a folder by content, not by name: they stay until it goes, whatever is pruned meanwhile."""
        folder.mkdir()
        for sha256 in wanted:
            os.utime(self._kept / sha256)
            (folder / sha256).hardlink_to(self._kept / sha256)
        return folder

    def _clear(self, folder: Path) -> None:
        shutil.rmtree(folder, ignore_errors=True)
        for kept in (self._kept, self._cache):
            prune(kept, max_bytes=self._settings.kept_bytes, now_s=self._clock.now().timestamp())


def _append(part: Path, offset_bytes: int, piece: bytes) -> bool:
    """Add a piece, if it is the next one."""
    with part.open("ab") as file:
        if file.tell() != offset_bytes:
            return False
        file.write(piece)
    return True


def _publish(part: Path, place: Path) -> bool:
    """Give a file its name, if that is what it holds."""
    with part.open("rb") as file:
        actual = hashlib.file_digest(file, "sha256").hexdigest()
    if actual != place.name:
        return False
    part.chmod(0o444)
    part.replace(place)
    return True


def _piece(path: Path, offset_bytes: int) -> bytes:
    with path.open("rb") as file:
        file.seek(offset_bytes)
        return file.read(PIECE_BYTES)


def _with_names(result: ConversionResult, out: Path) -> ConversionResult:
    """Give files in `out` by their names alone; a path to elsewhere stays what it is, for the controller to refuse."""
    artifacts = tuple(
        msgspec.structs.replace(artifact, path=_name(artifact.path, out)) for artifact in result.artifacts
    )
    return msgspec.structs.replace(result, artifacts=artifacts, card_path=_name(result.card_path, out))


def _name(path: str, out: Path) -> str:
    return Path(path).name if path and Path(path).parent == out else path


def _offered(result: ConversionResult, out: Path) -> list[OfferedFile]:
    """Return the files that the controller would keep, of those that are files in `out`."""
    names = [artifact.path for artifact in result.artifacts if not artifact.refused]
    if result.card_path:
        names += [result.card_path, str(Path(result.card_path).with_suffix(".html"))]
    plain = [name for name in dict.fromkeys(names) if name == Path(name).name and name != RESULT_FILE]
    found: list[OfferedFile] = []
    for name in plain:
        place = out / name
        with contextlib.suppress(OSError):
            if place.is_file() and not place.is_symlink():
                found.append(OfferedFile(name=name, length_bytes=place.stat().st_size))
    return found
