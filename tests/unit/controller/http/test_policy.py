"""What a candidate must show, from a body to what devices are told."""

from __future__ import annotations

import pytest
from msgspec import UNSET, UnsetType
from pydantic import ValidationError

from controller.http.policy import PolicyBody
from shared.wire import ProbationPolicy


def test_policy_of_an_empty_body_is_the_default() -> None:
    assert PolicyBody().policy() == ProbationPolicy()


@pytest.mark.parametrize(("said", "told"), [(None, UNSET), (1.0, UNSET), (0.1, 0.1)])
def test_canary_share_of_all_is_what_agents_do_that_do_not_know_it(said: float | None, told: float | UnsetType) -> None:
    assert PolicyBody(canary_share=said).policy().canary_share == told


@pytest.mark.parametrize("share", [0.0, -0.1, 1.1])
def test_canary_share_that_is_none_is_refused(share: float) -> None:
    with pytest.raises(ValidationError, match="canary_share"):
        PolicyBody(canary_share=share)
