"""The demo's own broker as a process, with the identities of one authority."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from typing_extensions import override

from tests.support.fleet_broker import FleetBroker
from tests.support.ports import LOOPBACK, accepts_connections
from tests.support.waiting import wait_until

_REPOSITORY = Path(__file__).parents[2]
_START_S = 20.0
"""It is a Python program; two busy cores take their time to import it."""


class LoopbackBroker(FleetBroker):
    """amqtt with our two plugins in place of mosquitto."""

    @override
    def _started(self) -> bool:
        server = self.authority.server_files("broker", (LOOPBACK, "localhost"))
        files = ("--ca", str(self.authority.ca_file), "--cert", str(server.certificate), "--key", str(server.key))
        with (self.folder / "mosquitto.log").open("ab") as log:
            self._process = process = subprocess.Popen(
                [sys.executable, "-m", "controller.demo.loopback_broker", "--port", str(self.port), *files],
                cwd=_REPOSITORY,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        wait_until(
            lambda: process.poll() is not None or accepts_connections(self.port),
            within_s=_START_S,
            what="the broker listens or ends",
        )
        return process.poll() is None
