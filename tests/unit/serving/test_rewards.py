"""What is known of rewards: counted once, believed only of replies that were given, and shared by all processes."""

from __future__ import annotations

import base64
import struct
from typing import TYPE_CHECKING

import pytest

from agent.serving.traffic.learning import Learning
from agent.serving.traffic.rewards import (
    BUCKETS,
    REWARDED_WITHIN_S,
    WAYS,
    Posterior,
    RewardLedger,
    arm_key,
)
from shared.errors import ConflictError, NotFoundError
from shared.ids import ModelName, ReleaseId

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

BLUE = arm_key(ModelName("digits@blue"), ReleaseId("r1"))
GREEN = arm_key(ModelName("digits@green"), ReleaseId("r2"))
NOTHING_KNOWN = Posterior(1.0, 1.0)


class Clock:
    """Monotonic seconds, set by hand."""

    now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def ledger(tmp_path: Path, clock: Clock) -> Iterator[RewardLedger]:
    opened = RewardLedger.open(tmp_path / "rewards.bin", now_s=clock)
    opened.keep([BLUE, GREEN])
    yield opened
    opened.close()


def test_reward_counts_for_the_arm_that_answered(ledger: RewardLedger) -> None:
    assert ledger.reward(ledger.issue(BLUE, 1), 1.0)
    assert ledger.reward(ledger.issue(BLUE, 2), 0.25)
    assert (ledger.posterior(BLUE), ledger.posterior(GREEN)) == (Posterior(2.25, 1.75), NOTHING_KNOWN)


def test_reply_is_rewarded_once(ledger: RewardLedger) -> None:
    reply_id = ledger.issue(BLUE, 1)
    ledger.reward(reply_id, 1.0)
    with pytest.raises(ConflictError, match="before"):
        ledger.reward(reply_id, 1.0)
    assert ledger.posterior(BLUE) == Posterior(2.0, 1.0)


def test_reward_that_reaches_another_process_counts_there_and_once(
    ledger: RewardLedger, tmp_path: Path, clock: Clock
) -> None:
    other = RewardLedger.open(tmp_path / "rewards.bin", now_s=clock)
    reply_id = ledger.issue(BLUE, 1)
    assert other.reward(reply_id, 1.0)
    assert ledger.posterior(BLUE) == Posterior(2.0, 1.0)
    with pytest.raises(ConflictError):
        ledger.reward(reply_id, 1.0)
    other.close()


def test_what_was_learned_outlives_a_restart(ledger: RewardLedger, tmp_path: Path, clock: Clock) -> None:
    reply_id = ledger.issue(BLUE, 1)
    again = RewardLedger.open(tmp_path / "rewards.bin", now_s=clock)
    again.reward(reply_id, 1.0)
    again.keep([BLUE, GREEN])
    assert again.posterior(BLUE) == Posterior(2.0, 1.0)
    again.close()


def test_release_that_left_is_forgotten_and_its_replies_count_for_nobody(ledger: RewardLedger) -> None:
    old, late = ledger.issue(BLUE, 1), ledger.issue(BLUE, 2)
    ledger.reward(old, 1.0)
    ledger.keep([GREEN])
    assert not ledger.reward(late, 1.0)
    ledger.keep([BLUE, GREEN])
    assert ledger.posterior(BLUE) == NOTHING_KNOWN


def test_other_release_of_an_arm_begins_anew() -> None:
    assert arm_key(ModelName("digits@blue"), ReleaseId("r2")) != BLUE


def test_reply_of_long_ago_is_unknown(ledger: RewardLedger, clock: Clock) -> None:
    reply_id = ledger.issue(BLUE, 1)
    clock.now_s += REWARDED_WITHIN_S + 1
    with pytest.raises(NotFoundError):
        ledger.reward(reply_id, 1.0)


def test_reply_from_before_the_machine_started_is_unknown(ledger: RewardLedger, clock: Clock) -> None:
    reply_id = ledger.issue(BLUE, 1)
    clock.now_s = 3.0
    with pytest.raises(NotFoundError):
        ledger.reward(reply_id, 1.0)


@pytest.mark.parametrize("reply_id", ["", "x", "ä", "a" * 44, "=" * 44, "a" * 256])
def test_attack_reply_id_that_nobody_gave_is_unknown(ledger: RewardLedger, reply_id: str) -> None:
    with pytest.raises(NotFoundError):
        ledger.reward(reply_id, 1.0)


