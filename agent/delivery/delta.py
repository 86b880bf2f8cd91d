"""A release's artifact from a delta: which one would do, and putting the file together in a child of its own.

Nothing here may fail a rollout: whatever is wrong with a delta, the artifact itself is fetched instead. The child
(`agent.delivery.rebuilding`) carries zstandard and its memory, so that control never does.
"""

from __future__ import annotations

import asyncio
import os
import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgspec
import structlog

from agent.delivery.child import ask
from agent.delivery.download import fetch
from agent.delivery.durable import sha256_of
from agent.delivery.partfile import PartFile
from agent.delivery.slots import MANIFEST, MODEL
from shared import manifest as manifests
from shared.decoding import MALFORMED
from shared.delta import delta_path
from shared.errors import DeltaError, LitefleetError, UnreachableError
from shared.ids import Sha256
from shared.manifest import MAX_MANIFEST_BYTES
from shared.wire import TargetRef

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    from agent.delivery.download import DownloadLimits
    from agent.delivery.repository import VerifiedTarget
    from agent.delivery.slots import Slots
    from agent.link.https import DeviceApi
    from shared.ids import ModelName

DELTA = "delta"
"""Folder in the staged release where a delta lies and its result grows; gone before the release is visible."""
_CHILD = "agent.delivery.rebuilding"
_DEADLINE_S = 600.0
"""For the child: a board that adds one megabyte a second still manages what a device takes at most."""
_HELD = 4
"""Releases of one model that are looked at, newest first: stable, previous, and what a cut left of others."""
_COPIED_BYTES = 1024 * 1024

_log = structlog.get_logger(__name__)


class RebuildRequest(msgspec.Struct, frozen=True, kw_only=True):
    """stdin of the child."""

    delta: str
    old: str
    old_sha256: Sha256
    into: str
    ref: TargetRef
    """What the new file must be."""
    reserve_bytes: int
    parent: int
    """Process without which the child must not go on."""


class RebuildReply(msgspec.Struct, frozen=True, kw_only=True):
    """stdout of the child."""

    problem: str = ""
    """Empty: the file is at `into`, whole, right, and there for good."""


_REPLY = msgspec.json.Decoder(RebuildReply)


@dataclass(frozen=True, slots=True, kw_only=True)
class Delta:
    """A delta that the repository vouches for, and the file that it builds on."""

    ref: TargetRef
    old: Path
    old_sha256: Sha256


def held_artifacts(slots: Slots, model: ModelName) -> dict[Sha256, Path]:
    """Return the artifacts of a model on this disk whose bytes are what their manifests say. Blocks."""
    found: dict[Sha256, Path] = {}
    for release_id in reversed(slots.list()):
        if len(found) == _HELD:
            break
        folder = slots.path(release_id)
        try:
            with (folder / MANIFEST).open("rb") as file:
                manifest = manifests.decode(file.read(MAX_MANIFEST_BYTES + 1))
            if manifest.model != model:
                continue
            sha256 = sha256_of(folder / MODEL)
        except (OSError, LitefleetError):
            # Damaged releases are mended or removed by others; here they are only of no use.
            continue
        if sha256 in {artifact.sha256 for artifact in manifest.artifacts}:
            found.setdefault(sha256, folder / MODEL)
    return found


def paths(held: Iterable[Sha256], wanted: Sha256) -> list[str]:
    """Return where deltas would be in the repository."""
    return [delta_path(old, wanted) for old in held if old != wanted]


def smallest(held: Mapping[Sha256, Path], wanted: TargetRef, files: Mapping[str, VerifiedTarget]) -> Delta | None:
    """Return the smallest delta that the repository vouches for; None where none is smaller than the artifact."""
    found = []
    for old_sha256, old in held.items():
        path = delta_path(old_sha256, wanted.sha256)
        target = files.get(path)
        if target is not None and target.length_bytes < wanted.length_bytes:
            ref = TargetRef(path=path, length_bytes=target.length_bytes, sha256=target.sha256)
            found.append(Delta(ref=ref, old=old, old_sha256=old_sha256))
    return min(found, key=lambda delta: delta.ref.length_bytes, default=None)


async def rebuilt(api: DeviceApi, delta: Delta, wanted: TargetRef, folder: Path, limits: DownloadLimits) -> bool:
    """Bring the artifact to its place in the staged `folder` by a delta; tell whether it is there now.

    Raises:
        UnreachableError: the link was cut while the delta came; what came is kept, and the next try goes on from there.
    """
    beside = folder / DELTA
    part = beside / "delta.part"
    before = await asyncio.to_thread(_size, part)
    try:
        await asyncio.to_thread(beside.mkdir, mode=0o700, exist_ok=True)
        await fetch(api.http, api.target_url(delta.ref.path), delta.ref, beside / "delta", limits)
        await rebuild_in_child(_request(delta, wanted, beside, limits))
        await asyncio.to_thread((beside / MODEL).replace, folder / MODEL)
    except (LitefleetError, OSError) as exc:
        if isinstance(exc, UnreachableError) and await asyncio.to_thread(_size, part) > before:
            # It was coming: the link's fault, not the delta's, and twenty times as many bytes are no way out of that.
            raise
        await asyncio.to_thread(shutil.rmtree, beside, ignore_errors=True)
        _log.warning("delta_not_used", path=delta.ref.path, reason=str(exc))
        return False
    _log.info("delta_applied", path=delta.ref.path, bytes=delta.ref.length_bytes, instead_of=wanted.length_bytes)
    return True


def _request(delta: Delta, wanted: TargetRef, beside: Path, limits: DownloadLimits) -> RebuildRequest:
    return RebuildRequest(
        delta=str(beside / "delta"),
        old=str(delta.old),
        old_sha256=delta.old_sha256,
        into=str(beside / MODEL),
        ref=wanted,
        reserve_bytes=limits.reserve_bytes,
        parent=os.getpid(),
    )


async def rebuild_in_child(request: RebuildRequest, *, deadline_s: float = _DEADLINE_S) -> None:
    """Have a child make the file that the request describes. Raises DeltaError when it does not."""
    try:
        stdout, end = await ask(_CHILD, msgspec.json.encode(request), deadline_s=deadline_s)
    except TimeoutError as exc:
        raise DeltaError(f"it took longer than {deadline_s:g} s") from exc
    try:
        reply = _REPLY.decode(stdout)
    except MALFORMED as exc:
        raise DeltaError(f"putting it together {end}") from exc
    if reply.problem:
        raise DeltaError(reply.problem)


def copied(held: Path, wanted: TargetRef, place: Path) -> bool:
    """Bring an artifact that another release on this disk holds to its place; tell whether. Blocks."""
    try:
        part = PartFile(place, wanted)
        try:
            part.restart()
            with held.open("rb") as file:
                while block := file.read(_COPIED_BYTES):
                    part.append(block)
            part.publish()
        finally:
            part.close()
    except (LitefleetError, OSError) as exc:
        _log.warning("artifact_not_copied", held=str(held), reason=str(exc))
        return False
    return True


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0
