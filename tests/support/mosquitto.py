"""A throw-away mosquitto on a free loopback port; a system-wide broker is neither used nor disturbed."""

from __future__ import annotations

import contextlib
import os
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Self

from tests.support.ports import LOOPBACK, accepts_connections, free_port
from tests.support.programs import find_program, stop_process
from tests.support.waiting import wait_until

if TYPE_CHECKING:
    from types import TracebackType

ANYBODY = "allow_anonymous true\n"
# A port that was free a moment ago may be another's by now.
_START_ATTEMPTS = 3
_PORT_TAKEN = "Address already in use"


class Mosquitto:
    """One broker process; `stop`, `kill` and `start` again keep port and folder, as a restart in the field does.

    `config` is the text of a mosquitto.conf without a listener: the listener on `port` stands before it, so TLS options
    in the text belong to that listener. Persistence is off unless the text asks for it (in `folder`).
    """

    def __init__(self, config: str = ANYBODY) -> None:
        self._config = config
        self._process: subprocess.Popen[bytes] | None = None
        self._scratch = tempfile.TemporaryDirectory(prefix="litefleet-mosquitto-", ignore_cleanup_errors=True)
        self.folder = Path(self._scratch.name)
        self.host = LOOPBACK
        self.port = free_port()

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as undo:
            undo.callback(self._close)
            self.start()
            undo.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close()

    @property
    def log(self) -> str:
        """What the broker wrote so far."""
        path = self.folder / "mosquitto.log"
        return path.read_text(errors="replace") if path.exists() else ""

    @property
    def pid(self) -> int:
        """The broker's process id, for a test that ends it without asking."""
        assert self._process is not None, "the broker is not running"
        return self._process.pid

    def start(self) -> None:
        """Start the broker and return when it accepts connections."""
        for _ in range(_START_ATTEMPTS):
            if self._started():
                return
            if _PORT_TAKEN not in self.log:
                break
            self.port = free_port()
        message = f"mosquitto did not start:\n{self.log}"
        raise RuntimeError(message)

    def stop(self) -> None:
        """End the broker in an orderly way."""
        stop_process(self._process)
        self._process = None

    def kill(self) -> None:
        """End the broker as a power cut would."""
        if self._process is not None:
            self._process.kill()
        self.stop()

    def _close(self) -> None:
        self.stop()
        self._scratch.cleanup()

    def _started(self) -> bool:
        configuration = self.folder / "mosquitto.conf"
        configuration.write_text(self._configuration())
        with (self.folder / "mosquitto.log").open("ab") as log:
            self._process = process = subprocess.Popen(
                [find_program("mosquitto"), "-v", "-c", configuration], stdout=log, stderr=subprocess.STDOUT
            )
        wait_until(
            lambda: process.poll() is not None or accepts_connections(self.port), what="mosquitto listens or ends"
        )
        return process.poll() is None

    def _configuration(self) -> str:
        lines = [f"listener {self.port} {self.host}"]
        if os.geteuid() == 0:
            # Root's mosquitto becomes user `mosquitto`, who could not read the certificates in a test's private folder.
            lines.insert(0, "user root")
        return "\n".join([*lines, f"persistence_location {self.folder}/", self._config])
