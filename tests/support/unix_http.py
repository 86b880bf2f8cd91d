"""HTTP by a unix socket, for tests that ask as programs on the device do."""

from __future__ import annotations

import socket
from http.client import HTTPConnection
from typing import TYPE_CHECKING

from typing_extensions import override

if TYPE_CHECKING:
    from pathlib import Path

_ANSWER_S = 20.0


class UnixConnection(HTTPConnection):
    """A connection to a path."""

    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=_ANSWER_S)
        self._path = path

    @override
    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(_ANSWER_S)
        self.sock.connect(str(self._path))
