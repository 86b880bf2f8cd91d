"""The controller's device endpoints over mTLS."""

from __future__ import annotations

from http import HTTPStatus
from typing import TYPE_CHECKING, Self
from urllib.parse import quote

import aiohttp
import msgspec

from agent.link.answers import answer_within, read_bounded, retry_after_s, story
from shared.decoding import MALFORMED
from shared.errors import InvalidInputError, UnreachableError, UntrustedError
from shared.ids import BootId

if TYPE_CHECKING:
    import ssl
    from types import TracebackType

_JSON = {"Content-Type": "application/json"}
_NEVER_TAKEN = frozenset(
    {
        HTTPStatus.BAD_REQUEST,
        HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
        HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
        HTTPStatus.UNPROCESSABLE_ENTITY,
    }
)
"""Statuses that judge the very bytes that were sent. Others may pass: even a 404 is of a controller of before."""


class Session(msgspec.Struct, frozen=True, kw_only=True):
    """One life of the control process, as the controller numbers it."""

    boot_id: BootId
    """Grows with every session of a device; (boot_id, seq) orders everything that it ever sent."""
    mac_key: bytes
    """Key for the MAC of every upward message of this life."""


class _Renewal(msgspec.Struct, frozen=True, kw_only=True):
    """Body of `POST /device/v1/renew`."""

    csr_pem: str


class _Renewed(msgspec.Struct, frozen=True, kw_only=True):
    """Its answer."""

    certificate_pem: str


class DeviceApi:
    """Client of the device listener; use as `async with`."""

    def __init__(self, *, controller_url: str, tls: ssl.SSLContext, timeout_s: float = 30.0) -> None:
        self._url, self._tls, self._timeout_s = controller_url.rstrip("/"), tls, timeout_s
        self._http: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        # Encoded answers are never asked for, and a small one must not swell to a large one here.
        connector = aiohttp.TCPConnector(ssl=self._tls, limit=4)
        self._http = aiohttp.ClientSession(connector=connector, auto_decompress=False)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.http.close()

    @property
    def http(self) -> aiohttp.ClientSession:
        """The mTLS session, for `agent.delivery.download.fetch`."""
        if self._http is None:
            raise RuntimeError("use DeviceApi as `async with`")
        return self._http

    @property
    def repository_url(self) -> str:
        """Base of the TUF repository, for `RepositorySettings.base_url`."""
        return f"{self._url}/device/v1/tuf"

    def target_url(self, path: str) -> str:
        """Return where the repository's file `path` is downloaded from."""
        return f"{self.repository_url}/targets/{quote(path)}"

    async def session(self) -> Session:
        """Open a session.

        Raises:
            UnreachableError: no (whole) answer in time; the same call may succeed later.
            UntrustedError: the controller refuses this device.
        """
        _, body = await self._call("POST", "session")
        try:
            return msgspec.json.decode(body, type=Session)
        except MALFORMED as exc:
            raise UnreachableError(f"the controller's session is not one: {exc}") from exc

    async def renew(self, csr_pem: str) -> str:
        """Have this device's key certified for another lifetime; returns the certificate. Raises as `session`."""
        _, body = await self._call("POST", "renew", body=msgspec.json.encode(_Renewal(csr_pem=csr_pem)))
        try:
            return msgspec.json.decode(body, type=_Renewed).certificate_pem
        except MALFORMED as exc:
            raise UnreachableError(f"the controller's certificate is none: {exc}") from exc

    async def desired(self) -> bytes | None:
        """Return the newest sealed Desired, or None when there is none yet. Raises as `session`."""
        status, body = await self._call("GET", "desired", missing_is_fine=True)
        return None if status == HTTPStatus.NOT_FOUND else body

    async def pulse(self) -> bytes:
        """Return the newest sealed Pulse. Raises as `session`."""
        _, body = await self._call("GET", "pulse")
        return body

    async def send_requests(self, lines: bytes) -> None:
        """Hand over requests that were written down; the same ones may be sent again.

        Raises:
            InvalidInputError: the controller will never take these.
            UnreachableError, UntrustedError: as `session` does.
        """
        await self._call("POST", "request-log", body=lines, is_judged=True)

    async def _call(
        self,
        method: str,
        endpoint: str,
        *,
        body: bytes | None = None,
        missing_is_fine: bool = False,
        is_judged: bool = False,
    ) -> tuple[int, bytes]:
        url = f"{self._url}/device/v1/{endpoint}"
        async with (
            answer_within(url, self._timeout_s),
            self.http.request(method, url, data=body, headers=_JSON, allow_redirects=False) as response,
        ):
            answer = await read_bounded(response)
        if response.status == HTTPStatus.OK or (missing_is_fine and response.status == HTTPStatus.NOT_FOUND):
            return response.status, answer
        if response.status in {HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN}:
            raise UntrustedError(f"the controller refuses this device: {story(response.status, answer)}")
        if is_judged and response.status in _NEVER_TAKEN:
            raise InvalidInputError(field=endpoint, problem=f"refused: {story(response.status, answer)}")
        raise UnreachableError(f"{url}: {story(response.status, answer)}", retry_after_s=retry_after_s(response))
