from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared import ids
from shared.clock import SystemClock, mint_id
from shared.errors import InvalidIdError

AT = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


@pytest.mark.parametrize("text", ["pi-1", "a", "0", "a" * 63, "door-counter-2"])
def test_slug_within_rule_is_returned(text: str) -> None:
    assert ids.device_id(text) == text


@pytest.mark.parametrize("text", ["", "-a", "a-", "A", "a" * 64, "a/b", "a#", "+", "$sys", "..", "a b", "ä", "a\n"])
def test_slug_outside_rule_is_refused_with_field_and_rule(text: str) -> None:
    with pytest.raises(InvalidIdError, match=r"device .* is not valid: it takes 1 to 63"):
        ids.device_id(text)


@pytest.mark.parametrize("text", ["", "0" * 63, "G" * 64, "A" * 64, "0" * 65])
def test_sha256_of_other_form_is_refused(text: str) -> None:
    with pytest.raises(InvalidIdError, match="64 lower-case hexadecimal"):
        ids.sha256_hex(text)


@given(entropy=st.binary(min_size=10, max_size=10))
def test_uuid7_carries_version_and_variant(entropy: bytes) -> None:
    value = ids.uuid7(AT, entropy)
    assert len(value) == 36
    assert value[14] == "7"
    assert value[19] in "89ab"


@given(
    seconds=st.integers(1, 10**8), first=st.binary(min_size=10, max_size=10), second=st.binary(min_size=10, max_size=10)
)
def test_uuid7_of_later_time_sorts_later(seconds: int, first: bytes, second: bytes) -> None:
    assert ids.uuid7(AT, first) < ids.uuid7(AT + timedelta(seconds=seconds), second)


def test_minted_ids_differ() -> None:
    clock = SystemClock()
    assert len({mint_id(clock) for _ in range(100)}) == 100
