"""Release folders on the disk, `{state}/releases/{release_id}/{manifest.json,model.tflite}`: whole, or not there."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection
    from pathlib import Path

    from shared.ids import ReleaseId, Sha256

MANIFEST = "manifest.json"
MODEL = "model.tflite"


class Slots:
    """The folders of releases. All calls block (hashing, fsync): call them from an executor."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def stage(self, release_id: ReleaseId) -> Path:
        """Return the folder in which to gather a release; what an earlier, cut attempt left is still there."""
        raise NotImplementedError

    def commit(self, release_id: ReleaseId) -> Path:
        """Make the staged release visible in one step that survives a power cut, and return its folder.

        Raises:
            NotFoundError: a file is missing from the staged folder.
        """
        raise NotImplementedError

    def path(self, release_id: ReleaseId) -> Path:
        """Return the folder of a committed release, whether or not it is there."""
        raise NotImplementedError

    def verify(self, release_id: ReleaseId, manifest_sha256: Sha256, artifact_sha256: Sha256) -> str:
        """Return "" when both files are what they should be, else why not: `missing: …`, `digest_mismatch: …`."""
        raise NotImplementedError

    def remove(self, release_id: ReleaseId) -> None:
        """Remove a release, staged or committed; one that is not there is fine."""
        raise NotImplementedError

    def list(self) -> tuple[ReleaseId, ...]:
        """Return the committed releases, oldest id first."""
        raise NotImplementedError

    def sweep(self, wanted: Collection[ReleaseId]) -> tuple[str, ...]:
        """Remove what a cut left behind and every staged folder that is not of `wanted`; return the names removed."""
        raise NotImplementedError
