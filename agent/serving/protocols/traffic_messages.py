"""What is said of a model's traffic: its rule, its arms and what they earned, and how its releases compare."""

from __future__ import annotations

from typing import Annotated

import msgspec

from shared.evidence import Verdict
from shared.traffic import StickyBy, TrafficMode


class FeedbackBody(msgspec.Struct, frozen=True, kw_only=True):
    """What an answer was worth."""

    reply_id: Annotated[str, msgspec.Meta(max_length=256)]
    """From the answer: header `Litefleet-Reply-Id`, or `reply_id` among the parameters."""
    reward: Annotated[float, msgspec.Meta(ge=0, le=1)]
    """1 for as good as can be, 0 for worthless."""


class FeedbackAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """The reward was taken."""

    counted: bool
    """False where the release has left the device that gave the answer."""


class PosteriorState(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of an arm's mean reward: a Beta distribution; 1 and 1 where nothing is."""

    alpha: float
    beta: float
    mean: float


class ArmState(msgspec.Struct, frozen=True, kw_only=True):
    """One variant of the model on this device."""

    variant: str
    weight: int | None
    """As the rule says; null where the rule does not name it."""
    share: float
    """Share (0..1) of the requests that it gets now."""
    release_id: str | None
    version: str | None
    """Null where none can answer."""
    requests: int
    """That it answered or failed, in this serving process, with the release that answers now."""
    unavailable_reason: str
    posterior: PosteriorState | None
    """Null where nothing is learned from rewards."""


class TrafficState(msgspec.Struct, frozen=True, kw_only=True):
    """How the requests for a model are divided."""

    model: str
    mode: TrafficMode | None
    """Null without a rule: the main variant answers everything."""
    sticky_by: StickyBy
    header: str
    pins: int
    """How many values have a variant of their own; the values may be people's, and are not told."""
    shadow: str
    arms: tuple[ArmState, ...]


class Histogram(msgspec.Struct, frozen=True, kw_only=True):
    """Counts by upper edge; the last count is of what lies beyond the last edge."""

    upper: tuple[float, ...]
    counts: tuple[int, ...]


class Comparison(msgspec.Struct, frozen=True, kw_only=True):
    """Two releases on the same requests, in this serving process."""

    variant: str
    """Whose candidate it is, or which variant runs as the rule's shadow."""
    by_rule: bool
    """The rule's shadow; otherwise a candidate on trial, which its rollout's own gates judge."""
    candidate: str
    stable: str
    pairs: int
    flips: int
    """Pairs whose best answers differ."""
    slower: int
    candidate_errors: int
    distances: Histogram
    """Of scores: total variation for classifiers, else the largest difference in relation to the largest number."""
    latency_ratios: Histogram
    """Candidate's CPU time by stable's."""
    flips_verdict: Verdict
    """`fail`: more than 1 % of the answers differ; `pass`: fewer; `continue`: not decided yet."""
    latency_verdict: Verdict
    """`fail`: the median pair takes more than 1.19 times as long; `pass`: less; `continue`: not decided yet."""


class Comparisons(msgspec.Struct, frozen=True, kw_only=True):
    """All comparisons of a model that this process has seen."""

    model: str
    comparisons: tuple[Comparison, ...]
