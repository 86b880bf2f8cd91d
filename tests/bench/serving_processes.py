"""The servers that are measured, each in processes of its own, and what the kernel says of them."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec

from tests.bench.serving_load import Load
from tests.support.clients import environment
from tests.support.ports import LOOPBACK, free_port
from tests.support.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

ROOT: Final = Path(__file__).parents[2]
_START_S: Final = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """Somebody who answers."""

    name: str
    port: int
    pid: int

    def cpu_us(self) -> float:
        """What all its processes and threads have used so far."""
        return sum(_cpu_us(pid) for pid in tree(self.pid))


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """One load on one server."""

    load: Load
    cpu_us: float
    """Of the server, for each answer."""


def tree(pid: int) -> list[int]:
    """Return a process and all that it has started."""
    found = [pid]
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):
            found += [each for child in task.read_text().split() for each in tree(int(child))]
    return found


def pss_mib(pid: int) -> float:
    """Return a process's memory, with its share of what it shares."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("Pss:"))


def measure(server: Server, request: bytes, *, connections: int, seconds: float) -> Measured:
    """Ask a server for a while, from another process."""
    before = server.cpu_us()
    with _asking(server, request, connections=connections, seconds=seconds) as asking:
        load = _result(asking)
    if load.errors or not load.answers:
        raise AssertionError(f"{server.name} gave {load.answers} answers and {load.errors} errors")
    return Measured(load=load, cpu_us=(server.cpu_us() - before) / load.answers)


def measure_beside(
    server: Server, request: bytes, *, load: bytes, connections: int, seconds: float
) -> tuple[Load, Load]:
    """Ask over one connection while others ask for something else; returns both."""
    with (
        _asking(server, load, connections=connections, seconds=seconds) as crowd,
        _asking(server, request, connections=1, seconds=seconds) as one,
    ):
        return _result(one), _result(crowd)


def interleaved(
    asked: Sequence[tuple[Server, bytes]], *, connections: int, seconds: float, rounds: int
) -> list[Measured]:
    """Ask each in turn, round after round, and return the median of each: what disturbs one disturbs all."""
    found: list[list[Measured]] = [[] for _ in asked]
    for _ in range(rounds):
        for kept, (server, request) in zip(found, asked, strict=True):
            kept.append(measure(server, request, connections=connections, seconds=seconds))
    return [_median(each) for each in found]


def reply_to(port: int, request: bytes) -> bytes:
    """Return the whole of a reply, as it came."""
    head, _, body = request.partition(b"\r\n\r\n")
    line, *fields = head.decode().split("\r\n")
    method, path, _ = line.split(" ")
    with contextlib.closing(http.client.HTTPConnection(LOOPBACK, port, timeout=20)) as connection:
        connection.request(method, path, body or None, dict(field.split(": ", 1) for field in fields))
        reply = connection.getresponse()
        said = reply.read()
        if reply.status != http.HTTPStatus.OK:
            raise AssertionError(f"{path} answered {reply.status}: {said[:500]!r}")
        listed = "".join(f"{name}: {value}\r\n" for name, value in reply.getheaders())
    return f"HTTP/1.1 200 OK\r\n{listed}\r\n".encode() + said


@contextlib.contextmanager
def floor(answer: bytes) -> Iterator[Server]:
    """Run the bare protocol that gives these bytes for an answer."""
    with tempfile.NamedTemporaryFile() as file:
        file.write(answer)
        file.flush()
        command = [sys.executable, "-m", "tests.bench.serving_floor", file.name]
        with _running("asyncio.Protocol", command, port=free_port()) as server:
            yield server


@contextlib.contextmanager
def mlserver(model: bytes, name: str) -> Iterator[Server]:
    """Run MLServer in its own environment, without workers: its fastest way for a small model."""
    port = free_port()
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        (folder / "model.tflite").write_bytes(model)
        shutil.copy(ROOT / "tests" / "support" / "outside" / "mlserver_model.py", folder)
        settings = {
            "debug": False,
            "host": LOOPBACK,
            "http_port": port,
            "grpc_port": free_port(),
            "metrics_port": free_port(),
            "parallel_workers": 0,
        }
        (folder / "settings.json").write_text(json.dumps(settings))
        parameters = {"uri": str(folder / "model.tflite")}
        described = {"name": name, "implementation": "mlserver_model.LiteRtModel", "parameters": parameters}
        (folder / "model-settings.json").write_text(json.dumps(described))
        command = [str(environment("mlserver") / "mlserver"), "start", str(folder)]
        with _running("MLServer", command, port=port, folder=folder, is_ours=False) as server:
            wait_until(lambda: _is_ready(port), within_s=_START_S, what="MLServer is ready")
            yield server


def _is_ready(port: int) -> bool:
    try:
        reply_to(port, b"GET /v2/health/ready HTTP/1.1\r\nHost: peer\r\n\r\n")
    except (OSError, AssertionError, http.client.HTTPException):
        return False
    return True


@contextlib.contextmanager
def _running(
    name: str, command: list[str], *, port: int, folder: Path = ROOT, is_ours: bool = True
) -> Iterator[Server]:
    kept = {key: value for key, value in os.environ.items() if is_ours or not key.startswith("PYTHON")}
    more = ["--port", str(port)] if is_ours else []
    started = subprocess.Popen(
        [*command, *more],
        cwd=folder,
        env=kept | ({} if is_ours else {"PYTHONPATH": str(folder)}),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        wait_until(lambda: _listens(port), within_s=_START_S, what=f"{name} listens")
        yield Server(name=name, port=port, pid=started.pid)
    finally:
        started.terminate()
        started.wait(20)


def _listens(port: int) -> bool:
    try:
        connection = http.client.HTTPConnection(LOOPBACK, port, timeout=1)
        connection.connect()
        connection.close()
    except OSError:
        return False
    return True


@contextlib.contextmanager
def _asking(server: Server, request: bytes, *, connections: int, seconds: float) -> Iterator[subprocess.Popen[bytes]]:
    with tempfile.NamedTemporaryFile() as file:
        file.write(request)
        file.flush()
        options = ["--port", str(server.port), "--connections", str(connections), "--seconds", str(seconds)]
        command = [sys.executable, "-m", "tests.bench.serving_load", file.name, *options]
        with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE) as asking:
            yield asking


def _result(asking: subprocess.Popen[bytes]) -> Load:
    written, _ = asking.communicate(timeout=_START_S)
    return msgspec.json.decode(written, type=Load)


def _median(found: Sequence[Measured]) -> Measured:
    by_rate = sorted(found, key=lambda each: each.load.rate)
    return Measured(load=by_rate[len(by_rate) // 2].load, cpu_us=statistics.median(each.cpu_us for each in found))


def _cpu_us(pid: int) -> float:
    total = 0
    for task in Path(f"/proc/{pid}/task").glob("*/schedstat"):
        with contextlib.suppress(OSError):
            total += int(task.read_text().split()[0])
    return total / 1000
