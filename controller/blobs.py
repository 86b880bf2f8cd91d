"""Files named by the sha256 of what they hold: written once, whole or not at all, never changed.

`{folder}/{ab}/{sha256}` is complete and durable, for a name appears there by rename after its bytes were hashed and
flushed. `{folder}/parts/{sha256}.{size}` is what has arrived of an upload; its length is the offset to resume at.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import hashlib
import os
import secrets
import shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, ParamSpec, TypeVar
from weakref import WeakValueDictionary

from shared.errors import ConflictError, DigestMismatchError, InvalidInputError, NotFoundError, StorageFullError
from shared.ids import Sha256, sha256_hex

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator
    from pathlib import Path

P = ParamSpec("P")
T = TypeVar("T")

# No room, no quota, or more than this process may write into one file: the same to a caller.
FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
"""The numbers by which a disk says that it is full."""
_CHUNK_BYTES = 1024 * 1024
# Hashing and flushing release the GIL; more threads than this only queue at the disk.
_THREADS = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class UploadState:
    """How much of a file has arrived."""

    sha256: Sha256
    size_bytes: int
    offset_bytes: int
    complete: bool


class Blobs:
    """The store in one folder. Every method that touches bytes works in threads of its own."""

    def __init__(self, folder: Path, *, max_blob_bytes: int) -> None:
        self._folder = folder
        self._parts = folder / "parts"
        self._max_blob_bytes = max_blob_bytes
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="blobs")
        self._locks: WeakValueDictionary[Sha256, asyncio.Lock] = WeakValueDictionary()
        self._parts.mkdir(parents=True, exist_ok=True)
        # Left by a crash in the middle of `_put`: nobody waits for them. Parts of uploads stay: a sender may go on.
        for abandoned in folder.glob("*.new"):
            abandoned.unlink()

    def close(self) -> None:
        """Wait for the threads to end."""
        self._threads.shutdown()

    def path(self, sha256: Sha256) -> Path:
        """Return where a complete file lies, for reading only. Raises NotFoundError."""
        found = self._place(sha256)
        if not found.is_file():
            raise NotFoundError(kind="blob", name=sha256)
        return found

    def size_bytes(self, sha256: Sha256) -> int:
        """Return the length of a complete file. Raises NotFoundError."""
        return self.path(sha256).stat().st_size

    async def read(self, sha256: Sha256) -> bytes:
        """Return all of a small file. Raises NotFoundError."""
        return await self._in_thread(self.path(sha256).read_bytes)

    async def put_bytes(self, data: bytes) -> Sha256:
        """Keep `data`; the same bytes again change nothing. Raises StorageFullError."""
        return await self._in_thread(self._put, iter([data]))

    async def put_file(self, source: Path) -> Sha256:
        """Keep a copy of a file. Raises StorageFullError."""
        return await self._in_thread(self._put, _chunks(source))

    async def begin(self, sha256: Sha256, size_bytes: int) -> UploadState:
        """Declare a file that is to come; repeated, it says where to go on.

        Raises:
            InvalidInputError: empty, too large, or the file is here and has another size.
            StorageFullError: the disk has less room than the rest of the file needs.
        """
        if not 1 <= size_bytes <= self._max_blob_bytes:
            problem = "the file is empty" if size_bytes < 1 else f"{size_bytes} exceeds {self._max_blob_bytes} bytes"
            raise InvalidInputError(field="size_bytes", problem=problem)
        async with self._turn(sha256):
            return await self._in_thread(self._declare, sha256, size_bytes)

    async def upload(self, sha256: Sha256) -> UploadState:
        """Return how much of a declared file has arrived. Raises NotFoundError."""
        return await self._in_thread(self._state, sha256)

    async def append(self, sha256: Sha256, offset_bytes: int, chunks: AsyncIterator[bytes]) -> UploadState:
        """Add bytes at the end of what has arrived; the last one makes the file complete, if its hash is the name.

        What arrived before `chunks` broke off is kept.

        Raises:
            NotFoundError: never declared.
            ConflictError: `offset_bytes` is not where the upload stands.
            InvalidInputError: more bytes than were declared.
            DigestMismatchError: the whole is another file; the upload starts over.
            StorageFullError: no room; what arrived is kept.
        """
        async with self._turn(sha256):
            state = await self._in_thread(self._state, sha256)
            if offset_bytes != state.offset_bytes:
                raise ConflictError(
                    kind="upload", name=sha256, problem=f"stands at offset {state.offset_bytes}, not {offset_bytes}"
                )
            if state.complete:
                return state
            part = self._part(sha256, state.size_bytes)
            room = state.size_bytes - state.offset_bytes
            async for chunk in chunks:
                room -= len(chunk)
                if room < 0:
                    raise InvalidInputError(field="body", problem=f"more than the declared {state.size_bytes} bytes")
                await self._in_thread(_append, part, chunk)
            if room == 0:
                await self._in_thread(self._complete, sha256, part)
            return await self._in_thread(self._state, sha256)

    def _place(self, sha256: Sha256) -> Path:
        # Checked here again, since this is where a name becomes a path.
        name = sha256_hex(sha256)
        return self._folder / name[:2] / name

    def _part(self, sha256: Sha256, size_bytes: int) -> Path:
        return self._parts / f"{sha256_hex(sha256)}.{size_bytes}"

    def _state(self, sha256: Sha256) -> UploadState:
        with contextlib.suppress(NotFoundError):
            size = self.size_bytes(sha256)
            return UploadState(sha256=sha256, size_bytes=size, offset_bytes=size, complete=True)
        part = next(self._parts.glob(f"{sha256_hex(sha256)}.*"), None)
        if part is None:
            raise NotFoundError(kind="upload", name=sha256)
        declared = int(part.suffix.removeprefix("."))
        return UploadState(sha256=sha256, size_bytes=declared, offset_bytes=part.stat().st_size, complete=False)

    def _declare(self, sha256: Sha256, size_bytes: int) -> UploadState:
        with contextlib.suppress(NotFoundError):
            state = self._state(sha256)
            if state.size_bytes == size_bytes:
                return state
            if state.complete:
                raise InvalidInputError(field="size_bytes", problem=f"that file has {state.size_bytes} bytes")
            # A name fits one size only, so one of the two declarations was wrong; the newer one is believed.
            self._part(sha256, state.size_bytes).unlink()
        # Asked before anything is sent: to learn it after an hour of upload helps nobody.
        if shutil.disk_usage(self._folder).free < size_bytes:
            raise StorageFullError(f"the disk has less than {size_bytes} bytes of room")
        with _disk_errors():
            self._part(sha256, size_bytes).touch()
        return self._state(sha256)

    def _complete(self, sha256: Sha256, part: Path) -> None:
        actual = hashlib.sha256()
        for chunk in _chunks(part):
            actual.update(chunk)
        # No part of it can be told to be right, so that there is nothing to resume.
        if actual.hexdigest() != sha256:
            part.unlink()
            raise DigestMismatchError(expected=sha256, actual=actual.hexdigest(), path="upload")
        with _disk_errors():
            _flush(part)
            self._publish(part, sha256)

    def _put(self, chunks: Iterator[bytes]) -> Sha256:
        """Write beside, hash while writing, flush, and give it its name."""
        beside = self._folder / f"{secrets.token_hex(16)}.new"
        hashed = hashlib.sha256()
        try:
            with _disk_errors():
                with beside.open("xb") as file:
                    for chunk in chunks:
                        hashed.update(chunk)
                        file.write(chunk)
                _flush(beside)
                name = Sha256(hashed.hexdigest())
                self._publish(beside, name)
        finally:
            beside.unlink(missing_ok=True)
        return name

    def _publish(self, written: Path, sha256: Sha256) -> None:
        place = self._place(sha256)
        place.parent.mkdir(exist_ok=True)
        # A blob never changes: a program that tries is to fail, rather than to break every release that holds it.
        written.chmod(0o444)
        written.replace(place)
        _flush(place.parent)
        # The folder of the first blob with these two digits is itself new.
        _flush(self._folder)

    @contextlib.asynccontextmanager
    async def _turn(self, sha256: Sha256) -> AsyncIterator[None]:
        """Let one caller at a time work on an upload."""
        lock = self._locks.setdefault(sha256, asyncio.Lock())
        async with lock:
            yield

    async def _in_thread(self, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run `call` in a thread; a caller that goes away waits for it, so that nobody else takes its turn before."""
        work = self._threads.submit(call, *args, **kwargs)
        future = asyncio.wrap_future(work)
        try:
            return await asyncio.shield(future)
        except asyncio.CancelledError:
            await asyncio.wait([future])
            if not future.cancelled():
                future.exception()  # looked at, or the loop would complain that nobody did
            raise


@contextlib.contextmanager
def _disk_errors() -> Iterator[None]:
    try:
        yield
    except OSError as exc:
        if exc.errno in FULL:
            raise StorageFullError("no room left for the file on the controller's disk") from exc
        raise


def _append(part: Path, chunk: bytes) -> None:
    with _disk_errors(), part.open("ab") as file:
        file.write(chunk)


def _chunks(source: Path) -> Iterator[bytes]:
    with source.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            yield chunk


def _flush(path: Path) -> None:
    """Have the disk hold a file's bytes, or a folder's names."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
