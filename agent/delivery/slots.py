"""Release folders on the disk, `{state}/releases/{release_id}/{manifest.json,model.tflite}`: whole, or not there.

A release whose pipeline runs models of other releases has them in `components/{name}.tflite`.

Beside them, for as long as it takes, the folder of an artifact that is only measured.
"""

from __future__ import annotations

import contextlib
import shutil
from typing import TYPE_CHECKING

from agent.delivery.durable import room_for, sha256_of, sync_file, sync_folder
from shared.errors import NotFoundError
from shared.ids import ReleaseId, is_slug, slug

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping
    from pathlib import Path

    from shared.ids import MeasurementId, Sha256
    from shared.wire import TargetRef

MANIFEST = "manifest.json"
MODEL = "model.tflite"
COMPONENTS = "components"
_FILES = (MANIFEST, MODEL)
# A release id never starts with a dot, so these are never taken for releases.
_STAGED = ".staged-"
_TRASH = ".trash-"
_MEASURED = ".measured-"


def component_file(name: str) -> str:
    """Return where the model of another release lies in a release's folder. Raises InvalidIdError."""
    return f"{COMPONENTS}/{slug(name, field='component')}.tflite"


class Slots:
    """The folders of releases. All calls block (hashing, fsync): make them off the loop.

    Only renames make a release appear or vanish: a folder that is there under its own name was whole when it came.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def path(self, release_id: ReleaseId) -> Path:
        """Return the folder of a committed release, whether or not it is there. Raises InvalidIdError."""
        return self._folder / slug(release_id, field="release")

    def stage(self, release_id: ReleaseId) -> Path:
        """Return the folder in which to gather a release; what an earlier, cut attempt left is still there.

        Raises:
            StorageFullError, InvalidIdError.
        """
        staged = self._staged(release_id)
        with room_for(staged):
            staged.mkdir(parents=True, exist_ok=True, mode=0o700)
        return staged

    def commit(self, release_id: ReleaseId) -> Path:
        """Make the staged release visible in one step that survives a power cut, and return its folder.

        Raises:
            NotFoundError: a file is missing from the staged folder.
        """
        staged, final = self._staged(release_id), self.path(release_id)
        for name in _FILES:
            if not (staged / name).is_file():
                raise NotFoundError(kind=f"{name} in the staged release", name=release_id)
            sync_file(staged / name)
        self._sync_components(staged)
        sync_folder(staged)
        # A release that is there already is being replaced because its bytes rotted.
        self._discard(final)
        # The one moment at which the release begins to exist.
        staged.rename(final)
        sync_folder(self._folder)
        return final

    def verify(
        self,
        release_id: ReleaseId,
        manifest_sha256: Sha256,
        artifact_sha256: Sha256,
        components: Mapping[str, Sha256] | None = None,
    ) -> str:
        """Return "" when all files are what they should be, else why not: `missing: …`, `digest_mismatch: …`.

        `components` are digests by name.
        """
        folder = self.path(release_id)
        others = {component_file(name): digest for name, digest in (components or {}).items()}
        for name, expected in ({MANIFEST: manifest_sha256, MODEL: artifact_sha256} | others).items():
            try:
                actual = sha256_of(folder / name)
            except FileNotFoundError:
                return f"missing: {name}"
            except OSError as exc:
                return f"unreadable: {name}: {exc.strerror}"
            if actual != expected:
                return f"digest_mismatch: {name} is {actual}, expected {expected}"
        return ""

    def holding(self, wanted: TargetRef) -> Path | None:
        """Return a file of any release on this disk that is exactly the wanted model. Blocks."""
        for folder in (self._folder / name for name in self._names()):
            for path in (folder / MODEL, *sorted((folder / COMPONENTS).glob("*.tflite"))):
                with contextlib.suppress(OSError):
                    if path.stat().st_size == wanted.length_bytes and sha256_of(path) == wanted.sha256:
                        return path
        return None

    def remove(self, release_id: ReleaseId) -> None:
        """Remove a release, staged or committed; one that is not there is fine."""
        self._discard(self.path(release_id))
        self._discard(self._staged(release_id))

    def stage_measured(self, measurement_id: MeasurementId) -> Path:
        """Return the folder for an artifact that is only measured; what an earlier, cut attempt left is still there.

        Raises:
            StorageFullError, InvalidIdError.
        """
        folder = self._measured(measurement_id)
        with room_for(folder):
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        return folder

    def remove_measured(self, measurement_id: MeasurementId) -> None:
        """Remove it; one that is not there is fine."""
        shutil.rmtree(self._measured(measurement_id), ignore_errors=True)

    def list(self) -> tuple[ReleaseId, ...]:
        """Return the committed releases, oldest id first; what no release could be named (`lost+found`) is not ours."""
        return tuple(ReleaseId(name) for name in self._names() if is_slug(name))

    def sweep(self, wanted: Collection[ReleaseId]) -> tuple[str, ...]:
        """Remove what a cut left behind, and every staged folder that is not of `wanted`; return the names removed."""
        kept = {f"{_STAGED}{release_id}" for release_id in wanted}
        leftovers = tuple(
            name for name in self._names() if name.startswith((_STAGED, _TRASH, _MEASURED)) and name not in kept
        )
        for name in leftovers:
            # A disk that lets nothing be removed must not keep control from starting.
            shutil.rmtree(self._folder / name, ignore_errors=True)
        return tuple(name for name in leftovers if not (self._folder / name).exists())

    def _sync_components(self, staged: Path) -> None:
        folder = staged / COMPONENTS
        for path in folder.glob("*.tflite"):
            sync_file(path)
        if folder.is_dir():
            sync_folder(folder)

    def _measured(self, measurement_id: MeasurementId) -> Path:
        return self._folder / f"{_MEASURED}{slug(measurement_id, field='measurement')}"

    def _staged(self, release_id: ReleaseId) -> Path:
        return self._folder / f"{_STAGED}{slug(release_id, field='release')}"

    def _names(self) -> tuple[str, ...]:
        if not self._folder.is_dir():
            return ()
        return tuple(sorted(entry.name for entry in self._folder.iterdir() if entry.is_dir()))

    def _discard(self, folder: Path) -> None:
        """Remove a folder so that a cut in the middle leaves no half of it under its own name."""
        if not folder.is_dir():
            return
        trash = self._folder / f"{_TRASH}{folder.name.lstrip('.')}"
        shutil.rmtree(trash, ignore_errors=True)
        # Renamed first: a cut in the middle of removing leaves rubbish, not a release with a file missing.
        folder.rename(trash)
        sync_folder(self._folder)
        shutil.rmtree(trash)
