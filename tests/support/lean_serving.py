"""The serving process as a device installs it: without packages of the development environment that others pick up.

structlog imports rich for its console where it is there, which is never on a device.
"""

from __future__ import annotations

import runpy
import sys

from tests.support.lean_control import ABSENT

if __name__ == "__main__":
    sys.modules.update(dict.fromkeys(ABSENT))  # type: ignore[arg-type]  # None is how Python marks what cannot be imported
    runpy.run_module("agent.serving.process", run_name="__main__", alter_sys=True)
