from __future__ import annotations

import timeit
from typing import TYPE_CHECKING

import pytest

from agent.serving.callers.applications import Applications
from agent.serving.errors import KeyRefusedError, NotAllowedError, QuotaSpentError
from shared.errors import InvalidInputError
from shared.ids import ModelName
from tests.support.grants import KEY, granted

if TYPE_CHECKING:
    from shared.applications import ApplicationGrant

DIGITS, FACES = ModelName("digits"), ModelName("faces")
SERVED = (DIGITS, FACES)


class Clock:
    """Stands still until it is moved."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


def knowing(*grants: ApplicationGrant, clock: Clock | None = None) -> Applications:
    applications = Applications(clock_s=clock or Clock())
    applications.replace(grants)
    return applications


def ask(applications: Applications, times: int = 1, *, key: str = KEY, model: ModelName | None = DIGITS) -> int:
    """Ask so often; returns how often it was let in."""
    let_in = 0
    for _ in range(times):
        try:
            applications.admit(applications.of_key(key), model, served=SERVED)
        except QuotaSpentError:
            continue
        let_in += 1
    return let_in


def test_key_is_known_by_its_hash_alone() -> None:
    grant = granted("shop", DIGITS)
    assert KEY not in repr(grant)
    assert knowing(grant).of_key(KEY) == grant


@pytest.mark.parametrize("key", ["", KEY[:-1], KEY + "x", granted("shop").key_sha256, "\udcff", "é" * 100])
def test_attack_key_of_nobody_is_refused_and_not_repeated(key: str) -> None:
    applications = knowing(granted("shop", DIGITS))
    with pytest.raises(KeyRefusedError) as refused:
        applications.of_key(key)
    assert not key or key not in str(refused.value)
    assert (applications.unknown_keys, refused.value.is_missing) == (1, False)


def test_application_named_by_the_broker_is_known_by_name() -> None:
    applications = knowing(granted("shop", DIGITS))
    assert applications.of_name("shop").models == (DIGITS,)
    with pytest.raises(NotAllowedError, match="rival"):
        applications.of_name("rival")


def test_model_of_no_scope_is_refused_and_counted() -> None:
    applications = knowing(granted("shop", FACES))
    with pytest.raises(NotAllowedError, match="digits"):
        ask(applications)
    tally = applications.tallies["shop"]
    assert (tally.scope_refusals, tally.requests) == (1, 0)


def test_empty_scope_opens_no_model() -> None:
    with pytest.raises(NotAllowedError):
        ask(knowing(granted("shop")))


def test_star_opens_every_model_and_counts_only_those_served() -> None:
    applications = knowing(granted("shop", "*"))
    ask(applications, model=DIGITS)
    ask(applications, model=ModelName("guessed"))
    ask(applications, model=None)
    tally = applications.tallies["shop"]
    assert (tally.requests, tally.requests_by_model) == (3, {DIGITS: 1})


def test_quota_may_be_spent_at_once_and_is_given_back_evenly() -> None:
    clock = Clock()
    applications = knowing(granted("shop", DIGITS, per_minute=60), clock=clock)
    assert ask(applications, 100) == 60
    clock.now_s += 1.0
    assert ask(applications, 100) == 1
    clock.now_s += 10.0
    assert ask(applications, 100) == 10
    clock.now_s += 3600.0
    assert ask(applications, 100) == 60
    tally = applications.tallies["shop"]
    assert (tally.requests, tally.over_quota) == (131, 269)


def test_quota_spent_says_how_long_until_the_next() -> None:
    clock = Clock()
    applications = knowing(granted("shop", DIGITS, per_minute=6), clock=clock)
    ask(applications, 6)
    with pytest.raises(QuotaSpentError) as spent:
        applications.admit(applications.of_key(KEY), DIGITS, served=SERVED)
    assert spent.value.retry_after_s == pytest.approx(10.0)
    clock.now_s += spent.value.retry_after_s
    assert ask(applications) == 1


def test_items_of_a_request_take_as_much_of_the_quota_as_so_many_requests() -> None:
    clock = Clock()
    applications = knowing(granted("shop", DIGITS, per_minute=60), clock=clock)
    assert ask(applications) == 1
    applications.charge("shop", 60)
    assert ask(applications) == 0
    clock.now_s += 60.0
    assert ask(applications, 31) == 31
    with pytest.raises(QuotaSpentError):
        applications.charge("shop", 31)
    applications.charge("shop", 30)
    assert ask(applications) == 0


def test_items_that_do_not_fit_say_when_the_whole_request_will() -> None:
    clock = Clock()
    applications = knowing(granted("shop", DIGITS, per_minute=60), clock=clock)
    ask(applications, 51)
    with pytest.raises(QuotaSpentError) as spent:
        applications.charge("shop", 20)
    assert spent.value.retry_after_s == pytest.approx(11.0)
    clock.now_s += spent.value.retry_after_s
    assert ask(applications) == 1
    applications.charge("shop", 20)
    tally = applications.tallies["shop"]
    assert (tally.requests, tally.over_quota) == (52, 1)


@pytest.mark.parametrize(("processes", "most"), [(1, 60), (2, 30), (100, 1)])
def test_request_larger_than_a_whole_quota_is_refused_for_good(processes: int, most: int) -> None:
    applications = knowing(granted("shop", DIGITS, per_minute=60))
    applications.divide(processes)
    assert ask(applications) == 1
    with pytest.raises(InvalidInputError, match=f"{most + 1} items are more than the {most} a minute.*at most {most} "):
        applications.charge("shop", most + 1)
    assert applications.tallies["shop"].over_quota == 1


def test_items_of_an_application_without_quota_or_gone_meanwhile_cost_nothing() -> None:
    applications = knowing(granted("shop", DIGITS))
    applications.charge("shop", 10**6)
    applications.charge("left", 10**6)
    assert ask(applications) == 1


@pytest.mark.parametrize(("processes", "share"), [(1, 60), (2, 30), (4, 15)])
def test_quota_is_shared_out_among_processes(processes: int, share: int) -> None:
    applications = knowing(granted("shop", DIGITS, per_minute=60))
    applications.divide(processes)
    assert ask(applications, 100) == share


def test_quota_smaller_than_the_processes_still_lets_one_in() -> None:
    clock = Clock()
    applications = knowing(granted("shop", DIGITS, per_minute=1), clock=clock)
    applications.divide(4)
    assert ask(applications, 10) == 1
    clock.now_s += 239.0
    assert ask(applications, 10) == 0
    clock.now_s += 1.0
    assert ask(applications, 10) == 1


def test_two_keys_of_an_application_share_quota_and_tally() -> None:
    other = "o" * 40
    grants = (granted("shop", DIGITS, per_minute=4), granted("shop", DIGITS, key=other, per_minute=4))
    applications = knowing(*grants)
    assert ask(applications, 3) + ask(applications, 3, key=other) == 4
    assert applications.tallies["shop"].requests == 4


def test_new_plan_keeps_what_was_spent_and_done() -> None:
    applications = knowing(granted("shop", DIGITS, per_minute=2))
    ask(applications, 2)
    applications.replace([granted("shop", DIGITS, FACES, per_minute=2)])
    assert ask(applications) == 0
    assert applications.tallies["shop"].requests == 2


def test_application_that_left_is_refused_and_its_tally_kept_for_a_while() -> None:
    applications = knowing(granted("shop", DIGITS))
    ask(applications)
    applications.replace([])
    with pytest.raises(KeyRefusedError):
        applications.of_key(KEY)
    assert applications.tallies["shop"].requests == 1


def test_tallies_of_applications_that_come_and_go_stay_bounded() -> None:
    applications = Applications(clock_s=Clock())
    for number in range(300):
        applications.replace([granted(f"shop-{number}", DIGITS, key=f"{number:040}")])
    assert len(applications.tallies) < 70


def test_check_of_a_key_takes_some_microseconds_at_most() -> None:
    applications = knowing(
        *(granted(f"shop-{each}", DIGITS, key=f"{each:043}", per_minute=10**9) for each in range(500))
    )

    def once() -> None:
        applications.admit(applications.of_key(f"{250:043}"), DIGITS, served=SERVED)

    # A bound for busy machines; it is about 1.5 µs on a quiet one.
    assert min(timeit.repeat(once, number=1000, repeat=5)) / 1000 < 20e-6
