"""Waiting ends with the condition, or with a message that says what was waited for."""

from __future__ import annotations

import itertools

import pytest

from tests.support.waiting import DeadlineError, wait_until, wait_until_async


def test_wait_condition_true_at_last_returns_its_value() -> None:
    answers = itertools.chain([None, 0, ""], itertools.repeat("there"))
    assert wait_until(lambda: next(answers)) == "there"


def test_wait_condition_never_true_names_it_and_the_last_value() -> None:
    with pytest.raises(DeadlineError, match=r"not within 0 s: the wave opens \(last seen: 0\)"):
        wait_until(lambda: 0, within_s=0, what="the wave opens")


async def test_wait_async_takes_plain_and_coroutine_conditions() -> None:
    answers = itertools.chain([False, False], itertools.repeat(True))

    async def coroutine() -> bool:
        return next(answers)

    assert await wait_until_async(coroutine)
    assert await wait_until_async(lambda: 7) == 7


async def test_wait_async_condition_never_true_raises() -> None:
    with pytest.raises(DeadlineError, match="last seen: None"):
        await wait_until_async(lambda: None, within_s=0)
