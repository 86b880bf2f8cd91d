"""The child's side of `agent.delivery.repository`: python-tuf over mTLS, bounded in bytes, seconds and rate.

With `agent.delivery.kept_metadata`, all of the agent that imports tuf and urllib3.
"""

from __future__ import annotations

import contextlib
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import msgspec
import urllib3
from tuf.api.exceptions import (
    DownloadError,
    DownloadHTTPError,
    DownloadLengthMismatchError,
    RepositoryError,
    SlowRetrievalError,
)
from tuf.api.metadata import (  # type: ignore[attr-defined]  # python-tuf offers all three here, without an `__all__`
    Metadata,
    TargetFile,
    Targets,
)
from tuf.ngclient.config import UpdaterConfig
from tuf.ngclient.fetcher import FetcherInterface
from tuf.ngclient.updater import Updater
from typing_extensions import override

from agent.delivery.durable import disk_is_full
from agent.delivery.rate import RateFloor
from agent.delivery.repository import (
    DIRECTOR_PATH,
    Away,
    DirectorTrust,
    Full,
    Refused,
    Reply,
    RepositorySettings,
    Request,
    VerifiedTarget,
    VerifiedTargets,
)
from agent.link.identity import IdentityFiles, client_tls
from shared.ids import HardwareProfileId, InstallationId, KeyId, Sha256, sha256_hex

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from datetime import datetime

T = TypeVar("T")

_CHUNK_BYTES = 16 * 1024
_REDIRECTS = range(300, 400)
_ERRORS = 400


PublicHex = Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{64}$")]
"""A raw ed25519 public key, so that whoever reads it later need not wonder whether it is one."""


class _DirectorNote(msgspec.Struct, frozen=True, kw_only=True):
    """`custom` of the pseudo target `director.json`."""

    keys: dict[KeyId, PublicHex]
    min_release_counter: int
    installation_id: InstallationId


class _TargetNote(msgspec.Struct, frozen=True, kw_only=True):
    """`custom` of every other target."""

    release_counter: int
    profiles: tuple[HardwareProfileId, ...] = ()


class BoundedFetcher(FetcherInterface):
    """Fetches over mTLS without redirects, compression or proxies, and drops a server that is too slow.

    How many bytes may come is the updater's to say, from signed metadata: it stops reading at the limit.
    """

    def __init__(self, settings: RepositorySettings) -> None:
        self._settings = settings
        context = client_tls(IdentityFiles(folder=Path(settings.identity_dir)))
        self._pool = urllib3.PoolManager(
            ssl_context=context, retries=False, timeout=urllib3.Timeout(settings.grace_s), maxsize=1
        )

    @override
    def _fetch(self, url: str) -> Iterator[bytes]:
        response = self._pool.request(
            "GET", url, preload_content=False, redirect=False, headers={"Accept-Encoding": "identity"}
        )
        if response.status in _REDIRECTS:
            response.close()
            raise DownloadError(f"{url} redirects elsewhere, and redirects are not followed")
        if response.status >= _ERRORS:
            response.close()
            raise DownloadHTTPError(f"{url} answers {response.status}", response.status)
        return self._chunks(response, url)

    def _chunks(self, response: urllib3.BaseHTTPResponse, url: str) -> Iterator[bytes]:
        floor = RateFloor(
            bytes_per_s=self._settings.min_rate_bytes_s, span_s=self._settings.grace_s, started=time.monotonic()
        )
        try:
            # read1 returns what is there; read and stream would wait for a whole chunk, however slowly it trickles in.
            while chunk := response.read1(_CHUNK_BYTES, decode_content=False):
                if floor.too_slow(len(chunk), time.monotonic()):
                    raise SlowRetrievalError(f"{url} sends less than {self._settings.min_rate_bytes_s} bytes a second")
                yield chunk
        except urllib3.exceptions.HTTPError as exc:
            raise DownloadError(f"{url} was cut: {exc}") from exc
        finally:
            response.close()


