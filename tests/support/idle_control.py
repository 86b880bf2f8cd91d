"""A control process that does nothing but what every control process must: end with its supervisor."""

from __future__ import annotations

import sys

if __name__ == "__main__":
    sys.stdin.read()
