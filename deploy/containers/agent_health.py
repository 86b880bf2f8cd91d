"""Exit 0 when the inference API answers, at the address that the settings say; the agent image's HEALTHCHECK."""

import os
import sys
import urllib.request
from pathlib import Path

from agent.config import load

_TIMEOUT_S = 4.0


def main() -> None:
    """Ask the serving process; a traceback says what the matter is, and Docker keeps it."""
    config = load(Path(sys.argv[1]), os.environ)
    host = f"[{config.http_host}]" if ":" in config.http_host else config.http_host
    url = f"http://{host}:{config.http_port}/v2/health/live"
    urllib.request.urlopen(url, timeout=_TIMEOUT_S).close()


if __name__ == "__main__":
    main()
