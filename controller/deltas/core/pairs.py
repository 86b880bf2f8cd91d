"""Which pairs of artifacts a rollout makes devices move between, and which of them are still to be made."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from datetime import datetime

    from shared.ids import HardwareProfileId, Sha256

MAX_PER_ARTIFACT = 8
"""Deltas that lead to one artifact: a fleet that is spread over more releases than this has other worries, and what is
published stays for ever."""
RETRY_AFTER = timedelta(hours=1)
"""Before a pair that failed is tried again: what was missing may have been installed meanwhile."""


class DeltaState(StrEnum):
    """What became of a pair."""

    MADE = "made"
    NOT_WORTH_IT = "not_worth_it"
    """Too large a share of the artifact; never tried again."""
    FAILED = "failed"


@dataclass(frozen=True, slots=True, order=True, kw_only=True)
class Pair:
    """Two artifacts, the second of which devices that hold the first are to get."""

    old: Sha256
    new: Sha256


@dataclass(frozen=True, slots=True, kw_only=True)
class DeltaRecord:
    """What is known of a pair."""

    pair: Pair
    state: DeltaState
    length_bytes: int
    """Of the delta, published or too large; 0 when there is none."""
    full_bytes: int
    delta_sha256: Sha256 | None
    message: str
    at: datetime


def pairs(
    old: Iterable[Mapping[HardwareProfileId, Sha256]], new: Mapping[HardwareProfileId, Sha256]
) -> tuple[Pair, ...]:
    """Return the pairs between releases, each as its artifact for every profile; those of the first old ones first.

    A device moves within its profile, and not at all where both releases have the same artifact for it.
    """
    found = (
        Pair(old=before, new=new[profile])
        for release in old
        for profile, before in sorted(release.items())
        if profile in new and new[profile] != before
    )
    return tuple(dict.fromkeys(found))


def to_make(wanted: Sequence[Pair], known: Mapping[Pair, DeltaRecord], now: datetime) -> tuple[Pair, ...]:
    """Return those of `wanted` that are to be made now; `known` holds every pair that leads to the same artifacts."""
    room = {pair.new: MAX_PER_ARTIFACT for pair in wanted}
    for pair in known:
        if pair.new in room:
            room[pair.new] -= 1
    chosen = []
    for pair in wanted:
        record = known.get(pair)
        if record is not None:
            # It has its room already.
            if record.state is DeltaState.FAILED and now - record.at >= RETRY_AFTER:
                chosen.append(pair)
        elif room[pair.new] > 0:
            room[pair.new] -= 1
            chosen.append(pair)
    return tuple(chosen)
