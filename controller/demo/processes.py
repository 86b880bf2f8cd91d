"""Child processes of the demo: each with its log, all gone when the demo is."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

from shared.errors import PermanentError

if TYPE_CHECKING:
    from pathlib import Path

_STOP_S = 8.0
_LOG_TAIL_BYTES = 2000


class ProgramFailedError(PermanentError):
    """A program that the demo needs ended with an error; carries the end of its log."""

    reason = "program_failed"

    def __init__(self, *, name: str, code: int, log: str) -> None:
        super().__init__(f"{name} ended with code {code}:\n{log}")
        self.name, self.code, self.log = name, code, log


@dataclass(slots=True, kw_only=True)
class Program:
    """One running child and where it logs to."""

    name: str
    command: tuple[str, ...]
    process: asyncio.subprocess.Process
    log: Path

    def tail(self) -> str:
        """Return the end of its log."""
        return self.log.read_bytes()[-_LOG_TAIL_BYTES:].decode(errors="replace")


class Programs:
    """All children of one demo. Each leads a session of its own, so that its own children are stopped with it."""

    def __init__(self, folder: Path) -> None:
        self._logs = folder / "logs"
        self._logs.mkdir(parents=True, exist_ok=True)
        self._running: list[Program] = []
        self._left_behind: list[int] = []

    async def start(self, name: str, *command: str) -> Program:
        """Start a program that is to run until the demo ends."""
        log = self._logs / f"{name}.log"
        with log.open("ab") as sink:
            process = await asyncio.create_subprocess_exec(
                *command,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=sink,
                stderr=sink,
                start_new_session=True,
            )
        program = Program(name=name, command=command, process=process, log=log)
        self._running.append(program)
        return program

    async def run(self, name: str, *command: str, timeout_s: float = 300) -> None:
        """Run a program to its end. Raises ProgramFailedError when it fails or takes longer than `timeout_s`."""
        program = await self.start(name, *command)
        try:
            async with asyncio.timeout(timeout_s):
                code = await program.process.wait()
        except TimeoutError:
            _signal(program, signal.SIGKILL)
            code = await program.process.wait()
        self._running.remove(program)
        if code != 0:
            raise ProgramFailedError(name=name, code=code, log=program.tail())

    async def kill(self, name: str) -> Program:
        """Kill a program without a word (not what it started), and return what it was."""
        program = next(program for program in self._running if program.name == name)
        self._running.remove(program)
        program.process.kill()
        await program.process.wait()
        self._left_behind.append(program.process.pid)
        return program

    async def kill_and_restart(self, name: str) -> None:
        """Kill a program and start it again, as a service manager would."""
        program = await self.kill(name)
        await self.start(name, *program.command)

    def check(self) -> None:
        """Raise ProgramFailedError if a program that should be running has ended."""
        for program in self._running:
            code = program.process.returncode
            if code is not None:
                raise ProgramFailedError(name=program.name, code=code, log=program.tail())

    async def stop(self) -> None:
        """Stop everything, the last started first; what does not go by itself is killed."""
        for program in reversed(self._running):
            _signal(program, signal.SIGTERM)
        for program in reversed(self._running):
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_STOP_S):
                    await program.process.wait()
            _signal(program, signal.SIGKILL)  # what is left of its session
            await program.process.wait()
        self._running.clear()
        for session in self._left_behind:
            _signal_session(session, signal.SIGKILL)


def _signal(program: Program, number: signal.Signals) -> None:
    _signal_session(program.process.pid, number)


def _signal_session(session: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(session, number)


def python_module(module: str, *arguments: str) -> tuple[str, ...]:
    """Return the command that runs one of our modules with this interpreter."""
    return (sys.executable, "-m", module, *arguments)


def free_ports(count: int) -> list[int]:
    """Return loopback ports that nobody listens on just now."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [int(one.getsockname()[1]) for one in sockets]
    finally:
        for one in sockets:
            one.close()
