"""Exit 0 when the API answers, at the address that the settings say; the controller image's HEALTHCHECK.

A database or a broker that is away does not count: the controller waits for them, and a restart brings none back.
"""

import os
import ssl
import sys
import urllib.request
from pathlib import Path

from controller.config import load

_TIMEOUT_S = 4.0


def main() -> None:
    """Ask the controller; a traceback says what the matter is, and Docker keeps it."""
    config = load(Path(sys.argv[1]), os.environ)
    host = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(config.api_host, config.api_host)  # noqa: S104 - not bound here
    scheme = "http" if config.api_tls_certificate is None else "https"
    # The certificate names what operators call, hardly this address; the probe sends no secret.
    unchecked = ssl.create_default_context()
    unchecked.check_hostname = False
    unchecked.verify_mode = ssl.CERT_NONE
    url = f"{scheme}://{host}:{config.api_port}/healthz"
    urllib.request.urlopen(url, timeout=_TIMEOUT_S, context=unchecked).close()  # noqa: S310 - the line above says it


if __name__ == "__main__":
    main()
