"""Where a cluster's scheduler is, and what proves that all parts of the cluster belong to it."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from shared.errors import InvalidInputError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterCertificates:
    """PEM files of one part of a cluster."""

    ca: Path
    certificate: Path
    key: Path


def checked_address(address: str, *, field: str, files: Mapping[str, Path | None]) -> ClusterCertificates | None:
    """Return the certificates that an address is called with; none on loopback without TLS.

    `files` are CA, certificate and key, in this order, by what their settings are called.

    Raises:
        InvalidInputError: an address that anybody could answer or call, or a file that is not named or not there.
    """
    try:
        parts = urlsplit(address)
        scheme, host, port = parts.scheme, parts.hostname, parts.port
    except ValueError:
        scheme, host, port = "", None, None
    if scheme not in {"tls", "tcp"} or not host or not port:
        problem = f"{address[:80]!r} is no address of a scheduler"
        raise InvalidInputError(field=field, problem=problem, remedy="e.g. tls://scheduler.example:8786")
    if scheme == "tcp":
        if not _is_loopback(host):
            problem = "without TLS, anybody on the network could run code on every machine of the cluster"
            raise InvalidInputError(field=field, problem=problem, remedy=f"use tls://{host}:{port}")
        return None
    ca, certificate, key = (_readable(name, path) for name, path in files.items())
    return ClusterCertificates(ca=ca, certificate=certificate, key=key)


def _readable(name: str, path: Path | None) -> Path:
    if path is None:
        raise InvalidInputError(field=name, problem="is not set", remedy="tls:// needs CA, certificate and key")
    if not path.is_file():
        raise InvalidInputError(field=name, problem=f"{path} is no file")
    return path


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
