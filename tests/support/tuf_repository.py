"""A small real TUF repository in memory: 256 succinct bins, consistent snapshots, a director note at the top."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, TypeVar

from securesystemslib.signer import (  # type: ignore[attr-defined]  # offered here, without an `__all__`
    CryptoSigner,
)
from tuf.api.metadata import (  # type: ignore[attr-defined]  # python-tuf offers them here, without an `__all__`
    Delegations,
    Metadata,
    MetaFile,
    Root,
    Snapshot,
    SuccinctRoles,
    TargetFile,
    Targets,
    Timestamp,
)
from tuf.api.serialization.json import JSONSerializer

if TYPE_CHECKING:
    from collections.abc import Mapping


S = TypeVar("S", Root, Targets, Snapshot, Timestamp)

_BIT_LENGTH = 8
_FAR = timedelta(days=365)


class TufRepository:
    """Signs as a controller would. `metadata` and `targets` are what a mirror serves; a test may tamper with both."""

    def __init__(self, *, director_keys: Mapping[str, str], installation_id: str, min_release_counter: int = 0) -> None:
        self.metadata: dict[str, bytes] = {}
        self.targets: dict[str, bytes] = {}
        self.signers = {
            role: CryptoSigner.generate_ed25519() for role in ("root", "timestamp", "snapshot", "targets", "bins")
        }
        self.expires = datetime.now(UTC).replace(microsecond=0) + _FAR  # noqa: TID251 - python-tuf reads the real clock
        self._versions = {"root": 0, "timestamp": 0, "snapshot": 0, "targets": 0}
        self._bins: dict[str, Metadata[Targets]] = {}
        self._root = Root(expires=self.expires, consistent_snapshot=True)
        for role in ("root", "timestamp", "snapshot", "targets"):
            self._root.add_key(self.signers[role].public_key, role)
        self._top = Targets(expires=self.expires)
        bins_key = self.signers["bins"].public_key
        roles = SuccinctRoles([bins_key.keyid], 1, _BIT_LENGTH, "bins")
        self._top.delegations = Delegations({bins_key.keyid: bins_key}, succinct_roles=roles)
        self._bins = {name: Metadata(Targets(expires=self.expires)) for name in roles.get_roles()}
        self._changed = set(self._bins)
        self.set_director(director_keys, installation_id, min_release_counter)
        self.publish_root()
        self.publish()

    @property
    def root(self) -> bytes:
        """The first root, which devices get when they enrol."""
        return self.metadata["1.root.json"]

    def set_director(self, keys: Mapping[str, str], installation_id: str, min_release_counter: int) -> None:
        """Name the director's keys in the top-level role; takes effect with `publish`."""
        custom = {"keys": dict(keys), "installation_id": installation_id, "min_release_counter": min_release_counter}
        self._top.targets["director.json"] = _target("director.json", b"", custom)

    def remove_director(self) -> None:
        """Take the note away; takes effect with `publish`."""
        del self._top.targets["director.json"]

    def add(
        self, path: str, data: bytes, *, release_counter: int = 1, profiles: tuple[str, ...] = ("generic",)
    ) -> None:
        """Add a file; takes effect with `publish`."""
        self.add_note(path, data, {"release_counter": release_counter, "profiles": list(profiles)})

    def add_note(self, path: str, data: bytes, custom: Mapping[str, object]) -> None:
        """Add a file with any signed note to its bin, whatever its name; takes effect with `publish`."""
        assert self._top.delegations is not None
        assert self._top.delegations.succinct_roles is not None
        name = self._top.delegations.succinct_roles.get_role_for_target(path)
        self._bins[name].signed.targets[path] = _target(path, data, custom)
        self._changed.add(name)
        self.targets[path] = data

    def publish(self) -> None:
        """Sign everything that changed, and new snapshot and timestamp."""
        self._versions["targets"] += 1
        self._top.version = self._versions["targets"]
        self._sign("targets", self._top, f"{self._top.version}.targets.json")
        for name in sorted(self._changed):
            bin_ = self._bins[name].signed
            bin_.version = bin_.version + 1 if f"{bin_.version}.{name}.json" in self.metadata else bin_.version
            self._sign("bins", bin_, f"{bin_.version}.{name}.json")
        self._changed.clear()
        self.publish_timestamp()

    def publish_timestamp(self) -> None:
        """Sign a new snapshot and a new timestamp over the same files."""
        meta = {"targets.json": MetaFile(version=self._top.version)}
        meta |= {f"{name}.json": MetaFile(version=each.signed.version) for name, each in self._bins.items()}
        self._versions["snapshot"] += 1
        self._versions["timestamp"] += 1
        snapshot = Snapshot(version=self._versions["snapshot"], expires=self.expires, meta=meta)
        data = self._sign("snapshot", snapshot, f"{snapshot.version}.snapshot.json")
        described = MetaFile.from_data(snapshot.version, data, ["sha256"])
        timestamp = Timestamp(version=self._versions["timestamp"], expires=self.expires, snapshot_meta=described)
        self._sign("timestamp", timestamp, "timestamp.json")

    def publish_root(self, *also_signed_by: CryptoSigner) -> None:
        """Sign the next root with the present root key, and with keys that are being replaced."""
        self._versions["root"] += 1
        self._root.version = self._versions["root"]
        metadata = Metadata(self._root)
        for signer in (self.signers["root"], *also_signed_by):
            metadata.sign(signer, append=True)
        self.metadata[f"{self._root.version}.root.json"] = metadata.to_bytes(JSONSerializer(compact=True))

    def rotate(self, role: str) -> None:
        """Replace a top-level role's key, and publish the root that says so."""
        old, new = self.signers[role], CryptoSigner.generate_ed25519()
        self._root.revoke_key(old.public_key.keyid, role)
        self._root.add_key(new.public_key, role)
        self.signers[role] = new
        self.publish_root(*([old] if role == "root" else []))

    def _sign(self, role: str, signed: S, name: str) -> bytes:
        metadata = Metadata(signed)
        metadata.sign(self.signers[role])
        self.metadata[name] = metadata.to_bytes(JSONSerializer(compact=True))
        return self.metadata[name]


def _target(path: str, data: bytes, custom: Mapping[str, object]) -> TargetFile:
    digest = hashlib.sha256(data).hexdigest()
    return TargetFile(len(data), {"sha256": digest}, path, {"custom": dict(custom)})
