"""What was made or measured before, by content: a conversion that was cut short goes on where it was.

One file for each piece, written under another name first, so that no moment of dying leaves half of one. Each ends in
the sha256 of what it holds: a damaged one is as good as none.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from pathlib import Path
from typing import TypeVar

import msgspec

from shared.decoding import MALFORMED

_DIGEST_BYTES = 32
_NEW = ".new"
"""End of the names of files that are not whole yet."""

T = TypeVar("T", bound=msgspec.Struct)


class Cache:
    """A folder of pieces; several conversions may use it at once, since the same key always means the same content."""

    def __init__(self, folder: Path) -> None:
        """Use `folder`, which is made when the first piece is kept."""
        self._folder = folder

    def get(self, key: str) -> bytes | None:
        """Return what was kept as `key`, or None when nothing whole was."""
        path = self._folder / key
        try:
            content = path.read_bytes()
            body, digest = content[:-_DIGEST_BYTES], content[-_DIGEST_BYTES:]
            if hashlib.sha256(body).digest() != digest:
                return None
            # Whoever makes room takes what was not asked for the longest.
            os.utime(path)
        except OSError:
            return None
        return body

    def put(self, key: str, content: bytes) -> None:
        """Keep `content` as `key`, if that can be done: a full disk costs the memory of a conversion, not its work."""
        # The process in the name: two conversions may make the same piece at once.
        draft = self._folder / f"{key}.{os.getpid()}{_NEW}"
        with contextlib.suppress(OSError):
            self._folder.mkdir(parents=True, exist_ok=True)
            try:
                with draft.open("wb") as file:
                    file.write(content)
                    file.write(hashlib.sha256(content).digest())
                    file.flush()
                    os.fsync(file.fileno())
                draft.replace(self._folder / key)
            finally:
                draft.unlink(missing_ok=True)

    def get_struct(self, key: str, kind: type[T]) -> T | None:
        """Return the struct that was kept as `key`, or None."""
        content = self.get(key)
        try:
            return None if content is None else msgspec.json.decode(content, type=kind)
        except MALFORMED:
            # Of another version of this program.
            return None

    def put_struct(self, key: str, value: msgspec.Struct) -> None:
        """Keep a struct as `key`, if that can be done."""
        self.put(key, msgspec.json.encode(value))


def key(kind: str, *parts: str | bytes | msgspec.Struct | None) -> str:
    """Return a name for content that is decided by `parts`, all of them and in this order."""
    hashed = hashlib.sha256()
    for part in parts:
        piece = part if isinstance(part, bytes) else msgspec.json.encode(part)
        # With its length, so that no two lists of parts run into one.
        hashed.update(len(piece).to_bytes(8, "big"))
        hashed.update(piece)
    return f"{kind}-{hashed.hexdigest()}"


def program() -> str:
    """Return a digest of the code that converts: another program may make other bytes of the same input."""
    hashed = hashlib.sha256()
    here = Path(__file__).parents[1]
    for folder in (here, here.with_name("shared")):
        for path in sorted(folder.rglob("*.py")):
            hashed.update(path.relative_to(folder.parent).as_posix().encode())
            hashed.update(path.read_bytes())
    return hashed.hexdigest()
