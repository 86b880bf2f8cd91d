"""Where the keys of the repository live: each circle of trust in a folder of its own, so that it can move away.

- `top-level/{root,targets}.pem` may be kept offline: needed to change keys, the director or the minimum counter
- `online/{snapshot,timestamp}.pem` say which metadata is newest; needed at every publication
- `release/bins.pem` says which releases exist; apart from the director, which chooses among them
- `director/director.pem` seals what each device should run
"""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING

from controller.trust.files import open_signing_key, read_signing_key
from shared.errors import UntrustedError

if TYPE_CHECKING:
    from pathlib import Path

    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey


class Role(StrEnum):
    """Whose key it is; the values of the first four are TUF's own names."""

    ROOT = "root"
    TARGETS = "targets"
    SNAPSHOT = "snapshot"
    TIMESTAMP = "timestamp"
    BINS = "bins"
    DIRECTOR = "director"


_FOLDERS = {
    Role.ROOT: "top-level",
    Role.TARGETS: "top-level",
    Role.SNAPSHOT: "online",
    Role.TIMESTAMP: "online",
    Role.BINS: "release",
    Role.DIRECTOR: "director",
}


class KeyRing:
    """The signing keys under one folder; any of them may be absent, because its holder is elsewhere."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def path(self, role: Role) -> Path:
        """Return where the key of `role` lies, if it is here."""
        return self._folder / _FOLDERS[role] / f"{role}.pem"

    def find(self, role: Role) -> Ed25519PrivateKey | None:
        """Return the key of `role`, or None when it is kept elsewhere. Raises UntrustedError on a bad file."""
        return read_signing_key(self.path(role))

    def need(self, role: Role) -> Ed25519PrivateKey:
        """Return the key of `role`.

        Raises:
            UntrustedError: it is kept elsewhere; says where it would have to be.
        """
        key = self.find(role)
        if key is None:
            raise UntrustedError(f"the {role} key is not here: bring it to {self.path(role)} for this change")
        return key

    def make_missing(self) -> None:
        """Make every key that is not here yet."""
        for role in Role:
            open_signing_key(self.path(role))

    @property
    def lab_mode(self) -> bool:
        """Whether whoever takes over the controller could change keys and releases too: a top-level key is here."""
        return any(self.path(role).exists() for role in (Role.ROOT, Role.TARGETS))
