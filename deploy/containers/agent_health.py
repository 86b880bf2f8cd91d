"""Exit 0 when the inference API answers, at the address that the settings say; the agent image's HEALTHCHECK."""

import http.client
import os
import socket
import sys
from pathlib import Path

from agent.config import AgentConfig, load

_TIMEOUT_S = 4.0
_OK = 200


def connect(config: AgentConfig) -> http.client.HTTPConnection:
    """Return a connection: to the port, or where that takes TLS, by the unix socket, which has no certificate."""
    connection = http.client.HTTPConnection(config.http_host, config.http_port, timeout=_TIMEOUT_S)
    if config.is_wide:
        connection.sock = socket.socket(socket.AF_UNIX)
        connection.sock.settimeout(_TIMEOUT_S)
        connection.sock.connect(str(config.infer_path))
    return connection


def main() -> None:
    """Ask the serving process; a traceback says what the matter is, and Docker keeps it."""
    connection = connect(load(Path(sys.argv[1]), os.environ))
    connection.request("GET", "/v2/health/live")
    status = connection.getresponse().status
    connection.close()
    if status != _OK:
        raise ConnectionError(f"inference answers {status}")


if __name__ == "__main__":
    main()
