"""Waiting for a condition with a deadline; tests themselves never sleep."""

from __future__ import annotations

import asyncio
import inspect
import time
from typing import TYPE_CHECKING, TypeVar, overload

if TYPE_CHECKING:
    import random
    from collections.abc import Awaitable, Callable

T = TypeVar("T")

# Short enough that waiting adds nothing one could feel, long enough that polling leaves the CPU to what is awaited.
POLL_S = 0.02


class DeadlineError(AssertionError):
    """A condition did not come true in time; as an AssertionError it reads as a failed test, not as a broken one."""


def wait_until(condition: Callable[[], T | None], *, within_s: float = 10.0, what: str = "") -> T:
    """Poll until `condition()` is truthy, and return what it returned.

    Raises:
        DeadlineError: names `what` (or the condition) and the last value seen.
    """
    deadline = time.monotonic() + within_s
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() >= deadline:
            raise DeadlineError(_complaint(condition, what, within_s, value))
        time.sleep(POLL_S)


@overload
async def wait_until_async(
    condition: Callable[[], Awaitable[T | None]], *, within_s: float = 10.0, what: str = ""
) -> T: ...


@overload
async def wait_until_async(condition: Callable[[], T | None], *, within_s: float = 10.0, what: str = "") -> T: ...


async def wait_until_async(
    condition: Callable[[], T | Awaitable[T | None] | None], *, within_s: float = 10.0, what: str = ""
) -> T:
    """Do as `wait_until` does without blocking the loop; `condition` may be a coroutine function.

    Raises:
        DeadlineError: names `what` (or the condition) and the last value seen.
    """
    deadline = time.monotonic() + within_s
    while True:
        answer = condition()
        value = await answer if inspect.isawaitable(answer) else answer
        if value:
            return value
        if time.monotonic() >= deadline:
            raise DeadlineError(_complaint(condition, what, within_s, value))
        await asyncio.sleep(POLL_S)


async def seeded_moment(generator: random.Random, *, between_s: tuple[float, float]) -> None:
    """Let a drawn time pass, at whose end something is made to happen (a kill): never a wait for a result."""
    await asyncio.sleep(generator.uniform(*between_s))


def _complaint(condition: object, what: str, within_s: float, value: object) -> str:
    subject = what or getattr(condition, "__qualname__", repr(condition))
    return f"not within {within_s:g} s: {subject} (last seen: {value!r})"
