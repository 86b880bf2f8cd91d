"""The TUF repository: which files exist and are fit to run, signed, as immutable static files.

Top-level targets delegates to 256 succinct hash bins (TAP 15), so that a device fetches one bin whatever the fleet's
history. The top-level role itself vouches for one pseudo target, `director.json`: who may choose among the releases.
Every publication writes new versions beside the old ones and `timestamp.json` last, so that a crash in between leaves
what stood before. Source: TUF specification 1.0, consistent snapshots.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from tuf.api.metadata import (  # type: ignore[attr-defined]  # python-tuf offers them here, without an `__all__`
    MetaFile,
    Signed,
    Snapshot,
    TargetFile,
    Targets,
    Timestamp,
)

from controller.trust import metadata as tuf
from controller.trust.keyring import Role
from controller.trust.metadata import DIRECTOR_PATH, DirectorTrust
from controller.trust.metadata_folder import MetadataFolder
from shared.errors import ConflictError, InvalidInputError, NotFoundError, UntrustedError
from shared.ids import Sha256

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from controller.facts import PublishedFile
    from controller.trust.keyring import KeyRing
    from shared.clock import Clock
    from shared.ids import InstallationId

# The shortest-lived signature is renewed 12 hours before it ends; looking parses all 256 bins.
_LOOK_EVERY_S = 600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class TrustedFile:
    """A target as the repository vouches for it."""

    path: str
    sha256: Sha256
    length_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Refreshed:
    """What was signed again, and what only a key that is kept elsewhere can sign."""

    roles: tuple[str, ...]
    needs_offline_key: tuple[Role, ...]


class Repository:
    """The only writer of the metadata folder. Every call blocks on the disk: call it from an executor."""

    def __init__(self, *, folder: Path, keys: KeyRing, clock: Clock) -> None:
        self._folder = MetadataFolder(path=folder, keys=keys, clock=clock)
        self._keys = keys
        self._clock = clock
        self._look_at_s = clock.monotonic()
        self._lock = threading.Lock()
        self._bins: dict[str, tuple[int, Targets]] = {}

    @classmethod
    def open(
        cls, *, folder: Path, keys: KeyRing, director_key_hex: str, installation_id: InstallationId, clock: Clock
    ) -> Repository:
        """Take up the repository in `folder`, or make it, with fresh keys and `installation_id`.

        Raises:
            UntrustedError: the folder lost its newest state, or lists another director than this one and the key that
                could change that is kept elsewhere.
        """
        folder.mkdir(parents=True, exist_ok=True)
        repository = cls(folder=folder, keys=keys, clock=clock)
        if not repository._folder.exists():
            repository._create(DirectorTrust.of(director_key_hex, installation_id))
        elif director_key_hex not in repository.director_trust.keys.values():
            repository.set_director(repository.director_trust.with_only_key(director_key_hex))
        return repository

    @property
    def metadata_folder(self) -> Path:
        """Where the static files are."""
        return self._folder.path

    @property
    def lab_mode(self) -> bool:
        """Whether all keys are on this controller: its thief could then sign whatever he likes."""
        return self._keys.lab_mode

    @property
    def director_trust(self) -> DirectorTrust:
        """Which director keys the fleet trusts, and from which release on."""
        return DirectorTrust.read(self._folder.targets(self._folder.snapshot()).targets[DIRECTOR_PATH])

    @property
    def installation_id(self) -> InstallationId:
        """The name of this installation, signed by the top-level key."""
        return self.director_trust.installation_id

    def bootstrap_root(self) -> bytes:
        """Return the newest root: what a device is given when it enrols, over the enrolment's own TLS."""
        return self._folder.newest_root().read_bytes()

    def find(self, path: str) -> TrustedFile:
        """Return what is vouched for under `path`. Raises NotFoundError."""
        snapshot = self._folder.snapshot()
        name = tuf.bin_of(path)
        version = snapshot.meta[f"{name}.json"].version
        known = self._bins.get(name)
        if known is None or known[0] != version:
            known = self._bins[name] = (version, self._folder.bins([name], snapshot)[name])
        target = known[1].targets.get(path)
        if target is None:
            raise NotFoundError(kind="target", name=path)
        return TrustedFile(path=path, sha256=Sha256(target.hashes["sha256"]), length_bytes=target.length)

    def documents(self, paths: Sequence[str]) -> dict[str, bytes]:
        """Return the signed documents that vouch for paths, as they are, by file name: root, targets and bins."""
        with self._lock:
            snapshot = self._folder.snapshot()
            names = ["targets", *sorted({tuf.bin_of(path) for path in paths})]
            files = {f"{name}.json": self._folder.file(name, snapshot.meta[f"{name}.json"].version) for name in names}
            return {"root.json": self.bootstrap_root()} | {name: file.read_bytes() for name, file in files.items()}

    def publish(self, files: Sequence[PublishedFile]) -> None:
        """Vouch for files; of those that are published already nothing changes but that more profiles may take them.

        Raises:
            ConflictError: another file was published under that path: a release is immutable.
            UntrustedError: the key that vouches for releases is kept elsewhere.
        """
        with self._lock:
            snapshot = self._folder.snapshot()
            bins = self._folder.bins({tuf.bin_of(file.path) for file in files}, snapshot)
            added = {name for file in files if _add(file, bins[name := tuf.bin_of(file.path)])}
            if changed := {name: bins[name] for name in sorted(added)}:
                self._write_bins(changed, snapshot)
                self._finish(snapshot)

    def set_director(self, trust: DirectorTrust) -> None:
        """Replace the directors and the minimum release counter.

        Raises:
            UntrustedError: the top-level key is kept elsewhere.
            InvalidInputError: the minimum would fall, or the installation change.
        """
        with self._lock:
            snapshot = self._folder.snapshot()
            targets = self._folder.targets(snapshot)
            before = DirectorTrust.read(targets.targets[DIRECTOR_PATH])
            if trust.installation_id != before.installation_id:
                raise InvalidInputError(field="installation_id", problem="may never change")
            if trust.min_release_counter < before.min_release_counter:
                raise InvalidInputError(
                    field="min_release_counter",
                    problem=f"may not fall below {before.min_release_counter}",
                    remedy="make a new release of the old model",
                )
            targets.targets[DIRECTOR_PATH] = trust.target()
            self._write_targets(targets, snapshot)
            self._finish(snapshot)

    def raise_min_release_counter(self, counter: int) -> None:
        """Have devices refuse every release below `counter`. Raises as `set_director`."""
        self.set_director(replace(self.director_trust, min_release_counter=counter))

    def refresh_expiring(self) -> Refreshed:
        """Sign again whatever has used half its lifetime, so that the other half may pass without a controller.

        Cheap to call at every tick: it looks at the files every ten minutes only.
        """
        with self._lock:
            # By the clock that nobody sets: one that was wrong for a while must not put the next look off for years.
            if self._clock.monotonic() < self._look_at_s:
                return Refreshed(roles=(), needs_offline_key=())
            self._look_at_s = self._clock.monotonic() + _LOOK_EVERY_S
            snapshot = self._folder.snapshot()
            missing: list[Role] = []
            roles = self._refresh_top_level(snapshot, missing) + self._refresh_bins(snapshot)
            # The snapshot lists everything but the root, which devices find by counting up (TUF 5.3).
            below_root = [role for role in roles if role != Role.ROOT]
            if below_root or self._folder.is_due(snapshot, Role.SNAPSHOT):
                self._finish(snapshot)
                roles += [Role.SNAPSHOT, Role.TIMESTAMP]
            elif self._folder.is_due(self._folder.timestamp(), Role.TIMESTAMP):
                self._write_timestamp(snapshot.version)
                roles.append(Role.TIMESTAMP)
            return Refreshed(roles=tuple(roles), needs_offline_key=tuple(missing))

    def _refresh_top_level(self, snapshot: Snapshot, missing: list[Role]) -> list[str]:
        """Sign root and targets again where due; note in `missing` whose key is not here."""
        root, targets = self._folder.root(), self._folder.targets(snapshot)
        both: dict[Role, Signed] = {Role.ROOT: root, Role.TARGETS: targets}
        due = [role for role, signed in both.items() if self._folder.is_due(signed, role)]
        missing += [role for role in due if self._keys.find(role) is None]
        if Role.ROOT in due and Role.ROOT not in missing:
            self._folder.write(root, role=Role.ROOT, name=Role.ROOT, version=root.version + 1)
        if Role.TARGETS in due and Role.TARGETS not in missing:
            self._write_targets(targets, snapshot)
        return [str(role) for role in due if role not in missing]

    def _refresh_bins(self, snapshot: Snapshot) -> list[str]:
        bins = self._folder.bins(tuf.BIN_NAMES, snapshot)
        due = {name: signed for name, signed in bins.items() if self._folder.is_due(signed, Role.BINS)}
        self._write_bins(due, snapshot)
        return list(due)

    def _create(self, trust: DirectorTrust) -> None:
        """Write the first version of everything; a creation that was cut short begins anew, as nobody has seen it."""
        if any(not path.name.startswith("1.") for path in self._folder.path.glob("*.*.json")):
            raise UntrustedError(f"{self._folder.path} has lost its timestamp: restore the folder from a backup")
        self._keys.make_missing()
        publics = {role: tuf.public_key(self._keys.need(role)) for role in Role}
        self._folder.write(tuf.new_root(publics), role=Role.ROOT, name=Role.ROOT, version=1)
        targets = tuf.new_targets(publics[Role.BINS], trust)
        self._folder.write(targets, role=Role.TARGETS, name=Role.TARGETS, version=1)
        self._folder.write_first(Targets(), role=Role.BINS, names=tuf.BIN_NAMES)
        names = (Role.TARGETS, *tuf.BIN_NAMES)
        snapshot = Snapshot(meta={f"{name}.json": MetaFile(version=1) for name in names})
        self._folder.write(snapshot, role=Role.SNAPSHOT, name=Role.SNAPSHOT, version=1)
        self._folder.write(Timestamp(), role=Role.TIMESTAMP, name=Role.TIMESTAMP, version=1)

    def _write_targets(self, targets: Targets, snapshot: Snapshot) -> None:
        self._folder.write(targets, role=Role.TARGETS, name=Role.TARGETS, version=targets.version + 1)
        snapshot.meta["targets.json"] = MetaFile(version=targets.version)

    def _write_bins(self, bins: dict[str, Targets], snapshot: Snapshot) -> None:
        for name, signed in bins.items():
            self._folder.write(signed, role=Role.BINS, name=name, version=signed.version + 1)
            snapshot.meta[f"{name}.json"] = MetaFile(version=signed.version)

    def _finish(self, snapshot: Snapshot) -> None:
        """Make what was written the newest state: snapshot, then timestamp, each durable before the next."""
        self._folder.write(snapshot, role=Role.SNAPSHOT, name=Role.SNAPSHOT, version=snapshot.version + 1)
        self._write_timestamp(snapshot.version)

    def _write_timestamp(self, snapshot_version: int) -> None:
        signed = self._folder.timestamp()
        signed.snapshot_meta = MetaFile(version=snapshot_version)
        self._folder.write(signed, role=Role.TIMESTAMP, name=Role.TIMESTAMP, version=signed.version + 1)


def _add(file: PublishedFile, bin_: Targets) -> bool:
    """Enter a file into its bin, and say whether that changed the bin."""
    present: TargetFile | None = bin_.targets.get(file.path)
    wanted = tuf.target_of(file) if present is None else tuf.widened(present, file.profiles)
    if (wanted.length, wanted.hashes) != (file.length_bytes, {"sha256": file.sha256}):
        raise ConflictError(kind="target", name=file.path, problem="is published with other content")
    bin_.targets[file.path] = wanted
    return present != wanted
