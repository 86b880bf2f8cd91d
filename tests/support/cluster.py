"""A Dask cluster of real processes on loopback, under mutual TLS."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

from tests.support import cluster_worker, fake_converter
from tests.support.authority import Authority
from tests.support.ports import LOOPBACK, accepts_connections, free_port
from tests.support.programs import stop_process
from tests.support.waiting import wait_until

_ROOT = Path(__file__).parents[2]
_START_S = 40.0


class ClusterProcesses:
    """One scheduler, and as many workers as a test starts."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.authority = Authority("cluster")
        self.ca, self.certificate, self.key = self.authority.write_member(folder, "everybody")
        self.port = free_port()
        self.address = f"tls://{LOOPBACK}:{self.port}"
        self._scheduler: subprocess.Popen[bytes] | None = None
        self._workers: dict[str, subprocess.Popen[bytes]] = {}

    def start(self) -> None:
        """Start the scheduler; it takes connections then."""
        files = [f"--tls-ca-file={self.ca}", f"--tls-cert={self.certificate}", f"--tls-key={self.key}"]
        command = [
            "-m",
            "distributed.cli.dask_scheduler",
            f"--host={LOOPBACK}",
            f"--port={self.port}",
            "--protocol=tls",
        ]
        self._scheduler = self._run(
            [*command, *files, "--no-dashboard", "--dashboard-address=127.0.0.1:0"], "scheduler"
        )
        wait_until(lambda: accepts_connections(self.port), within_s=_START_S, what=self.log("scheduler"))

    def stop_scheduler(self) -> None:
        """End the scheduler; workers stay and look for it."""
        stop_process(self._scheduler)

    def start_worker(self, name: str) -> None:
        """Start a worker with one slot that runs the fake conversion program."""
        options = [f"--scheduler={self.address}", f"--ca={self.ca}", f"--certificate={self.certificate}"]
        options += [f"--key={self.key}", f"--folder={self.worker_folder(name)}", f"--host={LOOPBACK}"]
        self._workers[name] = self._run([cluster_worker.__file__, fake_converter.__file__, *options], name)

    def worker_folder(self, name: str) -> Path:
        """Return where a worker keeps things."""
        return self.folder / name

    def kill_worker(self, name: str) -> None:
        """End a worker without a word."""
        self._workers[name].send_signal(signal.SIGKILL)
        self._workers.pop(name).wait()

    def log(self, name: str) -> str:
        """Return what a process said."""
        path = self.folder / f"{name}.log"
        return path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""

    def stop(self) -> None:
        """End all of it."""
        for process in self._workers.values():
            stop_process(process)
        stop_process(self._scheduler)

    def _run(self, command: list[str], name: str) -> subprocess.Popen[bytes]:
        with (self.folder / f"{name}.log").open("ab") as log:
            environment = {
                **os.environ,
                "PYTHONPATH": str(_ROOT),
                "LITEFLEET_WORKERS_DIR": str(self.folder / "workers"),
            }
            return subprocess.Popen([sys.executable, *command], stdout=log, stderr=log, env=environment)
