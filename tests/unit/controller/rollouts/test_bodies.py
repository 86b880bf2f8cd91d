"""What may be asked for over the API: only times and margins that a controller and its devices can compute with."""

from __future__ import annotations

import msgspec
import pytest
from pydantic import ValidationError

from controller.rollouts.routes import RolloutBody
from shared.wire import LONGEST_WAIT_S, HaltMode, ProbationPolicy


def _body(text: str) -> RolloutBody:
    return RolloutBody.model_validate_json(text)


def test_body_without_wishes_asks_for_the_careful_defaults() -> None:
    request = _body('{"release_id": "r"}').request()
    assert (request.cohort, request.waves, request.on_failure) == ("all", ("1", "25%", "100%"), HaltMode.REVERT)
    assert request.policy == ProbationPolicy()
    assert not request.override_blacklist


def test_body_with_every_wish_is_the_request() -> None:
    request = _body(
        '{"release_id": "r", "cohort": "site=lab", "waves": ["2", "100%"], "soak_s": 1, "on_failure": "stop",'
        ' "policy": {"min_pairs": 7, "alpha": 0.1}, "wave_deadline_s": 2, "unreachable_after_s": 3,'
        ' "override_blacklist": true}'
    ).request()
    assert (request.release_id, request.cohort, request.waves) == ("r", "site=lab", ("2", "100%"))
    assert (request.soak_s, request.wave_deadline_s, request.unreachable_after_s) == (1, 2, 3)
    assert request.policy == ProbationPolicy(min_pairs=7, alpha=0.1)
    assert request.rules.min_pairs == 7
    assert request.override_blacklist


@pytest.mark.parametrize("value", ["NaN", "Infinity", "-Infinity", "1e999", "1e12", "-1", '"soon"', "null"])
@pytest.mark.parametrize("field", ["soak_s", "wave_deadline_s", "unreachable_after_s"])
def test_time_that_no_calendar_holds_is_refused_by_its_field(field: str, value: str) -> None:
    with pytest.raises(ValidationError, match=field):
        _body(f'{{"release_id": "r", "{field}": {value}}}')


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("min_pairs", "0"),
        ("min_pairs", "1e9"),
        ("max_flip_rate", "0"),
        ("max_flip_rate", "1"),
        ("max_flip_rate", "NaN"),
        ("max_latency_ratio", "0"),
        ("max_latency_ratio", "Infinity"),
        ("alpha", "0"),
        ("alpha", "0.5"),
        ("probation_s", "-1"),
        ("probation_s", "Infinity"),
        ("deadline_s", "0"),
        ("deadline_s", "1e300"),
        ("deadlines_s", "1"),
    ],
)
def test_policy_that_no_device_could_keep_is_refused_by_its_field(field: str, value: str) -> None:
    with pytest.raises(ValidationError, match=field):
        _body(f'{{"release_id": "r", "policy": {{"{field}": {value}}}}}')


def test_longest_policy_that_is_taken_is_one_that_a_device_reads() -> None:
    policy = (
        _body(f'{{"release_id": "r", "policy": {{"deadline_s": {LONGEST_WAIT_S}, "probation_s": {LONGEST_WAIT_S}}}}}')
        .request()
        .policy
    )
    assert msgspec.json.decode(msgspec.json.encode(policy), type=ProbationPolicy) == policy


@pytest.mark.parametrize("field", ["deadline_s", "probation_s"])
def test_attack_sealed_policy_of_a_time_beyond_the_calendar_is_not_read(field: str) -> None:
    with pytest.raises(msgspec.ValidationError, match=field):
        msgspec.json.decode(f'{{"{field}": 1e300}}'.encode(), type=ProbationPolicy)
