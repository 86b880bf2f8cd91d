"""Waiting for what is away: asked again until it answers, and never for what waiting cannot mend."""

from __future__ import annotations

import pytest

from controller.db.retry import retrying
from shared.errors import NotFoundError, RetryableError, UnreachableError


class _Flaky:
    """Fails so often, then answers."""

    def __init__(self, failures: list[Exception]) -> None:
        self._failures = failures
        self.calls = 0

    async def ask(self) -> str:
        """Answer, or fail once more."""
        self.calls += 1
        if self._failures:
            raise self._failures.pop(0)
        return "here"


def _away() -> RetryableError:
    return UnreachableError("away", retry_after_s=0.0)


@pytest.mark.parametrize("failures", [0, 1, 5])
async def test_call_is_made_until_it_answers(failures: int) -> None:
    peer = _Flaky([_away() for _ in range(failures)])
    assert await retrying(peer.ask, what="test") == "here"
    assert peer.calls == failures + 1


async def test_call_that_can_never_succeed_is_made_once() -> None:
    peer = _Flaky([NotFoundError(kind="device", name="d")])
    with pytest.raises(NotFoundError):
        await retrying(peer.ask, what="test")
    assert peer.calls == 1
