"""The supervisor: owns the listening socket, and starts control and serving again whenever they end. Stdlib only.

Callers wait in the socket's backlog meanwhile. Serving outlives a killed supervisor, and the next one takes it over.
"""

from __future__ import annotations

import argparse
import contextlib
import ipaddress
import os
import select
import signal
import socket
import sys
import time
import tomllib
from pathlib import Path
from typing import NamedTuple

from agent.children import Child, lock, say
from agent.serving.sockets import Handover, take_over

CONTROL, SERVING = "agent.control", "agent.serving.process"

_STOP_S = 15.0  # serving takes up to 10 s to finish the requests in flight
_ADOPT_S = 30.0  # an orphan that had just been started listens late on a slow device
_BACKLOG = 1024  # callers who wait while serving starts again; the kernel caps it at net.core.somaxconn


class Settings(NamedTuple):
    """The settings needed here. The children check the whole file, and exit with EX_CONFIG if it is wrong."""

    path: Path
    state_dir: Path
    host: str
    port: int


def read_settings(path: Path) -> Settings:
    """Read file and environment. Raises ValueError or OSError, naming what is wrong."""
    found: dict[str, object] = {"http_host": "127.0.0.1", "http_port": 8080, "state_dir": ""}
    found.update(tomllib.loads(path.read_text(encoding="utf-8")))
    found.update({key: os.environ.get(f"LITEFLEET_AGENT_{key.upper()}", value) for key, value in found.items()})
    host, state_dir = str(found["http_host"]), str(found["state_dir"])
    if not state_dir:
        raise ValueError(f"state_dir is missing: set it in {path} or as LITEFLEET_AGENT_STATE_DIR")
    if not ipaddress.ip_address(host).is_loopback:
        raise ValueError(f"http_host {host} is not a loopback address, and the inference API asks nobody who he is")
    return Settings(path.absolute(), Path(state_dir).absolute(), host, int(str(found["http_port"])))


def supervise(settings: Settings, *, control: str = CONTROL, serving: str = SERVING) -> int:
    """Run both modules as children until a signal says stop; returns the exit code."""
    stop, run = _stop_signals(), settings.state_dir / "run"
    run.mkdir(mode=0o700, parents=True, exist_ok=True)
    if lock(run / "supervisor.lock") is None:
        say(f"another supervisor runs on {settings.state_dir}: stop it, or set another state_dir")
        return os.EX_TEMPFAIL
    # Before the port is opened: an orphan holds it, and callers must not notice that we are new.
    orphan = _find_orphan(run, settings.port)
    try:
        sockets = orphan.sockets if orphan else (_listen(settings),)
    except OSError as exc:
        say(f"http_port {settings.port} on {settings.host} cannot be used: {exc.strerror}")
        say(f"stop what holds it, or set another http_port in {settings.path} or as LITEFLEET_AGENT_HTTP_PORT")
        return os.EX_UNAVAILABLE
    say("inference on " + ", ".join("http://{}:{}".format(*each.getsockname()[:2]) for each in sockets))
    start, config = [sys.executable, "-m"], ["--config", str(settings.path)]
    answering = Child("serving", [*start, serving, *config], run / "serving.lock", sockets=sockets)
    if orphan:
        with contextlib.suppress(ProcessLookupError):
            answering.adopt(orphan.pid)
    return _watch((answering, Child("control", [*start, control, *config], run / "control.lock")), stop)


def _listen(settings: Settings) -> socket.socket:
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    return socket.create_server((settings.host, settings.port), family=family, backlog=_BACKLOG)


def _find_orphan(run: Path, port: int) -> Handover | None:
    """Return what a serving process without a supervisor hands over; None when there is none on this port."""
    deadline = time.monotonic() + _ADOPT_S
    while (free := lock(run / "serving.lock")) is None:
        with contextlib.suppress(OSError):
            orphan = take_over(run / "sockets.sock", timeout_s=1.0)
            if port in {0, orphan.sockets[0].getsockname()[1]}:
                return orphan
            os.kill(orphan.pid, signal.SIGTERM)  # the settings have changed; it ends when its requests are done
        if time.monotonic() > deadline:
            say("an orphan serving process does not hand over its sockets")
            return None
        time.sleep(0.1)
    os.close(free)
    return None


def _watch(children: tuple[Child, ...], stop: int) -> int:
    ended, readable = set[int](), select.select([stop], [], [], 0)[0]
    while stop not in readable and os.EX_CONFIG not in ended:
        for child in children:
            if child.pidfd < 0 and time.monotonic() >= child.start_at:
                child.start()
        asleep = [child.start_at for child in children if child.pidfd < 0]
        timeout_s = max(0.0, min(asleep) - time.monotonic()) if asleep else None
        readable = select.select([stop, *(c.pidfd for c in children if c.pidfd >= 0)], [], [], timeout_s)[0]
        ended = {child.ended() for child in children if child.pidfd in readable}
    _stop(children)
    return os.EX_CONFIG if os.EX_CONFIG in ended else os.EX_OK


def _stop(children: tuple[Child, ...]) -> None:
    deadline = time.monotonic() + _STOP_S
    for child in children:
        child.send(signal.SIGTERM)
        child.close_stdin()
    while alive := [child for child in children if child.pidfd >= 0]:
        readable, _, _ = select.select([c.pidfd for c in alive], [], [], max(0.0, deadline - time.monotonic()))
        for child in alive:
            if child.pidfd in readable:
                child.ended()
            elif not readable:
                child.send(signal.SIGKILL)


def _stop_signals() -> int:
    """Return a descriptor that becomes readable when a signal says stop."""
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    signal.set_wakeup_fd(writer)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda _number, _frame: None)
    return reader


def main() -> int:
    """Read the arguments and supervise."""
    parser = argparse.ArgumentParser(prog="python -m agent", description=__doc__.partition("\n")[0])
    parser.add_argument("--config", type=Path, required=True, help="TOML file with the agent's settings")
    try:
        settings = read_settings(parser.parse_args().config)
    except (OSError, ValueError) as exc:
        say(str(exc))
        return os.EX_CONFIG
    return supervise(settings)


if __name__ == "__main__":
    sys.exit(main())
