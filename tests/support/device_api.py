"""The controller as a device sees it: a real TLS server with a real TUF repository, which can be told to misbehave."""

from __future__ import annotations

import asyncio
import base64
import hashlib
from contextlib import suppress
from enum import StrEnum
from typing import TYPE_CHECKING, Self

import msgspec
from aiohttp import web
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from agent.link.identity import BrokerAddress, Identity, identity_files
from shared.ids import DeviceId, InstallationId, KeyId, SiteId
from shared.manifest import digest
from shared.signing import key_id, seal
from shared.wire import DESIRED_TYPE, PULSE_TYPE, Desired, Pulse
from tests.support.authority import Authority, key_pem
from tests.support.tuf_repository import TufRepository
from tests.support.waiting import wait_until_async

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path
    from types import TracebackType

INSTALLATION = InstallationId("0190a000-0000-7000-8000-000000000001")
_TRICKLE_S = 0.05
_CHUNK_BYTES = 4096
# What an endless body sends before it gives up: far beyond any limit that a client should have kept.
_ENDLESS_BYTES = 64 * 1024 * 1024


class Fault(StrEnum):
    """How an answer can go wrong."""

    TRICKLE = "trickle"
    """One byte at a time, for ever slower than any floor."""
    STALL = "stall"
    """The head, and then nothing."""
    TRUNCATE = "truncate"
    """`cut_after` bytes, then the connection is gone."""
    SHORTER = "shorter"
    """`cut_after` bytes, and a Content-Length that says that this is all."""
    FLIP = "flip"
    """The last byte sent is another."""
    REDIRECT = "redirect"
    """302 to another path of the same server, which would answer well."""
    ENDLESS = "endless"
    """The body is followed by more, without end."""
    LONGER = "longer"
    """The body is followed by some more, and Content-Length says so."""
    ERROR = "error"
    """500 problem+json, with Retry-After."""
    MISSING = "missing"
    """404."""
    ENCODED = "encoded"
    """Content-Encoding: gzip, though nobody asked."""
    LOSE_REPLY = "lose_reply"
    """The call is carried out, and then the connection is cut."""
    WHOLE = "whole"
    """Range is ignored: 200 and everything."""
    OTHER_RANGE = "other_range"
    """206, but from the first byte on."""


