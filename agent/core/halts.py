"""What a Pulse that names a rollout as halted does to the slots that came from it.

    halted   not activated      shadow              probation            committed stable
    stop     canceled           canceled            goes on, watched     stays
    revert   canceled           rolled back         rolled back          swaps back to previous: rolled back

All of it holds until a higher generation brings another assignment, because an assignment that ended stays ended.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec.structs import replace

from agent.core.lifecycle import HALT_SIGNALS, blacklist, halts_of, move, record
from agent.core.transitions import edge
from shared.wire import AssignmentReport, AssignmentStatus, HaltMode

if TYPE_CHECKING:
    from agent.core.commands import Draft
    from agent.core.state import ModelState, Slot


def enforce(draft: Draft, model: ModelState) -> ModelState:
    """Bring a model in line with the halts that are known."""
    halted = halts_of(draft.state)
    if not halted:
        return model
    if model.candidate is not None:
        # A `stop` for what answers already leads nowhere in the table: the probation goes on.
        mode = halted.get(model.candidate.release.rollout_id)
        if mode is not None and edge(model.phase, HALT_SIGNALS[mode]).to is not model.phase:
            model = move(draft, model, HALT_SIGNALS[mode], "halted")
    if model.stable is not None and halted.get(model.stable.release.rollout_id) is HaltMode.REVERT:
        model = _revert_committed(draft, model, model.stable)
    return model


def _revert_committed(draft: Draft, model: ModelState, bad: Slot) -> ModelState:
    """Go back behind the last commit; a success that is taken back is the one end that another may replace."""
    back = model.previous
    # A previous that was itself reverted in the meantime is no place to go.
    if back is not None and (
        back.release.artifact.sha256 in draft.state.blacklist
        or halts_of(draft.state).get(back.release.rollout_id) is HaltMode.REVERT
    ):
        back = None
    reason = "halted" if back is not None else "halted: no_previous"
    draft.say(f"{model.model}: committed release of a halted rollout reverted ({reason})")
    release = bad.release
    record(
        draft,
        AssignmentReport(
            model=release.model,
            variant=release.variant,
            release_id=release.release_id,
            rollout_id=release.rollout_id,
            attempt=release.attempt,
            status=AssignmentStatus.ROLLED_BACK,
            activated=True,
            reason=reason,
            changed_at=draft.at,
        ),
    )
    # Its digest, not its rollout: the same bytes under another name are no better.
    blacklist(draft, release.artifact.sha256)
    # `previous` is spent: a second revert must not swap the halted release in again.
    return replace(model, stable=back, previous=None, mend_at=None)
