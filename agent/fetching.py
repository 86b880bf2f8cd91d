"""Bringing one release to the disk: what Desired names, the repository vouches for, and the manifest says agree.

The artifact comes by the shortest way: from another release on this disk, by a delta from one, or whole.
"""

from __future__ import annotations

import asyncio
import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING

from agent.core import trust
from agent.core.events import FetchProblem
from agent.core.state import component_digests, components_of
from agent.delivery import delta
from agent.delivery.download import fetch
from agent.delivery.durable import room_for
from agent.delivery.slots import MANIFEST, MODEL, component_file
from shared import manifest as manifests
from shared.errors import DigestMismatchError, LitefleetError, RetryableError
from shared.manifest import MAX_MANIFEST_BYTES

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from agent.delivery.download import DownloadLimits
    from agent.delivery.repository import VerifiedTargets
    from agent.delivery.slots import Slots
    from agent.documents import Documents
    from agent.link.https import DeviceApi
    from shared.ids import MeasurementId, Sha256
    from shared.wire import DesiredComponent, DesiredModel, TargetRef, WantedMeasurement


@dataclass(frozen=True, slots=True, kw_only=True)
class Fetched:
    """A release that is on the disk now."""

    version_number: int
    fetched_bytes: int
    """Length of the files that were fetched for its artifact: a delta, the artifact itself, both, or none."""


class Fetcher:
    """Fetches releases, one at a time: two would only share the same link."""

    def __init__(self, *, api: DeviceApi, documents: Documents, slots: Slots, limits: DownloadLimits) -> None:
        self._api, self._documents, self._slots, self._limits = api, documents, slots, limits
        self._turn = asyncio.Lock()

    async def fetch(self, wanted: DesiredModel) -> Fetched:
        """Bring the release; one that is there and whole is kept.

        Raises:
            UntrustedError: Desired, repository and manifest do not agree.
            DigestMismatchError: bytes that are not what was promised.
            InvalidInputError: larger than this device takes.
            UnreachableError, StorageFullError: not this time.
        """
        async with self._turn:
            damage = await asyncio.to_thread(self._damage, wanted)
            held = await asyncio.to_thread(delta.held_artifacts, self._slots, wanted.model) if damage else {}
            # Also for one that is on disk: it may have been withdrawn since by the signed minimum.
            targets = await self._documents.verified(
                [wanted.manifest.path, wanted.artifact.path, *_component_paths(wanted)],
                optional=delta.paths(held, wanted.artifact.sha256),
            )
            trust.cross_check(wanted, targets)
            if damage:
                return await self._download(wanted, held, targets)
            version_number = await asyncio.to_thread(self._check, wanted, self._slots.path(wanted.release_id))
            return Fetched(version_number=version_number, fetched_bytes=0)

    async def fetch_measured(self, wanted: WantedMeasurement) -> Path:
        """Bring an artifact that is only measured, and return where it lies until `remove_measured`. Raises as `fetch`.

        No deltas: it comes once, and goes.
        """
        async with self._turn:
            trust.check_measurement(wanted, await self._documents.verified([wanted.artifact.path]))
            folder = await asyncio.to_thread(self._slots.stage_measured, wanted.measurement_id)
            url = self._api.target_url(wanted.artifact.path)
            await fetch(self._api.http, url, wanted.artifact, folder / MODEL, self._limits)
            return folder / MODEL

    async def remove_measured(self, measurement_id: MeasurementId) -> None:
        """Remove what was brought, or left of it."""
        await asyncio.to_thread(self._slots.remove_measured, measurement_id)

    def _damage(self, wanted: DesiredModel) -> str:
        components = component_digests(wanted)
        return self._slots.verify(wanted.release_id, wanted.manifest.sha256, wanted.artifact.sha256, components)

    async def _download(self, wanted: DesiredModel, held: Mapping[Sha256, Path], targets: VerifiedTargets) -> Fetched:
        folder = await asyncio.to_thread(self._slots.stage, wanted.release_id)
        url = self._api.target_url(wanted.manifest.path)
        await fetch(self._api.http, url, wanted.manifest, folder / MANIFEST, self._limits)
        # Before the artifact: a release that does not fit together is refused after kilobytes, not megabytes.
        version_number = await asyncio.to_thread(self._check, wanted, folder)
        fetched_bytes = await self._bring_artifact(wanted.artifact, folder, held, targets)
        await asyncio.to_thread(shutil.rmtree, folder / delta.DELTA, ignore_errors=True)
        for component in components_of(wanted):
            await self._bring_component(component, folder)
        await asyncio.to_thread(self._slots.commit, wanted.release_id)
        return Fetched(version_number=version_number, fetched_bytes=fetched_bytes)

    async def _bring_artifact(
        self, artifact: TargetRef, folder: Path, held: Mapping[Sha256, Path], targets: VerifiedTargets
    ) -> int:
        """Bring the artifact in the cheapest way, and return the length of all that was fetched for it."""
        same = held.get(artifact.sha256)
        if same is not None and await asyncio.to_thread(delta.copied, same, artifact, folder / MODEL):
            return 0
        fetched_bytes = 0
        shortcut = delta.smallest(held, artifact, targets.files)
        if shortcut is not None:
            if await delta.rebuilt(self._api, shortcut, artifact, folder, self._limits):
                return shortcut.ref.length_bytes
            fetched_bytes = shortcut.ref.length_bytes
        await fetch(self._api.http, self._api.target_url(artifact.path), artifact, folder / MODEL, self._limits)
        return fetched_bytes + artifact.length_bytes

    async def _bring_component(self, component: DesiredComponent, folder: Path) -> None:
        """Bring the model of another release: from this disk where any release holds it, else whole."""
        ref, place = component.artifact, folder / component_file(component.name)
        with room_for(place.parent):
            await asyncio.to_thread(place.parent.mkdir, exist_ok=True, mode=0o700)
        held = await asyncio.to_thread(self._slots.holding, ref)
        # What an earlier, cut attempt brought to its place already.
        if held == place or (held is not None and await asyncio.to_thread(delta.copied, held, ref, place)):
            return
        await fetch(self._api.http, self._api.target_url(ref.path), ref, place, self._limits)

    def _check(self, wanted: DesiredModel, folder: Path) -> int:
        with (folder / MANIFEST).open("rb") as file:
            manifest = manifests.decode(file.read(MAX_MANIFEST_BYTES + 1))
        trust.check_manifest(wanted, manifest)
        return manifest.version_number


def _component_paths(wanted: DesiredModel) -> list[str]:
    # An artifact may be there under two names.
    return sorted({each.artifact.path for each in components_of(wanted)} - {wanted.artifact.path})


def judged(error: LitefleetError | OSError) -> tuple[FetchProblem, str]:
    """Return whose fault a failed fetch is, and the reason with its machine-readable word first."""
    if isinstance(error, OSError):
        # A disk that cannot be written for other reasons than its size: somebody will have to look at it.
        return FetchProblem.DELAYED, f"storage_failed: {error}"
    reason = str(error) if str(error).startswith(error.reason) else f"{error.reason}: {error}"
    if isinstance(error, RetryableError):
        return FetchProblem.DELAYED, reason
    return FetchProblem.CORRUPT if isinstance(error, DigestMismatchError) else FetchProblem.REFUSED, reason
