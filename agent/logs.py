"""Log lines on stderr, JSON for daemons. A line that cannot be written is lost; a full disk stops no inference."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
from typing import Final

import structlog

STDERR: Final = 2


def set_up(level: str) -> None:
    """Set logging up for the whole process."""
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.JSONRenderer(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level.upper()]),
        logger_factory=structlog.PrintLoggerFactory(Forgiving(sys.stderr.encoding)),  # type: ignore[arg-type]  # all that it asks of a TextIO
    )


def set_up_for_people() -> None:
    """Set logging up for a command that a person watches: lines to read. Its stdout is for what was asked."""
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(Forgiving(sys.stderr.encoding)))  # type: ignore[arg-type]  # as above


class Forgiving:
    """Stderr as a logger uses it. What the disk or a closed pipe does not take is not tried again.

    A line is written at once, so that those of several processes do not mix in one file.
    """

    def __init__(self, encoding: str, descriptor: int = STDERR) -> None:
        self._encoding, self._descriptor = encoding, descriptor
        self._line = ""

    def write(self, text: str) -> None:
        """Add to the line."""
        self._line += text

    def flush(self) -> None:
        """Write the line, or as much of it as there is room for."""
        line, self._line = self._line, ""
        with contextlib.suppress(OSError):
            os.write(self._descriptor, line.encode(self._encoding, "backslashreplace"))
