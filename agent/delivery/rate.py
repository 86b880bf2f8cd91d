"""The slowest that a server may be: below it, a transfer is a way to hold a device for ever."""

from __future__ import annotations


class RateFloor:
    """Judges a transfer span by span, so that a fast start buys no slow end.

    Times are seconds of any clock that never goes back; the caller reads it.
    """

    def __init__(self, *, bytes_per_s: int, span_s: float, started: float) -> None:
        self._least = bytes_per_s * span_s
        self._span_s = span_s
        self._opened = started
        self._received = 0

    def too_slow(self, size_bytes: int, now: float) -> bool:
        """Count bytes that came, and say whether the span that ended with them brought too few."""
        self._received += size_bytes
        if now - self._opened < self._span_s:
            return False
        received, self._received, self._opened = self._received, 0, now
        return received < self._least
