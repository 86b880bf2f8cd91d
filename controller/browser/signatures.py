"""What the repository vouches for, looked up as a device looks it up: from a root on, through every signature.

Devices get their root when they enrol. An operator's machine has none: unless a file with one is named, it believes the
controller's first root once, remembers it, and from then on takes only what follows from it.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import urllib.error
import urllib.request
from dataclasses import dataclass
from http import HTTPStatus
from typing import TYPE_CHECKING

from tuf.api.exceptions import DownloadError, DownloadHTTPError, RepositoryError
from tuf.ngclient.config import UpdaterConfig
from tuf.ngclient.fetcher import FetcherInterface
from tuf.ngclient.updater import Updater
from typing_extensions import override

from shared.errors import UnreachableError, UntrustedError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from datetime import datetime
    from pathlib import Path

    from tuf.api.metadata import (  # type: ignore[attr-defined]  # python-tuf offers it here, without an `__all__`
        TargetFile,
    )

METADATA_PATH = "/api/v1/tuf/metadata/"
_CHUNK_BYTES = 64 * 1024
_TIMEOUT_S = 30.0
_ROOT = "root.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Vouched:
    """What the signed metadata say of some files, by their paths in the repository."""

    files: dict[str, TargetFile]
    root_version: int
    is_first: bool
    """The root was believed because there was none before."""
    expires_at: datetime


class _ApiFetcher(FetcherInterface):
    """Reads from the operators' API. How many bytes may come is the updater's to say, from signed metadata."""

    def __init__(self, token: str) -> None:
        self._token = token

    @override
    def _fetch(self, url: str) -> Iterator[bytes]:
        request = urllib.request.Request(url, headers={"Authorization": f"Bearer {self._token}"})  # noqa: S310 - the session has checked the scheme
        try:
            with urllib.request.urlopen(request, timeout=_TIMEOUT_S) as reply:  # noqa: S310 - likewise
                while chunk := reply.read(_CHUNK_BYTES):
                    yield chunk
        except urllib.error.HTTPError as exc:
            raise DownloadHTTPError(f"{url} answers {exc.code}", exc.code) from exc


async def look_up(*, url: str, token: str, folder: Path, paths: tuple[str, ...], root: Path | None = None) -> Vouched:
    """Return what is vouched for under `paths`; `folder` keeps what was believed before.

    Raises:
        UntrustedError: a signature does not hold, something has expired, or nobody vouches for a path.
        UnreachableError: the metadata cannot be fetched.
    """
    try:
        return await asyncio.to_thread(_look_up, url.rstrip("/") + METADATA_PATH, token, folder, paths, root)
    except DownloadHTTPError as exc:
        if exc.status_code == HTTPStatus.NOT_FOUND:
            raise UntrustedError(f"the controller has no such metadata: {exc}") from exc
        raise UnreachableError(str(exc)) from exc
    except (DownloadError, OSError) as exc:
        raise UnreachableError(f"the signed metadata cannot be fetched: {exc}") from exc
    except RepositoryError as exc:
        remedy = f"if the installation was made anew, remove {folder}"
        raise UntrustedError(f"the signatures do not hold: {exc}; {remedy}") from exc


def _look_up(url: str, token: str, folder: Path, paths: tuple[str, ...], root: Path | None) -> Vouched:
    fetcher = _ApiFetcher(token)
    bootstrap = root.read_bytes() if root is not None else None
    if bootstrap is not None:
        # What follows from a root that somebody names is remembered apart: the wrong file must spoil nothing.
        folder /= f"root-{hashlib.sha256(bootstrap).hexdigest()[:16]}"
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    is_first = bootstrap is None and not (folder / _ROOT).exists()
    if is_first:
        bootstrap = b"".join(fetcher.fetch(f"{url}1.{_ROOT}"))
    updater = Updater(
        str(folder), url, fetcher=fetcher, config=UpdaterConfig(app_user_agent="litefleet"), bootstrap=bootstrap
    )
    try:
        # TUF 5.3 to 5.6; rollback, freeze and mix-and-match are refused here.
        updater.refresh()
        found = {path: updater.get_targetinfo(path) for path in paths}
    except (RepositoryError, DownloadError):
        if is_first:
            # What did not hold was not believed, and must not be the root of what comes next.
            with contextlib.suppress(OSError):
                (folder / _ROOT).unlink()
        raise
    missing = next((path for path, target in found.items() if target is None), None)
    if missing is not None:
        raise UntrustedError(f"nobody vouches for {missing}")
    trusted = updater._trusted_set  # noqa: SLF001 - python-tuf offers no other way to what it has verified
    return Vouched(
        files={path: target for path, target in found.items() if target is not None},
        root_version=trusted.root.version,
        is_first=is_first,
        expires_at=trusted.timestamp.expires,
    )
