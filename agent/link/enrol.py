"""Becoming a device of an installation: a key made here, a certificate from there."""

from __future__ import annotations

import ssl
from datetime import datetime
from http import HTTPStatus
from typing import TYPE_CHECKING

import aiohttp
import msgspec

from agent.delivery.durable import write_whole
from agent.link.answers import answer_within, problem_in, read_bounded, retry_after_s, story
from agent.link.certificates import check_certificate, fingerprint, own_key, signing_request
from agent.link.identity import BrokerAddress, Identity, identity_files
from shared.decoding import MALFORMED
from shared.errors import ConflictError, InvalidInputError, UnreachableError, UntrustedError
from shared.hardware import DeviceHardware
from shared.ids import DeviceId, InstallationId, SiteId, device_id

if TYPE_CHECKING:
    from pathlib import Path


_TIMEOUT_S = 30.0
_NEW_INVITE = "ask the operator for a new invite"
_REFUSALS = range(400, 500)
_TRY_AGAIN = frozenset({HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_MANY_REQUESTS})


class Invite(msgspec.Struct, frozen=True, kw_only=True):
    """What an operator hands to a new device: the reply of `POST /devices`, as a JSON file."""

    device_id: DeviceId
    token: str
    """One-time secret; bound to the first key that uses it."""
    expires_at: datetime
    controller_url: str
    ca_pem: str
    """Authority that the controller's certificate must descend from: no other is believed."""


class _Application(msgspec.Struct, frozen=True, kw_only=True):
    """Body of `POST /device/v1/enrol`."""

    token: str
    csr_pem: str
    hardware: DeviceHardware


class _Admission(msgspec.Struct, frozen=True, kw_only=True):
    """Its answer."""

    device_id: DeviceId
    site: SiteId
    installation_id: InstallationId
    certificate_pem: str
    ca_pem: str
    tuf_root: bytes
    broker: BrokerAddress


def read_invite(path: Path) -> Invite:
    """Read an invite.

    Raises:
        InvalidInputError: it cannot be read or used.
        InvalidIdError: its device id is none.
    """
    try:
        invite = msgspec.json.decode(path.read_bytes(), type=Invite)
    except OSError as exc:
        raise InvalidInputError(field=str(path), problem=f"cannot be read: {exc.strerror}") from exc
    except MALFORMED as exc:
        raise InvalidInputError(field=str(path), problem=f"is no invite: {exc}", remedy=_NEW_INVITE) from exc
    device_id(invite.device_id)
    if not invite.controller_url.startswith("https://"):
        raise InvalidInputError(field="controller_url", problem="does not start with https://", remedy=_NEW_INVITE)
    return invite


async def enrol(invite: Invite, *, state_dir: Path, hardware: DeviceHardware) -> Identity:
    """Make a key, have it certified, and write the identity files, `identity.json` last.

    A lost reply costs nothing: the key stays, and the controller lets the same key try the same token again.

    Raises:
        ConflictError: this state folder already holds an identity.
        InvalidInputError: the invite is not (or no longer) good.
        UnreachableError: the controller did not answer; the same call may be repeated.
        UntrustedError: the answer does not fit the key or the invite.
        StorageFullError: no room for the identity.
    """
    files = identity_files(state_dir)
    if files.document.exists():
        raise ConflictError(kind="identity", name=str(files.document), problem="exists: this device is enrolled")
    key = own_key(files)
    admission = await _apply(invite, signing_request(key, invite.device_id), hardware)
    # The certificate decides who we are to the broker: one for a neighbour would let us speak as him.
    if admission.device_id != invite.device_id:
        raise UntrustedError(f"the invite is for {invite.device_id!r}, the answer for {admission.device_id!r}")
    if not admission.tuf_root:
        raise UntrustedError("the answer has no root of trust, so nothing could ever be verified")
    check_certificate(admission.certificate_pem, admission.ca_pem, device=invite.device_id, key=key)
    identity = Identity(
        device_id=admission.device_id,
        site=admission.site,
        installation_id=admission.installation_id,
        key_fingerprint=fingerprint(key),
        controller_url=invite.controller_url.rstrip("/"),
        broker=admission.broker,
        tuf_root=admission.tuf_root,
    )
    write_whole(files.certificate, admission.certificate_pem.encode())
    write_whole(files.authority, admission.ca_pem.encode())
    # Last: its presence says that all the others are whole.
    write_whole(files.document, msgspec.json.encode(identity))
    return identity


async def _apply(invite: Invite, csr_pem: str, hardware: DeviceHardware) -> _Admission:
    """Ask the controller that the invite names, and no other, for a certificate. Raises as `enrol`."""
    application = _Application(token=invite.token, csr_pem=csr_pem, hardware=hardware)
    url = f"{invite.controller_url.rstrip('/')}/device/v1/enrol"
    connector = aiohttp.TCPConnector(ssl=_pinned(invite.ca_pem))
    async with (
        aiohttp.ClientSession(connector=connector, auto_decompress=False) as http,
        answer_within(url, _TIMEOUT_S),
        http.post(
            url,
            data=msgspec.json.encode(application),
            headers={"Content-Type": "application/json"},
            allow_redirects=False,
        ) as response,
    ):
        body = await read_bounded(response)
    if response.status in _REFUSALS and response.status not in _TRY_AGAIN:
        problem = problem_in(body)
        raise InvalidInputError(
            field="invite", problem=problem.detail or problem.title or story(response.status, body), remedy=_NEW_INVITE
        )
    if response.status not in {HTTPStatus.OK, HTTPStatus.CREATED}:
        raise UnreachableError(f"{url}: {story(response.status, body)}", retry_after_s=retry_after_s(response))
    try:
        return msgspec.json.decode(body, type=_Admission)
    except MALFORMED as exc:
        raise UntrustedError(f"the controller's answer cannot be used: {exc}") from exc


def _pinned(ca_pem: str) -> ssl.SSLContext:
    """Return TLS that believes the invite's authority and no other."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_verify_locations(cadata=ca_pem)
    except ssl.SSLError as exc:
        raise InvalidInputError(field="ca_pem", problem="is no certificate", remedy=_NEW_INVITE) from exc
    return context
