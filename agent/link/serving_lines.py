"""Connections to the serving processes for requests of the broker: one request at a time on each, opened as needed."""

from __future__ import annotations

import asyncio
import itertools
from typing import TYPE_CHECKING

from agent.core.plan import AskInference, InferenceAnswered
from agent.serving.planned.link import Line
from shared.errors import UnreachableError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

_GRACE_S = 2.0
"""Beyond a request's own deadline: then serving says itself that it has passed."""


class ServingLines:
    """As many connections as requests were ever under way at once."""

    def __init__(self, paths: Sequence[Path]) -> None:
        """Take the sockets of the serving processes; connections are spread evenly over them."""
        self._paths = itertools.cycle(paths)
        self._idle: list[Line] = []

    async def ask(self, asked: AskInference) -> InferenceAnswered:
        """Have a request answered. Raises UnreachableError when serving is away or does not answer in time."""
        line = self._idle.pop() if self._idle else Line(next(self._paths))
        try:
            answer = await line.call(asked, deadline_s=asked.timeout_s + _GRACE_S)
        except asyncio.CancelledError:
            await line.close()
            raise
        finally:
            # One that failed has hung up, and connects again.
            self._idle.append(line)
        if not isinstance(answer, InferenceAnswered):
            raise UnreachableError("serving answered another question")
        return answer

    async def close(self) -> None:
        """Hang up."""
        for line in self._idle:
            await line.close()
