"""The doors to inference: which settings may open which, and the listening sockets behind them. Stdlib only."""

from __future__ import annotations

import grp
import ipaddress
import os
import socket
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from agent.serving.planned.sockets import listen_unix

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    Doors = tuple[socket.socket, ...]

INFER_SOCKET = "infer.sock"
"""Name, in the run folder, of the unix socket of the inference API."""

GROUP_MAY_CALL = 0o660
"""Permissions of that socket."""

_BACKLOG = 1024  # callers who wait while serving starts again; the kernel caps it at net.core.somaxconn


class Settings(NamedTuple):
    """The settings that the supervisor needs. Its children check the whole file, and exit with EX_CONFIG if wrong."""

    path: Path
    state_dir: Path
    host: str
    port: int
    infer_socket: Path
    infer_socket_group: str = ""
    processes: int = 1
    """How many serving processes share the doors."""


def read_settings(path: Path) -> Settings:
    """Read file and environment. Raises ValueError or OSError, naming what is wrong."""
    found: dict[str, object] = {"http_host": "127.0.0.1", "http_port": 8080, "state_dir": ""}
    found |= {"tls_certificate": "", "tls_key": "", "infer_socket": "", "infer_socket_group": ""}
    found |= {"serving_processes": 1}
    found.update(tomllib.loads(path.read_text(encoding="utf-8")))
    found.update({key: os.environ.get(f"LITEFLEET_AGENT_{key.upper()}", value) for key, value in found.items()})
    host, state_dir = str(found["http_host"]), str(found["state_dir"])
    if not state_dir:
        raise ValueError(f"state_dir is missing: set it in {path} or as LITEFLEET_AGENT_STATE_DIR")
    files = {name: str(found[name]) for name in ("tls_certificate", "tls_key")}
    check_opening(host, has_certificate=bool(files["tls_certificate"]), has_key=bool(files["tls_key"]))
    for name, file in files.items():
        if file and not os.access(file, os.R_OK):
            raise ValueError(f"{name} {file} cannot be read by this user")
    folder = Path(state_dir).absolute()
    return Settings(
        path=path.absolute(),
        state_dir=folder,
        host=host,
        port=int(str(found["http_port"])),
        infer_socket=Path(str(found["infer_socket"]) or folder / "run" / INFER_SOCKET).absolute(),
        infer_socket_group=str(found["infer_socket_group"]),
        # What is no number from 1 on, the children refuse.
        processes=max(1, int(str(found["serving_processes"]))),
    )


def check_opening(host: str, *, has_certificate: bool, has_key: bool) -> bool:
    """Return whether inference is open to other machines, which takes TLS. Raises ValueError for half of it.

    Behind TLS every request needs an application's key, so that these settings together are the only way out of
    loopback.
    """
    is_wide = not ipaddress.ip_address(host).is_loopback
    if has_certificate != has_key:
        missing = "tls_key" if has_certificate else "tls_certificate"
        raise ValueError(f"{missing} is missing: TLS takes tls_certificate and tls_key, both files in PEM")
    if is_wide and not has_certificate:
        raise ValueError(
            f"http_host {host} is not a loopback address: set tls_certificate and tls_key too, for other machines "
            "are answered over TLS only, and only with an application's key"
        )
    if has_certificate and not is_wide:
        raise ValueError(
            f"http_host {host} is a loopback address, which takes no TLS: leave tls_certificate and tls_key out, or "
            "set http_host to the address that other machines ask"
        )
    return is_wide


def open_doors(settings: Settings, taken: Mapping[int, Doors]) -> dict[int, Doors]:
    """Return the listening sockets of each serving process: TCP and unix, in this order.

    `taken` are those of processes that run already. Every process has a TCP socket of its own, among which the kernel
    deals callers out, so that those of one that starts again wait in its backlog; the unix socket is one for all.
    Raises OSError, whose text names the setting and remedy.
    """
    doors = dict(taken)
    unix = next((each[1] for each in taken.values()), None)
    tcp = [each[0] for each in taken.values()]
    try:
        for number in range(settings.processes):
            if number not in doors:
                tcp.append(_listen_tcp(settings, beside=tcp))
                unix = unix or _listen_unix(settings)
                doors[number] = (tcp[-1], unix)
    except OSError:
        for each in tcp:
            each.close()
        raise
    return doors


def name_of(listener: socket.socket) -> str:
    """Return how people write where a socket listens."""
    address = listener.getsockname()
    return f"unix:{address}" if listener.family == socket.AF_UNIX else "{}:{}".format(*address[:2])


def is_at(settings: Settings, listener: socket.socket) -> bool:
    """Whether a TCP socket listens where the settings say.

    The host counts as well as the port: what is asked of callers follows from the settings, and must never be asked of
    a socket that other settings have opened wider.
    """
    host, port = listener.getsockname()[:2]
    return settings.port in {0, port} and ipaddress.ip_address(host) == ipaddress.ip_address(settings.host)


def is_loopback(listener: socket.socket) -> bool:
    """Whether only this machine can reach a socket."""
    if listener.family == socket.AF_UNIX:
        return True
    return ipaddress.ip_address(listener.getsockname()[0]).is_loopback


def _listen_tcp(settings: Settings, *, beside: Sequence[socket.socket]) -> socket.socket:
    """Listen at the address of the settings, or where the sockets of other processes of this agent do."""
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    port = beside[0].getsockname()[1] if beside else settings.port
    for each in beside:
        # Turned on only now: the first of them was to find out whether somebody else has the port.
        each.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    try:
        return socket.create_server((settings.host, port), family=family, backlog=_BACKLOG, reuse_port=bool(beside))
    except OSError as exc:
        raise OSError(
            f"http_port {settings.port} on {settings.host} cannot be used: {exc.strerror}\nstop what holds it, or set "
            f"another http_port in {settings.path} or as LITEFLEET_AGENT_HTTP_PORT"
        ) from exc


def _listen_unix(settings: Settings) -> socket.socket:
    path, group = settings.infer_socket, settings.infer_socket_group
    try:
        group_id = grp.getgrnam(group).gr_gid if group else -1
    except KeyError as exc:
        raise OSError(f"infer_socket_group {group} is no group of this machine") from exc
    if path.exists() and not path.is_socket():
        raise OSError(f"infer_socket {path} is a file that something else has written: set another infer_socket")
    try:
        return listen_unix(path, mode=GROUP_MAY_CALL, group_id=group_id, backlog=_BACKLOG)
    except OSError as exc:
        raise OSError(
            f"infer_socket {path} cannot be used: {exc.strerror}\nset another infer_socket, or an infer_socket_group "
            "that this user belongs to"
        ) from exc
