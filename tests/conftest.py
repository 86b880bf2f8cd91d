"""What all tests share: real servers on free ports, and Hypothesis that repeats itself."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, settings

from tests.support.mosquitto import Mosquitto
from tests.support.postgres import Postgres

if TYPE_CHECKING:
    from collections.abc import Iterator

# A test that fails must fail again: examples follow from the test's own source. No deadline, since two busy cores
# say nothing about the code.
settings.register_profile(
    "steady", derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow], print_blob=True
)
# `make full` looks further, and elsewhere each time; what it finds becomes an explicit example.
settings.register_profile("full", settings.get_profile("steady"), derandomize=False, max_examples=1000)
settings.load_profile("steady")


@pytest.fixture(scope="session")
def mosquitto() -> Iterator[Mosquitto]:
    """One open broker for the whole run: use topics of your own, or start a `Mosquitto` of your own."""
    with Mosquitto() as broker:
        yield broker


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """One PostgreSQL server for the whole run."""
    with Postgres() as server:
        yield server


@pytest.fixture
def postgres_url(postgres: Postgres) -> str:
    """The URL (`postgresql+asyncpg://…`) of an empty database of the test's own."""
    return postgres.create_database()
