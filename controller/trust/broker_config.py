"""Mosquitto's configuration for a fleet: a client is who its certificate says, and reaches its own topics only.

Measured on mosquitto 2.0.11: `use_identity_as_username` makes a client-sent user name worthless,
`use_username_as_clientid` keeps a device from taking over another's session, and a `deny` line plus SIGHUP cuts off a
live connection, which revoking its certificate alone does not.
"""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING

import structlog

from controller.trust.broker_logins import password_file
from controller.trust.files import PUBLIC_MODE, SECRET_MODE, write_atomically
from controller.trust.tls import CONTROLLER_NAME
from shared import topics

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from controller.trust.authority import Authority
    from shared.ids import DeviceId

log = structlog.get_logger(__name__)

_RELOAD_S = 10.0
_EVERYWHERE = frozenset({"0.0.0.0", "::"})  # noqa: S104 - addresses to listen on, by which nobody is called
_DEVICES = f"{topics.ROOT}/+"

_CONFIG = """\
# Written by litefleet; a change is lost when it is written again.
{run_as}per_listener_settings {per_listener}
listener {port} {host}

# Mutual TLS. Who a client is, is what its certificate says (CN), whatever it calls itself.
cafile {folder}/ca.pem
certfile {folder}/broker.pem
keyfile {folder}/broker.key
require_certificate true
use_identity_as_username true
# Without this a device could take over another's session by its client id.
use_username_as_clientid true
allow_anonymous false
acl_file {folder}/acl
{applications}
# Retained messages are a cache of the controller's database; after a loss it publishes them again.
persistence true
persistence_location {folder}/data/
autosave_interval 60

# The largest report is far smaller, and a device has one report and some heartbeats under way.
max_packet_size {max_packet}
max_inflight_messages 2000
max_queued_messages 20000
persistent_client_expiration 1d
log_type error
log_type warning
log_type notice
"""

_APPLICATIONS = """
# Applications that have only the broker: over TLS, with a login and the application's key.
listener {port} {host}
certfile {folder}/broker.pem
keyfile {folder}/broker.key
password_file {folder}/applications
# A session belongs to a login, which no device's name can equal: no client id takes over another's session.
use_username_as_clientid true
allow_anonymous false
acl_file {folder}/applications.acl
"""

_ACL_HEAD = f"""\
# Written by litefleet; a change is lost when it is written again.
user {CONTROLLER_NAME}
topic read {_DEVICES}/+/up/#
topic write {_DEVICES}/+/down/#
topic readwrite {topics.PULSE}
topic readwrite {topics.SENTINEL}

# %u is the name in the certificate.
pattern write {_DEVICES}/%u/up/+
pattern read {_DEVICES}/%u/down/+
pattern read {topics.PULSE}

# Applications ask a device by the broker, and it replies below their own topic.
pattern read {_DEVICES}/%u/infer/+
pattern write {_DEVICES}/%u/infer/+/reply/+
"""

_APPLICATION_ACL = f"""\
# Written by litefleet; a change is lost when it is written again.
# %u is the login. Which models it may ask, each device decides by its own grants.
pattern write {_DEVICES}/+/infer/%u
pattern read {_DEVICES}/+/infer/%u/reply/+
"""


def write_broker_config(
    folder: Path,
    authority: Authority,
    *,
    host: str,
    port: int,
    names: Sequence[str] = (),
    application_port: int | None = None,
) -> Path:
    """Write everything that a mosquitto needs into `folder`, and return the path of its configuration.

    Args:
        folder: self-contained afterwards; may be carried to another machine, to the same path.
        authority: vouches for the broker, and for whom it lets in.
        host: address to listen on.
        port: TCP port to listen on.
        names: further names and addresses by which clients call the broker.
        application_port: TCP port for applications; None: they are not let in.
    """
    folder = folder.absolute()
    (folder / "data").mkdir(parents=True, exist_ok=True)
    called = dict.fromkeys([host, *names, "localhost", "127.0.0.1"])
    files = authority.server_files("broker", [name for name in called if name not in _EVERYWHERE])
    write_atomically(folder / "ca.pem", authority.ca_pem)
    write_atomically(folder / "broker.pem", files.certificate.read_bytes())
    write_atomically(folder / "broker.key", files.key.read_bytes(), mode=SECRET_MODE)
    if not (folder / "acl").exists():
        write_atomically(folder / "acl", access_list([]).encode())
    if application_port is not None:
        write_atomically(folder / "applications.acl", _APPLICATION_ACL.encode())
        if not password_file(folder).exists():
            write_atomically(password_file(folder), b"", mode=SECRET_MODE)
    configuration = folder / "mosquitto.conf"
    text = broker_config(folder, host=host, port=port, application_port=application_port)
    write_atomically(configuration, text.encode(), mode=PUBLIC_MODE)
    return configuration


def broker_config(folder: Path, *, host: str, port: int, application_port: int | None = None) -> str:
    """Return the text of mosquitto.conf."""
    # Root's mosquitto becomes user `mosquitto`, who could not read a key that root alone may read.
    run_as = "user root\n" if os.geteuid() == 0 else ""
    is_open = application_port is not None
    return _CONFIG.format(
        folder=folder,
        host=host,
        port=port,
        run_as=run_as,
        # Two listeners with an ACL each; with one for both, an application could take a device's name.
        per_listener="true" if is_open else "false",
        applications=_APPLICATIONS.format(folder=folder, host=host, port=application_port) if is_open else "",
        max_packet=512 * 1024,
    )


def access_list(denied: Sequence[DeviceId]) -> str:
    """Return the text of the ACL: every device its own topics, the denied ones none, not even on a live connection."""
    lines = [f"\nuser {device}\ntopic deny {topics.ROOT}/#\n" for device in sorted(denied)]
    return _ACL_HEAD + "".join(lines)


class BrokerAccess:
    """Keeps the broker's ACL file in step with the fleet; without one it only says so."""

    def __init__(self, *, acl_file: Path | None, reload_command: Sequence[str] = ()) -> None:
        """Take where the ACL is and how the broker is told to read it again, e.g. `systemctl reload mosquitto`."""
        self._acl_file = acl_file
        self._reload_command = tuple(reload_command)

    async def deny(self, denied: Sequence[DeviceId]) -> None:
        """Cut these devices off, and no others. Failing is logged only: the controller itself refuses them, too."""
        if self._acl_file is None:
            if denied:
                log.warning("broker_access_unmanaged", denied=len(denied), remedy="let the controller write the ACL")
            return
        text = access_list(denied).encode()
        if self._acl_file.exists() and self._acl_file.read_bytes() == text:
            return
        write_atomically(self._acl_file, text)
        await self._reload()

    async def _reload(self) -> None:
        if not self._reload_command:
            log.warning("broker_reload_unmanaged", acl_file=str(self._acl_file), remedy="send the broker a SIGHUP")
            return
        try:
            code = await self._run_reload()
        except (OSError, TimeoutError) as exc:
            log.warning("broker_reload_failed", command=self._reload_command, problem=str(exc))
            return
        if code:
            log.warning("broker_reload_failed", command=self._reload_command, code=code)

    async def _run_reload(self) -> int:
        process = await asyncio.create_subprocess_exec(*self._reload_command, stdin=asyncio.subprocess.DEVNULL)
        try:
            async with asyncio.timeout(_RELOAD_S):
                return await process.wait()
        finally:
            if process.returncode is None:
                process.kill()
