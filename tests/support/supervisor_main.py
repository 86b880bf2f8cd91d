"""The real supervisor over children of a test's choice: `python -m tests.support.supervisor_main`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from agent.__main__ import supervise
from agent.doors import read_settings

if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    for name in ("--config", "--control", "--serving"):
        parser.add_argument(name, required=True)
    arguments = parser.parse_args()
    sys.exit(supervise(read_settings(Path(arguments.config)), control=arguments.control, serving=arguments.serving))
