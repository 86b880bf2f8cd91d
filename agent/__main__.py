"""The supervisor: owns the listening sockets, and starts control and serving again whenever they end. Stdlib only.

Callers wait in the socket's backlog meanwhile. Serving outlives a killed supervisor, and the next one takes it over.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import select
import signal
import sys
import time
from pathlib import Path

from agent.children import Child, lock, say
from agent.doors import Settings, is_at, name_of, open_doors, read_settings
from agent.serving.planned.sockets import Handover, numbered, take_over

CONTROL, SERVING = "agent.control", "agent.serving.process"

_STOP_S = 15.0  # serving takes up to 10 s to finish the requests in flight
_ADOPT_S = 30.0  # an orphan that had just been started listens late on a slow device


def supervise(settings: Settings, *, control: str = CONTROL, serving: str = SERVING) -> int:
    """Run both modules as children until a signal says stop; returns the exit code."""
    stop, run = _stop_signals(), settings.state_dir / "run"
    run.mkdir(mode=0o700, parents=True, exist_ok=True)
    if lock(run / "supervisor.lock") is None:
        say(f"another supervisor runs on {settings.state_dir}: stop it, or set another state_dir")
        return os.EX_TEMPFAIL
    # Before the port is opened: an orphan holds it, and callers must not notice that we are new.
    orphans = _find_orphans(run, settings)
    try:
        doors = open_doors(settings, {number: orphan.sockets for number, orphan in orphans.items()})
    except OSError as exc:
        for line in str(exc).splitlines():
            say(line)
        return os.EX_UNAVAILABLE
    say("inference on " + ", ".join(name_of(each) for each in doors[0]))
    start, config = [sys.executable, "-m"], ["--config", str(settings.path)]
    together = f"--round={os.urandom(8).hex()}"  # what starts with us counts as one try of a candidate
    answering = []
    for number, sockets in sorted(doors.items()):
        name = numbered("serving", number)
        command = [*start, serving, *config, f"--number={number}"]
        answering.append(Child(name, command, run / f"{name}.lock", sockets=sockets, once=(together,)))
        with contextlib.suppress(KeyError, ProcessLookupError):
            answering[-1].adopt(orphans[number].pid)
    return _watch((*answering, Child("control", [*start, control, *config], run / "control.lock")), stop)


def _find_orphans(run: Path, settings: Settings) -> dict[int, Handover]:
    """Return what serving processes without a supervisor hand over; those that no setting wants are ended."""
    numbers = {int(path.stem.partition("-")[2] or 0) for path in run.glob("serving*.lock")}
    found = {number: _find_orphan(run, settings, number) for number in sorted(numbers)}
    return {number: orphan for number, orphan in found.items() if orphan is not None}


def _find_orphan(run: Path, settings: Settings, number: int) -> Handover | None:
    """Return what one of them hands over; None when it is not there, or not at this address."""
    deadline = time.monotonic() + _ADOPT_S
    while (free := lock(run / f"{numbered('serving', number)}.lock")) is None:
        with contextlib.suppress(OSError):
            orphan = take_over(run / f"{numbered('sockets', number)}.sock", timeout_s=1.0)
            if number < settings.processes and is_at(settings, orphan.sockets[0]):
                return orphan
            for each in orphan.sockets:
                each.close()
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
