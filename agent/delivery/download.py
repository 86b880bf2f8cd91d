"""One file of the repository onto the disk: resumable, bounded in every direction, and visible only when whole."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    import aiohttp

    from shared.wire import TargetRef


@dataclass(frozen=True, slots=True, kw_only=True)
class DownloadLimits:
    """What a download may take of the device."""

    max_bytes: int
    """Larger files are refused before a byte is asked for."""
    min_rate_bytes_s: int = 1024
    """A server slower than this is refused, so that it cannot hold a device for ever."""
    grace_s: float = 10.0
    """The rate is judged over spans of this length, and no answer at all may take longer."""
    reserve_bytes: int = 16 * 1024 * 1024
    """Space that must stay free for journal, metadata and the rest of the machine."""


async def fetch(session: aiohttp.ClientSession, url: str, ref: TargetRef, into: Path, limits: DownloadLimits) -> None:
    """Bring the file that `ref` names to `into`, going on from an earlier cut where there was one.

    Raises:
        DigestMismatchError: the bytes, or how many there are, differ from `ref`; nothing of them is kept.
        UnreachableError: refused, too slow, redirected or cut; what came so far is kept for the next try.
        StorageFullError: no room; nothing of the download is kept.
        InvalidInputError: the file is larger than this device takes.
    """
    raise NotImplementedError
