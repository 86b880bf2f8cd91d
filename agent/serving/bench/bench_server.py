"""The server that a benchmark asks: a child on loopback, what the kernel says of its CPU time, and its doors."""

from __future__ import annotations

import contextlib
import re
import socket
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol

from agent.serving.bench.bench_requests import HAS_GRPC, NAME, Door
from agent.serving.planned.sockets import connect_unix
from shared.errors import InvalidInputError, ModelFailedError, ModelLoadError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_START_S: Final = 60.0
_REPLY_S: Final = 60.0
_STOP_S: Final = 15.0
_METHOD: Final = "/inference.GRPCInferenceService/ModelInfer"
_OK: Final = 200
_LOOPBACK: Final = "127.0.0.1"
_HTTP_LINE = re.compile(r"on http://[^:]+:(\d+)/")
_GRPC_LINE = re.compile(r"over gRPC on [^:]+:(\d+)")


class Connection(Protocol):
    """One caller's connection."""

    def ask(self, data: bytes) -> str:
        """Ask, wait for the whole answer, and return why it was refused; empty for an answer."""
        ...

    def close(self) -> None:
        """End it."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class RunningServer:
    """A server that answers."""

    pid: int
    http_port: int
    grpc_port: int | None
    unix_socket: Path

    def cpu_us(self) -> float:
        """Return what all its processes and threads have used so far."""
        return sum(_process_cpu_us(pid) for pid in _tree(self.pid))

    def connect(self, door: Door) -> Connection:
        """Come in by a door. Raises OSError."""
        match door:
            case Door.HTTP:
                return HttpConnection(socket.create_connection((_LOOPBACK, self.http_port), timeout=_REPLY_S))
            case Door.UNIX:
                return HttpConnection(connect_unix(self.unix_socket, timeout_s=_REPLY_S))
            case Door.GRPC:
                return _GrpcConnection(f"{_LOOPBACK}:{self.grpc_port}")


class HttpConnection:
    """HTTP/1.1 with as little between as can be: what a caller's own library takes is not the server's."""

    def __init__(self, connection: socket.socket) -> None:
        """Take a connected socket over."""
        self._socket, self._kept = connection, b""
        if connection.family != socket.AF_UNIX:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def ask(self, data: bytes) -> str:
        """See `Connection`. Raises OSError when the server is gone."""
        self._socket.sendall(data)
        received = bytearray(self._kept)
        while (end := received.find(b"\r\n\r\n")) < 0:
            self._receive(received)
        head = bytes(received[:end]).lower()
        status, length = int(head[9:12]), re.search(rb"\r\ncontent-length: *(\d+)", head)
        if length is None:
            raise ConnectionError("the server's answer has no length")
        stop = end + 4 + int(length[1])
        while len(received) < stop:
            self._receive(received)
        self._kept = bytes(received[stop:])
        return "" if status == _OK else f"{status} {received[end + 4 : stop][:200].decode(errors='replace')}"

    def close(self) -> None:
        """See `Connection`."""
        self._socket.close()

    def _receive(self, into: bytearray) -> None:
        more = self._socket.recv(1 << 18)
        if not more:
            raise ConnectionError("the server ended the connection")
        into += more


class _GrpcConnection:
    """One channel, whose messages are bytes on this side."""

    def __init__(self, address: str) -> None:
        import grpc  # noqa: PLC0415 - only where it is installed

        self._refused: type[Exception] = grpc.RpcError
        self._channel = grpc.insecure_channel(address)
        self._call: Callable[..., bytes] = self._channel.unary_unary(_METHOD)

    def ask(self, data: bytes) -> str:
        """See `Connection`."""
        try:
            self._call(data, timeout=_REPLY_S)
        except self._refused as exc:
            return str(exc)[:200]
        return ""

    def close(self) -> None:
        """See `Connection`."""
        self._channel.close()


@contextlib.contextmanager
def running(path: Path) -> Iterator[RunningServer]:
    """Run `litefleet-agent serve` for a file or folder on free ports.

    Raises:
        InvalidInputError: this system does not tell what a process's threads take.
        ModelLoadError: it ended before it answered, with what it said.
    """
    if not Path("/proc/self/schedstat").exists():
        remedy = "run it on Linux, on the device itself"
        raise InvalidInputError(field="bench", problem="this system has no /proc/PID/task/*/schedstat", remedy=remedy)
    with tempfile.TemporaryDirectory(prefix="litefleet-bench-") as made:
        folder = Path(made)
        said, unix = folder / "said.txt", folder / "infer.sock"
        more = ["--grpc-port", "0"] if HAS_GRPC else []
        command = [sys.executable, "-m", "agent.cli", "serve", str(path.absolute()), "--name", NAME]
        with said.open("wb") as output:
            child = subprocess.Popen(
                [*command, "--http-port", "0", "--unix-socket", str(unix), *more], stdout=output, stderr=output
            )
        try:
            yield _wait(child, said, unix)
        finally:
            child.terminate()
            try:
                child.wait(_STOP_S)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()


def _wait(child: subprocess.Popen[bytes], said: Path, unix: Path) -> RunningServer:
    """Return the server as soon as all its doors are open."""
    end = time.monotonic() + _START_S
    while time.monotonic() < end:
        text = said.read_text(errors="replace")
        http, grpc = _HTTP_LINE.search(text), _GRPC_LINE.search(text)
        # It opens gRPC last, where it does.
        if http and (grpc or (not HAS_GRPC and f"unix:{unix}" in text)):
            port = int(grpc[1]) if grpc else None
            return RunningServer(pid=child.pid, http_port=int(http[1]), grpc_port=port, unix_socket=unix)
        if child.poll() is not None:
            raise ModelLoadError(f"the server ended with {child.returncode}: {_last_line(said)}")
        time.sleep(0.02)
    raise ModelLoadError(f"the server did not answer within {_START_S:.0f} s: {_last_line(said)}")


def _last_line(said: Path) -> str:
    lines = said.read_text(errors="replace").strip().splitlines()
    return lines[-1] if lines else "it said nothing"


def _tree(pid: int) -> list[int]:
    """Return a process and all that it has started."""
    found = [pid]
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):
            found += [each for child in task.read_text().split() for each in _tree(int(child))]
    return found


def _process_cpu_us(pid: int) -> float:
    total_ns = 0
    for task in Path(f"/proc/{pid}/task").glob("*/schedstat"):
        # A thread may end while it is looked at.
        with contextlib.suppress(OSError):
            total_ns += int(task.read_text().split()[0])
    return total_ns / 1000


def check(connection: Connection, data: bytes) -> str:
    """Ask once, and return why it was refused. Raises ModelFailedError when the server died of it."""
    try:
        return connection.ask(data)
    except OSError as exc:
        raise ModelFailedError(f"the server ended while it was asked: {exc}") from exc
