"""Files that must be whole or absent after a power cut, and secrets that only their owner may read."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from shared.errors import UntrustedError

if TYPE_CHECKING:
    from pathlib import Path

    from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes

SECRET_MODE = 0o600
PUBLIC_MODE = 0o644
_FOLDER_MODE = 0o700


def secret_folder(folder: Path) -> Path:
    """Make a folder that only its owner may enter, and return it."""
    folder.mkdir(parents=True, exist_ok=True, mode=_FOLDER_MODE)
    return folder


def write_atomically(path: Path, data: bytes, *, mode: int = PUBLIC_MODE) -> None:
    """Replace `path` by `data`, durably: a reader, or a power cut, sees the old bytes or the new ones."""
    partial = path.with_name(f".{path.name}.partial")
    # What a crash, or somebody else, left there has its own mode and may lead elsewhere: it is not written into.
    partial.unlink(missing_ok=True)
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    # Renamed only when its bytes are on the disk: else a power cut leaves the new name with nothing in it.
    partial.replace(path)
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make renames in `folder` survive a power cut."""
    sync_file(folder)


def sync_file(path: Path) -> None:
    """Make what was written to `path` survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def private_pem(key: PrivateKeyTypes) -> bytes:
    """Return a private key as PKCS#8 PEM; the file's mode is its protection."""
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def read_private_key(path: Path) -> PrivateKeyTypes:
    """Return the private key in `path`. Raises UntrustedError when it holds none that can be read."""
    try:
        return load_pem_private_key(path.read_bytes(), None)
    except (OSError, ValueError, TypeError, UnsupportedAlgorithm) as exc:
        # TypeError: it is encrypted.
        raise UntrustedError(f"{path} holds no private key that can be read: restore it from a backup") from exc


def read_signing_key(path: Path) -> Ed25519PrivateKey | None:
    """Return the ed25519 key in `path`, or None when there is no such file.

    Raises:
        UntrustedError: the file holds something else, or others may read it.
    """
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        return None
    if mode & 0o077:
        raise UntrustedError(f"{path} is readable by others; type: chmod 600 {path}")
    key = read_private_key(path)
    if not isinstance(key, Ed25519PrivateKey):
        raise UntrustedError(f"{path} holds no ed25519 key")
    return key


def open_signing_key(path: Path) -> Ed25519PrivateKey:
    """Return the ed25519 key in `path`, made now if the file is missing. Raises UntrustedError."""
    key = read_signing_key(path)
    if key is None:
        key = Ed25519PrivateKey.generate()
        secret_folder(path.parent)
        write_atomically(path, private_pem(key), mode=SECRET_MODE)
    return key
