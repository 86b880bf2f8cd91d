"""What devices call over TLS: enrolment with a token, and everything else with their certificate.

TLS verifies a certificate where one is shown, but lets a device in without one, because at enrolment it has none.
"""

from __future__ import annotations

import asyncio
import re
from dataclasses import dataclass
from functools import wraps
from http import HTTPStatus
from typing import TYPE_CHECKING, TypeVar

import msgspec
from aiohttp import web

from controller.errors import UnauthenticatedError
from controller.http.metadata_routes import METADATA_NAME
from shared.decoding import MALFORMED
from shared.errors import InvalidInputError, NotFoundError
from shared.hardware import DeviceHardware
from shared.ids import BootId, DeviceId, InstallationId, Sha256, SiteId
from shared.request_log import MAX_SEGMENT_BYTES

if TYPE_CHECKING:
    import ssl
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from controller.fleet.ports import Broadcast, RequestRecords, Sealed, TargetFiles
    from controller.fleet.service import FleetService

    Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
    DeviceHandler = Callable[[web.Request, DeviceId], Awaitable[web.StreamResponse]]

T = TypeVar("T")

PREFIX = "/device/v1"
_SEALED = "application/vnd.dsse+json"
_HASHED = re.compile(r"(?P<folder>(?:.*/)?)(?P<sha256>[0-9a-f]{64})\.(?P<name>[^/]+)")
# A signing request and a description of the hardware; everything else a device sends here has no body.
_MAX_BODY_BYTES = 32 * 1024
_BODY_S = 60.0
_IMMUTABLE = "public, max-age=31536000, immutable"
_ETAG: web.RequestKey[str] = web.RequestKey("etag", str)


class EnrolRequest(msgspec.Struct, frozen=True, kw_only=True):
    """What a new device says."""

    token: str
    csr_pem: str
    hardware: DeviceHardware


class BrokerReply(msgspec.Struct, frozen=True, kw_only=True):
    """Where the broker is."""

    host: str
    port: int
    tls: bool


class EnrolReply(msgspec.Struct, frozen=True, kw_only=True):
    """All that a device needs to know of itself and of its installation."""

    device_id: DeviceId
    site: SiteId
    installation_id: InstallationId
    certificate_pem: str
    ca_pem: str
    tuf_root: bytes
    broker: BrokerReply


class RenewRequest(msgspec.Struct, frozen=True, kw_only=True):
    """A signing request for the key that the device is known by."""

    csr_pem: str


class RenewReply(msgspec.Struct, frozen=True, kw_only=True):
    """The same key, certified for another lifetime."""

    certificate_pem: str


class SessionReply(msgspec.Struct, frozen=True, kw_only=True):
    """A new life of the device's control process."""

    boot_id: BootId
    mac_key: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Certificate:
    """What a verified client certificate says of its holder."""

    common_name: str
    fingerprint: Sha256


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceApi:
    """What the device listener serves from."""

    fleet: FleetService
    desired: Sealed
    pulse: Broadcast
    targets: TargetFiles
    requests: RequestRecords
    metadata_folder: Path
    blob_path: Callable[[Sha256], Path]
    """Raises NotFoundError."""
    peer: Callable[[ssl.SSLObject | ssl.SSLSocket | None], Certificate | None]
    """Reads the client certificate of a TLS connection."""


def add_device_routes(app: web.Application, api: DeviceApi) -> None:
    """Add every device route to the application of the TLS listener; `problems` must be among its middlewares."""
    routes = _DeviceRoutes(api)
    app.router.add_post(f"{PREFIX}/enrol", routes.enrol)
    app.router.add_post(f"{PREFIX}/session", routes.known(routes.session))
    app.router.add_post(f"{PREFIX}/renew", routes.known(routes.renew))
    app.router.add_post(f"{PREFIX}/request-log", routes.known(routes.request_log))
    app.router.add_get(f"{PREFIX}/desired", routes.known(routes.desired))
    app.router.add_get(f"{PREFIX}/pulse", routes.known(routes.pulse))
    app.router.add_get(PREFIX + "/tuf/metadata/{name}", routes.known(routes.metadata))
    app.router.add_get(PREFIX + "/tuf/targets/{path:.+}", routes.known(routes.target))
    app.on_response_prepare.append(_name_by_digest)


