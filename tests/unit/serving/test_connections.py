"""Which connections are ended, and how many bodies may arrive at once."""

from __future__ import annotations

import pytest

from agent.serving.callers.connections import BUSY_S, IDLE_S, SILENT_S, Bodies, Connections
from agent.serving.errors import QueueFullError


class Line:
    """A connection that remembers how it was ended."""

    def __init__(self) -> None:
        self.ended = ""

    @property
    def transport(self) -> Line:
        """The socket below."""
        return self

    def force_close(self) -> None:
        """End it when it has been read."""
        self.ended = "closing"

    def abort(self) -> None:
        """End it now."""
        self.ended = "cut"


def swept(connections: Connections, *lines: Line, after_s: float) -> list[str]:
    """How the lines were ended when they had been seen once, and then again so much later."""
    connections.sweep(lines, now_s=1e6)
    connections.sweep(lines, now_s=1e6 + after_s)
    return [line.ended for line in lines]


def test_connection_that_never_asks_is_ended() -> None:
    assert swept(Connections(limit=10), Line(), after_s=SILENT_S) == [""]
    assert swept(Connections(limit=10), Line(), after_s=SILENT_S + 1) == ["cut"]


@pytest.mark.parametrize(("is_busy", "patience_s"), [(False, IDLE_S), (True, BUSY_S)])
def test_connection_that_has_asked_gets_longer(is_busy: bool, patience_s: float) -> None:
    for late_s, expected in ((-1.0, ""), (1.0, "cut")):
        line, connections = Line(), Connections(limit=10)
        connections.note(line, is_busy=is_busy)
        (seen,) = connections.seen.values()
        connections.sweep([line], now_s=seen.since_s + patience_s + late_s)
        assert line.ended == expected


def test_of_too_many_the_longest_idle_are_ended_and_no_busy_one() -> None:
    connections, lines = Connections(limit=2), [Line() for _ in range(4)]
    for line in lines:
        connections.note(line, is_busy=line is lines[0])
    now_s = max(seen.since_s for seen in connections.seen.values())
    assert connections.sweep(lines, now_s=now_s) == 2
    assert [line.ended for line in lines] == ["", "cut", "cut", ""]


def test_nothing_is_kept_of_connections_that_are_gone() -> None:
    connections, line = Connections(limit=2), Line()
    connections.note(line, is_busy=True)
    connections.sweep([], now_s=0.0)
    assert not connections.seen


def test_bodies_wait_for_room_and_a_single_one_always_has_some() -> None:
    bodies = Bodies(limit_bytes=10)
    with bodies.reading(11), pytest.raises(QueueFullError) as refused, bodies.reading(1):
        pass
    assert refused.value.retry_after_s >= 1
    with bodies.reading(5), bodies.reading(5):
        pass
