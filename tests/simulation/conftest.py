"""Tests below touch no network."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support.no_sockets import no_sockets

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(autouse=True)
def _off_the_network() -> Iterator[None]:
    with no_sockets():
        yield