class _DeviceRoutes:
    def __init__(self, api: DeviceApi) -> None:
        self._api = api

    def known(self, handler: DeviceHandler) -> Handler:
        """Let only devices of the fleet through, and tell the handler which one it is."""

        @wraps(handler)
        async def checked(request: web.Request) -> web.StreamResponse:
            connection = None if request.transport is None else request.transport.get_extra_info("ssl_object")
            peer = self._api.peer(connection)
            if peer is None:
                raise UnauthenticatedError("show the device's client certificate")
            return await handler(request, await self._api.fleet.authenticate(peer.common_name, peer.fingerprint))

        return checked

    async def enrol(self, request: web.Request) -> web.StreamResponse:
        """Give a device with a token its certificate; the only route that asks for none."""
        body = await _body(request, EnrolRequest)
        enrolled = await self._api.fleet.enrol(token=body.token, csr_pem=body.csr_pem.encode(), hardware=body.hardware)
        settings = self._api.fleet.settings
        broker = settings.broker
        reply = EnrolReply(
            device_id=enrolled.device_id,
            site=enrolled.site,
            installation_id=settings.installation_id,
            certificate_pem=enrolled.certificate.pem.decode(),
            ca_pem=self._api.fleet.ca_pem.decode(),
            tuf_root=settings.tuf_root(),
            broker=BrokerReply(host=broker.host, port=broker.port, tls=broker.tls),
        )
        return _json(reply)

    async def renew(self, request: web.Request, device: DeviceId) -> web.StreamResponse:
        """Certify the same key for another lifetime."""
        body = await _body(request, RenewRequest)
        certificate = await self._api.fleet.renew(device, body.csr_pem.encode())
        return _json(RenewReply(certificate_pem=certificate.pem.decode()))

    async def session(self, _request: web.Request, device: DeviceId) -> web.StreamResponse:
        """Issue a boot id and the key for its messages."""
        session = await self._api.fleet.open_session(device)
        return _json(SessionReply(boot_id=session.boot_id, mac_key=session.mac_key))

    async def desired(self, _request: web.Request, device: DeviceId) -> web.StreamResponse:
        """Return the device's own sealed order."""
        sealed = await self._api.desired.sealed_for(device)
        if sealed is None:
            raise NotFoundError(kind="desired state of", name=device)
        return web.Response(body=sealed, content_type=_SEALED)

    async def pulse(self, _request: web.Request, _device: DeviceId) -> web.StreamResponse:
        """Return the newest sealed broadcast."""
        return web.Response(body=await self._api.pulse.sealed_pulse(), content_type=_SEALED)

    async def request_log(self, request: web.Request, device: DeviceId) -> web.StreamResponse:
        """Take in requests that the device wrote down; the same ones may be sent again."""
        await self._api.requests.take(device, await _lines(request))
        return web.Response(status=HTTPStatus.OK)

    async def metadata(self, request: web.Request, _device: DeviceId) -> web.StreamResponse:
        """Return one file of the TUF repository."""
        name = request.match_info["name"]
        path = self._api.metadata_folder / name
        if not METADATA_NAME.fullmatch(name) or not path.is_file():
            raise NotFoundError(kind="metadata", name=name[:80])
        # Only `timestamp.json` has no version in its name, and only it ever changes (TUF: consistent snapshots).
        versioned = name[0].isdigit()
        return web.FileResponse(path, headers={"Cache-Control": _IMMUTABLE if versioned else "no-cache"})

    async def target(self, request: web.Request, _device: DeviceId) -> web.StreamResponse:
        """Return a manifest or an artifact, whole or by Range."""
        sha256 = await self._digest_of(request.match_info["path"])
        # Set when the response is prepared: the server would overwrite a header that is given here.
        request[_ETAG] = sha256
        headers = {"Content-Type": "application/octet-stream", "Cache-Control": _IMMUTABLE}
        return web.FileResponse(self._api.blob_path(sha256), headers=headers)

    async def _digest_of(self, path: str) -> Sha256:
        """Return the digest of a target by its path, or by its path with the digest before the name (TUF 5.7.3)."""
        try:
            return (await self._api.targets.find(path)).sha256
        except NotFoundError:
            hashed = _HASHED.fullmatch(path)
            if hashed is None:
                raise
        target = await self._api.targets.find(hashed["folder"] + hashed["name"])
        if target.sha256 != hashed["sha256"]:
            raise NotFoundError(kind="target", name=path)
        return target.sha256


async def _body(request: web.Request, kind: type[T]) -> T:
    if (request.content_length or 0) > _MAX_BODY_BYTES:
        raise web.HTTPRequestEntityTooLarge(max_size=_MAX_BODY_BYTES, actual_size=request.content_length or 0)
    try:
        return msgspec.json.decode(await request.read(), type=kind)
    except MALFORMED as exc:
        raise InvalidInputError(field="body", problem=str(exc)) from exc


async def _lines(request: web.Request) -> bytes:
    """Read a body that may be larger than those that have a type of their own."""
    body = bytearray()
    # A device that stalls holds a connection of its own open, and no more than this.
    async with asyncio.timeout(_BODY_S):
        async for chunk in request.content.iter_chunked(64 * 1024):
            body += chunk
            if len(body) > MAX_SEGMENT_BYTES:
                raise web.HTTPRequestEntityTooLarge(max_size=MAX_SEGMENT_BYTES, actual_size=len(body))
    return bytes(body)


def _json(reply: msgspec.Struct) -> web.Response:
    return web.Response(body=msgspec.json.encode(reply), status=HTTPStatus.OK, content_type="application/json")


async def _name_by_digest(request: web.Request, response: web.StreamResponse) -> None:
    """Say a target's digest as its ETag; the server's own would change when a blob is copied elsewhere."""
    if _ETAG in request:
        response.headers["ETag"] = f'"{request[_ETAG]}"'
