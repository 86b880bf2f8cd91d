"""The certificate that other machines see: read from files, and read again when they change.

Connections stay as they are, and the next handshake takes the newest pair. A pair that does not fit together, because
one of its files has been replaced and the other has not yet, is no pair: the one before stays.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import ssl
from typing import TYPE_CHECKING, Final, NamedTuple, Never

import structlog

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

LOOK_S: Final = 5.0
"""Seconds between looks at the files: two calls of `stat`, and far sooner than any certificate is needed."""

_log = structlog.get_logger(__name__)


class CertificatePair(NamedTuple):
    """Certificate chain and key, in PEM."""

    certificate: bytes
    key: bytes


class ServerCertificate:
    """The newest pair of two files that fit together."""

    def __init__(self, certificate: Path, key: Path) -> None:
        """Take where they are; nothing is read before `refresh`, and until then every handshake fails."""
        self._files = (certificate, key)
        self._seen: tuple[tuple[int, int, int], ...] | None = ()
        self._newest: ssl.SSLContext | None = None
        self.pair: CertificatePair | None = None
        """None before the first that could be used."""
        self.context = _server_context()
        """For listening sockets, once and for all: each handshake goes on with the newest pair."""
        self.context.sni_callback = self._choose

    def refresh(self) -> bool:
        """Take a new pair, if the files have changed and hold one; returns whether."""
        seen = self._look()
        if seen == self._seen:
            return False
        # Whatever comes of it: the same files are not read, and complained of, every few seconds.
        self._seen = seen
        try:
            pair = CertificatePair(*(path.read_bytes() for path in self._files))
            context = _server_context()
            with _as_file(pair.certificate) as certificate, _as_file(pair.key) as key:
                context.load_cert_chain(certificate, key, password=_no_passphrase)
        except (OSError, ValueError) as exc:
            # ssl.SSLError is an OSError.
            _log.error("certificate_not_used", certificate=str(self._files[0]), key=str(self._files[1]), error=str(exc))
            return False
        self._newest, self.pair = context, pair
        _log.info("certificate_in_use", certificate=str(self._files[0]))
        return True

    def _look(self) -> tuple[tuple[int, int, int], ...] | None:
        """Return what differs when a file has been written, replaced or opened to us; None while one is missing."""
        try:
            return tuple(_mark(path) for path in self._files)
        except OSError:
            return None

    async def watch(self) -> Never:
        """Refresh whenever the files change, for as long as the process lives."""
        while True:
            await asyncio.sleep(LOOK_S)
            self.refresh()

    def _choose(
        self, connection: ssl.SSLObject | ssl.SSLSocket, _name: str | None, _first: ssl.SSLContext
    ) -> int | None:
        # Called for clients that name no server, too.
        if self._newest is None:
            return ssl.ALERT_DESCRIPTION_INTERNAL_ERROR
        connection.context = self._newest
        return None


def _server_context() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    return context


def _mark(path: Path) -> tuple[int, int, int]:
    found = path.stat()
    # Not the time of the last change of its content: another mode may be all that was missing.
    return found.st_ino, found.st_size, found.st_ctime_ns


def _no_passphrase() -> str:
    # Without this OpenSSL would ask for one on the terminal, and wait.
    raise ValueError("the key has a passphrase, which nobody is there to type: store it without one")


@contextlib.contextmanager
def _as_file(content: bytes) -> Iterator[str]:
    """Name bytes as a file, since OpenSSL takes only those: what was read is what is used, whatever comes meanwhile."""
    descriptor = os.memfd_create("certificate", os.MFD_CLOEXEC)
    try:
        with open(descriptor, "wb", closefd=False) as file:
            file.write(content)
        yield f"/proc/self/fd/{descriptor}"
    finally:
        os.close(descriptor)
