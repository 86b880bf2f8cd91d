"""The controller's device endpoints over mTLS."""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

import msgspec

from shared.ids import BootId

if TYPE_CHECKING:
    import ssl
    from types import TracebackType

    import aiohttp


class Session(msgspec.Struct, frozen=True, kw_only=True):
    """One life of the control process, as the controller numbers it."""

    boot_id: BootId
    """Grows with every session of a device; (boot_id, seq) orders everything that it ever sent."""
    mac_key: bytes
    """Key for the MAC of every upward message of this life."""


class DeviceApi:
    """Client of the device listener; use as `async with`."""

    def __init__(self, *, controller_url: str, tls: ssl.SSLContext, timeout_s: float = 30.0) -> None:
        self._url, self._tls, self._timeout_s = controller_url.rstrip("/"), tls, timeout_s

    async def __aenter__(self) -> Self:
        raise NotImplementedError

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        raise NotImplementedError

    @property
    def http(self) -> aiohttp.ClientSession:
        """The mTLS session, for `agent.delivery.download.fetch`."""
        raise NotImplementedError

    @property
    def repository_url(self) -> str:
        """Base of the TUF repository, for `RepositorySettings.base_url`."""
        return f"{self._url}/device/v1/tuf"

    def target_url(self, path: str) -> str:
        """Return where the repository's file `path` is downloaded from."""
        raise NotImplementedError

    async def session(self) -> Session:
        """Open a session. Raises UnreachableError; UntrustedError when the controller refuses this device."""
        raise NotImplementedError

    async def desired(self) -> bytes | None:
        """Return the newest sealed Desired, or None when there is none yet. Raises as `session`."""
        raise NotImplementedError

    async def pulse(self) -> bytes:
        """Return the newest sealed Pulse. Raises as `session`."""
        raise NotImplementedError
