"""Which release folders may go."""

from __future__ import annotations

from typing import TYPE_CHECKING

from agent.core.state import outcome_of
from shared.wire import AssignmentStatus

if TYPE_CHECKING:
    from agent.core.state import AgentState
    from shared.ids import ReleaseId


def kept(state: AgentState) -> frozenset[ReleaseId]:
    """Return the releases whose folders must stay.

    Every slot, previous included; and what is wanted, for as long as it may still be tried: a canceled one stays
    staged, since a new attempt of the same release then downloads nothing.
    """
    keep: set[ReleaseId] = set()
    for model in state.models:
        for slot in (model.stable, model.previous, model.candidate):
            if slot is not None:
                keep.add(slot.release_id)
        if model.wanted is not None:
            ended = outcome_of(state, model.wanted)
            if ended is None or ended.status in {AssignmentStatus.SUCCEEDED, AssignmentStatus.CANCELED}:
                keep.add(model.wanted.release_id)
    return frozenset(keep)


def removable(state: AgentState) -> tuple[ReleaseId, ...]:
    """Return the folders on disk that nobody needs; none before a Desired was accepted, for it may name them."""
    if state.desired is None:
        return ()
    keep = kept(state)
    return tuple(release_id for release_id in state.on_disk if release_id not in keep)
