"""The controller as its own process, as an operator runs it, and a client of its API."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Self

from controller.client import Client
from tests.support.ports import LOOPBACK, accepts_connections, free_port
from tests.support.programs import stop_process
from tests.support.waiting import wait_until

if TYPE_CHECKING:
    from types import TracebackType

_REPOSITORY = Path(__file__).parents[2]
_START_S = 30.0


class ControllerProcess:
    """One controller on free loopback ports; `kill` and `start` again keep its state, as a power cut does."""

    def __init__(self, folder: Path, **settings: str | float | list[str]) -> None:
        self.state_dir = folder / "state"
        self.log_file = folder / "controller.log"
        self._config = folder / "controller.toml"
        self._process: subprocess.Popen[bytes] | None = None
        self.api_port, self.device_port, self.broker_port = free_port(), free_port(), free_port()
        self._settings: dict[str, str | float | list[str]] = {
            "state_dir": str(self.state_dir),
            "api_port": self.api_port,
            "device_host": LOOPBACK,
            "device_port": self.device_port,
            "device_names": [LOOPBACK, "localhost"],
            "broker_port": self.broker_port,
            "tick_s": 0.2,
            "convert_parallel": 1,
            **settings,
        }

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        stop_process(self._process)

    @property
    def pid(self) -> int:
        """The running process's id."""
        assert self._process is not None, "the controller is not running"
        return self._process.pid

    @property
    def log(self) -> str:
        """What it wrote so far."""
        return self.log_file.read_text(errors="replace") if self.log_file.exists() else ""

    @property
    def resident_bytes(self) -> int:
        """Memory that the process holds now."""
        [line] = [line for line in Path(f"/proc/{self.pid}/status").read_text().splitlines() if "VmRSS" in line]
        return int(line.split()[1]) * 1024

    @property
    def mapped_files(self) -> str:
        """Every file that the process has mapped: the libraries that it has loaded, however it came by them."""
        return Path(f"/proc/{self.pid}/maps").read_text()

    def launch(self) -> subprocess.Popen[bytes]:
        """Start the process and wait for nothing."""
        # JSON strings, numbers and lists of them are TOML too.
        text = "".join(f"{name} = {json.dumps(value)}\n" for name, value in self._settings.items())
        self._config.write_text(text)
        environment = {name: value for name, value in os.environ.items() if not name.startswith("LITEFLEET_")}
        with self.log_file.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "controller", "--config", str(self._config)],
                cwd=_REPOSITORY,
                env={**environment, "PYTHONPATH": str(_REPOSITORY)},
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        return self._process

    def run(self, *options: str) -> subprocess.CompletedProcess[str]:
        """Run the program beside, or in place of, the controller, with options that make it end by itself."""
        return subprocess.run(
            [sys.executable, "-m", "controller", "--config", str(self._config), *options],
            cwd=_REPOSITORY,
            capture_output=True,
            text=True,
            check=False,
            timeout=_START_S,
        )

    def start(self) -> None:
        """Start the process and wait until both listeners answer."""
        process = self.launch()
        wait_until(
            lambda: process.poll() is not None or self._listens(), within_s=_START_S, what="the controller listens"
        )
        assert process.poll() is None, self.log

    def stop(self) -> int:
        """Ask the process to end, and return its exit code."""
        assert self._process is not None
        self._process.send_signal(signal.SIGTERM)
        return self._process.wait(_START_S)

    def kill(self) -> None:
        """End the process as a power cut would."""
        assert self._process is not None
        self._process.kill()
        self._process.wait(_START_S)

    def client(self) -> Client:
        """Return a client with the operator's token."""
        token = (self.state_dir / "operator-token").read_text().strip()
        return Client(f"http://{LOOPBACK}:{self.api_port}", token)

    def _listens(self) -> bool:
        return accepts_connections(self.api_port) and accepts_connections(self.device_port)
