"""Signed metadata as files: written durably under versioned names, and believed only with a valid signature.

What is read here is signed again later with a higher version; unverified, a change by somebody who may write to the
folder, but has no key, would be laundered into the repository.
"""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, TypeVar

from securesystemslib.signer import (  # type: ignore[attr-defined]  # offered here, without an `__all__`
    CryptoSigner,
)
from tuf.api.exceptions import RepositoryError
from tuf.api.metadata import (  # type: ignore[attr-defined]  # python-tuf offers them here, without an `__all__`
    Metadata,
    Root,
    Signed,
    Snapshot,
    Targets,
    Timestamp,
)
from tuf.api.serialization import DeserializationError
from tuf.api.serialization.json import JSONSerializer

from controller.trust.files import sync_file, sync_folder, write_atomically
from controller.trust.metadata import LIFETIMES
from shared.errors import UntrustedError

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from controller.trust.keyring import KeyRing, Role
    from shared.clock import Clock

T = TypeVar("T", Root, Timestamp, Snapshot, Targets)

_SERIALIZER = JSONSerializer(compact=True)
_TIMESTAMP = "timestamp"
# A clock that is corrected by less is no reason to sign 256 bins again.
_CLOCK_MAY_STEP = timedelta(hours=1)


class MetadataFolder:
    """The metadata files of one repository: names, verifies, signs and writes them, and leaves their meaning alone."""

    def __init__(self, *, path: Path, keys: KeyRing, clock: Clock) -> None:
        self.path = path
        self._keys = keys
        self._clock = clock

    def exists(self) -> bool:
        """Whether a whole repository stands here: its timestamp is written last."""
        return self.file(_TIMESTAMP).exists()

    def file(self, name: str, version: int | None = None) -> Path:
        """Return the path of a role's metadata."""
        return self.path / (f"{name}.json" if version is None else f"{version}.{name}.json")

    def newest_root(self) -> Path:
        """Return the path of the root with the highest version. Raises UntrustedError when there is none."""
        roots = sorted(self.path.glob("*.root.json"), key=lambda path: int(path.name.split(".")[0]))
        if not roots:
            raise UntrustedError(f"{self.path} has lost its root: restore the folder from a backup")
        return roots[-1]

    def root(self) -> Root:
        """Read the newest root."""
        metadata = _load(self.newest_root(), Root)
        return self._verified(metadata, metadata.signed, "root")

    def timestamp(self) -> Timestamp:
        """Read the timestamp."""
        return self._verified(_load(self.file(_TIMESTAMP), Timestamp), self.root(), _TIMESTAMP)

    def snapshot(self) -> Snapshot:
        """Read the snapshot that the timestamp names."""
        version = self.timestamp().snapshot_meta.version
        return self._verified(_load(self.file("snapshot", version), Snapshot), self.root(), "snapshot")

    def targets(self, snapshot: Snapshot) -> Targets:
        """Read the top-level targets role that the snapshot names."""
        version = snapshot.meta["targets.json"].version
        return self._verified(_load(self.file("targets", version), Targets), self.root(), "targets")

    def bins(self, names: Iterable[str], snapshot: Snapshot) -> dict[str, Targets]:
        """Read bins in the versions that the snapshot names."""
        delegator = self.targets(snapshot)
        files = {name: self.file(name, snapshot.meta[f"{name}.json"].version) for name in names}
        return {name: self._verified(_load(file, Targets), delegator, name) for name, file in files.items()}

    def write(self, signed: T, *, role: Role, name: str, version: int) -> None:
        """Sign a role as of `version`, with a full lifetime, and write it durably.

        Raises:
            UntrustedError: the key of `role` is kept elsewhere.
        """
        data = self._sign(signed, role, version)
        write_atomically(self.file(name, None if name == _TIMESTAMP else version), data)

    def write_first(self, signed: Targets, *, role: Role, names: tuple[str, ...]) -> None:
        """Write one document as version 1 of many roles, signed once, durably."""
        data = self._sign(signed, role, 1)
        files = [self.file(name, 1) for name in names]
        for file in files:
            file.write_bytes(data)
        # All written before the first is synced: that one commits the others along, and each after it costs little.
        for file in files:
            sync_file(file)
        sync_folder(self.path)

    def is_due(self, signed: Signed, role: Role) -> bool:
        """Whether a signature is to be renewed: half its lifetime is over, or it was given under a clock far ahead.

        The latter would be believed for as long as the clock was wrong, and nobody would notice that news is withheld.
        """
        left = signed.expires - self._clock.now()
        return not LIFETIMES[role] / 2 <= left <= LIFETIMES[role] + _CLOCK_MAY_STEP

    def _sign(self, signed: T, role: Role, version: int) -> bytes:
        signed.version = version
        signed.expires = self._clock.now() + LIFETIMES[role]
        metadata = Metadata(signed)
        metadata.sign(CryptoSigner(self._keys.need(role)))
        return metadata.to_bytes(_SERIALIZER)

    def _verified(self, metadata: Metadata[T], delegator: Root | Targets, name: str) -> T:
        try:
            delegator.verify_delegate(name, metadata.signed_bytes, metadata.signatures)
        except (RepositoryError, ValueError) as exc:
            raise UntrustedError(f"{self.path}: {name} is not signed by its key: {exc}") from exc
        return metadata.signed


def _load(path: Path, kind: type[T]) -> Metadata[T]:
    try:
        metadata = Metadata[T].from_file(str(path))
    except (OSError, DeserializationError) as exc:
        raise UntrustedError(f"{path} cannot be read: {exc}") from exc
    if not isinstance(metadata.signed, kind):
        raise UntrustedError(f"{path} holds {metadata.signed.type} metadata")
    return metadata