def look_up(request: Request) -> VerifiedTargets:
    """Refresh the metadata, and read from them what was asked for.

    Raises:
        RepositoryError, DownloadError, OSError: as python-tuf raises them.
    """
    settings = request.settings
    metadata_dir = Path(settings.metadata_dir)
    metadata_dir.mkdir(parents=True, exist_ok=True)
    updater = Updater(
        str(metadata_dir),
        f"{settings.base_url}/metadata/",
        fetcher=BoundedFetcher(settings),
        config=UpdaterConfig(app_user_agent="litefleet-agent"),
        bootstrap=settings.root,
    )
    # TUF 5.3 to 5.6: root, timestamp, snapshot, top-level targets; rollback, freeze and mix-and-match are refused
    # here.
    updater.refresh()
    # Before any delegation is loaded, so that what is read here can only be the top-level role.
    director = director_of(Metadata[Targets].from_file(str(metadata_dir / "targets.json")).signed)
    fresh_until = _expiry(metadata_dir / "timestamp.json")
    # TUF 5.6.7: from here on delegated roles (the hash bins) are walked.
    found = {path: updater.get_targetinfo(path) for path in request.targets if path != DIRECTOR_PATH}
    files = {path: verified_target(path, target) for path, target in found.items() if target is not None}
    files |= _optional(updater, request.optional)
    return VerifiedTargets(director=director, files=files, fresh_until=fresh_until)


def _optional(updater: Updater, paths: Sequence[str]) -> dict[str, VerifiedTarget]:
    """Look up what nobody depends on: a bin that is away or damaged only means that nothing in it is used."""
    files = {}
    for path in paths:
        with contextlib.suppress(RepositoryError, DownloadError, urllib3.exceptions.HTTPError):
            target = updater.get_targetinfo(path)
            if target is not None:
                files[path] = verified_target(path, target)
    return files


def director_of(targets: Targets) -> DirectorTrust:
    """Read the director's keys out of verified top-level targets metadata. Raises RepositoryError."""
    entry = targets.targets.get(DIRECTOR_PATH)
    if entry is None:
        raise RepositoryError(f"the top-level targets role has no {DIRECTOR_PATH}, so nobody may seal for this device")
    note = _custom(DIRECTOR_PATH, entry, _DirectorNote)
    return DirectorTrust(
        keys=note.keys,
        min_release_counter=note.min_release_counter,
        installation_id=note.installation_id,
        expires_at=targets.expires,
    )


def _expiry(path: Path) -> datetime:
    expires: datetime = Metadata.from_file(str(path)).signed.expires
    return expires


def verified_target(path: str, target: TargetFile) -> VerifiedTarget:
    """Return what verified metadata say of a file. Raises RepositoryError."""
    note = _custom(path, target, _TargetNote)
    return VerifiedTarget(
        length_bytes=target.length,
        sha256=_sha256(path, target),
        release_counter=note.release_counter,
        profiles=note.profiles,
    )


def _sha256(path: str, target: TargetFile) -> Sha256:
    digest = target.hashes.get("sha256")
    if digest is None:
        raise RepositoryError(f"{path}: the repository names no sha256")
    return sha256_hex(digest)


def _custom(path: str, target: TargetFile, kind: type[T]) -> T:
    try:
        return msgspec.convert(target.custom, kind)
    except msgspec.ValidationError as exc:
        raise RepositoryError(f"{path}: its signed note cannot be used: {exc}") from exc


def answer(request: Request) -> Reply:
    """Do what was asked, and say how it went in the words of the parent's errors."""
    try:
        return look_up(request)
    except (RepositoryError, DownloadLengthMismatchError) as exc:
        return Refused(message=_story(exc))
    except (DownloadError, urllib3.exceptions.HTTPError) as exc:
        return Away(message=_story(exc))
    except OSError as exc:
        if disk_is_full(exc):
            return Full(message=_story(exc))
        raise


def _story(error: BaseException) -> str:
    """Tell an error with its causes: python-tuf's outer message alone often says only that something failed."""
    told: list[str] = []
    cause: BaseException | None = error
    while cause is not None:
        told.append(str(cause) or type(cause).__name__)
        cause = cause.__cause__
    return ": ".join(told)


def main() -> None:
    """Answer the one request on stdin."""
    request = msgspec.json.decode(sys.stdin.buffer.read(), type=Request)
    sys.stdout.buffer.write(msgspec.json.encode(answer(request)))
