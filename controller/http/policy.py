"""What a candidate must show on a device, as bodies say it: of rollouts, and of variants."""

from __future__ import annotations

import msgspec
from pydantic import Field

from controller.http.endpoint import Body
from shared.wire import LONGEST_WAIT_S, ProbationPolicy

_DEFAULT = ProbationPolicy()


class PolicyBody(Body):
    """What a candidate must show on a device before it is committed."""

    min_pairs: int = Field(default=_DEFAULT.min_pairs, ge=1, le=1_000_000)
    max_flip_rate: float = Field(default=_DEFAULT.max_flip_rate, gt=0, lt=1)
    max_latency_ratio: float = Field(default=_DEFAULT.max_latency_ratio, gt=0, le=1_000_000)
    alpha: float = Field(default=_DEFAULT.alpha, gt=0, lt=0.5)
    probation_s: float = Field(default=_DEFAULT.probation_s, ge=0, le=LONGEST_WAIT_S)
    deadline_s: float = Field(default=_DEFAULT.deadline_s, gt=0, le=LONGEST_WAIT_S)
    canary_share: float | None = Field(default=None, gt=0, le=1)
    """Share of requests that the candidate answers in probation; null: all of them."""

    def policy(self) -> ProbationPolicy:
        """Return it as devices are told it."""
        values = self.model_dump(exclude={"canary_share"})
        # All is what agents do that do not know the field: they must come to the same digest.
        share = msgspec.UNSET if self.canary_share in {None, 1.0} else self.canary_share
        return ProbationPolicy(**values, canary_share=share)
