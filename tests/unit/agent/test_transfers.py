"""What bringing a release took is told from when it is on the disk, to the end of its assignment."""

from __future__ import annotations

import msgspec
import pytest

from agent.core import events as ev
from shared.ids import ReleaseId
from shared.wire import AssignmentStatus, Transfer
from tests.support.device_core import DIGITS, Bench, release


@pytest.fixture
def bench() -> Bench:
    bench = Bench()
    bench.start()
    bench.desire(release("v1"))
    return bench


def fetched(bench: Bench, fetched_bytes: int) -> None:
    bench.feed(
        ev.FetchFinished(
            at=bench.at, model=DIGITS, release_id=ReleaseId("v1"), version_number=1, fetched_bytes=fetched_bytes
        )
    )


def test_nothing_is_told_before_the_release_is_on_the_disk(bench: Bench) -> None:
    assert bench.assignment("v1").transfer is msgspec.UNSET


def test_fetch_is_told_beside_what_it_brought(bench: Bench) -> None:
    fetched(bench, 12)
    assert bench.assignment("v1").transfer == Transfer(fetched_bytes=12, full_bytes=release("v1").artifact.length_bytes)


def test_fetch_is_still_told_when_the_assignment_has_ended(bench: Bench) -> None:
    fetched(bench, 12)
    bench.tried("v1", "golden_mismatch: case 0")
    ended = bench.assignment("v1")
    assert ended.status is AssignmentStatus.FAILED
    assert isinstance(ended.transfer, Transfer)
    assert ended.transfer.fetched_bytes == 12


def test_transfer_survives_the_journal(bench: Bench) -> None:
    fetched(bench, 12)
    state = msgspec.json.decode(msgspec.json.encode(bench.state), type=type(bench.state))
    assert state == bench.state