class DeviceServer:
    """Serves the device endpoints on loopback. `faults` maps a part of a path to what goes wrong there."""

    def __init__(
        self,
        folder: Path,
        *,
        broker: BrokerAddress | None = None,
        authority: Authority | None = None,
        certified_as: str = "localhost",
    ) -> None:
        self._folder, self._certified_as = folder, certified_as
        self.authority = authority or Authority()
        self.director = Ed25519PrivateKey.generate()
        public = self.director.public_key()
        self.director_key: tuple[KeyId, str] = (key_id(public), public.public_bytes_raw().hex())
        self.repository = TufRepository(director_keys=dict([self.director_key]), installation_id=INSTALLATION)
        self.broker = broker or BrokerAddress(host="localhost", port=1, tls=True)
        self.faults: dict[str, Fault] = {}
        self.cut_after = 0
        self.cut_when: Callable[[], bool] = lambda: True
        """A truncated answer is cut once this holds: clients forget what they have not read when the end is sudden."""
        self.desired: dict[DeviceId, bytes] = {}
        self.pulse = b""
        self.tokens: dict[str, DeviceId] = {}
        self.refused_devices: set[str] = set()
        self.requests: list[str] = []
        self.ranges: list[str] = []
        self.logged: list[bytes] = []
        """Lines of requests that devices wrote down, as often as they were sent."""
        self.sent_bytes = 0
        self.mac_key = hashlib.sha256(b"mac").digest()
        self._burnt: dict[str, bytes] = {}
        self._boots = 0
        self._runner: web.AppRunner | None = None
        self.url = ""

    async def __aenter__(self) -> Self:
        app = web.Application()
        app.router.add_post("/device/v1/enrol", self._enrol)
        app.router.add_post("/device/v1/session", self._session)
        app.router.add_post("/device/v1/renew", self._renew)
        app.router.add_post("/device/v1/request-log", self._request_log)
        app.router.add_get("/device/v1/desired", self._desired)
        app.router.add_get("/device/v1/pulse", self._pulse)
        app.router.add_get("/device/v1/tuf/metadata/{name}", self._metadata)
        app.router.add_get("/device/v1/tuf/targets/{path:.+}", self._target)
        app.router.add_get("/honest/{path:.+}", self._honest)
        self._runner = web.AppRunner(app, shutdown_timeout=0.1)
        await self._runner.setup()
        tls = self.authority.server_tls(self._folder, self._certified_as)
        site = web.TCPSite(self._runner, "127.0.0.1", 0, ssl_context=tls)
        await site.start()
        self.url = f"https://localhost:{self._runner.addresses[0][1]}"
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._runner is not None
        await self._runner.cleanup()

    def enrol_here(self, state_dir: Path, device: str = "dev-1") -> Identity:
        """Write the identity of an enrolled device without a network call."""
        files = identity_files(state_dir)
        files.folder.mkdir(parents=True, exist_ok=True)
        key = ec.generate_private_key(ec.SECP256R1())
        public = key.public_key()
        files.key.write_text(key_pem(key))
        files.key.chmod(0o600)
        files.certificate.write_text(self.authority.issue_device(device, public))
        files.authority.write_text(self.authority.pem)
        identity = Identity(
            device_id=DeviceId(device),
            site=SiteId("site-1"),
            installation_id=INSTALLATION,
            key_fingerprint=digest(public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)),
            controller_url=self.url,
            broker=self.broker,
            tuf_root=self.repository.root,
        )
        files.document.write_bytes(msgspec.json.encode(identity))
        return identity

    def set_desired(self, desired: Desired) -> bytes:
        """Seal a Desired, serve it, and return the sealed bytes."""
        sealed = seal(DESIRED_TYPE, msgspec.json.encode(desired), self.director)
        self.desired[desired.device_id] = sealed
        return sealed

    def set_pulse(self, pulse: Pulse) -> bytes:
        """Seal a Pulse, serve it, and return the sealed bytes."""
        self.pulse = seal(PULSE_TYPE, msgspec.json.encode(pulse), self.director)
        return self.pulse

    async def _enrol(self, request: web.Request) -> web.StreamResponse:
        fault = self._fault(request)
        body = await request.json()
        device = self.tokens.get(body["token"])
        csr = x509.load_pem_x509_csr(body["csr_pem"].encode())
        public = csr.public_key()
        der = public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        if device is None or not csr.is_signature_valid or self._burnt.get(body["token"], der) != der:
            return _problem(401, "token_refused", "the token is unknown, used or expired")
        assert isinstance(public, ec.EllipticCurvePublicKey)
        self._burnt[body["token"]] = der
        reply = {
            "device_id": device,
            "site": "site-1",
            "installation_id": INSTALLATION,
            "certificate_pem": self.authority.issue_device(device, public),
            "ca_pem": self.authority.pem,
            "tuf_root": base64.b64encode(self.repository.root).decode(),
            "broker": {"host": self.broker.host, "port": self.broker.port, "tls": self.broker.tls},
        }
        return self._small(request, fault, msgspec.json.encode(reply))

    async def _session(self, request: web.Request) -> web.StreamResponse:
        fault = self._fault(request)
        self._device(request)
        self._boots += 1
        reply = {"boot_id": f"{self._boots:012d}", "mac_key": base64.b64encode(self.mac_key).decode()}
        return self._small(request, fault, msgspec.json.encode(reply))

    async def _request_log(self, request: web.Request) -> web.StreamResponse:
        fault = self._fault(request)
        self._device(request)
        self.logged += (await request.read()).splitlines()
        return self._small(request, fault, b"")

    async def _renew(self, request: web.Request) -> web.StreamResponse:
        fault = self._fault(request)
        device = self._device(request)
        public = x509.load_pem_x509_csr((await request.json())["csr_pem"].encode()).public_key()
        assert isinstance(public, ec.EllipticCurvePublicKey)
        reply = {"certificate_pem": self.authority.issue_device(device, public)}
        return self._small(request, fault, msgspec.json.encode(reply))

    async def _desired(self, request: web.Request) -> web.StreamResponse:
        fault = self._fault(request)
        sealed = self.desired.get(self._device(request))
        if sealed is None:
            return _problem(404, "not_found", "no Desired yet")
        return self._small(request, fault, sealed)

    async def _pulse(self, request: web.Request) -> web.StreamResponse:
        fault = self._fault(request)
        self._device(request)
        return self._small(request, fault, self.pulse)

    async def _metadata(self, request: web.Request) -> web.StreamResponse:
        self._device(request)
        data = self.repository.metadata.get(request.match_info["name"])
        return await self._file(request, data)

    async def _target(self, request: web.Request) -> web.StreamResponse:
        self._device(request)
        return await self._file(request, self.repository.targets.get(request.match_info["path"]))

    async def _honest(self, request: web.Request) -> web.StreamResponse:
        """Answer where redirects lead: whoever follows one gets the right bytes, so only refusing it can fail."""
        name = request.match_info["path"].rpartition("/")[2]
        data = self.repository.metadata.get(name) or self.repository.targets.get(request.match_info["path"])
        return web.Response(body=data)

    def _device(self, request: web.Request) -> DeviceId:
        certificate = request.get_extra_info("peercert") or {}
        names = [value for part in certificate.get("subject", ()) for key, value in part if key == "commonName"]
        if not names or names[0] in self.refused_devices:
            raise web.HTTPForbidden(
                text='{"reason": "revoked", "detail": "this device is not (or no longer) known"}',
                content_type="application/problem+json",
            )
        return DeviceId(names[0])

    def _fault(self, request: web.Request) -> Fault | None:
        self.requests.append(request.path)
        return next((fault for part, fault in self.faults.items() if part in request.path), None)

    def _small(self, request: web.Request, fault: Fault | None, body: bytes) -> web.StreamResponse:
        match fault:
            case Fault.ERROR:
                return _problem(503, "unreachable", "the database is away", retry_after="7")
            case Fault.LOSE_REPLY:
                assert request.transport is not None
                request.transport.abort()
                return web.Response()
            case Fault.REDIRECT:
                return web.Response(status=302, headers={"Location": f"{self.url}/honest{request.path}"})
            case Fault.ENDLESS:
                return web.Response(body=body + b" " * 1024 * 1024)
            case Fault.FLIP:
                return web.Response(body=_flipped(body))
            case Fault.MISSING:
                return _problem(404, "not_found", "no such endpoint")
            case _:
                return web.Response(body=body)

    async def _file(self, request: web.Request, data: bytes | None) -> web.StreamResponse:
        """Serve a file, by Range if asked, through whatever fault is set for it."""
        fault = self._fault(request)
        if fault is Fault.ERROR:
            return _problem(503, "unreachable", "the disk is away", retry_after="7")
        if fault is Fault.REDIRECT:
            path = request.path.rpartition("/tuf/metadata/")[2].rpartition("/tuf/targets/")[2]
            return web.Response(status=302, headers={"Location": f"{self.url}/honest/{path}"})
        if data is None or fault is Fault.MISSING:
            return _problem(404, "not_found", "no such file")
        start, status, headers = self._range(request, data, fault)
        body = data[start:]
        if fault is Fault.FLIP:
            body = _flipped(body)
        response = web.StreamResponse(status=status, headers=headers)
        await self._stream(request, response, body, fault)
        return response

    def _range(self, request: web.Request, data: bytes, fault: Fault | None) -> tuple[int, int, dict[str, str]]:
        etag = f'"{digest(data)}"'
        asked = request.headers.get("Range", "")
        self.ranges.append(asked)
        if fault is Fault.OTHER_RANGE and asked:
            return 0, 206, {"ETag": etag, "Content-Range": f"bytes 0-{len(data) - 1}/{len(data)}"}
        fits = request.headers.get("If-Range", etag) == etag
        if not asked or not fits or fault is Fault.WHOLE:
            return 0, 200, {"ETag": etag}
        start = int(asked.removeprefix("bytes=").removesuffix("-"))
        return start, 206, {"ETag": etag, "Content-Range": f"bytes {start}-{len(data) - 1}/{len(data)}"}

    async def _stream(
        self, request: web.Request, response: web.StreamResponse, body: bytes, fault: Fault | None
    ) -> None:
        if fault is Fault.ENCODED:
            response.headers["Content-Encoding"] = "gzip"
        if fault is Fault.ENDLESS:
            response.enable_chunked_encoding()
        elif fault is Fault.LONGER:
            response.content_length = len(body) + 10
        elif fault is Fault.SHORTER:
            response.content_length = self.cut_after
        else:
            response.content_length = len(body)
        # A client that has seen enough hangs up, and is right to.
        with suppress(ConnectionError):
            await response.prepare(request)
            for chunk in self._chunks(body, fault):
                if request.transport is None or request.transport.is_closing():
                    return
                await response.write(chunk)
                # Writing alone does not yield, and so would never hear that the client has hung up.
                await asyncio.sleep(0)
                self.sent_bytes += len(chunk)
                if fault is Fault.TRICKLE:
                    await _pause()
            if fault is Fault.STALL:
                await asyncio.Event().wait()
            if fault is Fault.TRUNCATE and request.transport is not None:
                await response.write(b"")
                await wait_until_async(self.cut_when, what="the moment to cut")
                request.transport.close()
                return
            await response.write_eof()

    def _chunks(self, body: bytes, fault: Fault | None) -> Iterator[bytes]:
        match fault:
            case Fault.TRICKLE:
                yield from (body[at : at + 1] for at in range(len(body)))
            case Fault.STALL:
                return
            case Fault.TRUNCATE | Fault.SHORTER:
                yield body[: self.cut_after]
            case Fault.ENDLESS:
                yield body
                yield from (b" " * _CHUNK_BYTES for _ in range(_ENDLESS_BYTES // _CHUNK_BYTES))
            case Fault.LONGER:
                yield body + b" " * 10
            case _:
                yield body


async def _pause() -> None:
    """Let time pass as a slow line does."""
    over = asyncio.Event()
    asyncio.get_running_loop().call_later(_TRICKLE_S, over.set)
    await over.wait()


def _flipped(data: bytes) -> bytes:
    return data[:-1] + bytes([data[-1] ^ 1])


def _problem(status: int, reason: str, detail: str, *, retry_after: str = "") -> web.Response:
    body = msgspec.json.encode({"title": reason, "detail": detail, "reason": reason, "status": status})
    headers = {"Retry-After": retry_after} if retry_after else None
    return web.Response(status=status, body=body, content_type="application/problem+json", headers=headers)
