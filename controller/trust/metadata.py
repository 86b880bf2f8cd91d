"""The shapes of the repository's metadata: roles, bins, lifetimes, and what the top-level role says of the director."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import timedelta
from typing import TYPE_CHECKING, Final

import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from securesystemslib.signer import (  # type: ignore[attr-defined]  # offered here, without an `__all__`
    CryptoSigner,
)
from tuf.api.metadata import (  # type: ignore[attr-defined]  # python-tuf offers them here, without an `__all__`
    Delegations,
    Root,
    SuccinctRoles,
    TargetFile,
    Targets,
)
from tuf.api.metadata import (  # type: ignore[attr-defined]  # python-tuf offers it here, without an `__all__`
    Role as TufRole,
)

from controller.trust.keyring import Role
from shared import manifest, signing
from shared.ids import HardwareProfileId, InstallationId, KeyId, Sha256

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from securesystemslib.signer import (  # type: ignore[attr-defined]  # offered here, without an `__all__`
        Key,
    )

    from controller.facts import PublishedFile

DIRECTOR_PATH: Final = "director.json"
_BIN_PREFIX = "bins"
# 2^8 bins: measured best or near best from 1,000 to 20,000 targets; another count would sign everything anew.
_BIN_BITS = 8

LIFETIMES: dict[Role, timedelta] = {
    Role.TIMESTAMP: timedelta(days=1),
    Role.SNAPSHOT: timedelta(days=7),
    Role.BINS: timedelta(days=90),
    Role.TARGETS: timedelta(days=182),
    Role.ROOT: timedelta(days=365),
}
"""How long a signature of each role is believed: the shorter, the sooner a device notices that news is withheld."""

_SHAPE = SuccinctRoles(keyids=[], threshold=1, bit_length=_BIN_BITS, name_prefix=_BIN_PREFIX)
BIN_NAMES: tuple[str, ...] = tuple(_SHAPE.get_roles())


class _DirectorCustom(msgspec.Struct, frozen=True, kw_only=True):
    keys: dict[KeyId, str]
    min_release_counter: int
    installation_id: InstallationId


class _FileCustom(msgspec.Struct, frozen=True, kw_only=True):
    release_counter: int
    """Of the release that brought the file first."""
    profiles: list[HardwareProfileId]


@dataclass(frozen=True, slots=True, kw_only=True)
class DirectorTrust:
    """What the top-level role says of the directors; devices read it there only, never through a delegation."""

    keys: Mapping[KeyId, str]
    """Key id → raw ed25519 public key in hex."""
    min_release_counter: int
    """Devices refuse releases below it, whoever signs them: how a fleet is rid of releases known to be bad."""
    installation_id: InstallationId

    @classmethod
    def of(cls, public_hex: str, installation_id: InstallationId) -> DirectorTrust:
        """Return the trust in one director, in any release."""
        trust = cls(keys={}, min_release_counter=0, installation_id=installation_id)
        return trust.with_only_key(public_hex)

    def with_only_key(self, public_hex: str) -> DirectorTrust:
        """Return this trust with another director instead; the old one's documents are refused from then on."""
        key = Ed25519PublicKey.from_public_bytes(bytes.fromhex(public_hex))
        return replace(self, keys={signing.key_id(key): public_hex})

    @classmethod
    def read(cls, target: TargetFile) -> DirectorTrust:
        """Read the pseudo target's `custom`."""
        custom = msgspec.convert(target.custom, _DirectorCustom)
        return cls(
            keys=custom.keys, min_release_counter=custom.min_release_counter, installation_id=custom.installation_id
        )

    def target(self) -> TargetFile:
        """Return the pseudo target; its length and digest are those of its `custom`, as canonical JSON."""
        custom = _DirectorCustom(
            keys=dict(self.keys), min_release_counter=self.min_release_counter, installation_id=self.installation_id
        )
        content = msgspec.json.encode(custom, order="sorted")
        return TargetFile(
            length=len(content),
            hashes={"sha256": manifest.digest(content)},
            path=DIRECTOR_PATH,
            unrecognized_fields={"custom": msgspec.to_builtins(custom)},
        )


def bin_of(path: str) -> str:
    """Return the name of the bin that vouches for a path. Source: TAP 15."""
    return _SHAPE.get_role_for_target(path)


def target_of(file: PublishedFile) -> TargetFile:
    """Return a published file as a target."""
    custom = _FileCustom(release_counter=file.release_counter, profiles=list(file.profiles))
    return _target(file.path, file.length_bytes, file.sha256, custom)


def widened(target: TargetFile, profiles: Sequence[HardwareProfileId]) -> TargetFile:
    """Return a published target for further profiles as well: two releases may hold the very same bytes."""
    custom = msgspec.convert(target.custom, _FileCustom)
    both = list(dict.fromkeys([*custom.profiles, *profiles]))
    return _target(
        target.path, target.length, Sha256(target.hashes["sha256"]), msgspec.structs.replace(custom, profiles=both)
    )


def public_key(private: Ed25519PrivateKey) -> Key:
    """Return a public key as TUF writes it."""
    return CryptoSigner(private).public_key


def new_root(publics: Mapping[Role, Key]) -> Root:
    """Return the first root, not yet counted or dated: one key for each top-level role."""
    top_level = (Role.ROOT, Role.TARGETS, Role.SNAPSHOT, Role.TIMESTAMP)
    return Root(
        keys={publics[role].keyid: publics[role] for role in top_level},
        roles={role.value: TufRole([publics[role].keyid], 1) for role in top_level},
        consistent_snapshot=True,
    )


def new_targets(bins_key: Key, trust: DirectorTrust) -> Targets:
    """Return the first top-level targets role: the director, and everything else left to the bins."""
    shape = SuccinctRoles([bins_key.keyid], 1, _BIN_BITS, _BIN_PREFIX)
    return Targets(
        targets={DIRECTOR_PATH: trust.target()},
        delegations=Delegations({bins_key.keyid: bins_key}, succinct_roles=shape),
    )


def _target(path: str, length_bytes: int, sha256: Sha256, custom: _FileCustom) -> TargetFile:
    return TargetFile(
        length=length_bytes,
        hashes={"sha256": sha256},
        path=path,
        unrecognized_fields={"custom": msgspec.to_builtins(custom)},
    )
