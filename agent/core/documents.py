"""Taking in documents from the controller: Desired and Pulse, whose seals were verified before."""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec.structs import replace

from agent.core import measuring, trust
from agent.core.state import ModelState, line, now_of
from shared.errors import UntrustedError
from shared.wire import body_digest

if TYPE_CHECKING:
    from agent.core.commands import Draft
    from agent.core.events import DesiredReceived, PulseReceived
    from shared.wire import Desired


def take_desired(draft: Draft, event: DesiredReceived) -> None:
    """Follow a Desired that is newer, repeat the report for one that is not, refuse all others."""
    state, desired = draft.state, event.desired
    floor = trust.floor_of(state.floors, event.key_id)
    # Generations of another key order nothing here: each key counts for itself, from its own floor.
    followed = state.body_digest if state.desired is not None and state.desired_key == event.key_id else None
    known = trust.Known(
        identity=state.settings.identity, floor=floor, now=now_of(state, draft.at), body_digest=followed
    )
    try:
        order = trust.check_desired(desired, known)
    except UntrustedError as exc:
        refuse_desired(draft, str(exc))
        return
    # Only now: a time is believed of a document that passed every check, never of one that was refused.
    proven = trust.proven_time(desired.issued_at, verified_at=state.verified_at, trusted_until=state.trusted_until)
    draft.state = replace(state, verified_at=proven, desired_refused="")
    if order is trust.Order.SAME:
        if state.desired is not None and desired.expires_at > state.desired.expires_at:
            draft.state = replace(draft.state, desired=desired)
        draft.resend_report = True
        return
    # Both floors of a key live in one record, so that the Pulse floor is carried over untouched.
    raised = replace(floor, epoch=desired.epoch, generation=desired.generation)
    draft.state = replace(draft.state, floors=trust.with_floor(state.floors, raised), desired_key=event.key_id)
    _follow(draft, desired)


def refuse_desired(draft: Draft, reason: str) -> None:
    """Go on as before, and tell why."""
    # The same refusal again changes nothing: a broker that repeats a forgery must not wear out the flash.
    if reason != draft.state.desired_refused:
        draft.state = replace(draft.state, desired_refused=reason)
    draft.say(f"desired refused ({reason})")


def _follow(draft: Draft, desired: Desired) -> None:
    """Take a newer Desired as the whole of what is wanted."""
    # A model that is not listed keeps its state for now, with `wanted` None: `_unlisted` ends what is under way.
    wanted = {line(model): model for model in desired.body.models}
    had = {model.model: model for model in draft.state.models}
    models = [
        replace(had.get(name) or ModelState(model=name), wanted=wanted.get(name)) for name in sorted(wanted | had)
    ]
    overrides = desired.body.blacklist_overrides
    draft.state = replace(
        draft.state,
        desired=desired,
        body_digest=body_digest(desired.body),
        models=tuple(models),
        blacklist=tuple(digest for digest in draft.state.blacklist if digest not in overrides),
    )
    measuring.follow(draft, desired.body)
    draft.say(f"desired {desired.epoch}.{desired.generation} accepted")


def take_pulse(draft: Draft, event: PulseReceived) -> None:
    """Remember the newest Pulse; one that is refused leaves the one before it to age."""
    state, pulse = draft.state, event.pulse
    floor = trust.floor_of(state.floors, event.key_id)
    known = trust.Known(
        identity=state.settings.identity,
        floor=floor,
        now=now_of(state, draft.at),
        trusted_until=state.trusted_until,
    )
    try:
        order = trust.check_pulse(pulse, known)
    except UntrustedError as exc:
        draft.say(f"pulse refused ({exc})")
        return
    # A repeated Pulse stays as old as it was when it first came, in this life of the process.
    if order is trust.Order.SAME and state.pulse_received_at is not None:
        return
    raised = replace(floor, pulse_epoch=pulse.epoch, pulse_serial=pulse.serial)
    draft.state = replace(
        state,
        pulse=pulse,
        pulse_received_at=None if event.halts_only else draft.at,
        floors=trust.with_floor(state.floors, raised),
        verified_at=trust.proven_time(
            pulse.issued_at, verified_at=state.verified_at, trusted_until=state.trusted_until
        ),
    )