def test_attack_reply_id_changed_in_any_bit_is_unknown(ledger: RewardLedger) -> None:
    whole = base64.urlsafe_b64decode(ledger.issue(BLUE, 1))
    for bit in range(len(whole) * 8):
        forged = bytearray(whole)
        forged[bit // 8] ^= 1 << bit % 8
        with pytest.raises(NotFoundError):
            ledger.reward(base64.urlsafe_b64encode(bytes(forged)).decode(), 1.0)


def test_attack_reply_id_of_another_device_is_unknown(ledger: RewardLedger, tmp_path: Path, clock: Clock) -> None:
    elsewhere = RewardLedger.open(tmp_path / "other.bin", now_s=clock)
    with pytest.raises(NotFoundError):
        ledger.reward(elsewhere.issue(BLUE, 1), 1.0)
    elsewhere.close()


def test_spent_replies_that_can_be_rewarded_no_more_make_room_before_all_others(
    ledger: RewardLedger, clock: Clock
) -> None:
    # All of one bucket: the nonce says which.
    first = ledger.issue(BLUE, BUCKETS * 99)
    ledger.reward(first, 1.0)
    clock.now_s += REWARDED_WITHIN_S - 10
    young = [ledger.issue(BLUE, BUCKETS * number) for number in range(WAYS - 1)]
    for reply_id in young:
        ledger.reward(reply_id, 1.0)
    clock.now_s += 60
    # The first is too old to be rewarded again, so that forgetting it costs nothing.
    ledger.reward(ledger.issue(BLUE, BUCKETS * 50), 1.0)
    for reply_id in young:
        with pytest.raises(ConflictError):
            ledger.reward(reply_id, 1.0)


def test_machine_that_started_again_forgets_what_it_spent_before(ledger: RewardLedger, clock: Clock) -> None:
    for number in range(WAYS):
        ledger.reward(ledger.issue(BLUE, BUCKETS * number), 1.0)
    clock.now_s = 5.0
    fresh = [ledger.issue(BLUE, BUCKETS * number) for number in range(WAYS)]
    for reply_id in fresh:
        ledger.reward(reply_id, 1.0)
    for reply_id in fresh:
        with pytest.raises(ConflictError):
            ledger.reward(reply_id, 1.0)


@pytest.mark.parametrize("size", [0, 1, 100, 600_000])
def test_file_that_is_none_of_ours_is_begun_anew(tmp_path: Path, clock: Clock, size: int) -> None:
    path = tmp_path / "rewards.bin"
    path.write_bytes(b"\xff" * size)
    opened = RewardLedger.open(path, now_s=clock)
    opened.keep([BLUE])
    assert opened.reward(opened.issue(BLUE, 1), 1.0)
    assert opened.posterior(BLUE) == Posterior(2.0, 1.0)
    assert path.stat().st_mode & 0o777 == 0o600
    opened.close()


@pytest.mark.parametrize("half", [(float("nan"), 1.0), (2.0, 1.0), (-1.0, 1.0), (1.0, float("inf"))])
def test_sums_that_a_power_cut_left_half_written_count_as_nothing_known(
    ledger: RewardLedger, tmp_path: Path, half: tuple[float, float]
) -> None:
    path = tmp_path / "rewards.bin"
    data = path.read_bytes()
    place = data.index(BLUE)
    with path.open("r+b") as file:
        file.seek(place + 8)
        file.write(struct.pack("dd", *half))
    assert ledger.posterior(BLUE) == NOTHING_KNOWN


def test_file_is_its_owners_alone(ledger: RewardLedger, tmp_path: Path) -> None:
    assert ledger.posterior(GREEN) == NOTHING_KNOWN
    assert (tmp_path / "rewards.bin").stat().st_mode & 0o777 == 0o600


def test_file_has_all_of_its_room_on_the_disk_before_it_is_written_to(ledger: RewardLedger, tmp_path: Path) -> None:
    """A mapped page that the disk has no room for ends the process that writes to it."""
    assert ledger.posterior(GREEN) == NOTHING_KNOWN
    found = (tmp_path / "rewards.bin").stat()
    assert found.st_blocks * 512 >= found.st_size


def test_process_that_holds_a_file_which_another_finds_cut_lives_on(
    ledger: RewardLedger, tmp_path: Path, clock: Clock
) -> None:
    path = tmp_path / "rewards.bin"
    data = bytearray(path.read_bytes())
    data[:8] = b"another!"
    path.write_bytes(bytes(data))
    other = RewardLedger.open(path, now_s=clock)
    assert ledger.reward(ledger.issue(BLUE, 1), 1.0)
    assert other.posterior(BLUE) == NOTHING_KNOWN
    other.close()


def test_disk_without_room_costs_what_was_learned_and_no_answer(tmp_path: Path) -> None:
    learning = Learning.of_device(tmp_path / "no such folder" / "rewards.bin")
    reply_id = learning.ledger.issue(BLUE, 1)
    assert not learning.ledger.reward(reply_id, 1.0)
