"""Bringing one release to the disk: what Desired names, the repository vouches for, and the manifest says agree."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from agent.core import trust
from agent.delivery.download import fetch
from agent.delivery.slots import MANIFEST, MODEL
from shared import manifest as manifests
from shared.manifest import MAX_MANIFEST_BYTES

if TYPE_CHECKING:
    from pathlib import Path

    from agent.delivery.download import DownloadLimits
    from agent.delivery.slots import Slots
    from agent.documents import Documents
    from agent.link.https import DeviceApi
    from shared.wire import DesiredModel


class Fetcher:
    """Fetches releases, one at a time: two would only share the same link."""

    def __init__(self, *, api: DeviceApi, documents: Documents, slots: Slots, limits: DownloadLimits) -> None:
        self._api, self._documents, self._slots, self._limits = api, documents, slots, limits
        self._turn = asyncio.Lock()

    async def fetch(self, wanted: DesiredModel) -> int:
        """Bring the release, keep one that is there and whole, and return its version number.

        Raises:
            UntrustedError: Desired, repository and manifest do not agree.
            DigestMismatchError: bytes that are not what was promised.
            InvalidInputError: larger than this device takes.
            UnreachableError, StorageFullError: not this time.
        """
        async with self._turn:
            # Also for one that is on disk: it may have been withdrawn since by the signed minimum.
            targets = await self._documents.verified([wanted.manifest.path, wanted.artifact.path])
            trust.cross_check(wanted, targets)
            damage = await asyncio.to_thread(self._damage, wanted)
            if damage:
                return await self._download(wanted)
            return await asyncio.to_thread(self._check, wanted, self._slots.path(wanted.release_id))

    def _damage(self, wanted: DesiredModel) -> str:
        return self._slots.verify(wanted.release_id, wanted.manifest.sha256, wanted.artifact.sha256)

    async def _download(self, wanted: DesiredModel) -> int:
        folder = await asyncio.to_thread(self._slots.stage, wanted.release_id)
        url = self._api.target_url
        await fetch(self._api.http, url(wanted.manifest.path), wanted.manifest, folder / MANIFEST, self._limits)
        # Before the artifact: a release that does not fit together is refused after kilobytes, not megabytes.
        version_number = await asyncio.to_thread(self._check, wanted, folder)
        await fetch(self._api.http, url(wanted.artifact.path), wanted.artifact, folder / MODEL, self._limits)
        await asyncio.to_thread(self._slots.commit, wanted.release_id)
        return version_number

    def _check(self, wanted: DesiredModel, folder: Path) -> int:
        with (folder / MANIFEST).open("rb") as file:
            manifest = manifests.decode(file.read(MAX_MANIFEST_BYTES + 1))
        trust.check_manifest(wanted, manifest)
        return manifest.version_number
